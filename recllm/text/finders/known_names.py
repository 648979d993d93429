"""Words that are names of people, and words that stand in their places and are none."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

from recllm.text.finders.patterns import entry, word_set

_N_COMMON = 300
"""Of the surnames, which go from common to rare, those that are enough without a label."""


def has_known_name(words: Sequence[str]) -> bool:
    """True where one of the words, in small letters, is a common given or family name, with or without accents."""
    words = [piece for word in words for piece in (word, *word.split("-"))]
    bare = (unicodedata.normalize("NFD", word).encode("ascii", "ignore").decode() for word in words)
    return not _known_names().isdisjoint(bare) or not _known_names().isdisjoint(words)


@cache
def _known_names() -> frozenset[str]:
    return word_set("name.given") | word_set("name.family")


def is_no_name(words: Sequence[str]) -> bool:
    """True where one of the words, in small letters, is none of a name."""
    return not word_set("name.no_names").isdisjoint(word.strip(".,") for word in words)


@cache
def chinese_name_pattern() -> str:
    """A pattern of a common surname with one or two characters; the fewest that what follows lets stand."""
    common = entry("name.surnames").strip()[:_N_COMMON]
    return f"(?:(?:{'|'.join(word_set('name.double_surnames'))})[{{HAN}}]{{1,2}}?|[{common}][{{HAN}}]{{1,2}}?)"


@cache
def common_surname_signs() -> frozenset[str]:
    """The first characters of the names that the pattern matches."""
    return frozenset(entry("name.surnames").strip()[:_N_COMMON]) | {
        name[0] for name in word_set("name.double_surnames")
    }


def is_no_chinese_name(name: str) -> bool:
    if any(name.startswith(word) or name.endswith(word) for word in word_set("name.no_chinese_names")):
        return True
    return not word_set("introduced.no_chinese").isdisjoint((name, name[:2], name[:3]))


def surname(name: str) -> int:
    """How many characters of a Chinese name are the surname; 0 where it begins with none."""
    if name[:2] in word_set("name.double_surnames"):
        return 2
    return int(name[:1] in _surnames())


@cache
def _surnames() -> frozenset[str]:
    return frozenset(entry("name.surnames").strip())
