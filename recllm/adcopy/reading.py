"""How the checks read a text: folded, so that a forbidden word is found however it is dressed up.

Folding is for matching only; what is shown stays as it was written. Full-width, circled and fancy letters become plain
ones, accents go, look-alike letters of other scripts become Latin, invisible characters go, Chinese loses its spaces.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

_LOOKALIKES = str.maketrans(
    "аеорсухікмтвнјѕԁӏɡαοενικτυρχβɩℓ",
    "aeopcyxikmtbhjsdlgaoevikturxbil",
)
_UNSEEN = frozenset({"Cf", "Cc", "Co", "Cn", "Mn"})
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "⁄": "/", "￥": "¥"})
_INVISIBLE = re.compile("[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0]")
_SPACE = re.compile(r"\s+")
_HAN_SPACE = re.compile(rf"(?<=[{HAN}]) (?=[{HAN}\d])|(?<=\d) (?=[{HAN}])")
_DECORATION = re.compile(rf"(?<=[{HAN}\d]) ?[·•‧・*_~|/\\^+'\"`★☆♥❤.\-]{{1,3}} ?(?=[{HAN}])")
_SPELLED_OUT = re.compile(r"(?<![a-z0-9])(?:[a-z0-9][ .\-_*·|/]{1,3}){2,40}[a-z0-9](?![a-z0-9])")
_SEPARATOR = re.compile(r"[ .\-_*·|/]+")
_WORD = re.compile(rf"[a-z0-9]+(?:'[a-z]+)?|[{HAN}]")


def pattern(text: str) -> re.Pattern[str]:
    """A pattern for folded text. Only Latin letters and digits make words: 立减CHF has a word's edge before CHF."""
    return re.compile(text, re.ASCII)


ROLE_TOKEN = pattern(
    r"<\|?/?[a-z_]{2,24}\|?>|\|[a-z_]{2,24}\||\[/?(?:inst|sys|system|user|assistant)\]|#{2,}|`{2,}"
    r"|\{\{|\}\}|\{%|%\}|\bim_(?:start|end)\b|\bendoftext\b|\b(?:system|assistant|user|human) ?:"
)
"""Marks of prompts and templates, in folded text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One text in the forms that checks match against."""

    raw: str
    folded: str
    """Lower case, one line, without decorations inside Chinese words; see the module."""
    squashed: str
    """`folded` with spelled-out words ("f.r.e.e") joined."""
    words: tuple[str, ...]
    """Latin words and single Chinese characters of `squashed`."""


@lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    folded = fold(text)
    squashed = _SPELLED_OUT.sub(lambda m: _SEPARATOR.sub("", m[0]), folded)
    return Reading(text, folded, squashed, tuple(_WORD.findall(squashed)))


def fold(text: str) -> str:
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _UNSEEN)
    text = unicodedata.normalize("NFC", text)
    text = _INVISIBLE.sub("", text).casefold().translate(_PLAIN).translate(_LOOKALIKES)
    return _DECORATION.sub("", _HAN_SPACE.sub("", _SPACE.sub(" ", text)).strip())


def words(text: str) -> tuple[str, ...]:
    """The words of `text`, folded; Chinese by the character."""
    return read(text).words
