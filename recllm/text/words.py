"""Turns the house style of catalogues into running text: till capitals, short forms, words cut by spaces.

Encoders and readers both know "frozen pizza" better than "FRZN PIZZA". Decided without a measurement:

* A text without a single small letter is put in small letters when it holds a word of four letters or more, or an
  amount ("22 LB"). Short codes such as "XL" or "TV" stay as they are. Short forms are written out in such texts only.
* A bracket that was opened and cut off by a field's length ("CANDY (INCLUDING") is dropped.
* Chinese and Japanese texts that were cut into words are joined again: a space goes when both its neighbours are
  such characters, or one is and the other is a digit. Spaces beside Latin words stay ("Nike 男鞋").

Brand names are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

from recllm.text.injection import neutralise

_SMALL = re.compile(r"[a-zà-öø-ÿ]")
_SHOUTED_WORD = re.compile(r"[A-ZÀ-ÖØ-Þ]{4}")
_SHOUTED_AMOUNT = re.compile(r"\d\s?[A-Z]")
_WORD = re.compile(r"[A-Z]+")
_CUT_BRACKET = re.compile(r"\s*\([^()]*(?:\([^()]*)*$")
_CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff60"
_CUT_WORDS = re.compile(rf"(?<=[{_CJK}])\s+(?=[{_CJK}0-9])|(?<=[0-9])\s+(?=[{_CJK}])")


def natural(text: str, short_forms: Mapping[str, str]) -> str:
    """`text` as running text; see the module. Idempotent. `short_forms`: capital word -> what it stands for."""
    text = _CUT_BRACKET.sub("", text) or text
    if not text.isascii():
        text = _CUT_WORDS.sub("", text)
    if not _SMALL.search(text) and (_SHOUTED_WORD.search(text) or _SHOUTED_AMOUNT.search(text)):
        text = _WORD.sub(lambda m: short_forms.get(m[0], m[0]), text).lower()
    return text


def cleaner(short_forms: Mapping[str, str]) -> Callable[[str, int], str]:
    """A function (text, characters at most) -> harmless running text, which remembers its answers."""

    @cache
    def clean(text: str, max_chars: int) -> str:
        return natural(neutralise(text, max_chars=max_chars), short_forms)

    return clean
