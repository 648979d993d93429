"""Which variant of a text to show next: Thompson sampling with a guard, a floor, and each choice's exact propensity.

Successes (clicks, orders) of a variant are Beta-distributed given its counts, and a variant is shown as often as it is
the best one by these posteriors. That probability is computed by quadrature, so the logged propensity is exact.

A variant whose guard rate (dismissals, unsubscriptions) lies above the limit with a posterior probability of more than
.95 is out; the baseline stays. Every variant that is in keeps a floor of traffic, so that bad luck at first is mended
and logs stay usable for `recllm.market.experiments.off_policy`.

Rates are taken not to change over time, and people to be alike. The guard is asked again at every choice, so over
months a variant at the limit will be out by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError, UsageError

Values = NDArray[np.float64]

FLOOR = 0.05
"""Share of showings of each variant that is in, at least."""

GUARD_CERTAINTY = 0.95
"""Posterior probability from which a variant is out."""

GUARD_PRIOR_SHOWINGS = 100.0
"""Showings that the guard's prior stands for; their rate is the limit, so no variant is out before there are counts."""

NODES = 128
"""Of the Gauss-Legendre rule over a variant's quantiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantCounts:
    """The answers to a variant. Raises `DataError` for counts below 0 or above the showings."""

    showings: int
    successes: int
    """Showings with a success."""
    guard_events: int = 0
    """Showings with a guard event."""

    def __post_init__(self) -> None:
        counts = (self.successes, self.guard_events)
        if min(counts) < 0 or max(counts) > self.showings:
            raise DataError(
                f"a variant of {self.showings} showings has {self.successes} successes and {self.guard_events} guard "
                "events; give counts from 0 to the showings"
            )


def choice_probabilities(
    counts: Mapping[str, VariantCounts], *, baseline: str, guard_limit: float | None = None, floor: float = FLOOR
) -> dict[str, float]:
    """Of each variant in the order of `counts`; they add up to 1, and a variant that is out has 0.

    guard_limit: highest guard rate that is allowed, in (0, 1); None for no guard. Raises `UsageError` for an unknown
    baseline, or a value out of its range.
    """
    if baseline not in counts:
        raise UsageError(f"the baseline {baseline!r} is no variant; give one of {', '.join(counts)}")
    if not 0 <= floor * len(counts) <= 1 or (guard_limit is not None and not 0 < guard_limit < 1):
        raise UsageError(
            f"floor is {floor}, guard_limit {guard_limit}; give a floor of 0 to 1 / {len(counts)} variants, a limit "
            "between 0 and 1"
        )
    names = [
        name
        for name, tally in counts.items()
        if name == baseline or guard_limit is None or not breaks_guard(tally, guard_limit)
    ]
    successes = np.array([counts[name].successes for name in names], np.float64)
    showings = np.array([counts[name].showings for name in names], np.float64)
    best = probabilities_of_best(successes + 1, showings - successes + 1)  # the prior is uniform
    shares = dict(zip(names, floor + (1 - floor * len(names)) * best, strict=True))
    return {name: float(shares.get(name, 0.0)) for name in counts}


def breaks_guard(counts: VariantCounts, guard_limit: float) -> bool:
    """Whether the guard rate lies above the limit with more than `GUARD_CERTAINTY`."""
    from scipy.special import betaincc

    events = GUARD_PRIOR_SHOWINGS * guard_limit + counts.guard_events
    others = GUARD_PRIOR_SHOWINGS * (1 - guard_limit) + counts.showings - counts.guard_events
    return bool(betaincc(events, others, guard_limit) > GUARD_CERTAINTY)


def probabilities_of_best(alpha: Values, beta: Values) -> Values:
    """(n,): how probable it is that Beta(alpha[i], beta[i]) draws the largest of all n.

    P(i is best) = integral over u in [0, 1] of the product over j != i of F_j(F_i^-1(u)), with `NODES` nodes, scaled to
    add up to 1. The error is below 1e-6 where posteriors are about as wide as each other, and else below 1e-2.
    """
    from scipy.special import betainc, betaincinv

    nodes, node_weights = np.polynomial.legendre.leggauss(NODES)
    quantiles = betaincinv(alpha[:, None], beta[:, None], (nodes + 1) / 2)  # (n, NODES)
    below = betainc(alpha[:, None, None], beta[:, None, None], quantiles)  # (j, i, node): F_j at i's quantiles
    below[np.arange(len(alpha)), np.arange(len(alpha))] = 1.0
    best = below.prod(axis=0) @ node_weights / 2
    return np.asarray(best / best.sum())
