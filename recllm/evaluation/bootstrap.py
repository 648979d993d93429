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
    return paired_bootstraps((ours - peer)[:, None], draws=draws, level=level, seed=seed)[0]


def paired_bootstraps(gaps: Values, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> list[Interval]:
    """The same for several comparisons at once: (n_users, n_comparisons) of ours - peer, one interval per column.

    All columns see the same redrawn people. People without a value in any column are left out of all.
    """
    gaps = gaps[~np.isnan(gaps).any(axis=1)]
    n = len(gaps)
    if not n:
        raise UsageError("paired bootstrap: nobody has a value in both systems")
    rng, means = np.random.default_rng(seed), np.empty((draws, gaps.shape[1]))
    for draw in range(draws):
        means[draw] = np.bincount(rng.integers(0, n, n), minlength=n) @ gaps / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(*map(float, line)) for line in zip(gaps.mean(axis=0), low, high, strict=True)]
