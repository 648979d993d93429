"""What may be said of an item: its facts under a title that may be shown, without sellers' promises and claims."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from recllm.market.adcopy.channels import width
from recllm.market.adcopy.lexicon import HAN, fold, pattern, table, word_class
from recllm.market.adcopy.names import is_size, name_and_size, written_out
from recllm.market.adcopy.quantities import QuantityKind, quantities
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.market.adcopy.verify import claims, form
from recllm.market.adcopy.verify.case import Case

_MAX_ROUNDS = 12
_NAME_LENGTHS = (120, 60, 40, 28, 18)
_MIN_NAME = 12
"""Characters of the shortest spelling that is tried."""
_MIN_FIRST_PART = 8
"""A first part of less width is too little to go by."""
_PIECE = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_BREAK = re.compile(r"(?<!\s)\s*(?:[,;|(（，；]|(?<=\s)[-–/]\s)")
_HANGING = pattern("titles.hanging", DANGLING="|".join(word_class("dangling")))
_NAMING = re.compile(rf"[^\W\d_]{{3,}}|[{HAN}]")
_RUN = re.compile(rf"[{HAN}]{{2,}}|[^\W\d_]{{3,}}")
_LETTER = re.compile(rf"[^\W\d_]|[{HAN}]")
_JOINT = re.compile(r"[-/&]")
"""Joins the words of a compound: Grain-Free, sinus/allergy."""


def sayable_facts(request: CopyRequest) -> FactSheet:
    """The facts of a request under a title that may be shown.

    Promises and claims that sellers write into titles ("SALE", 包邮, "best") are cut out of it. A title that carries
    instructions, personal data or foul language is not used at all: the narrowest category that may be said stands in
    for it.
    """
    facts = request.facts()
    bare = replace(request, evidence={})  # a proof of the shop's is no proof of a seller's words
    categories = [_cleaned(name, facts, bare) for name in facts.category]
    sheet = replace(
        facts,
        brand=facts.brand if facts.brand and _unsayable(facts.brand, facts, bare) == [] else None,
        category=tuple(filter(None, categories)),
        attributes={k: v for k, v in facts.attributes.items() if _unsayable(f"{k}: {v}", facts, bare) == []},
    )
    title = _cleaned(facts.title, facts, bare)
    if title and request.domain.titles == "goods":
        title = _with_thing(title, sheet.category)
    sheet = replace(sheet, title=title) if title else without_title(sheet)
    name, _ = request.name_and_size(sheet.title)
    lengths = {*_NAME_LENGTHS, *range(_MIN_NAME, request.limits.slots[0].max + 1)}.intersection(range(len(name)))
    longest_first = (shortened(name, longest) for longest in sorted(lengths, reverse=True))
    return replace(sheet, spellings=tuple(dict.fromkeys((name, *longest_first))))


def _with_thing(title: str, categories: Sequence[str]) -> str:
    """ "premium 56 oz" of the category ice cream -> "premium ice cream 56 oz"."""
    name, size = name_and_size(title)
    if fold(name) not in table("names.toml")["words"]["qualities"]:
        return title
    thing = next((category for category in reversed(categories) if fold(category) != fold(name)), "")
    return " ".join(filter(None, (name, pattern("titles.first_alternative").split(thing)[0].strip(), size)))


def without_title(facts: FactSheet) -> FactSheet:
    """The sheet under its narrowest category, without attributes."""
    return replace(
        facts, title=facts.category[-1] if facts.category else "", attributes={}, spellings=(), has_title=False
    )


def _cleaned(name: str, facts: FactSheet, request: CopyRequest) -> str:
    """`name` as running text without what the facts do not bear out; empty when it is hostile, nothing is left, or what
    is left would name another thing."""
    if request.domain.titles != "goods":  # a name with a piece cut out is no name
        return name if _unsayable(name, facts, request) == [] else ""
    for _ in range(_MAX_ROUNDS):
        name = written_out(name)
        spans = _unsayable(name, facts, request)
        if spans is None:
            return ""
        if not spans:
            return tidy(name) if _LETTER.search(name) and not is_size(name) else ""
        before = name
        for span in sorted(spans, key=len, reverse=True):
            shape = re.compile(re.escape(span.strip()), re.IGNORECASE)
            # a span that is dressed up is cut out of the folded form; one in neither form went with a longer one
            form = next((text for text in (name, fold(name)) if shape.search(text)), None)
            if span.strip() == "free" and (denial := pattern("titles.free_of").search(name)):
                name = f"{name[: denial.start()]} {name[denial.end() :]}"
            elif form:
                name = _without(form, *shape.search(form).span())  # type: ignore[union-attr]
        name = "" if name == before else tidy(name)
    return ""


def _without(name: str, start: int, end: int) -> str:
    """A name without a piece and without the compound that it is a part of, "Grain-Free"; empty where the piece was one
    of two names: "cold and flu"."""
    while start > 0 and _JOINT.match(name[start - 1]):
        start -= 1
        while start > 0 and name[start - 1].isascii() and name[start - 1].isalnum():
            start -= 1
    while end < len(name) and _JOINT.match(name[end]):
        end += 1
        while end < len(name) and name[end].isascii() and name[end].isalnum():
            end += 1
    is_one_of_two = pattern("titles.joined").search(name[:start].rstrip()) is not None
    return "" if is_one_of_two else f"{name[:start]} {name[end:]}"


def _unsayable(name: str, facts: FactSheet, request: CopyRequest) -> list[str] | None:
    """The pieces of a seller's words that promise or claim something, or state a price; None for words that are not
    used at all, since they hold personal data, foul language or leaks."""
    case = Case(text=name, facts=facts, request=request)
    if any(any(check(case)) for check in (form.personal_data, form.clean_language, form.leaks)):
        return None
    violations = [] if request.domain.titles == "works" else [*claims.offers(case), *claims.proofs(case)]
    if request.domain.titles == "names":  # what a person may let pass is no matter in a name
        violations = [violation for violation in violations if not violation.holds]
    spans = [violation.span for violation in violations]
    return spans + [q.span for q in case.quantities if q.kind in (QuantityKind.MONEY, QuantityKind.DISCOUNT)]


@lru_cache(maxsize=1 << 12)  # of a title, every beginning is tried
def tidy(name: str) -> str:
    """No empty brackets, exclamation marks, doubled spaces, or ends left hanging."""
    name = pattern("titles.empty_brackets").sub(" ", pattern("titles.shouts").sub(" ", name))
    return _HANGING.sub("", " ".join(name.split())).lstrip(" ,;:/&+-|，；：、")


def shortened(title: str, longest: int) -> str:
    """The beginning of a title within `longest` characters; never empty.

    Whole words, at least one of which names something, and no number without its unit: "8 fl" is no "8 fl oz". The
    first part before a comma, bracket or dash is preferred to a longer cut; where none of this fits, one word of the
    title.
    """
    if len(title) <= longest:
        return title
    first = tidy(_BREAK.split(title, maxsplit=1)[0])
    at_words = [name for end, name in _cuts(title) if end <= longest]
    names = [first] if len(first) <= longest and width(first) >= _MIN_FIRST_PART and _NAMING.search(first) else []
    names += [name for name in at_words if _NAMING.search(name)]
    names += [run[:longest] for run in _RUN.findall(title) if len(run) <= longest or not run.isascii()]
    stated = set(quantities(title))
    return next((name for name in (*names, *at_words) if stated.issuperset(quantities(name))), title[:longest])


@lru_cache(maxsize=1 << 8)
def _cuts(title: str) -> tuple[tuple[int, str], ...]:
    """(where it is cut, the beginning) at each word that may end a name, the longest first."""
    cuts = [(match.end(), tidy(title[: match.end()])) for match in _PIECE.finditer(title)]
    return tuple((end, name) for end, name in reversed(cuts) if name and _LETTER.search(_PIECE.findall(name)[-1]))
