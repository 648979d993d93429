"""Is the difference between two systems more than luck? A paired bootstrap over people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recllm.errors import UsageError
from recllm.metrics import Values


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean difference and the interval that holds it, at the level asked for."""

    mean: float
    low: float
    high: float


def paired_bootstrap(ours: Values, peer: Values, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile interval of mean(ours - peer), people redrawn with replacement (Efron 1979; Sakai 2006 for ranking).

    ours, peer: (n_users,), the same people in the same order. People without a value in either are left out. Raises
    `UsageError` for different numbers of people or when nobody is left.
    """
    if ours.shape != peer.shape:
        raise UsageError(f"paired bootstrap: {len(ours)} and {len(peer)} people; give the same people in one order")
    gap = ours - peer
    gap = gap[~np.isnan(gap)]
    if not len(gap):
        raise UsageError("paired bootstrap: nobody has a value in both systems")
    rng = np.random.default_rng(seed)
    means = np.array([gap[rng.integers(0, len(gap), len(gap))].mean() for _ in range(draws)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(gap.mean()), float(low), float(high))
