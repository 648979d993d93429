"""The figures of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from recllm.campaigns.effect import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Some people within the window. rate: share that converted."""

    people: int
    converted: int
    rate: Interval
    revenue: float
    """Paid for the campaign's items, in the shop's currency."""
    revenue_per_person: float
    unsubscribed: int | None
    """Who has since withdrawn their consent to the channel; None where nobody was addressed or could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One segment or variant. held, effect: None where too few were held out to say anything."""

    by: str
    name: str
    reached: Arm
    held: Arm | None
    effect: Interval | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """held, rest, effect and revenue_effect are None where there are too few people, or nobody was held out.

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
    planned_held: int
    dropped: Mapping[str, int]
    not_counted: int
    """Reached, and has not agreed to be counted."""
    horizon_days: int
    expected_conversions: float
    """Within `horizon_days`, by the model, of those reached."""
    reached: Arm | None
    held: Arm | None
    rest: Arm | None
    effect: Interval | None
    revenue_effect: Interval | None
    segments: tuple[Row, ...]
    words: tuple[str, ...]
