"""Names of people: after a salutation or a label, or where a person is introduced ("my neighbour Ann Baker")."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

from recllm.text.finders.patterns import (
    A_WORD,
    Span,
    columns,
    entry,
    is_han,
    marks_of,
    matches,
    pattern,
    reads_like_title,
    text_after,
    text_before,
    word_set,
)

_N_COMMON = 300
"""Of the surnames, which go from common to rare, those that are enough without a label."""


def has_known_name(words: Sequence[str]) -> bool:
    """True where one of the words, in small letters, is a common given or family name, with or without accents."""
    words = [piece for word in words for piece in (word, *word.split("-"))]
    bare = (unicodedata.normalize("NFD", word).encode("ascii", "ignore").decode() for word in words)
    return not known_names().isdisjoint(bare) or not known_names().isdisjoint(words)


@cache
def known_names() -> frozenset[str]:
    return word_set("name.given") | word_set("name.family")


def is_no_name(words: Sequence[str]) -> bool:
    """True where one of the words, in small letters, is none of a name."""
    return not word_set("name.no_names").isdisjoint(word.strip(".,") for word in words)


@cache
def chinese_name_pattern() -> str:
    """A pattern of a common surname with one or two characters; the fewest that what follows lets stand."""
    common = entry("name.surnames").strip()[:_N_COMMON]
    return f"(?:(?:{'|'.join(word_set('name.double_surnames'))})[{{HAN}}]{{1,2}}?|[{common}][{{HAN}}]{{1,2}}?)"


@cache
def common_surname_signs() -> frozenset[str]:
    """The first characters of the names that the pattern matches."""
    return frozenset(entry("name.surnames").strip()[:_N_COMMON]) | {
        name[0] for name in word_set("name.double_surnames")
    }


def is_no_chinese_name(name: str) -> bool:
    return begins_or_ends_otherwise(name) or not word_set("introduced.no_chinese").isdisjoint(
        (name, name[:2], name[:3])
    )


def begins_or_ends_otherwise(name: str) -> bool:
    words = tuple(word_set("name.no_chinese_names"))
    return name.startswith(words) or name.endswith(words)


def surname(name: str) -> int:
    """How many characters of a Chinese name are the surname; 0 where it begins with none."""
    if name[:2] in word_set("name.double_surnames"):
        return 2
    return int(name != "" and name[0] in entry("name.surnames").strip())


def introduced_names(text: str) -> Iterator[Span]:
    if not text.isascii():
        yield from chinese_introductions(text)
    yield from names_in_columns(text)
    yield from latin_introductions(text)


def latin_introductions(text: str) -> Iterator[Span]:
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
def chinese_patterns() -> dict[str, re.Pattern[str]]:
    parts = {"CHINESE_RELATION": entry("introduced.chinese_relation"), "CHINESE_NAME": chinese_name_pattern()}
    names = ("chinese", "chinese_signed", "chinese_beside", "chinese_dotted", "chinese_used")
    return {name: pattern(f"introduced.{name}", **parts) for name in names}


def names_in_columns(text: str) -> Iterator[Span]:
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


def chinese_introductions(text: str) -> Iterator[Span]:
    has_name = not common_surname_signs().isdisjoint(marks_of(text))
    for name, expression in chinese_patterns().items():
        if not has_name and name != "chinese_dotted":
            continue
        for match in expression.finditer(text):
            group = "name" if match["name"] else "name_after"
            value = match[group]
            if pattern("introduced.chinese_goods").match(text, match.end()) and ":" not in text:
                continue
            if (surname(value) or "·" in value) and not is_no_chinese_name(value) and not reads_like_title(text):
                yield match.span(group)


_COLON = re.compile(r"[:=|\t]|name - | is |[\"'] ?[,;]", re.IGNORECASE)


def names(text: str) -> Iterator[Span]:
    if A_WORD.search(text):
        yield from latin_names(text)
    yield from introduced_names(text)
    if not text.isascii():
        yield from chinese_names(text)


def latin_names(text: str) -> Iterator[Span]:
    for match in matches("name.salutation", text):
        words = match["name"].replace("’", "'").lower().split()
        brands = entry("name.brands").get(match["title"].lower(), "")
        salutation = pattern("name.spoken_before").search(text_before(match, 24))
        if words[0].removesuffix("'s") in brands.split() and not (salutation and "ear" in salutation[0]):
            continue
        after = text_after(match, 14)
        if reads_like_title(text) and not salutation and not re.search(entry("name.spoken_after"), after):
            continue
        is_known = has_known_name(words) and len(words) < 4
        is_begun = re.search(r"(?:^|[.!?;\n] ?)$", text_before(match, 2)) is not None
        if match["title"] in _TITLES_OF_PEOPLE and len(words) < 5:
            yield match.start(), match.start() + len(match[0].rstrip())
            continue
        if match["title"] == "M" and not is_known:
            continue
        is_doubled = re.match(r"(?:Dr|Prof)\.? ", match["name"]) is not None and len(words) > 2
        begins = is_begun and match["title"] not in _TITLES_OF_BRANDS and re.match(r"[,.;:]? [a-z]|[,;:]| \d", after)
        if is_known or is_doubled or salutation or begins or re.search(entry("name.spoken_after"), after):
            yield match.start(), match.start() + len(match[0].rstrip())
    for name in ("name.label", "name.bare_label", "name.line_label"):
        if name == "name.label" and not _COLON.search(text):
            continue
        for match in matches(name, text):
            if pattern("name.label_of_goods").search(text[max(0, match.start("label") - 12) : match.start("label")]):
                continue
            is_title = reads_like_title(text) or (match["label"] == "Contact" and reads_like_title(text, match.end()))
            is_title &= match["label"].lower() not in ("fao", "attn", "attention", "c/o")
            end = 0 if is_title else end_of_name(match["name"], match["label"])
            if end:
                yield match.start("name"), match.start("name") + end
    yield from loosely_labelled_names(text)
    text_end = len(text.rstrip())
    for name in ("name.greeting", "name.closing"):
        for match in matches(name, text):
            words = [word.lower() for word in match["name"].split()]
            is_dear = name == "name.greeting" and match["label"].lower() not in ("hi", "hello", "hey", "hallo")
            is_signed = name == "name.closing" and pattern("name.closed").match(match[0]) is not None
            is_whole = len(words) > 1 and (is_dear or is_signed)
            # A word of its own line, or before what is said to a person.
            is_alone = name == "name.closing" and "\n" in match[0].rstrip("\n") and match.end() >= text_end
            is_alone |= name == "name.greeting" and pattern("name.greeted").match(text, match.end()) is not None
            is_loose = name == "name.closing" and pattern("name.loose_closing").match(match[0]) is not None
            is_name = is_whole or is_alone or (has_known_name(words) and not is_loose)
            if not is_no_name(words) and len(words) < 5 and is_name and not reads_like_title(text, match.start("name")):
                yield match.span("name")


def end_of_name(name: str, label: str) -> int:
    """Length of the name at the beginning of what follows a label; 0 for none."""
    words = name.split(" ")
    size = next(
        (n for n, word in enumerate(words) if word.lower().strip(".,") in word_set("name.no_names")), len(words)
    )
    words = words[:size]
    lowered = [word.lower().strip(".,") for word in words]
    is_known = has_known_name(lowered)
    is_field = label == "Name" and len(words) == 2 and len(words) == len(name.split())  # no key of a product's record
    label = re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]", " ", label).lower()
    is_firm = " ".join(label.split()).rstrip(".") in word_set("name.firm_labels")
    if not words or not (is_known or name[0].isupper()):
        return 0
    has_names = len(words) > 1 and (is_field or label not in ("name", "names", "owner", "nom", "nombre"))
    return len(" ".join(words)) if is_known or is_firm or has_names else 0


def loosely_labelled_names(text: str) -> Iterator[Span]:
    for match in matches("name.loose_label", text):
        words = [word.lower().strip(".,") for word in match["name"].split()]
        is_told = pattern("name.loose_after").match(match["after"]) is not None
        first_words = [piece for word in words[:-1] for piece in (word, *word.split("-"))]
        is_known = not word_set("name.given").isdisjoint(first_words)
        is_known &= not (match["name"].isupper() and len(words) > 2)  # CARDHOLDER HOLLY WREATH METAL
        is_message = match["label"].lower() in ("this is", "for:", "to:", "from:", "i'm", "im", "i am")
        is_title = reads_like_title(text) or reads_like_title(text, match.start("name"))
        if not is_no_name(words) and not is_title and (is_known or (is_told and not is_message)):
            yield match.span("name")


_TITLES_OF_PEOPLE = frozenset({"Herrn", "Frau", "Mme", "Mlle", "Sra", "Señora", "Signora", "Sig.ra"})
"""Goods are seldom called after these."""
_TITLES_OF_BRANDS = frozenset({"Dr", "DR", "Miss", "Sir", "Madam", "Madame", "Professor", "Prof", "Mx"})


def chinese_names(text: str) -> Iterator[Span]:
    has_field = pattern("name.han_value").search(text) is not None
    for name in ("name.han_name", "name.han_sent") if has_field else ("name.han_sent",):
        for match in matches(name, text):
            value = match["name"]
            if (
                not begins_or_ends_otherwise(value)
                and surname(value)
                and (len(value) < 4 or "·" in value or surname(value) == 2)
            ):
                yield match.span("name")
    for match in matches("name.chinese_label", text):
        name, is_firm = match["name"], match["label"] in word_set("name.firm_chinese_labels")
        if name.isascii():
            if match["colon"].strip() and end_of_name(name, "recipient"):
                yield match.span("name")
            continue
        stop = pattern("name.chinese_name_stop").search(name)
        size = len(name[: stop.start()] if stop else name)
        longest = 4 if name[:2] in word_set("name.double_surnames") or "·" in name else 3
        has_colon = match["colon"].strip() not in ("", "为", "是")
        if size > longest and has_colon and is_firm and surname(name):
            size = 3 if longest == 3 else 4
        is_name = not begins_or_ends_otherwise(name[:size])
        may_be = bool(surname(name)) or (is_firm and (has_colon or "·" in name))
        if is_name and 2 <= size <= (12 if "·" in name else 4) and may_be and (is_firm or has_colon):
            yield match.start("name"), match.start("name") + size
    no_names, of_goods = word_set("name.no_honorific"), pattern("name.honorific_of_goods")
    begins = pattern("name.honorific_before")
    for match in matches("name.honorific", text):
        if reads_like_title(text) or of_goods.match(text, match.end()):
            continue
        for size in (3, 2, 4, 1):
            start = match.start() - size
            value = text[max(0, start) : match.start()]
            if value in no_names:
                break
            n_surname = surname(value) if start >= 0 else 0
            is_name = n_surname > 0 and size - n_surname <= 2 and all(map(is_han, value))
            if is_name and begins.search(text, max(0, start - 1), start):
                yield start, match.end()
                break
