"""Numbers whose digits are in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from recllm.text.finders.patterns import A_WORD, entry, pattern

_NUMERALS = str.maketrans("零〇一二三四五六七八九幺壹贰叁肆伍陆柒捌玖", "001234567891123456789")
_TIMES = {"double": 2, "triple": 3}


@lru_cache(maxsize=4)
def spelled_numbers(text: str) -> tuple[tuple[int, int, str], ...]:
    """(start, end, the digits) of "four two double five ..." and 六二二八..., figures among them."""
    return tuple(_spelled_numbers(text))


def _spelled_numbers(text: str) -> Iterator[tuple[int, int, str]]:
    if not text.isascii():
        for match in pattern("spelled.numerals").finditer(text):
            if not match[0].isascii():
                yield *match.span(), re.sub(r"\D", "", match[0].translate(_NUMERALS))
    if not A_WORD.search(text) or pattern("spelled.word").search(text.lower()) is None:
        return
    digits: dict[str, str] = entry("spelled.digits")
    for match in pattern("spelled.number").finditer(text):
        number, times = "", 1
        for word in re.findall(r"\d+|[^\W\d]+", match[0].lower()):
            if word in _TIMES:
                times = _TIMES[word]
                continue
            number += "00" if word == "hundred" else digits.get(word, word) * times
            times = 1
        if pattern("spelled.word").search(match[0].lower()):
            yield *match.span(), number
