"""What is said to people in a language, and how numbers, money and times are written there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

from babel.dates import format_date, format_datetime, format_skeleton
from babel.numbers import format_currency, format_decimal, format_percent

from recllm.base.words.sentences import sentences

BABEL: Mapping[str, str] = {"en": "en_GB", "zh": "zh_Hans_CN"}
TAG: Mapping[str, str] = {"en": "en", "zh": "zh-Hans"}
"""What `lang` says of a page."""


class Figure(str):
    """A value as it is written; where a sentence has {n:reader|readers}, with the noun that fits its number."""

    def __format__(self, nouns: str) -> str:
        singular, _, plural = nouns.partition("|")
        return f"{self!s} {singular if self == '1' else plural}" if nouns else str(self)


@dataclass(frozen=True, slots=True)
class Words:
    """One language with one shop's money, zone and domain."""

    language: str
    currency: str | None = None
    timezone: str | None = None
    domain: Mapping[str, str] = field(default_factory=dict)
    """Words of the shop's domain that sentences may hold, such as {products}."""

    @property
    def tag(self) -> str:
        return TAG[self.language]

    def say(self, path: str, /, **values: object) -> str:
        """A sentence with its values filled in. Raises `KeyError` for one that there is not."""
        texts = {
            name: Figure(self.number(value) if isinstance(value, int | float) else value)
            for name, value in values.items()
        }
        return sentences(self.language)[path].format_map({**self.domain, **texts})

    def has(self, path: str) -> bool:
        return path in sentences(self.language)

    def label(self, path: str, otherwise: str) -> str:
        """A sentence without values, or `otherwise` where there is none."""
        return self.say(path) if self.has(path) else otherwise

    def basic(self, name: str) -> str:
        """What one of the basics is called; its own name where there is no word for it."""
        return self.label(f"basic.{name}", name.replace("_", " "))

    def number(self, value: float, digits: int = 0) -> str:
        pattern = "#,##0" + ("." + "0" * digits if digits else "")
        return str(format_decimal(value, format=pattern, locale=BABEL[self.language]))

    def percent(self, share: float, digits: int = 0) -> str:
        """share: in [0, 1]."""
        pattern = "#,##0" + ("." + "0" * digits if digits else "") + "%"
        return str(format_percent(share, format=pattern, locale=BABEL[self.language]))

    def money(self, amount: float, currency: str | None = None) -> str:
        currency = currency or self.currency
        if currency is None:
            return self.number(amount, 2)
        return str(format_currency(amount, currency, locale=BABEL[self.language]))

    def moment(self, at: datetime) -> str:
        """Day and minute, in the shop's zone."""
        return str(format_datetime(at, "medium", tzinfo=self._zone(), locale=BABEL[self.language]))

    def day(self, at: datetime) -> str:
        return str(format_date(at.astimezone(self._zone()), "medium", locale=BABEL[self.language]))

    def calendar_day(self, day: date) -> str:
        """A day that has no time and no zone."""
        return str(format_date(day, "medium", locale=BABEL[self.language]))

    def short_day(self, at: datetime) -> str:
        """Day and month, for the axis of a chart."""
        return str(format_skeleton("MMMd", at, tzinfo=self._zone(), locale=BABEL[self.language]))

    def weekday(self, at: datetime) -> str:
        return str(format_date(at.astimezone(self._zone()), "EEEE", locale=BABEL[self.language]))

    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone or "UTC")
