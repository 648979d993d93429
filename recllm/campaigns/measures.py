"""The figures of a report: groups that a draw made, their difference with intervals, and money.

share      Wilson 1927
difference of two independent shares      Newcombe 1998, method 10: the square and add of Wilson's limits
difference of two means     percentile bootstrap, each group redrawn by itself (Efron 1979)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.documents import plain

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class ConfidenceInterval:
    """A value with the limits that hold it at `LEVEL`."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def share(hits: int, n: int) -> ConfidenceInterval:
    """hits of n with Wilson's score interval; n is at least 1."""
    from scipy.stats import binomtest

    limits = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return ConfidenceInterval(hits / n, float(limits.low), float(limits.high))


def difference(hits: int, n: int, control_hits: int, control_n: int) -> ConfidenceInterval:
    """hits / n - control_hits / control_n, in [-1, 1]."""
    a, b = share(hits, n), share(control_hits, control_n)
    gap = a.value - b.value
    low, high = gap - hypot(a.value - a.low, b.high - b.value), gap + hypot(a.high - a.value, b.value - b.low)
    return ConfidenceInterval(gap, max(-1.0, low), min(1.0, high))


def mean_difference(
    values: NDArray[np.float64], control: NDArray[np.float64], *, draws: int = 2000, seed: int = 0
) -> ConfidenceInterval:
    """mean(values) - mean(control), (n,) and (m,), at least one each."""
    rng = np.random.default_rng(seed)
    means = [np.array([rng.choice(part, len(part)).mean() for _ in range(draws)]) for part in (values, control)]
    low, high = np.quantile(means[0] - means[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return ConfidenceInterval(float(values.mean() - control.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """What some people did within the window."""

    people: int
    converted: int
    rate: ConfidenceInterval
    """Share that converted."""
    revenue: float
    """Paid for the campaign's items, in the shop's currency."""
    revenue_per_person: float
    unsubscribed: int | None
    """Who has since withdrawn their consent to the channel; None where nobody was addressed or could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFigures:
    """One segment or variant."""

    by: str
    """How the people were divided: channel, locale, reason, likelihood, category, item, variant or text."""
    name: str
    reached: GroupFigures
    held_out: GroupFigures | None
    """None, as `effect`, where too few were held out to say anything."""
    effect: ConfidenceInterval | None


@dataclass(frozen=True, kw_only=True)
class CampaignOutcome:
    """What a campaign brought. A group of too few people is None, and so is an effect without two groups.

    planned = reached + not_counted + the sum of dropped.
    """

    campaign_id: str
    goal: str
    note: str
    start: datetime
    end: datetime
    until: datetime
    """The end of what is known; the window is over when this is not before `end`."""
    planned: int
    planned_held_out: int
    dropped: Mapping[str, int]
    """Reason -> people of the plan who were not reached."""
    not_counted: int
    """Reached, and has not agreed to be counted."""
    horizon_days: int
    expected_conversions: float
    """Within `horizon_days`, by the model, of those reached."""
    reached: GroupFigures | None
    held_out: GroupFigures | None
    other_people: GroupFigures | None
    """Of the shop, neither reached nor held out: no comparison."""
    effect: ConfidenceInterval | None
    """Share that converted, reached minus held out."""
    revenue_effect: ConfidenceInterval | None
    """Revenue per person, reached minus held out."""
    segments: tuple[SegmentFigures, ...]
    words: tuple[str, ...]
    """What the figures say and what they do not, as sentences."""


JSON_NAMES = {"planned_held_out": "planned_held", "held_out": "held", "other_people": "rest"}
"""What fields are called in documents."""


def outcome_document(outcome: CampaignOutcome) -> dict[str, Any]:
    """The outcome as `--json` and result files hold it."""

    def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {JSON_NAMES.get(name, name): value for name, value in fields.items()}

    document = renamed(plain(outcome))
    return document | {"segments": [renamed(segment) for segment in document["segments"]]}
