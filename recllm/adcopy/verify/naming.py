"""G4, G5: the product is named, and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from recllm.adcopy.lexicon import HAN, fold, limit, pattern, read, stem, stems, table
from recllm.adcopy.verify.case import Case, Violation

_ORIGIN = pattern("naming.origin")
_OWNER = re.compile(r"['’]s$")
_SENTENCE = re.compile(r"[.!?…:;\n]+|[\"“”(]")
_TOKEN = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_HAN_TEXT = re.compile(rf"[{HAN}]+")


def foreign_names(case: Case) -> Iterator[Violation]:
    """G4: no brand but the item's own, and no capitalised name inside a sentence that the facts do not hold."""
    yield from _foreign_brands(case)
    yield from _unknown_names(case)
    yield from _unknown_origins(case)


def _foreign_brands(case: Case) -> Iterator[Violation]:
    own_brand, brands = read(case.facts.brand or "").words, _brands(case.request.known_brands)
    words, longest = case.reading.words, limit("max_brand_words")
    fact_words = {read(text).words for text in case.facts.texts}
    for start in range(len(words)):
        for size in range(1, min(longest, len(words) - start) + 1):
            gram = words[start : start + size]
            name = brands.get(gram)
            if not name or gram == own_brand or any(_within(gram, text) for text in fact_words):
                continue
            # a brand that is a plain word, such as "Dove", is meant only with a capital inside a sentence
            plain = len(gram) == 1 and gram[0] in table("brands.toml")["plain_words"]
            if not plain or any(fold(token) == gram[0] for token in _inner_capitals(case.text)):
                yield Violation(f"{name!r} is another brand", name)


def _within(gram: tuple[str, ...], text: tuple[str, ...]) -> bool:
    return any(text[i : i + len(gram)] == gram for i in range(len(text) - len(gram) + 1))


@lru_cache(maxsize=8)
def _brands(known_brands: frozenset[str]) -> Mapping[tuple[str, ...], str]:
    """Folded words of a brand -> the brand as the catalogue or the list has it."""
    names = [*table("brands.toml")["famous"], *sorted(known_brands)]
    return {words: name for name in names if (words := read(name).words) and (len(words) > 1 or len(words[0]) > 1)}


def _unknown_names(case: Case) -> Iterator[Violation]:
    allowed = {*table("brands.toml")["proper_words"], *stems(case.facts.words)}
    if case.language == "en":
        tokens = _inner_capitals(case.own_words)
    else:  # capitalised Latin words in a Chinese text, but for short ones such as T in T恤
        tokens = (token for token in _TOKEN.findall(case.own_words) if len(token) > 2 and token[0].isupper())
    for token in tokens:
        parts = {stem(part) for part in re.split(r"['’-]", fold(token)) if part}
        if not (fold(token) in allowed or stem(fold(token)) in allowed or parts <= allowed or token.isupper()):
            yield Violation(f"{token!r} is a name that the facts do not hold", token)


def _unknown_origins(case: Case) -> Iterator[Violation]:
    """Chinese writes names without capitals; what follows 来自 or 搭载 names a place, a maker or a part. The facts hold
    it when they hold its first two characters."""
    common = table("brands.toml")["common_origins"]
    for match in _ORIGIN.finditer(case.reading.folded):
        name = match["name"] or match["by"]
        if not any(word in name for word in common) and name[:2] not in case.facts.folded:
            yield Violation(f"{match[0]!r} names what the facts do not hold", name)


def _inner_capitals(text: str) -> Iterator[str]:
    """Capitalised words inside a sentence, none from a line written in title case; and an owner at its beginning."""
    for sentence in _SENTENCE.split(text):
        tokens = _TOKEN.findall(sentence)
        inner = [t for t in tokens[1:] if t[0].isupper()]
        if tokens and tokens[0][0].isupper() and _OWNER.search(tokens[0]):
            yield tokens[0]
        if len(tokens) < 4 or len(inner) < limit("title_case_share") * (len(tokens) - 1):
            yield from inner if len(tokens) > 1 and len(inner) < len(tokens) - 1 else ()


def product_named(case: Case) -> Iterator[Violation]:
    """G5: the title's head word, or the narrowest category, stands in the text."""
    text = tuple(stem(word) for word in case.reading.words)
    names = (tuple(stem(word) for word in read(name).words) for name in head_names(case))
    if not any(name and _within(name, text) for name in names):
        yield Violation(f"the product {case.facts.title!r} is not named")


def head_names(case: Case) -> list[str]:
    """What counts as naming: the title, the last and longest words of its spellings, and the narrowest category."""
    facts = case.facts
    names = [facts.title, *facts.category[-1:]]
    for title in (facts.title, *facts.spellings):
        han = "".join(_HAN_TEXT.findall(fold(title)))
        latin = [w for w in read(title).words if len(w) > 2 and w.isalpha() and w.isascii()]
        pairs = [han[i : i + 2] for i in range(len(han) - 1)]
        names += [*latin[-2:], *sorted(latin, key=len)[-1:], *pairs[-3:]]
    return names
