"""Names of people who are introduced: "my neighbour Ann Baker", 我同事陈志远, a column of a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from recllm.text.finders.known_names import (
    chinese_name_pattern,
    common_surname_signs,
    has_known_name,
    is_no_chinese_name,
    is_no_name,
    surname,
)
from recllm.text.finders.patterns import Span, columns, entry, marks_of, matches, pattern, reads_like_title, word_set


def introduced_names(text: str) -> Iterator[Span]:
    if not text.isascii():
        yield from _chinese_introductions(text)
    yield from _names_in_columns(text)
    yield from _latin_introductions(text)


def _latin_introductions(text: str) -> Iterator[Span]:
    has_names = pattern("introduced.two_names").search(text) is not None
    for name in _OF_TWO_WORDS if has_names else ("bell",):
        for match in matches(f"introduced.{name}", text, RELATION=entry("introduced.relation")):
            words = match["name"].lower().split()
            if match["name"].isupper() and name != "ticket" and not pattern("introduced.loud").search(match[0]):
                continue
            is_title = reads_like_title(text)
            is_title |= name in ("self", "whose") and reads_like_title(text, match.start("name"))
            if not is_no_name(words) and (not is_title or (name == "person" and has_known_name(words))):
                yield match.span("name")
    for match in matches("introduced.person_small", text, RELATION=entry("introduced.relation")):
        first, family = match["name"].lower().split()
        if first in word_set("name.given") and first not in word_set("introduced.no_given"):
            is_whole = family not in word_set("introduced.no_family")
            yield match.start("name"), match.end("name") if is_whole else match.start("name") + len(first)


_OF_TWO_WORDS = ("bell", "person", "whose", "self", "subject", "wish", "made", "beside", "ticket")


@cache
def _chinese_patterns() -> dict[str, re.Pattern[str]]:
    parts = {"CHINESE_RELATION": entry("introduced.chinese_relation"), "CHINESE_NAME": chinese_name_pattern()}
    names = ("chinese", "chinese_signed", "chinese_beside", "chinese_dotted", "chinese_used")
    return {name: pattern(f"introduced.{name}", **parts) for name in names}


def _names_in_columns(text: str) -> Iterator[Span]:
    heads = columns(text)
    if heads is None:
        return
    is_of_people = any(pattern("introduced.personal_head").search(head) for head in heads.heads)
    for match in pattern("introduced.cell").finditer(text, text.index("\n")):
        head, words = heads.label(match.start("name")), match["name"].lower().split()
        if not pattern("introduced.head").search(head) or pattern("introduced.no_head").search(head):
            continue
        is_told = is_of_people or head.lower() not in ("name", "names", "nom", "nome", "naam", "nombre")
        if not is_no_name(words) and (is_told or has_known_name(words)):
            yield match.span("name")


def _chinese_introductions(text: str) -> Iterator[Span]:
    has_name = not common_surname_signs().isdisjoint(marks_of(text))
    for name, expression in _chinese_patterns().items():
        if not has_name and name != "chinese_dotted":
            continue
        for match in expression.finditer(text):
            group = "name" if match["name"] else "name_after"
            value = match[group]
            if pattern("introduced.chinese_goods").match(text, match.end()) and ":" not in text:
                continue
            if (surname(value) or "·" in value) and not is_no_chinese_name(value) and not reads_like_title(text):
                yield match.span(group)
