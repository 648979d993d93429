"""What a product is called in an advertisement: its title without what must not be said, and shorter if need be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from recllm.adcopy.facts import FactSheet
from recllm.adcopy.frame import Frame
from recllm.adcopy.lengths import width
from recllm.adcopy.lexicon import word_class
from recllm.adcopy.quantities import Kind, quantities
from recllm.adcopy.reading import HAN, fold
from recllm.adcopy.verify import claims, people
from recllm.adcopy.verify.case import Case, Fault
from recllm.text.words import natural

_MAX_ROUNDS = 12
_LEAST = 8
"""A first part of less width is too little to go by."""
_PIECE = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_BREAK = re.compile(r"\s*(?:[,;|(（，；]|\s[-–/]\s)")
_LEFT_HANGING = re.compile(
    rf"(?:[\s,;:&/+(（\[，；：、|–—-]|\b(?:{'|'.join(word_class('dangling'))})$)+$", re.IGNORECASE
)
_SHOUTS = re.compile(r"[!！]+|([^\w\s])\1{2,}")
_EMPTY_BRACKETS = re.compile(r"[(（\[][^\w)）\]]*[)）\]]")
_NAMING = re.compile(rf"[^\W\d_]{{3,}}|[{HAN}]")
_RUN = re.compile(rf"[{HAN}]{{2,}}|[^\W\d_]{{3,}}")
_LETTER = re.compile(rf"[^\W\d_]|[{HAN}]")


def with_sayable_title(facts: FactSheet, frame: Frame) -> FactSheet:
    """The sheet under a title that may be shown.

    Promises and claims that sellers write into titles ("SALE", 包邮, "best") are cut out of it. A title that carries
    instructions, personal data or foul language is not used at all: the narrowest category that may be said stands in
    for it, or the general name of the prompts.
    """
    kept = FactSheet(
        item_id=facts.item_id,
        title="",
        brand=facts.brand if facts.brand and not _faults(facts.brand, facts, frame) else None,
        category=tuple(c for c in (_cleaned(name, facts, frame) for name in facts.category) if c),
        attributes={n: v for n, v in facts.attributes.items() if not _faults(f"{n}: {v}", facts, frame)},
        price=facts.price,
        list_price=facts.list_price,
        currency=facts.currency,
        offer=facts.offer,
    ).with_sources()
    title = _cleaned(facts.title, facts, frame)
    return kept.with_title(title, "items.title") if title else without_title(kept, frame)


def without_title(facts: FactSheet, frame: Frame) -> FactSheet:
    """The sheet under its narrowest category, or under the general name of the prompts; and without attributes."""
    named = facts.category[-1] if facts.category else frame.prompts.render("ad_lines.unnamed", frame.locale)
    source = "items.category" if facts.category else "general"
    return replace(facts.with_title(named, source), attributes={}, shown=())


def _cleaned(name: str, facts: FactSheet, frame: Frame) -> str:
    """`name` as running text without what the facts do not bear out; empty when it is hostile or nothing is left."""
    name = natural(name, frame.prompts.short_forms())
    for _ in range(_MAX_ROUNDS):
        faults = list(_faults(name, facts, frame))
        if not faults:
            return tidy(name) if _LETTER.search(name) else ""
        if any(hostile for hostile, _ in faults):
            return ""
        name = natural(_without(name, [span for _, span in faults]), frame.prompts.short_forms())
    return ""


def _faults(name: str, facts: FactSheet, frame: Frame) -> list[tuple[bool, str]]:
    """(hostile, span) for all that is wrong with a name."""
    case = Case(text=name, facts=facts, channel=frame.channel, locale=frame.locale, now=frame.now)
    hostile = (people.personal_data, people.clean_language, people.leaks)
    found = [(True, fault.span) for check in hostile for fault in check(case)]
    return found + [(False, fault.span) for fault in _puffery(case)]


def _puffery(case: Case) -> Iterator[Fault]:
    yield from claims.offers(case)
    yield from claims.proofs(case)
    yield from (Fault("a price", q.span) for q in case.quantities if q.kind in (Kind.MONEY, Kind.DISCOUNT))


def _without(name: str, spans: Iterable[str]) -> str:
    """Cuts folded spans out of a name; where they are dressed up, out of its folded form."""
    before = name
    for span in sorted(spans, key=len, reverse=True):
        shape = re.compile(re.escape(span.strip()), re.IGNORECASE)
        found = next((text for text in (name, fold(name)) if shape.search(text)), None)
        name = shape.sub(" ", found, count=1) if found else name  # not found: it went with a longer one
    return "" if name == before else tidy(name)


def tidy(name: str) -> str:
    """No empty brackets, exclamation marks, doubled spaces, or ends left hanging."""
    name = " ".join(_EMPTY_BRACKETS.sub(" ", _SHOUTS.sub(" ", name)).split())
    return _LEFT_HANGING.sub("", name).lstrip(" ,;:/&+-|，；：、")


def shortened(title: str, limit: int) -> str:
    """The beginning of a title within `limit` characters; never empty.

    Whole words, at least one of which names something, and no number without its unit. The first
    part before a comma, bracket or dash is preferred to a longer cut; where none of this fits, one word of the title.
    """
    if len(title) <= limit:
        return title
    return next(name for name in _choices(title, limit) if _says_the_same(name, title)) or title[:limit]


def _choices(title: str, limit: int) -> Iterator[str]:
    """Shorter names, best first; the last one is empty."""
    first = tidy(_BREAK.split(title, maxsplit=1)[0])
    if len(first) <= limit and width(first) >= _LEAST and _NAMING.search(first):
        yield first
    cuts = [tidy(title[: m.end()]) for m in _PIECE.finditer(title) if m.end() <= limit]
    whole = [name for name in reversed(cuts) if name and _LETTER.search(_PIECE.findall(name)[-1])]
    yield from (name for name in whole if _NAMING.search(name))
    yield from (run[:limit] for run in _RUN.findall(title) if len(run) <= limit or not run.isascii())
    yield from whole
    yield ""


def _says_the_same(name: str, title: str) -> bool:
    """True when every number of the name means what it means in the title: "8 fl" is no "8 fl oz"."""
    return set(quantities(fold(name))) <= set(quantities(fold(title)))
