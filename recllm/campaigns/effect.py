"""Two groups that a draw made, compared: shares and their difference with intervals, and money.

share      Wilson 1927
difference of two independent shares      Newcombe 1998, method 10: the square and add of Wilson's limits
difference of two means     percentile bootstrap, each group redrawn by itself (Efron 1979)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the limits that hold it at `LEVEL`."""

    value: float
    low: float
    high: float

    @property
    def tells(self) -> bool:
        """True when it excludes zero."""
        return self.low > 0 or self.high < 0


def share(hits: int, n: int, level: float = LEVEL) -> Interval:
    """hits of n with Wilson's score interval; n is at least 1."""
    z, p = NormalDist().inv_cdf(0.5 + level / 2), hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def difference(hits: int, n: int, other_hits: int, other_n: int, level: float = LEVEL) -> Interval:
    """hits / n - other_hits / other_n, in [-1, 1]."""
    a, b = share(hits, n, level), share(other_hits, other_n, level)
    low = sqrt((a.value - a.low) ** 2 + (b.high - b.value) ** 2)
    high = sqrt((a.high - a.value) ** 2 + (b.value - b.low) ** 2)
    gap = a.value - b.value
    return Interval(gap, max(-1.0, gap - low), min(1.0, gap + high))


def mean_difference(
    ours: NDArray[np.float64], others: NDArray[np.float64], *, draws: int = 2000, seed: int = 0
) -> Interval:
    """mean(ours) - mean(others), (n,) and (m,), at least one each."""
    rng = np.random.default_rng(seed)
    means = [np.array([rng.choice(part, len(part)).mean() for _ in range(draws)]) for part in (ours, others)]
    low, high = np.quantile(means[0] - means[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(ours.mean() - others.mean()), float(low), float(high))
