"""What may be expected of a campaign before it leaves: buyers among those written to, and how small an effect its
holdout could show."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from recllm.stats.intervals import ConfidenceInterval, normal_quantile

POWER = 0.8
"""Chance that an effect of the size of `smallest_effect` is found."""


def expected_buyers(probabilities: Sequence[float]) -> ConfidenceInterval:
    """How many of these people will buy, each by their own calibrated probability in [0, 1]: with the message or
    without, so it is no effect.

    The interval is that of a sum of independent draws (Poisson binomial) in its normal approximation; what the model
    does not know is not in it.
    """
    chances = np.asarray(probabilities, np.float64)
    value = float(chances.sum())
    half = normal_quantile() * sqrt(float((chances * (1 - chances)).sum()))
    return ConfidenceInterval(value, max(0.0, value - half), min(float(len(chances)), value + half))


def smallest_effect(rate: float, addressed: int, held_out: int) -> float | None:
    """Difference of two shares in (0, 1] that the comparison of so many people shows with a chance of `POWER`; None
    where nobody is on one side.

    rate: share that buys without a message. Source: the normal approximation of two independent shares (Fleiss 1981).
    """
    if not addressed or not held_out:
        return None
    z = normal_quantile() + normal_quantile(2 * POWER - 1)
    rate = min(max(rate, 1 / (addressed + held_out)), 0.5)
    return min(1.0, z * sqrt(rate * (1 - rate) * (1 / addressed + 1 / held_out)))
