"""What the console says, in each of its languages: `words/<language>.toml` and, for single sections,
`words/<section>.<language>.toml`; and how numbers and times are written."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

from babel.dates import format_date, format_datetime
from babel.numbers import format_currency, format_decimal, format_percent

from recllm.text.templates import LOCALES, language

LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "中文"}
"""The languages of the console, each by its own name."""
BABEL: Mapping[str, str] = {"en": "en_GB", "zh": "zh_Hans_CN"}
TAG: Mapping[str, str] = {"en": "en", "zh": "zh-Hans"}
"""What `lang` says of a page."""

assert set(LANGUAGES) == set(LOCALES)  # noqa: S101 - reasons and texts come in the languages of the prompts


@cache
def sentences(name: str) -> Mapping[str, str]:
    """Every sentence of a language by its path: "people.title"."""
    folder = resources.files(__package__).joinpath("words")
    files = [file for file in folder.iterdir() if f".{file.name}".endswith(f".{name}.toml")]
    return {path: text for file in files for path, text in _flat(tomllib.loads(file.read_text("utf-8")), "")}


def _flat(table: Mapping[str, Any], path: str) -> list[tuple[str, str]]:
    pairs = []
    for name, value in table.items():
        pairs += _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else [(f"{path}{name}", str(value))]
    return pairs


@dataclass(frozen=True, slots=True)
class Words:
    """One language with one shop's money and zone."""

    language: str
    currency: str | None = None
    timezone: str | None = None

    @property
    def tag(self) -> str:
        return TAG[self.language]

    def say(self, path: str, /, **values: object) -> str:
        """A sentence with its values filled in. Raises `KeyError` for one that there is not."""
        texts = {
            name: self.number(value) if isinstance(value, int | float) else value for name, value in values.items()
        }
        return sentences(self.language)[path].format_map(texts)

    def has(self, path: str) -> bool:
        return path in sentences(self.language)

    def basic(self, name: str) -> str:
        """What one of the basics is called; its own name where the console has no word for it."""
        path = f"basic.{name}"
        return self.say(path) if self.has(path) else name.replace("_", " ")

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

    def weekday(self, at: datetime) -> str:
        return str(format_date(at.astimezone(self._zone()), "EEEE", locale=BABEL[self.language]))

    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone or "UTC")


def language_of(locale: str) -> str:
    """The console's language for a workspace's locale: English where there is no other."""
    name = language(locale)
    return name if name in LANGUAGES else "en"
