"""What another ranking would have earned: closed forms, coverage on simulated slates, and what is refused. And slates
that explore: nothing twice, strata apart, and the logged propensities are the true frequencies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from recllm.base.errors import DataError, UsageError
from recllm.market.experiments.off_policy import ValueEstimate, estimate_value, ratio_interval
from recllm.recommend.recommender.slate_writer import explore, stratum

FOUR = {
    "rewards": np.array([1.0, 0.0, 1.0, 0.0]),
    "propensities": np.array([0.5, 0.25, 0.8, 0.2]),
    "target_probabilities": np.array([1.0, 1.0, 0.0, 1.0]),
    "people": np.arange(4),
}


def estimate_of(people: object = None, **columns: Any) -> ValueEstimate:
    """Each row of another person unless said otherwise."""
    return estimate_value(people=np.arange(len(columns["rewards"])) if people is None else people, **columns)  # type: ignore[arg-type]


def test_the_estimate_by_hand() -> None:
    """Weights 2, 4, 0, 5."""
    answer = estimate_value(**FOUR, outside_support=0.125)
    assert answer.value == pytest.approx(2 / 11) and answer.outside_support == 0.125
    assert answer.effective_sample_size == pytest.approx(11**2 / (4 + 16 + 25))
    assert (answer.rows, answer.people) == (4, 4)


def test_a_log_of_the_target_itself_is_a_plain_mean() -> None:
    rng = np.random.default_rng(0)
    rewards, draws = (rng.random(500) < 0.2).astype(float), np.full(500, 0.3)
    answer = estimate_of(rewards=rewards, propensities=draws, target_probabilities=draws)
    assert answer.value == pytest.approx(rewards.mean())
    assert answer.effective_sample_size == pytest.approx(500) and answer.outside_support == 0.0
    assert answer.interval is not None and answer.interval.holds(answer.value)


def test_rows_of_one_person_are_one_draw() -> None:
    """Each person four times over tells no more than once; the further row of the ends weighs a little less then."""
    rng = np.random.default_rng(1)
    once = {
        "rewards": (rng.random(300) < 0.2).astype(float),
        "propensities": np.full(300, 0.5),
        "target_probabilities": rng.integers(0, 2, 300).astype(float),
    }
    four_times = {name: np.repeat(column, 4) for name, column in once.items()}
    single = estimate_of(**once)
    by_person = estimate_of(np.repeat(np.arange(300) * 7, 4), **four_times)
    by_row = estimate_of(**four_times)
    assert single.interval and by_person.interval and by_row.interval
    assert by_person.people == 300 and by_person.value == pytest.approx(single.value)
    assert by_person.interval.low == pytest.approx(single.interval.low, rel=0.02)
    assert by_person.interval.high == pytest.approx(single.interval.high, rel=0.02)
    assert by_row.interval.high - by_row.interval.low < 0.6 * (single.interval.high - single.interval.low)


def test_the_interval_of_a_ratio_is_students() -> None:
    """Of people who weigh the same it is that of a mean; scale and shift move with it."""
    rng = np.random.default_rng(2)
    values, sizes = rng.exponential(1.0, 40), rng.integers(1, 5, 40).astype(float)
    mean = ttest_1samp(values, 0).confidence_interval()
    assert ratio_interval(values, np.ones(40)).low == pytest.approx(mean.low)
    assert ratio_interval(values, np.ones(40)).high == pytest.approx(mean.high)
    first, second = ratio_interval(values, sizes), ratio_interval(7 * values - 3 * sizes, sizes)
    assert second.low == pytest.approx(7 * first.low - 3) and second.high == pytest.approx(7 * first.high - 3)


def test_nothing_that_varies_has_no_interval() -> None:
    assert estimate_value(**FOUR | {"rewards": np.zeros(4)}).interval is None
    assert estimate_value(**FOUR | {"people": np.zeros(4, int)}).interval is None


def test_a_log_whose_heavy_rows_earned_nothing_yet_does_not_rule_them_out() -> None:
    """20 rows of weight 10 without a reward, 200 of weight 1 with 20: the heavy ones may earn as much, unseen."""
    rewards, weights = (np.arange(220) >= 200).astype(float), np.where(np.arange(220) < 20, 10.0, 1.0)
    answer = estimate_of(rewards=rewards, propensities=1 / weights, target_probabilities=np.ones(220))
    plain = ratio_interval(weights * rewards, weights)
    assert answer.interval
    assert answer.value == pytest.approx(20 / 400) and plain.high < 0.09 < answer.interval.high
    assert answer.interval.low < answer.value
    nothing = estimate_of(
        rewards=np.array([0.0] * 50 + [1.0]),
        propensities=np.full(51, 0.5),
        target_probabilities=np.array([1.0] * 50 + [0.0]),
    )
    assert nothing.value == 0.0 and nothing.interval
    assert nothing.interval.low == 0.0 and 0.02 < nothing.interval.high < 0.2


def logged_slates(
    seed: int, people: int, k: int = 3, pool: int = 9, share: float = 0.3
) -> tuple[dict[str, Any], float]:
    """A log of one slate for each person by `explore`, a target that picks from each position's support, and the truth.

    Clicks depend on the item's rank and on the person, who clicks more or less on everything."""
    rng = np.random.default_rng(seed)
    appeal = 0.3 * 0.93 ** np.arange(k + pool)
    columns: dict[str, list[float]] = {name: [] for name in FOUR}
    target = [stratum(j, k, k + pool, pool)[0] if j else j for j in range(k)]
    for person in range(people):
        taste = rng.uniform(0.4, 1.6)
        rows, propensities = explore(np.arange(k + pool), k, share, pool, rng)
        for position, (row, propensity) in enumerate(zip(rows, propensities, strict=True)):
            columns["rewards"].append(float(rng.random() < taste * appeal[row]))
            columns["propensities"].append(propensity)
            columns["target_probabilities"].append(float(row == target[position]))
            columns["people"].append(person)
    return {name: np.array(column) for name, column in columns.items()}, float(appeal[target].mean())


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """At 95 %; the full count stands in eval/results/experiments.json."""
    logs = [logged_slates(seed, 150) for seed in range(120)]
    answers = [(estimate_value(**columns), truth) for columns, truth in logs]
    holds = [answer.interval is not None and answer.interval.holds(truth) for answer, truth in answers]
    errors = [answer.value - truth for answer, truth in answers]
    assert np.mean(holds) >= 0.89
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors))


