"""Who sees which variant, whether the shares are as planned, and what may be said of the difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import comb, exp, inf, log, sqrt
from typing import Any

import numpy as np
import polars as pl
import pytest
import tea_tasting as tt
from scipy.special import betaln
from scipy.stats import chisquare, norm
from tables import table

from recllm.base.errors import DataError, UsageError
from recllm.base.stats.intervals import Interval
from recllm.market.audiences.selection import globally_held_out
from recllm.market.experiments.effect import (
    CONCENTRATION,
    MIN_PEOPLE,
    RATIO_ALPHA,
    Experiment,
    RatioVerdict,
    Variant,
    Verdict,
    always_valid_multiplier,
    analyse,
    check_sample_ratio,
    estimate_effect,
    people_values,
    variant_of,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE = [f"person-{i}" for i in range(20_000)]


def experiment(name: str = "reasons", weights: tuple[float, ...] = (0.5, 0.5), **fields: Any) -> Experiment:
    variants = tuple(Variant(f"v{i}", weight) for i, weight in enumerate(weights))
    return Experiment(name=name, variants=variants, metric="clicks per showing", **fields)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.8, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3)])
def test_variants_get_people_by_their_weight(weights: tuple[float, ...]) -> None:
    drawn = [variant_of(experiment(weights=weights), person).name for person in PEOPLE]
    counts = [drawn.count(f"v{i}") for i in range(len(weights))]
    assert chisquare(counts, np.array(weights) / sum(weights) * len(PEOPLE)).pvalue > 1e-3


def test_a_person_keeps_the_variant_and_two_experiments_are_independent() -> None:
    first, second = experiment("first"), experiment("second")
    drawn = [(variant_of(first, person).name, variant_of(second, person).name) for person in PEOPLE]
    assert drawn[:500] == [(variant_of(first, person).name, variant_of(second, person).name) for person in PEOPLE[:500]]
    counts = np.array([[drawn.count((a, b)) for b in ("v0", "v1")] for a in ("v0", "v1")])
    assert chisquare(counts.ravel()).pvalue > 1e-3


def test_the_draw_is_pinned() -> None:
    """Another hash would move people between variants in the middle of an experiment."""
    drawn = "".join(variant_of(experiment(), person).name[1] for person in PEOPLE[:24])
    assert drawn == "101001110001100111110010"


def test_the_global_holdout_grows_and_is_independent_of_experiments() -> None:
    draws = ((0.05, "a"), (0.10, "a"), (0.10, "b"))
    small, large, other = (set(np.array(PEOPLE)[globally_held_out(PEOPLE, *draw)].tolist()) for draw in draws)
    assert small < large and abs(len(large) / len(PEOPLE) - 0.1) < 0.01
    assert len(large & other) / len(large) < 0.15
    share = np.mean([variant_of(experiment(), person).name == "v0" for person in large])
    assert abs(share - 0.5) < 4 * 0.5 / sqrt(len(large))
    assert not globally_held_out(PEOPLE, 0.0, "").any() and globally_held_out(PEOPLE, 1.0, "").all()
    with pytest.raises(UsageError, match="share"):
        globally_held_out(PEOPLE, 1.5, "")


@pytest.mark.parametrize("fields", table("experiments", "what is no experiment"))
def test_what_is_no_experiment_is_refused(fields: dict[str, Any]) -> None:
    if "variants" in fields:
        fields = {"variants": tuple(Variant(name, float(weight)) for name, weight in fields["variants"])}
    with pytest.raises(UsageError):
        replace(experiment(), **fields)


def test_an_experiment_runs_from_its_start_to_its_end() -> None:
    draft = experiment()
    running = replace(draft, started_at=START)
    ended = replace(running, ended_at=START + timedelta(days=7))
    days = [START - timedelta(days=1), START, START + timedelta(days=6), START + timedelta(days=7)]
    assert [draft.is_running(day) for day in days] == [False] * 4
    assert [running.is_running(day) for day in days] == [False, True, True, True]
    assert [ended.is_running(day) for day in days] == [False, True, True, False]
    assert ended.control.name == "v0"


def test_the_evidence_is_the_beta_binomials_against_the_binomial() -> None:
    ratio = check_sample_ratio(experiment(), {"v0": 60, "v1": 40}, concentration=2.0)
    evidence = exp(betaln(61, 41) - betaln(1, 1)) / 0.5**100
    assert ratio.log_e_value == pytest.approx(log(evidence))
    assert ratio.p_value == pytest.approx(min(1.0, 1 / evidence))


def test_the_evidence_is_a_martingale_of_mean_1() -> None:
    """Its expectation over what the weights can draw is 1, so Ville's inequality bounds its false alarms."""
    n, weight = 30, 0.3
    plan = experiment(weights=(weight, 1 - weight))
    mean = sum(
        comb(n, k)
        * weight**k
        * (1 - weight) ** (n - k)
        * exp(check_sample_ratio(plan, {"v0": k, "v1": n - k}, concentration=20.0).log_e_value)
        for k in range(n + 1)
    )
    assert mean == pytest.approx(1.0)


