"""Numbers whose digits are in words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from recllm.text.finders.patterns import entry, pattern

_NUMERALS = str.maketrans("零〇一二三四五六七八九幺壹贰叁肆伍陆柒捌玖", "001234567891123456789")
_TIMES = {"double": 2, "triple": 3}


def spelled_numbers(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, the digits) of "four two double five ..." and 六二二八..., figures among them."""
    if not text.isascii():
        for match in pattern("spelled.numerals").finditer(text):
            if not match[0].isascii():
                yield *match.span(), re.sub(r"\D", "", match[0].translate(_NUMERALS))
    if pattern("spelled.word").search(text) is None:
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
        if pattern("spelled.word").search(match[0]):
            yield *match.span(), number
