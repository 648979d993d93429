"""Number plates of cars."""

from __future__ import annotations

import re
from collections.abc import Iterator

from recllm.text.finders.patterns import A_DIGIT, Span, columns, compiled, pattern


def plates(text: str) -> Iterator[Span]:
    if not A_DIGIT.search(text):
        return
    if not text.isascii():
        for match in pattern("plate.cn").finditer(text):
            before = text[max(0, match.start() - 1) : match.start()]
            is_word = (
                match["province"] in "新云青宁" and re.match(compiled("[{HAN}]"), before) and not match["dot"].strip()
            )
            is_labelled = "车牌" in text[max(0, match.start() - 12) : match.start()]
            n_digits = sum(sign.isdigit() for sign in match[0])
            is_count = re.match("[型款份张个件只元套册本名人]", text[match.end() : match.end() + 1]) is not None
            if n_digits >= 2 and (is_labelled or not (is_word or is_count)):
                yield match.span()
    yield from (match.span() for match in pattern("plate.own").finditer(text))
    heads, car = columns(text), None
    for match in pattern("plate.other").finditer(text):
        label = heads.label(match.start()) + ":" if heads else text[max(0, match.start() - 36) : match.start()]
        if pattern("plate.label").search(label):
            yield match.span()
    for match in pattern("plate.shaped").finditer(text):
        car = car or pattern("plate.car").search(text)
        if car is None:
            break
        yield match.span()