def test_a_lost_share_is_found_and_a_fair_draw_is_not() -> None:
    plan = experiment(weights=(0.5, 0.25, 0.25))
    fair = check_sample_ratio(plan, {"v0": 10_020, "v1": 4_960, "v2": 5_020})
    lost = check_sample_ratio(plan, {"v0": 10_020, "v1": 4_960, "v2": 4_500})
    assert (fair.verdict, lost.verdict) == (RatioVerdict.AS_PLANNED, RatioVerdict.MISMATCH)


def test_daily_looks_at_the_ratio_raise_few_false_alarms() -> None:
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(200):
        people = np.cumsum(rng.multinomial(200, [0.5, 0.5], size=40), axis=0)
        looks = [check_sample_ratio(experiment(), {"v0": int(a), "v1": int(b)}) for a, b in people]
        alarms += any(look.verdict is RatioVerdict.MISMATCH for look in looks)
    assert alarms <= 200 * RATIO_ALPHA + 4 * sqrt(200 * RATIO_ALPHA)
    assert CONCENTRATION > 1


def test_values_of_no_people_are_refused() -> None:
    for columns in (
        ([1.0, np.nan],),
        ([1.0, 2.0], [1.0]),
        ([1.0, 2.0], [1.0, -1.0]),
        ([[1.0, 2.0]],),
        (3.0, [1.0, 2.0]),
    ):
        with pytest.raises(DataError):
            people_values(*columns)


def people_table(seed: int, n: int = 900, effect: float = 0.0) -> pl.DataFrame:
    """Per person: variant, showings, clicks that go with them, and a covariate of the clicks."""
    rng = np.random.default_rng(seed)
    liking = rng.gamma(2.0, 0.05, n)
    variant = rng.integers(0, 2, n)
    showings = 1 + rng.poisson(6, n)
    clicks = rng.binomial(showings, np.clip(liking + effect * variant, 0, 1))
    before = rng.poisson(40 * liking)
    return pl.DataFrame({"variant": variant, "showings": showings, "clicks": clicks, "before": before}).cast(
        {"showings": pl.Float64, "clicks": pl.Float64, "before": pl.Float64}
    )


def moments_of(people: pl.DataFrame, denominator: str | None, covariate: str | None) -> Iterator[np.ndarray]:
    for variant in (0, 1):
        part = people.filter(pl.col("variant") == variant)
        yield people_values(
            part["clicks"].to_numpy(),
            1.0 if denominator is None else part[denominator].to_numpy(),
            0.0 if covariate is None else part[covariate].to_numpy(),
        )


@pytest.mark.parametrize("denominator", [None, "showings"])
@pytest.mark.parametrize("covariate", [None, "before"])
@pytest.mark.parametrize("seed", range(3))
def test_the_fixed_interval_is_that_of_tea_tasting(denominator: str | None, covariate: str | None, seed: int) -> None:
    people = people_table(seed, effect=0.02)
    metric = tt.RatioOfMeans("clicks", denominator, covariate) if denominator else tt.Mean("clicks", covariate)
    expected = tt.Experiment({"clicks": metric}).analyze(people)["clicks"]
    effect = estimate_effect(*moments_of(people, denominator, covariate))
    assert effect.control == pytest.approx(expected.control, rel=1e-9)
    assert effect.treatment == pytest.approx(expected.treatment, rel=1e-9)
    assert effect.difference == pytest.approx(expected.effect_size, rel=1e-9)
    assert effect.relative_difference == pytest.approx(expected.rel_effect_size, rel=1e-9)
    assert effect.interval.low == pytest.approx(expected.effect_size_ci_lower, rel=1e-6)
    assert effect.interval.high == pytest.approx(expected.effect_size_ci_upper, rel=1e-6)


def test_a_covariate_narrows_the_interval() -> None:
    people = people_table(5)
    plain, adjusted = (estimate_effect(*moments_of(people, "showings", name)) for name in (None, "before"))
    widths = [e.always_valid_interval.high - e.always_valid_interval.low for e in (plain, adjusted)]
    assert widths[1] < 0.95 * widths[0]


def test_the_always_valid_interval_is_waudby_smiths() -> None:
    """Written as in the paper: sigma * sqrt(2 (t rho^2 + 1) / (t rho)^2 * log(sqrt(t rho^2 + 1) / alpha))."""
    t, planned, alpha, sigma = 700, 4_000, 0.05, 1.7
    rho = sqrt((-2 * log(alpha) + log(-2 * log(alpha) + 1)) / planned)
    half = sigma * sqrt(2 * (t * rho**2 + 1) / (t * rho) ** 2 * log(sqrt(t * rho**2 + 1) / alpha))
    assert always_valid_multiplier(t, planned, alpha) * sigma / sqrt(t) == pytest.approx(half)


