"""What may be said of an item: its facts under a title that may be shown, without sellers' promises and claims."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from recllm.market.adcopy.lexicon import HAN, fold, pattern, table, word_class
from recllm.market.adcopy.names import is_size, name_and_size, written_out
from recllm.market.adcopy.quantities import QuantityKind
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.market.adcopy.verify import claims, form
from recllm.market.adcopy.verify.case import Case

_MAX_ROUNDS = 12
_OF_SELLERS = (claims.offers, claims.offer_deadlines, claims.deeds, claims.proofs)
"""What sellers write into titles without a fact."""
_HANGING = pattern("titles.hanging", DANGLING="|".join(word_class("dangling")))
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
    if title:
        return replace(sheet, title=title)
    return replace(sheet, title=sheet.category[-1] if sheet.category else "", attributes={}, has_title=False)


def _with_thing(title: str, categories: Sequence[str]) -> str:
    """ "premium 56 oz" of the category ice cream -> "premium ice cream 56 oz"."""
    name, size = name_and_size(title)
    if fold(name) not in table("names.toml")["words"]["qualities"]:
        return title
    thing = next((category for category in reversed(categories) if fold(category) != fold(name)), "")
    return " ".join(filter(None, (name, pattern("titles.first_alternative").split(thing)[0].strip(), size)))


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
    violations = [] if request.domain.titles == "works" else [v for check in _OF_SELLERS for v in check(case)]
    if request.domain.titles == "names":  # what a person may let pass is no matter in a name
        violations = [violation for violation in violations if not violation.holds]
    spans = [violation.span for violation in violations]
    return spans + [q.span for q in case.quantities if q.kind in (QuantityKind.MONEY, QuantityKind.DISCOUNT)]


@lru_cache(maxsize=1 << 12)  # of a title, every beginning is tried
def tidy(name: str) -> str:
    """No empty brackets, exclamation marks, doubled spaces, or ends left hanging."""
    name = pattern("titles.empty_brackets").sub(" ", pattern("titles.shouts").sub(" ", name))
    return _HANGING.sub("", " ".join(name.split())).lstrip(" ,;:/&+-|，；：、")
