"""Names of people whom somebody introduces: "my neighbour Ann Baker", 我同事陈志远, a column of a table."""

from __future__ import annotations

from collections.abc import Iterator

from recllm.text.finders.known_names import (
    chinese_name_pattern,
    has_known_name,
    is_no_chinese_name,
    is_no_name,
    surname,
)
from recllm.text.finders.patterns import Span, columns, entry, pattern, reads_like_title, word_set


def introduced_names(text: str) -> Iterator[Span]:
    if not text.isascii():
        yield from _chinese_introductions(text)
    yield from (match.span("name") for match in pattern("introduced.ticket").finditer(text))
    yield from _names_in_columns(text)
    relation = entry("introduced.relation")
    for name in ("person", "whose", "self", "made", "beside"):
        for match in pattern(f"introduced.{name}", RELATION=relation).finditer(text):
            words = match["name"].lower().split()
            if not is_no_name(words) and (not reads_like_title(text) or (name == "person" and has_known_name(words))):
                yield match.span("name")
    for match in pattern("introduced.person_small", RELATION=relation).finditer(text):
        given, family = match["name"].lower().split()
        if given in word_set("name.given") and given not in word_set("introduced.no_given"):
            is_whole = family not in word_set("introduced.no_family")
            yield match.start("name"), match.end("name") if is_whole else match.start("name") + len(given)


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
    parts = {"CHINESE_RELATION": entry("introduced.chinese_relation"), "CHINESE_NAME": chinese_name_pattern()}
    for name in ("chinese", "chinese_signed", "chinese_beside"):
        for match in pattern(f"introduced.{name}", **parts).finditer(text):
            group = "name" if match["name"] else "name_after"
            value = match[group]
            if surname(value) and not is_no_chinese_name(value) and not reads_like_title(text):
                yield match.span(group)
