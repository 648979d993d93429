"""What another ranking would have earned, from a log of slates whose choices were drawn with recorded propensities.

Each row is one item at one position of one slate that was shown. With the weight w = target probability / propensity
the value is sum(w * reward) / sum(w), the self-normalised estimate (SNIPS; Swaminathan and Joachims 2015): the reward
per item shown under the target. Its bias vanishes as the log grows. What is assumed: an item's reward depends on its
position and the person, not on the other items of the slate. What the target would show and the log could not is left
out.

Intervals are those of empirical likelihood over people (Owen 1988; Karampatziakis et al. 2020 for such logs), with the
F distribution for few people. A log can miss what matters: where a few heavy rows carry the value, none of them may
have been rewarded yet. So each end is computed with one further row of the mean weight under the target, without reward
for the lower end and with it for the upper one (as Fay and Feuer 1997 do for weighted counts). Student's t misses the
truth too often from below (`eval/LOG.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.stats.intervals import Interval

Values = NDArray[np.float64]

IMPOSSIBLE = 1e12
"""Stands for the -2 log likelihood ratio of a value that no weights reach."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LoggedChoices:
    """n shown items. Raises `DataError` for propensities that are missing, 0 or below, or above 1, and for other values
    that cannot be."""

    rewards: Values
    """(n,), any finite number, such as 1 for a click and 0 for none."""
    propensities: Values
    """(n,), in (0, 1]: the probability with which the log's ranking showed this item at this position."""
    target_probabilities: Values
    """(n,), in [0, 1]: that of the other ranking; 0 or 1 where it does not draw."""
    people: NDArray[np.int64]
    """(n,), who saw it, any numbering: rows of one person depend on each other."""
    outside_support: Values
    """(n,), in [0, 1]: the target's probability of items that the log could not show at this position."""

    def __post_init__(self) -> None:
        n = np.size(self.rewards)
        for field in fields(self):
            column = np.asarray(getattr(self, field.name), np.int64 if field.name == "people" else np.float64)
            if column.shape != (n,) or not np.isfinite(column).all():
                raise DataError(f"logged choices: {field.name} must be {n} finite numbers, one for each row")
            object.__setattr__(self, field.name, column)
        if not n:
            raise DataError("logged choices: there are no rows; log slates with their propensities first")
        if not ((self.propensities > 0) & (self.propensities <= 1)).all():
            raise DataError("logged choices: propensities must be above 0 and at most 1; leave out slates without them")
        for name in ("target_probabilities", "outside_support"):
            if not ((getattr(self, name) >= 0) & (getattr(self, name) <= 1)).all():
                raise DataError(f"logged choices: {name} must be in [0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueEstimate:
    """The reward per shown item under the target."""

    value: float
    interval: Interval | None
    """At 95 %; None where all rewards are the same, or there is one person only."""
    rows: int
    people: int
    effective_sample_size: float
    """(sum of weights)^2 / sum of squared weights: so many rows of the target's own would tell as much."""
    outside_support: float
    """Share of the target's choices that the log could not show."""


def estimate_value(choices: LoggedChoices) -> ValueEstimate:
    """Raises `DataError` when the log holds nothing that the target would show."""
    weights = choices.target_probabilities / choices.propensities
    if not weights.any():
        raise DataError("off-policy: the log holds nothing that the target would show; explore before asking")
    person = np.unique(choices.people, return_inverse=True)[1]
    sums, sizes = np.bincount(person, weights * choices.rewards), np.bincount(person, weights)
    value = float(sums.sum() / sizes.sum())
    # with a further row, whose reward may be the lowest or the highest: the next heavy row may earn what none did yet
    interval, rewards = None, (float(choices.rewards.min()), float(choices.rewards.max()))
    if rewards[0] < rewards[1] and len(sums) > 1:
        weight = float((weights**2).sum() / weights.sum())
        limits = [likelihood_interval(np.append(sums, weight * r), np.append(sizes, weight)) for r in rewards]
        # without a single reward of positive weight, zeros alone are left at the lower end
        interval = Interval(limits[0].low if limits[0] else value, limits[1].high if limits[1] else value)
    return ValueEstimate(
        value=value,
        interval=interval,
        rows=len(weights),
        people=len(sums),
        effective_sample_size=float(weights.sum() ** 2 / (weights**2).sum()),
        outside_support=float(choices.outside_support.mean()),
    )


def likelihood_interval(numerators: Values, denominators: Values, level: float = 0.95) -> Interval | None:
    """Of sum(numerators) / sum(denominators), by empirical likelihood over independent entries (Owen 1988, 2001).

    numerators: (n,), any sign. denominators: (n,), at least 0. A value v is in the interval when the entries can be
    reweighted so that the ratio is v without becoming much less likely: -2 log likelihood ratio <= F(1, n - 1). None
    where no value but one is possible.
    """
    from scipy.optimize import brentq
    from scipy.special import fdtri

    # entries with neither constrain nothing
    is_informative = (denominators > 0) | (numerators != 0)
    tops, bottoms = numerators[is_informative], denominators[is_informative]
    value = tops.sum() / bottoms.sum()
    limit = float(fdtri(1, len(numerators) - 1, level)) if len(numerators) > 1 else inf

    def excess(v: float) -> float:
        """-2 log likelihood ratio at v, less the limit; a large number where no weights reach v."""
        gaps = tops - v * bottoms
        low, high = gaps.min(), gaps.max()
        if low >= 0 or high <= 0:
            return IMPOSSIBLE
        # each weight 1 / (n * (1 + multiplier * gap)) is at most 1, which bounds the multiplier
        n = len(gaps)
        ends = (1 / n - 1) / high, (1 / n - 1) / low
        multiplier = brentq(lambda m: float((gaps / (1 + m * gaps)).sum()), *ends)
        return float(2 * np.log1p(multiplier * gaps).sum()) - limit

    step = float(np.sqrt(((tops - value * bottoms) ** 2).sum()) / bottoms.sum())
    if step <= 1e-12 * max(1.0, abs(value)) or limit == inf:
        return None
    ends = []
    for side in (-1, 1):
        outside = value + side * step
        while excess(outside) < 0:
            outside += side * step
        ends.append(float(brentq(excess, *sorted((value, outside)), xtol=1e-9 * step, rtol=1e-12)))
    return Interval(*ends)
