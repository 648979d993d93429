"""The patterns and word lists of `data/personal_data.toml`, what all finders do with them, and a text as they read it:
full-width digits, unseen signs and traditional characters are plain."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from recllm.text.injection import UNSEEN_LETTERS

_SIGNS: dict[int, str] = {ord(sign): "-" for sign in "‐‑‒–—―−－﹣"} | {
    0x3000: " ",
    0xA0: " ",
    0x2007: " ",
    0x202F: " ",
    0x2009: " ",
}
_TRADITIONAL = dict(
    zip(
        map(
            ord,
            "號樓棟區縣鄉鎮電話機聯絡繫貨車碼門單莊廈園熱線傳簽顧買陳張劉黃吳趙孫馬鄭謝許韓馮鄧蕭葉蔣蘇呂盧鍾鐘譚陸賈韋鄒閻龍賀龔萬錢嚴湯溫聖東廣蓋楊羅歐陽開戶帳賬銀證訂郵間層徑灣圍給請與處臺點貳叄陸經師醫媽爺觀龐遼雲貴寧豐凱齊顏霍闕蘭喬項駱麥",
        ),
        "号楼栋区县乡镇电话机联络系货车码门单庄厦园热线传签顾买陈张刘黄吴赵孙马郑谢许韩冯邓萧叶蒋苏吕卢钟钟谭陆贾韦邹阎龙贺龚万钱严汤温圣东广盖杨罗欧阳开户帐账银证订邮间层径湾围给请与处台点贰叁陆经师医妈爷观庞辽云贵宁丰凯齐颜霍阙兰乔项骆麦",
        strict=True,
    )
)
"""The patterns know simplified characters only."""
_SIGNS |= _TRADITIONAL
_UNSEEN = re.compile(f"[\u00ad{UNSEEN_LETTERS}\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")


class _Folding(dict[int, str]):
    """A character, and the plain one that it stands for: full-width, small and Arabic-Indic digits are digits."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        plain = unicodedata.normalize("NFKC", sign) if unicodedata.category(sign) not in ("No", "Cs") else sign
        if (digit := unicodedata.decimal(plain, None) if len(plain) == 1 else None) is not None:
            plain = str(digit)
        self[code] = plain if len(plain) == 1 else sign
        return self[code]


_FOLDING = _Folding(_SIGNS)


def plain_text(text: str) -> tuple[str, list[int] | None]:
    """(the text as the patterns read it, where each of its characters stands in `text`; None for just there)."""
    if text.isascii():
        return text, None
    plain = text.translate(_FOLDING)
    if not _UNSEEN.search(plain):
        return plain, None
    offsets = [at for at, sign in enumerate(plain) if not _UNSEEN.match(sign)]
    return "".join(plain[at] for at in offsets), offsets


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
    last = last_label(label, before)
    rival = last_label(against, before) if against and last else None
    # of two that end together the longer: "invoice number" is of an invoice
    return last is not None and (rival is None or last >= rival)


@lru_cache(maxsize=1 << 12)
def last_label(label: str, before: str) -> tuple[int, int] | None:
    if not A_LETTER.search(before):
        return None
    return max(((m.end(), -m.start()) for m in pattern(label).finditer(before)), default=None)


@lru_cache(maxsize=4)
def n_digits(text: str) -> int:
    return len(A_DIGIT.findall(text))


def text_before(match: re.Match[str], n: int) -> str:
    return match.string[max(0, match.start() - n) : match.start()]


def text_after(match: re.Match[str], n: int) -> str:
    return match.string[match.end() : match.end() + n]


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
