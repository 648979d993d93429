"""The patterns and word lists of `data/personal_data.toml`, and what all finders do with them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

Span = tuple[int, int]
"""Of a text: first character, and the one behind the last."""


@cache
def _table() -> Mapping[str, Any]:
    text = (resources.files("recllm.text") / "data" / "personal_data.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def entry(name: str) -> Any:
    group, _, key = name.partition(".")
    return _table()[group][key]


@cache
def pattern(name: str, **parts: str) -> re.Pattern[str]:
    return compiled(entry(name), **parts)


@cache
def compiled(text: str, **parts: str) -> re.Pattern[str]:
    for _ in range(3):  # a part may hold parts
        for key, value in {**_table()["parts"], **parts}.items():
            text = text.replace(f"{{{key}}}", value)
    return re.compile(re.sub(r"\n *", "", text))


def matches(name: str, text: str, **parts: str) -> Iterator[re.Match[str]]:
    """Matches of a pattern, which is searched only where its marks let it match."""
    return pattern(name, **parts).finditer(text) if may_match(name, text) else iter(())


def may_match(name: str, text: str) -> bool:
    """False where the pattern has marks, and the text holds none of them."""
    marks = marks_of_patterns().get(name)
    return marks is None or not marks.isdisjoint(marks_of(text))


@cache
def marks_of_patterns() -> Mapping[str, frozenset[str]]:
    """Pattern -> marks, of which each of its matches holds one."""
    return {name: frozenset(marks.split()) for name, marks in _table()["marks"].items()}


@lru_cache(maxsize=4)
def marks_of(text: str) -> frozenset[str]:
    """The runs of ASCII letters in small letters, and each character."""
    return frozenset(_LETTERS.findall(text.lower())) | frozenset(text)


_LETTERS = re.compile("[a-z]+")


@cache
def word_set(name: str) -> frozenset[str]:
    """A list of words, or words as one text."""
    value = entry(name)
    return frozenset(value.split() if isinstance(value, str) else value)


A_WORD, A_LONG_WORD = (re.compile(f"[A-Za-zÀ-ÿ]{{{n}}}") for n in (2, 3))
"""Of Latin letters."""
A_LETTER = re.compile(r"[^\W\d_]")
A_DIGIT, SEVEN_DIGITS = re.compile(r"\d"), re.compile(r"\d(?:\D{0,4}\d){6}")


@lru_cache(maxsize=1 << 12)
def has_words(name: str, piece: str) -> bool:
    """True where a pattern of words, each with a letter, is in a short piece of a text."""
    return A_LETTER.search(piece) is not None and pattern(name).search(piece) is not None


def has_label(text: str, start: int, label: str, *, reach: int = 28, against: str | None = None) -> bool:
    """True where a word of the pattern `label` stands before `start`, and none of `against` stands nearer."""
    before = text[max(0, start - reach) : start]
    last = _last_label(label, before)
    rival = _last_label(against, before) if against and last else None
    # of two that end together the longer: "invoice number" is of an invoice
    return last is not None and (rival is None or last >= rival)


@lru_cache(maxsize=1 << 12)
def _last_label(label: str, before: str) -> tuple[int, int] | None:
    if not A_LETTER.search(before):
        return None
    return max(((m.end(), -m.start()) for m in pattern(label).finditer(before)), default=None)


@lru_cache(maxsize=4)
def n_digits(text: str) -> int:
    return len(A_DIGIT.findall(text))


def is_han(sign: str) -> bool:
    return "\u3400" <= sign <= "\u9fff" or "\uf900" <= sign <= "\ufaff"


@dataclass(frozen=True, slots=True)
class Columns:
    """A table in a text: the first line names the columns."""

    text: str
    delimiter: str
    heads: tuple[str, ...]

    def label(self, at: int) -> str:
        """The name of the column that `text[at]` stands in; empty in the first line."""
        begin = self.text.rfind("\n", 0, at) + 1
        column = self.text.count(self.delimiter, begin, at)
        return self.heads[column] if begin and column < len(self.heads) else ""


_HEAD = r"[^\d\n,;|\t]{2,24}"
_HEADS = re.compile(rf"{_HEAD}(?P<delimiter>[,;|\t]){_HEAD}(?:(?P=delimiter){_HEAD}){{0,20}}\n")


@lru_cache(maxsize=4)
def columns(text: str) -> Columns | None:
    """The table that a text is; None for any other."""
    match = _HEADS.match(text) if "\n" in text else None
    if match is None or text.count(match["delimiter"], match.end()) < match[0].count(match["delimiter"]):
        return None
    heads = tuple(head.strip(" \"'").replace("_", " ") for head in match[0].split(match["delimiter"]))
    return Columns(text, match["delimiter"], heads)


def reads_like_title(text: str, start: int = 0) -> bool:
    """True for a text with sizes, amounts or kinds of goods, that does not speak to a person."""
    return _is_title(text[start : start + 300] if start else text)  # what follows and is longer is no title


@lru_cache(maxsize=8)
def _is_title(text: str) -> bool:
    return pattern("title.talk").search(text) is None and pattern("title.goods").search(text) is not None
