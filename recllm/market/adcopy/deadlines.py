"""Deadlines that a text gives by their distance from the day of sending: "today only", "this weekend", 今天最后一天.

    deadlines("Today only!")[0].ends_on(offer.end, now)

The phrases are data, in `data/deadlines.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache

from babel.dates import format_skeleton

from recllm.market.adcopy.lexicon import Family, Reading, pattern, phrase_patterns, table
from recllm.market.adcopy.quantities import integer_of

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS_OF_WEEK = 7
_DAYS_LEFT = "days_left"


@dataclass(frozen=True, slots=True)
class Deadline:
    """One phrase that sets a deadline."""

    span: str
    """As folded."""
    day: str
    """Which last day makes it true: "today", "tomorrow", "weekend", "week", "month", a weekday or "days_left"."""
    strong: bool
    """True where the phrase sets a deadline whatever stands around it."""
    days_left: int = 0
    """Days of "days_left", the day of sending among them or not: both are said."""

    def ends_on(self, end: datetime, now: datetime) -> bool:
        """True when an offer that ends before `end` has its last day where the phrase puts it, seen from `now`."""
        last = last_day(end)
        today = now.astimezone(end.tzinfo).date()
        days = (last - today).days
        if days < 0:
            return False
        if self.day in WEEKDAYS:
            weeks = 2 if pattern("deadlines.next_week").search(self.span) else 1
            return days < weeks * _DAYS_OF_WEEK and WEEKDAYS[last.weekday()] == self.day
        if self.day == _DAYS_LEFT:
            return self.days_left - 1 <= days <= self.days_left
        same_week = last.isocalendar()[:2] == today.isocalendar()[:2]
        return {
            "today": days == 0,
            "tomorrow": days == 1,
            "weekend": same_week and last.weekday() >= WEEKDAYS.index("saturday"),
            "week": same_week,
            "month": (last.year, last.month) == (today.year, today.month),
        }[self.day]


def last_day(end: datetime) -> date:
    """The last day of an offer: one that ends at midnight ends on the day before."""
    return (end - timedelta(microseconds=1)).date()


def day_in_words(day: date, language: str) -> str:
    """ "30 November", "11月30日"."""
    return str(format_skeleton("MMMMd", day, locale="en_GB" if language == "en" else "zh"))


def deadlines(reading: Reading) -> Sequence[Deadline]:
    """Every deadline of a text; a phrase inside of a longer strong one is left out: 最后一天 of 明天最后一天."""
    strong = [Deadline(span, day, True) for day, family, _ in _families() for span in family.find(reading)]
    weak = [Deadline(span, day, False) for day, _, family in _families() for span in family.find(reading)]
    for match in pattern("deadlines.days_left").finditer(reading.folded):
        number = next(filter(None, match.groups()))
        strong.append(Deadline(match[0], _DAYS_LEFT, True, integer_of(number)))
    return [d for d in (*strong, *weak) if not any(d.span in s.span and d.span != s.span for s in strong)]


@cache
def _families() -> Sequence[tuple[str, Family, Family]]:
    """(last day, strong phrases, weak ones)."""

    def family(day: str, phrases: Sequence[str]) -> Family:
        return Family(id=day, shapes=phrase_patterns(phrases), exceptions=pattern("quantities.weekdays"))

    entries = table("deadlines.toml")["deadline"]
    weekdays = table("deadlines.toml")["weekdays"]

    def named(phrases: Sequence[str], names: Sequence[str]) -> Sequence[str]:
        """The phrases with each name of their language, {DAY} with the long ones."""
        return [
            phrase.format(day=name, DAY=name)
            for phrase in phrases
            for name in names
            if name.isascii() is phrase.isascii() and ("{DAY}" not in phrase or name in WEEKDAYS)
        ]

    days = weekdays["names"].items()
    return [(e["ends"], family(e["ends"], e["strong"]), family(e["ends"], e["weak"])) for e in entries] + [
        (day, family(day, named(weekdays["strong"], names)), family(day, named(weekdays["weak"], names)))
        for day, names in days
    ]
