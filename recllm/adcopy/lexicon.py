"""Word lists as data: families of phrases with their exceptions, matched on folded text."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from recllm.adcopy.reading import Reading, fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Phrases that are treated alike. `hit` and `miss` are the family's own test."""

    id: str
    latin: re.Pattern[str] | None
    chinese: re.Pattern[str] | None
    exceptions: re.Pattern[str] | None
    guarantee: str = ""
    message: str = ""
    evidence: str = ""
    """What proves the phrases: a key of the caller's evidence, "offer.end" or "never"."""
    offers: frozenset[str] = frozenset()
    """Types of running offers that allow the phrases."""
    from_facts: bool = False
    """True when the phrases are allowed where the item's facts hold them."""
    citation: str = ""
    hit: tuple[str, ...] = ()
    miss: tuple[str, ...] = ()

    def find(self, reading: Reading) -> list[str]:
        """The phrases of this family in a text, each once, as folded."""
        found: dict[str, None] = {}
        for form in dict.fromkeys((reading.folded, reading.squashed)):
            text = self.without_exceptions(form)
            for pattern in (self.latin, self.chinese):
                if pattern:
                    found |= {m[0]: None for m in pattern.finditer(text)}
        return list(found)

    def without_exceptions(self, text: str) -> str:
        """A folded text with the phrases blanked that hold a word of the family and mean something else."""
        return self.exceptions.sub(lambda m: "\x00" * len(m[0]), text) if self.exceptions else text


@cache
def families(file: str) -> tuple[Family, ...]:
    """The families of one file in `data/`."""
    text = (resources.files("recllm.adcopy") / "data" / file).read_text(encoding="utf-8")
    return tuple(_family(table) for table in tomllib.loads(text)["family"])


@cache
def table(file: str) -> Mapping[str, Any]:
    """One file in `data/` that is not made of families."""
    return tomllib.loads((resources.files("recllm.adcopy") / "data" / file).read_text(encoding="utf-8"))


@cache
def word_class(name: str) -> tuple[str, ...]:
    """One of the closed word classes of `data/words.toml`, in its order."""
    return tuple(str(table("words.toml")[name]).split())


def _family(values: Mapping[str, Any]) -> Family:
    rest = {key: values[key] for key in ("guarantee", "message", "evidence", "from_facts", "citation") if key in values}
    return Family(
        id=values["id"],
        latin=latin_pattern(values["en"]),
        chinese=chinese_pattern(values["zh"]),
        exceptions=exceptions_pattern(values["not"]),
        offers=frozenset(values.get("offers", ())),
        hit=tuple(values["hit"]),
        miss=tuple(values["miss"]),
        **rest,
    )


def latin_pattern(phrases: list[str]) -> re.Pattern[str] | None:
    """Whole words; a space in a phrase also matches a hyphen, and "*" up to 20 letters."""
    if not phrases:
        return None
    longest_first = sorted({fold(p) for p in phrases}, key=len, reverse=True)
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(_latin(p) for p in longest_first)})(?![a-z0-9])")


def _latin(phrase: str) -> str:
    return re.escape(phrase).replace(r"\ ", "[ -]").replace(r"\*", "[a-z]{0,20}")


def chinese_pattern(phrases: list[str]) -> re.Pattern[str] | None:
    """Phrases that match anywhere, the longest first; one that begins with a digit not inside a number."""
    longest_first = sorted({fold(p) for p in phrases}, key=len, reverse=True)
    return re.compile("|".join(_chinese(p) for p in longest_first)) if longest_first else None


def _chinese(phrase: str) -> str:
    """What begins with a digit begins the number: 0元 is no part of 90元."""
    return (r"(?<![\d.])" if phrase[0].isdigit() else "") + re.escape(phrase)


def exceptions_pattern(phrases: list[str]) -> re.Pattern[str] | None:
    """Latin phrases as whole words, Chinese ones anywhere."""
    latin = latin_pattern([p for p in phrases if p.isascii()])
    chinese = chinese_pattern([p for p in phrases if not p.isascii()])
    parts = [p.pattern for p in (latin, chinese) if p]
    return re.compile("|".join(parts)) if parts else None
