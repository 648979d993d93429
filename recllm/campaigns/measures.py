"""The figures of a report, and what may be concluded from them, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def words_of(outcome: Outcome, floor: int) -> tuple[str, ...]:
    """What the figures say and what they do not, as sentences. floor: the fewest people that are told about."""
    return (*_effect_words(outcome, floor), *_doubts(outcome, floor))


def _effect_words(found: Outcome, floor: int) -> Iterator[str]:
    if found.reached is None:
        yield f"Fewer than {floor} people were reached and may be counted, so nothing is told about them."
    elif found.effect is None:
        few = f"fewer than {floor} people were held out" if found.planned_held else "nobody was held out"
        yield (
            f"No effect is told: {few}. Who was reached was chosen because they were likely to buy, so what "
            "they did more than the rest is no effect of the campaign."
        )
    elif found.effect.tells:
        more = "more" if found.effect.value > 0 else "less"
        yield (
            f"People who were reached bought {more} often than people held out by the draw: {_points(found.effect)}."
        )
    else:
        wide = 100 * max(found.effect.high - found.effect.value, found.effect.value - found.effect.low)
        yield (
            f"No effect on buying can be shown: {_points(found.effect)}, which includes zero. With these numbers an "
            f"effect of less than about {wide:.1f} percentage points cannot be told from chance."
        )


def _doubts(found: Outcome, floor: int) -> Iterator[str]:
    if found.until < found.end:
        yield f"The window is not over: it ends on {found.end:%Y-%m-%d}, and the log on {found.until:%Y-%m-%d}."
    if found.not_counted:
        yield f"{found.not_counted:,} people were reached and have not agreed to be counted."
    if any(row.effect is not None for row in found.segments):
        yield "Of many segments some differ by chance: each interval holds by itself, not all at once."
    if found.reached is not None and found.rest is not None:
        yield "The rest are other people, not a comparison: they were not chosen, and differ in more than the campaign."


def _points(effect: Interval) -> str:
    low, high = 100 * effect.low, 100 * effect.high
    return f"{100 * effect.value:+.1f} percentage points, 95 % interval {low:+.1f} to {high:+.1f}"
