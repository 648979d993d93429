"""What a line of a model may look like, as a grammar: made of letters alone, one sentence, no other brand's name.

    grammar(Constraint(language="en", forbidden=("acme",)))     # a Lark grammar as llguidance reads it

Digits of any script, currency and other signs, per cent, quotes, addresses and line breaks are not in the alphabet, so
that they cannot be written. An English line has small letters after its first one, but for the names it is allowed; a
Chinese one has no numerals but those of a few idioms. Both end as a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LANGUAGES = ("en", "zh")
MAX_FORBIDDEN = {"en": 2_000, "zh": 200}
"""More words than these are left to the verifier. A grammar of 900 English ones is made in half a second, of 800
Chinese ones in 14."""
_PREFIX = 5
_WORD = r"[a-z]{1,16}('[a-z]{1,2}|-[a-z]{1,12})?"
_FIRST = r"[A-Z][a-z]{0,15}('[a-z]{1,2}|-[a-z]{1,12})?"
_NUMERALS = "零〇一二三四五六七八九十百千万亿两壹贰叁肆伍陆柒捌玖拾佰仟廿卅半"
_IDIOMS = "一条|一件|一款|一身|一份|一种|一抹|一丝|一家人|一天|一起|一直|一样|一点|百搭|百褶|十分|十足|半身|统一"
_HAN = rf"[[\u4e00-\u9fff]--[{_NUMERALS}]]"
_LATIN_NAME = re.compile(r"[a-z][a-z' -]*")
_HAN_NAME = re.compile(r"[\u4e00-\u9fff]+")
_CAPITAL_NAME = re.compile(r"[A-Z][A-Za-z'-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What a line may hold."""

    language: str
    """ "en" or "zh"."""
    forbidden: tuple[str, ...] = ()
    """Words and names that may not stand in a line, whole words in English."""
    names: tuple[str, ...] = ()
    """Words with capitals that may stand inside an English line, such as those of the product's name."""

    @classmethod
    def of(cls, language: str, forbidden: Iterable[str] = (), names: Iterable[str] = ()) -> Constraint:
        """Sorted, each once, so that equal constraints are equal; what cannot be written anyway is left out, and what
        is beyond `MAX_FORBIDDEN`: say the most important first."""
        shape = _LATIN_NAME if language == "en" else _HAN_NAME
        words = (" ".join(word.casefold().split()) for word in forbidden)
        writable = dict.fromkeys(word for word in words if shape.fullmatch(word))
        first = sorted(list(writable)[: MAX_FORBIDDEN.get(language)])
        capitals = sorted({name for name in names if _CAPITAL_NAME.fullmatch(name)})
        return cls(language=language, forbidden=tuple(first), names=tuple(capitals))


def grammar(constraint: Constraint) -> str:
    """A Lark grammar of llguidance, whose terminals know `&` and `~`. Raises `ValueError` for another language."""
    if constraint.language not in LANGUAGES:
        raise ValueError(f"no grammar for the language {constraint.language!r}")
    if constraint.language == "en":
        # 4 to 30 words. More than a line may have: a limit that a line can reach ends it in the middle of a thought,
        # while one that is too long is stopped as a whole.
        inner = "|".join((_WORD, *(re.escape(name) for name in constraint.names)))
        shape = rf"/{_FIRST}([,;]? ({inner})){{3,29}}[.!?]/"
    else:  # 5 to 60 characters in at most eight clauses
        unit = f"{_HAN}|T恤|{_IDIOMS}"
        shape = rf"/({unit}){{2,26}}([，、]({unit}){{2,26}}){{0,7}}[。！]/ & /.{{6,61}}/"
    without = f" & ~/{_holding(constraint.forbidden, constraint.language)}/" if constraint.forbidden else ""
    return f"start: LINE\nLINE: {shape}{without}\n"


def _holding(words: Iterable[str], language: str) -> str:
    """An expression for the texts that hold one of the words, in any case.

    No English word may even begin with a longer one of them. Where only the whole word is forbidden, a model that has
    written all of it and finds no space allowed goes on with letters: "the most" becomes "the mostrandered".
    """
    if language != "en":
        return f".*({_expression(_trie(words))}).*"
    short = _expression(_trie(w for w in words if len(w) < _PREFIX))
    long = _expression(_trie(w for w in words if len(w) >= _PREFIX))
    ways = [f"({short})([^A-Za-z].*)?" if short else "", f"({long}).*" if long else ""]
    return f"(.*[^A-Za-z])?({'|'.join(filter(None, ways))})"


def _trie(words: Iterable[str]) -> dict[str, Any]:
    """Character -> the rest; an empty key where a word ends. A thousand names as one list would exhaust the lexer."""
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return root


def _expression(node: dict[str, Any]) -> str:
    parts = []
    for character, child in sorted(node.items()):
        if character == " ":
            parts.append("[ -]" + _expression(child))
        elif character.isascii() and character.isalpha():
            parts.append(f"[{character}{character.upper()}]" + _expression(child))
        elif character:
            parts.append(re.escape(character) + _expression(child))
    if not parts:
        return ""
    joined = parts[0] if len(parts) == 1 else f"({'|'.join(parts)})"
    return f"({joined})?" if "" in node else joined
