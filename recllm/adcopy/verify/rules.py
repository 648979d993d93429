"""The asked rule packs on one text: what they forbid under each guarantee, and what they warn of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from recllm.adcopy.facts import OfferType
from recllm.adcopy.packs import Rule
from recllm.adcopy.reading import fold
from recllm.adcopy.verify.case import Case, Fault

_PRICE_OFFERS = frozenset({OfferType.PERCENT, OfferType.AMOUNT, OfferType.COUPON})


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A phrase that keeps no text back and asks for a person's eyes."""

    guarantee: str
    rule: str
    """Pack and rule, such as "us_ftc/new"."""
    span: str
    message: str


Broken = tuple[Rule, str]
"""A rule, and the phrase that breaks it."""


def broken(case: Case) -> tuple[Broken, ...]:
    """Every rule of the case's packs that its text breaks, once per phrase."""
    spoken = case.language
    return tuple(
        (rule, phrase)
        for pack in case.packs
        for rule in pack.rules
        if spoken in rule.languages
        for phrase in rule.find(case.reading)
        if not is_allowed(rule, case)
    )


def faults(found: Iterable[Broken], guarantee: str) -> Iterator[Fault]:
    """The errors among broken rules that stand under one guarantee."""
    for rule, phrase in found:
        if rule.severity == "error" and rule.guarantee == guarantee:
            yield Fault(_said(rule, phrase), phrase)


def warnings(found: Iterable[Broken]) -> tuple[Warned, ...]:
    """The warnings among broken rules, under any guarantee."""
    return tuple(
        Warned(guarantee=rule.guarantee, rule=f"{rule.pack}/{rule.id}", span=phrase, message=_said(rule, phrase))
        for rule, phrase in found
        if rule.severity == "warning"
    )


def is_allowed(rule: Rule, case: Case) -> bool:
    """True when the rule's evidence is there, or the statement that it demands."""
    if rule.demands and fold(rule.demands) in case.reading.folded:
        return True
    if rule.evidence == "list_price":
        return case.facts.list_price is not None
    kind, _, detail = rule.evidence.partition(".")
    if kind == "offer":
        return _offer_allows(detail, case)
    return rule.evidence != "never" and bool(case.evidence.get(rule.evidence))


def _offer_allows(detail: str, case: Case) -> bool:
    """`detail` is "end", "price" or a type of offer."""
    running = case.offer
    if running is None:
        return False
    if detail == "end":
        return running.end is not None
    return running.type in _PRICE_OFFERS if detail == "price" else running.type == detail


def _said(rule: Rule, phrase: str) -> str:
    remedy = "" if rule.evidence == "never" else f"; needs {rule.evidence}"
    return f"{phrase!r} {rule.message} ({rule.citation}{remedy})"
