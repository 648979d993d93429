"""The asked rule packs on one text: what they forbid under each guarantee, and what they warn of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from recllm.adcopy.lexicon import fold
from recllm.adcopy.packs import Rule
from recllm.adcopy.request import OfferType
from recllm.adcopy.verify.case import Case, Violation

_PRICE_OFFERS = frozenset({OfferType.PERCENT, OfferType.AMOUNT, OfferType.COUPON})


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleWarning:
    """A phrase that keeps no text back and asks for a person's eyes."""

    guarantee: str
    rule: str
    """Pack and rule, such as "us_ftc/new"."""
    span: str
    message: str


@dataclass(frozen=True, slots=True)
class BrokenRule:
    pack: str
    rule: Rule
    phrase: str
    """The piece of the text that breaks it."""

    @property
    def message(self) -> str:
        remedy = "" if self.rule.evidence == "never" else f"; needs {self.rule.evidence}"
        return f"{self.phrase!r} {self.rule.message} ({self.rule.citation}{remedy})"


def broken_rules(case: Case) -> tuple[BrokenRule, ...]:
    """Every rule of the case's packs that its text breaks, once per phrase."""
    return tuple(
        BrokenRule(pack.name, rule, phrase)
        for pack in case.request.packs
        for rule in pack.rules
        if case.language in rule.languages
        for phrase in rule.find(case.reading)
        if not is_allowed(rule, case)
    )


def violations(broken: Iterable[BrokenRule], guarantee: str) -> Iterator[Violation]:
    """The errors among broken rules that stand under one guarantee."""
    for b in broken:
        if b.rule.severity == "error" and b.rule.guarantee == guarantee:
            yield Violation(b.message, b.phrase)


def warnings(broken: Iterable[BrokenRule]) -> tuple[RuleWarning, ...]:
    """The warnings among broken rules, under any guarantee."""
    return tuple(
        RuleWarning(guarantee=b.rule.guarantee, rule=f"{b.pack}/{b.rule.id}", span=b.phrase, message=b.message)
        for b in broken
        if b.rule.severity == "warning"
    )


def is_allowed(rule: Rule, case: Case) -> bool:
    """True when the rule's evidence is there, or the statement that it demands."""
    if rule.demands and fold(rule.demands) in case.reading.folded:
        return True
    if rule.evidence == "list_price":
        return case.facts.list_price is not None
    subject, _, detail = rule.evidence.partition(".")
    if subject != "offer":
        return rule.evidence != "never" and bool(case.request.evidence.get(rule.evidence))
    running = case.offer
    if running is None:
        return False
    if detail == "end":
        return running.end is not None
    return running.type in _PRICE_OFFERS if detail == "price" else running.type == detail