@pytest.mark.parametrize(
    "wrong",
    [
        {"propensities": np.array([0.5, 0.0, 0.8, 0.2])},
        {"propensities": np.array([0.5, -0.1, 0.8, 0.2])},
        {"propensities": np.array([0.5, np.nan, 0.8, 0.2])},
        {"propensities": np.array([0.5, 1.1, 0.8, 0.2])},
        {"propensities": np.array([0.5, 0.5, 0.8])},
        {"rewards": np.array([1.0, np.inf, 0.0, 0.0])},
        {"target_probabilities": np.array([0.0, 2.0, 0.0, 0.0])},
        {"people": np.array([1, 2])},
        {name: np.array([]) for name in FOUR},
    ],
)
def test_logs_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="logged choices"):
        estimate_value(**FOUR | wrong)


def test_a_log_without_anything_of_the_target_is_refused() -> None:
    with pytest.raises(DataError, match="nothing"):
        estimate_value(**FOUR | {"target_probabilities": np.zeros(4)})


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 40),
    k=st.integers(1, 12),
    share=st.floats(0, 1),
    pool=st.integers(0, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_slate_is_possible_and_says_how_probable(n: int, k: int, share: float, pool: int, seed: int) -> None:
    ranked = np.random.default_rng(seed).permutation(1_000)[:n]
    rows, propensities = explore(ranked, k, share, pool, np.random.default_rng(seed))
    assert len(rows) == len(propensities) == min(k, n) and len(set(rows.tolist())) == len(rows)
    rank_of = {row: rank for rank, row in enumerate(ranked.tolist())}
    for position, (row, propensity) in enumerate(zip(rows.tolist(), propensities.tolist(), strict=True)):
        own = stratum(position, k, n, pool)
        if rank_of[row] == position:
            assert propensity == (1 - share if own else 1.0)
        else:
            assert rank_of[row] in own and propensity == share / len(own)
        assert 0 < propensity <= 1


@given(k=st.integers(1, 12), n=st.integers(0, 60), pool=st.integers(0, 60))
def test_strata_share_out_the_pool(k: int, n: int, pool: int) -> None:
    strata = [stratum(position, k, n, pool) for position in range(k)]
    assert sorted(rank for ranks in strata for rank in ranks) == list(range(k, max(k, min(n, k + pool))))
    sizes = [len(ranks) for ranks in strata]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("n", "k", "share", "pool"), [(30, 4, 0.2, 10), (6, 4, 0.5, 10), (9, 3, 1.0, 6)])
def test_logged_propensities_are_the_true_frequencies(n: int, k: int, share: float, pool: int) -> None:
    rng, draws = np.random.default_rng(1), 15_000
    counts: Counter[tuple[int, int]] = Counter()
    logged: dict[tuple[int, int], float] = {}
    both = 0
    for _ in range(draws):
        rows, propensities = explore(np.arange(n), k, share, pool, rng)
        for position, (row, propensity) in enumerate(zip(rows.tolist(), propensities.tolist(), strict=True)):
            counts[position, row] += 1
            assert logged.setdefault((position, row), propensity) == propensity
        both += rows[0] != 0 and rows[1] != 1
    for key, propensity in logged.items():
        error = np.sqrt(propensity * (1 - propensity) / draws)
        assert abs(counts[key] / draws - propensity) <= 4.5 * error, key
    for position in range(k):
        assert sum(p for (j, _), p in logged.items() if j == position) == pytest.approx(1.0)
    # positions are explored independently
    expected = share**2
    assert abs(both / draws - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / draws)


def test_a_seed_gives_one_slate_and_no_share_the_ranking_itself() -> None:
    ranked = np.arange(100, 140)
    first, second = (explore(ranked, 6, 0.5, 20, np.random.default_rng(7)) for _ in range(2))
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()
    rows, propensities = explore(ranked, 6, 0.0, 20, np.random.default_rng(7))
    assert rows.tolist() == ranked[:6].tolist() and propensities.tolist() == [1.0] * 6


@pytest.mark.parametrize(
    ("ranked", "k", "share", "pool"),
    [([1, 1], 1, 0.1, 3), ([1], 0, 0.1, 3), ([1], 1, 1.1, 3), ([1], 1, float("nan"), 3), ([1], 1, 0.1, -1)],
)
def test_what_cannot_be_explored_is_refused(ranked: list[int], k: int, share: float, pool: int) -> None:
    with pytest.raises(UsageError):
        explore(np.array(ranked), k, share, pool, np.random.default_rng(0))
