"""The channels, read from `data/channels.toml`: their parts, limits and allowed characters."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from recllm.adcopy.lengths import room
from recllm.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One line of a text, or its last lines."""

    name: str
    max: int
    counter: str
    lines: bool = False
    """True when the part may hold several lines; only the last part of a channel may."""

    def room(self, text: str) -> tuple[int, int]:
        """(length, limit) of `text` as this channel counts."""
        return room(text, self.max, self.counter)

    def fits(self, text: str) -> bool:
        length, limit = self.room(text)
        return length <= limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    name: str
    parts: tuple[Part, ...]
    source: str
    """Where the limits come from."""
    reviewed: str
    emoji: bool = True
    forbidden: str = ""
    title_only: bool = False
    """True where the text is a product's title: it holds facts only, and no words of a model."""
    segment_only: bool = False
    """True where a carrier takes approved templates only: one text for a whole segment, no words for a person."""
    closings: tuple[str, ...] = ()
    """One of these ends the text."""
    added: tuple[str, ...] = ()
    """Mandatory parts that code adds when a text leaves, by their names in data/mandatory.toml."""

    def split(self, text: str) -> list[tuple[Part, str]]:
        """The parts of a text with what each holds.

        As many lines as parts: one each, surplus lines join the last part. With fewer lines, the last one is still the
        last part, so that a body or description can be judged alone.
        """
        lines = text.split("\n")
        head = min(len(lines), len(self.parts)) - 1
        body = "\n".join(lines[head:])
        return [*zip(self.parts[:head], lines[:head], strict=True), (self.parts[-1], body)]


def channel(name: str) -> Channel:
    """The channel called `name`. Raises `UsageError` with the known names."""
    known = channels()
    if name not in known:
        raise UsageError(f"unknown channel {name!r}; known: {', '.join(known)}")
    return known[name]


@cache
def channels() -> Mapping[str, Channel]:
    text = (resources.files("recllm.adcopy") / "data" / "channels.toml").read_text(encoding="utf-8")
    return {name: _channel(name, table) for name, table in tomllib.loads(text).items()}


def _channel(name: str, table: Mapping[str, Any]) -> Channel:
    values = dict(table)
    parts = tuple(Part(**part) for part in values.pop("parts"))
    values |= {name: tuple(values[name]) for name in ("closings", "added") if name in values}
    return Channel(name=name, parts=parts, **values)