def test_the_multiplier_never_falls_below_what_sixtyfold_information_needs() -> None:
    """As `effect` promises: 3.03 at least, which bounds a Brownian motion whose variance grows sixtyfold."""
    lowest = min(always_valid_multiplier(n) for n in np.geomspace(1, 1e8, 400).astype(int))
    assert 3.03 <= lowest < 3.04
    between = [always_valid_multiplier(n, 5_000) / lowest for n in range(2_500, 30_001, 500)]
    assert max(between) < 1.1
    # the tail of the supremum of |W(t)| / sqrt(t) over log(60) of log-time (Miller and Siegmund 1982)
    b = lowest
    tail = norm.pdf(b) * ((b - 1 / b) * log(60) + 4 / b)
    assert tail < 0.05


def test_verdicts_follow_the_always_valid_interval() -> None:
    rng = np.random.default_rng(0)
    low, high = people_values(rng.random(3_000) < 0.10), people_values(rng.random(3_000) < 0.20)
    assert estimate_effect(low, high).verdict is Verdict.BETTER
    assert estimate_effect(high, low).verdict is Verdict.WORSE
    assert estimate_effect(low, high, higher_is_better=False).verdict is Verdict.WORSE
    assert estimate_effect(high, low, higher_is_better=False).verdict is Verdict.BETTER
    assert estimate_effect(low, low).verdict is Verdict.UNDECIDED
    # a difference that one planned look would believe, and daily looks may not
    slight = people_values(np.arange(3_000) < 360), people_values(np.arange(3_000) < 430)
    effect = estimate_effect(*slight)
    assert not effect.interval.holds(0) and effect.always_valid_interval.holds(0)
    assert effect.verdict is Verdict.UNDECIDED


def test_too_few_people_say_nothing() -> None:
    few = people_values(np.ones(MIN_PEOPLE - 1)), people_values(np.zeros(MIN_PEOPLE - 1))
    effect = estimate_effect(*few)
    assert effect.verdict is Verdict.UNDECIDED and effect.always_valid_interval == Interval(-inf, inf)
    for nobody in (people_values([]), people_values([1.0]), people_values(np.zeros(90), 0.0)):
        assert estimate_effect(nobody, people_values(np.ones(90))).interval == Interval(-inf, inf)


def test_daily_looks_deceive_the_fixed_interval_alone() -> None:
    """People who come back: half are there on the first day, the others come day by day; nothing differs."""
    rng = np.random.default_rng(8)
    alarms, runs, days, n = {"fixed": 0, "always valid": 0}, 100, 30, 600
    for _ in range(runs):
        variant, joins = rng.integers(0, 2, n), np.where(rng.random(n) < 0.5, 0, rng.integers(0, days, n))
        rates = rng.gamma(1.0, 0.1, n)
        daily = rng.poisson(rates[:, None] * (np.arange(days) >= joins[:, None]))
        orders, crossed = np.cumsum(daily, axis=1), {"fixed": False, "always valid": False}
        for day in range(0, days, 2):
            arms = [people_values(orders[(variant == arm) & (joins <= day), day]) for arm in (0, 1)]
            effect = estimate_effect(*arms)
            crossed["fixed"] |= not effect.interval.holds(0)
            crossed["always valid"] |= not effect.always_valid_interval.holds(0)
        for name, alarm in crossed.items():
            alarms[name] += alarm
    assert alarms["always valid"] <= 0.05 * runs
    assert alarms["fixed"] > 0.1 * runs


def test_an_experiment_is_analysed_against_its_control() -> None:
    rng = np.random.default_rng(4)
    plan = experiment(weights=(0.4, 0.3, 0.3), guard="dismissals per showing")
    rates = {"v0": (0.10, 0.02), "v1": (0.16, 0.02), "v2": (0.10, 0.08)}
    size = {"v0": 4_000, "v1": 3_000, "v2": 3_000}
    metric = {name: people_values(rng.random(size[name]) < rate) for name, (rate, _) in rates.items()}
    guard = {name: people_values(rng.random(size[name]) < rate) for name, (_, rate) in rates.items()}
    report = analyse(plan, metric, guard)
    first, second = report.comparisons
    assert report.sample_ratio.verdict is RatioVerdict.AS_PLANNED
    assert (first.variant, first.metric.verdict, second.variant) == ("v1", Verdict.BETTER, "v2")
    assert first.guard and first.guard.verdict is Verdict.UNDECIDED
    assert second.guard and second.guard.verdict is Verdict.WORSE
    # two comparisons share alpha
    alone = estimate_effect(metric["v0"], metric["v1"], alpha=0.025)
    assert first.metric.interval == alone.interval


def test_a_mismatch_silences_every_verdict() -> None:
    rng = np.random.default_rng(4)
    metric = {"v0": people_values(rng.random(6_000) < 0.1), "v1": people_values(rng.random(5_000) < 0.3)}
    report = analyse(experiment(), metric)
    assert report.sample_ratio.verdict is RatioVerdict.MISMATCH
    assert report.comparisons[0].metric.verdict is Verdict.UNDECIDED
    assert not report.comparisons[0].metric.always_valid_interval.holds(0)
