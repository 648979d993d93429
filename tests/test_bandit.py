"""The bandit of texts: how probable each variant is the best, the guard, the floor, and the propensity of a choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from recllm.market.experiments.bandit import (
    FLOOR,
    VariantCounts,
    breaks_guard,
    choice_probabilities,
    probabilities_of_best,
)


def second_is_larger(a1: int, b1: int, a2: int, b2: int) -> float:
    """P(Beta(a2, b2) > Beta(a1, b1)) for whole a2, as a finite sum (Miller 2015)."""
    terms = [betaln(a1 + i, b1 + b2) - np.log(b2 + i) - betaln(1 + i, b2) - betaln(a1, b1) for i in range(a2)]
    return float(np.exp(terms).sum())


@pytest.mark.parametrize(
    "parameters", [(1, 1, 1, 1), (3, 20, 7, 25), (120, 900, 150, 880), (2, 2, 400, 600), (5, 9_000, 12, 9_000)]
)
def test_two_variants_agree_with_the_closed_form(parameters: tuple[int, int, int, int]) -> None:
    a1, b1, a2, b2 = parameters
    best = probabilities_of_best(np.array([a1, a2], float), np.array([b1, b2], float))
    assert best[1] == pytest.approx(second_is_larger(a1, b1, a2, b2), abs=1e-5)
    assert best.sum() == pytest.approx(1.0)


def test_equal_variants_are_equally_probable_and_many_agree_with_draws() -> None:
    assert probabilities_of_best(np.full(5, 3.0), np.full(5, 9.0)) == pytest.approx(np.full(5, 0.2))
    alpha, beta = np.array([2.0, 30.0, 8.0, 300.0]), np.array([20.0, 270.0, 60.0, 2_900.0])
    draws = np.random.default_rng(0).beta(alpha, beta, (400_000, 4)).argmax(axis=1)
    frequencies = np.bincount(draws, minlength=4) / len(draws)
    assert probabilities_of_best(alpha, beta) == pytest.approx(frequencies, abs=0.004)


def test_posteriors_of_very_different_width() -> None:
    """A variant without a showing beside one that is as good as known."""
    best = probabilities_of_best(np.array([1.0, 5_001.0]), np.array([1.0, 95_001.0]))
    assert best[0] == pytest.approx(1 - 0.05, abs=0.01)


COUNTS = st.builds(
    lambda n, s, g: VariantCounts(showings=n, successes=min(s, n), guard_events=min(g, n)),
    st.integers(0, 5_000),
    st.integers(0, 400),
    st.integers(0, 200),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(COUNTS, min_size=1, max_size=6))
def test_probabilities_keep_the_floor_and_add_up(counts: list[VariantCounts]) -> None:
    shares = choice_probabilities(counts, guard_limit=0.02)
    assert sum(shares) == pytest.approx(1.0)
    for n, share in enumerate(shares):
        assert share == 0.0 if n and breaks_guard(counts[n], 0.02) else share >= FLOOR - 1e-12


def test_the_guard_excludes_what_breaks_it_and_never_the_baseline() -> None:
    bad = VariantCounts(showings=1_000, successes=300, guard_events=60)
    good = VariantCounts(showings=1_000, successes=100, guard_events=5)
    assert choice_probabilities([good, bad], guard_limit=0.02) == [1.0, 0.0]
    assert choice_probabilities([good, bad])[1] == pytest.approx(0.95)
    assert choice_probabilities([bad, bad], guard_limit=0.02) == [1.0, 0.0]


def test_nobody_is_out_before_there_are_counts() -> None:
    for limit in (1e-4, 0.01, 0.5, 0.99):
        assert not breaks_guard(VariantCounts(showings=0, successes=0), limit)
        assert not breaks_guard(VariantCounts(showings=1, successes=0, guard_events=1), limit) or limit < 0.001
