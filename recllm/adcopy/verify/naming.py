"""G4, G5: the product is named, and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from recllm.adcopy.lexicon import table
from recllm.adcopy.reading import HAN, fold, read
from recllm.adcopy.verify.case import Case, Fault, stem

_OWNER = re.compile(r"['’]s$")
_SENTENCE = re.compile(r"[.!?…:;\n]+|[\"“”(]")
_TOKEN = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_HAN_TEXT = re.compile(rf"[{HAN}]+")
_ORIGIN = re.compile(
    rf"(?:来自|产自|产于|源自|源于|出自|选自|搭载|内置|配备|选用|采用)(?P<name>[{HAN}a-z0-9]{{2,8}}?)"
    rf"(?=的|[，。！？；、,.!?; ]|$)"
    rf"|由(?P<by>[{HAN}a-z]{{2,8}})(?:设计|打造|制造|监制|出品|研发)"
)
_TITLE_CASE_SHARE = 0.6
_MAX_BRAND_WORDS = 6


def foreign_names(case: Case) -> Iterator[Fault]:
    """G4: no brand but the item's own, and no capitalised name inside a sentence that the facts do not hold."""
    yield from _foreign_brands(case)
    yield from _unknown_names(case)
    yield from _unknown_origins(case)


def _foreign_brands(case: Case) -> Iterator[Fault]:
    own, brands = read(case.facts.brand or "").words, _brands(case.known_brands)
    words = case.reading.words
    held = {read(text).words for text in case.facts.texts}
    for start in range(len(words)):
        for size in range(1, min(_MAX_BRAND_WORDS, len(words) - start) + 1):
            gram = words[start : start + size]
            name = brands.get(gram)
            if name and gram != own and not any(_within(gram, text) for text in held) and _is_meant(name, gram, case):
                yield Fault(f"{name!r} is another brand", name)


def _within(gram: tuple[str, ...], text: tuple[str, ...]) -> bool:
    return any(text[i : i + len(gram)] == gram for i in range(len(text) - len(gram) + 1))


def _is_meant(name: str, gram: tuple[str, ...], case: Case) -> bool:
    """A brand that is a plain word, such as "Dove", is meant only with a capital inside a sentence."""
    if len(gram) > 1 or gram[0] not in table("brands.toml")["plain_words"]:
        return True
    return any(fold(token) == gram[0] for token in _inner_capitals(case.text))


@lru_cache(maxsize=8)
def _brands(known: frozenset[str]) -> Mapping[tuple[str, ...], str]:
    """Folded words of a brand -> the brand as it was given."""
    names = [*table("brands.toml")["famous"], *sorted(known)]
    return {words: name for name in names if (words := read(name).words) and (len(words) > 1 or len(words[0]) > 1)}


def _unknown_names(case: Case) -> Iterator[Fault]:
    allowed = set(table("brands.toml")["proper_words"]) | {stem(w) for w in case.facts.words}
    tokens = _inner_capitals(case.own_words) if case.language == "en" else _latin_names(case.own_words)
    for token in tokens:
        parts = {stem(part) for part in re.split(r"['’-]", fold(token)) if part}
        if not (fold(token) in allowed or stem(fold(token)) in allowed or parts <= allowed or token.isupper()):
            yield Fault(f"{token!r} is a name that the facts do not hold", token)


def _unknown_origins(case: Case) -> Iterator[Fault]:
    """Chinese writes names without capitals; what follows 来自 or 搭载 names a place, a maker or a part."""
    common = table("brands.toml")["common_origins"]
    for match in _ORIGIN.finditer(case.reading.folded):
        name = match["name"] or match["by"]
        if not any(word in name for word in common) and not _held(name, case):
            yield Fault(f"{match[0]!r} names what the facts do not hold", name)


def _held(name: str, case: Case) -> bool:
    """True when the facts hold the name's first two characters, or all of a shorter one."""
    return name[:2] in case.facts.folded


def _latin_names(text: str) -> Iterator[str]:
    """Capitalised Latin words in a Chinese text, but for short ones such as T in T恤."""
    return (token for token in _TOKEN.findall(text) if len(token) > 2 and token[0].isupper())


def _inner_capitals(text: str) -> Iterator[str]:
    """Capitalised words inside a sentence, none from a line written in title case; and an owner at its beginning."""
    for sentence in _SENTENCE.split(text):
        tokens = _TOKEN.findall(sentence)
        inner = [t for t in tokens[1:] if t[0].isupper()]
        if tokens and tokens[0][0].isupper() and _OWNER.search(tokens[0]):
            yield tokens[0]
        if len(tokens) < 4 or len(inner) < _TITLE_CASE_SHARE * (len(tokens) - 1):
            yield from inner if len(tokens) > 1 and len(inner) < len(tokens) - 1 else ()


def product_named(case: Case) -> Iterator[Fault]:
    """G5: the title's head word, or the narrowest category, stands in the text."""
    if not any(_names(name, case) for name in head_names(case)):
        yield Fault(f"the product {case.facts.title!r} is not named")


def head_names(case: Case) -> list[str]:
    """What counts as naming: the title, the last and longest words of its spellings, and the narrowest category."""
    facts = case.facts
    return [facts.title, *facts.category[-1:], *(h for t in (facts.title, *facts.shown) for h in _title_heads(t))]


def _title_heads(title: str) -> list[str]:
    han = "".join(_HAN_TEXT.findall(fold(title)))
    latin = [w for w in read(title).words if len(w) > 2 and w.isalpha() and w.isascii()]
    pairs = [han[i : i + 2] for i in range(len(han) - 1)]
    return [*latin[-2:], *sorted(latin, key=len)[-1:], *pairs[-3:]]


def _names(name: str, case: Case) -> bool:
    words = tuple(stem(w) for w in read(name).words)
    return bool(words) and _within(words, tuple(stem(w) for w in case.reading.words))
