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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """The answers to a variant."""

    showings: int
    successes: int
    """Showings with a success."""
    guard_events: int = 0
    """Showings with a guard event."""


def choice_probabilities(counts: Sequence[VariantCounts], *, guard_limit: float | None = None) -> list[float]:
    """How often each variant is to be shown, adding up to 1. counts: of at most 1 / `FLOOR` variants, the baseline
    first, which stays whatever its guard rate. guard_limit: the highest share of guard events, in (0, 1); None lets all
    stay."""
    stays = np.array([not n or guard_limit is None or not breaks_guard(c, guard_limit) for n, c in enumerate(counts)])
    successes, showings = np.array([[c.successes, c.showings] for c in counts], np.float64)[stays].T
    shares = np.zeros(len(counts))
    best = probabilities_of_best(successes + 1, showings - successes + 1)  # the prior is uniform
    shares[stays] = FLOOR + (1 - FLOOR * stays.sum()) * best
    return [float(share) for share in shares]


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
