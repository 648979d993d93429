"""Slates that explore: nothing twice, strata apart, and the logged propensities are the true frequencies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm.base.errors import UsageError
from recllm.recommend.recommender.exploration import explore, stratum


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
