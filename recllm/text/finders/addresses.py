"""Postal addresses: a street and a number, and what stands with them."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache

from recllm.text.finders.patterns import (
    A_DIGIT,
    A_LONG_WORD,
    Span,
    entry,
    has_label,
    has_words,
    matches,
    may_match,
    pattern,
    reads_like_title,
    text_after,
    word_set,
)


def addresses(text: str) -> Iterator[Span]:
    if not text.isascii():
        yield from chinese_addresses(text)
    for name in ("box", "japanese"):
        yield from (match.span() for match in matches(f"address.{name}", text))
    if not A_DIGIT.search(text) or not A_LONG_WORD.search(text):
        return
    if pattern("address.european_code").search(text):
        yield from european_addresses(text)
    has_code = pattern("address.posted_code").search(text) is not None
    for name in ("british", "posted") if has_code else ():
        yield from (match.span() for match in pattern(f"address.{name}").finditer(text))
    yield from (match.span() for match in pattern("address.numbered").finditer(text))
    for match in pattern("address.field").finditer(text) if ":" in text or "=" in text else ():
        yield match.span("address")
    for match in pattern("address.indian").finditer(text) if pattern("address.indian_end").search(text) else ():
        if is_indian(text, match):
            yield match.span()
    yield from (match.span() for match in pattern("address.german_small").finditer(text))
    for name in ("french", "southern", "dutch"):
        for match in pattern(f"address.{name}").finditer(text):
            if pattern("address.european_code").search(match[0]) or not is_of_goods(text, match.start()):
                yield match.span()
    for name in ("german", "german_weak"):
        for match in pattern(f"address.{name}").finditer(text):
            tail = pattern("address.german_tail").match(text, match.end())
            is_sure = not is_of_goods(text, match.start()) if name == "german" else is_addressed(text, match.start())
            if tail or is_sure:
                yield match.start(), tail.end() if tail else match.end()
    for match in pattern("address.english_after").finditer(text):
        if is_addressed(text, match.start()):
            yield match.start(), end_of_address(text, match.end())
    is_covered = bytearray(len(text))
    for sort in ("strong", "weak"):
        for match in pattern("address.english", SORT=entry(f"address.{sort}")).finditer(text):
            is_title = reads_like_title(text)
            sure = (is_addressed(text, match.start()) and not is_title) or has_postcode(text, match.end())
            if sure or (sort == "strong" and _is_street(text, match) and not is_title):
                end = end_of_address(text, match.end())
                is_covered[match.start() : end] = b"\1" * (end - match.start())
                yield match.start(), end
        for match in pattern("address.english_small", SORT=entry(f"address.{sort}")).finditer(text):
            if is_covered[match.start()]:
                continue
            is_told = sort == "strong" and is_addressed(text, match.start())
            if is_told or (has_postcode(text, match.end()) and not names_goods(match["street"])):
                yield match.start(), end_of_address(text, match.end())


def european_addresses(text: str) -> Iterator[Span]:
    for match in pattern("address.european").finditer(text):
        if match["town"].lower() in word_set("address.no_towns"):
            continue
        if match["street"].split()[-1].lower() in word_set("address.no_streets"):
            continue
        is_street = pattern("address.european_place").search(match["street"]) is not None
        is_plain = match["code"].isdigit() and match["comma"] is None
        if is_street or (not is_plain and not is_of_goods(text, match.start())):
            yield match.span()


def is_of_goods(text: str, start: int) -> bool:
    return reads_like_title(text) and not is_addressed(text, start)


def is_indian(text: str, match: re.Match[str]) -> bool:
    """False where the six digits at the end belong to a word for a number, or to goods."""
    words = re.findall(r"[^\W\d]+", match[0])
    if is_of_goods(text, match.start()) or has_label(text, match.end() - 6, "phone.not_label", reach=12):
        return False
    return len(words) > 2 and (
        any(word[0].isupper() and len(word) > 1 for word in words[1:]) or is_addressed(text, match.start())
    )


def is_addressed(text: str, start: int) -> bool:
    return has_words("address.label", text[max(0, start - 36) : start])


def has_postcode(text: str, end: int) -> bool:
    codes = postcodes(text)
    index = bisect_left(codes, end)
    return index < len(codes) and codes[index] < end + 80 and has_words("address.postcode", text[end : end + 80])


@lru_cache(maxsize=4)
def postcodes(text: str) -> tuple[int, ...]:
    """Where those begin that make a street of what is before them."""
    return tuple(match.start() for match in pattern("address.state_code").finditer(text))


def end_of_address(text: str, end: int) -> int:
    tail = pattern("address.tail").match(text, end)
    return tail.end() if tail else end


def _is_street(text: str, match: re.Match[str]) -> bool:
    """True for "12 Baker Street" before a comma, a small letter or the end; "28 Inch Carbon Road Bike" is a thing."""
    if names_goods(match["street"]) or pattern("address.famous").search(" ".join(match[0].split()[1:])):
        return False
    after = text_after(match, 40)
    if has_words("address.titled", after):
        return False
    return pattern("address.after_street").match(after) is not None


def names_goods(street: str) -> bool:
    return not word_set("address.goods").isdisjoint(street.lower().split())


_LEFT_OF_STREET = 40
"""Characters before a Chinese street that may belong to its address."""
_NO_LETTER = re.compile(r"[\W_]")


def chinese_addresses(text: str) -> Iterator[Span]:
    label_ends: list[int] = []
    label_tail = pattern("address.chinese_label_tail")
    for match in matches("address.chinese_label", text):
        label_ends.append(match.end())
        tail = label_tail.match(text, match.end())
        if tail and re.search(r"\d|[省市区县镇乡村路街]", tail[0]) and has_house(tail[0]):
            yield tail.start(), tail.end()
    is_covered = bytearray(len(text))
    for name in ("chinese", "chinese_village"):
        for match in pattern(f"address.{name}").finditer(text):
            start = match.start() if is_covered[match.start()] else _left_of(text, match.start(), label_ends)
            if is_covered[start]:
                continue
            regions = pattern("address.chinese_regions").findall(text[start : match.end()])
            is_counted = re.search(r"\d", match[0]) is not None and match.start() - start >= 1
            is_enough = len(regions) > 1 or _near(label_ends, start) if name == "chinese_village" else True
            if not regions and not _near(label_ends, start) and reads_like_title(text):
                continue
            if is_enough and (is_counted or regions):
                continuation = pattern("address.chinese_more").match(text_after(match, 60))
                end = match.end() + (continuation.end() if continuation else 0)
                is_covered[start:end] = b"\1" * (end - start)
                yield start, end
    for match in matches("address.chinese_house", text):
        if is_covered[match.start()]:
            continue
        start = _left_of(text, match.start(), label_ends)
        left = text[start : match.start()]
        regions = pattern("address.chinese_regions").findall(left)
        is_chain = len(left) > 1 and pattern("address.chinese_chain").search(match[0]) is not None
        is_lone = re.fullmatch(r"\d+号", match[0]) is not None
        is_settled = len(left) > 2 and pattern("address.chinese_settled").search(left) is not None
        if len(regions) > (2 if is_lone else 1) or is_chain or (not is_lone and is_settled):
            yield start, match.end()


def has_house(address: str) -> bool:
    """True where a text after the word for an address holds a number of a house, or two regions."""
    return (
        re.search(r"[\d一二三四五六七八九十A-Z][号弄栋幢楼室组座]|\d-\d", address) is not None
        or len(pattern("address.chinese_regions").findall(address)) > 1
    )


def _left_of(text: str, at: int, label_ends: list[int]) -> int:
    """Where the Chinese address begins whose street stands at `at`."""
    start = at - len(_NO_LETTER.split(text[max(0, at - _LEFT_OF_STREET) : at])[-1])
    if index := bisect_right(label_ends, at):
        start = max(start, label_ends[index - 1])
    if may_match("address.chinese_stop", text):
        for stop in pattern("address.chinese_stop").finditer(text, start, at):
            start = stop.end()
    return start


def _near(ends: list[int], start: int) -> bool:
    index = bisect_right(ends, start)
    return index > 0 and start - ends[index - 1] < 3
