"""The guarantees: one function each. What fails one of them never leaves as a verified text.

    checks = verify(text, CopyRequest(item=item, channel="push", now=now))
    passed(checks)

The word lists, patterns and limits are data, in `recllm/adcopy/data/`. They help a reviewer; they are not legal advice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from recllm.adcopy.facts import FactSheet
from recllm.adcopy.lexicon import limit
from recllm.adcopy.request import CopyRequest
from recllm.adcopy.verify import claims, form, naming, people, rules
from recllm.adcopy.verify.case import Case, Violation
from recllm.adcopy.verify.rules import RuleWarning
from recllm.schema import Check

GUARANTEES: Mapping[str, Callable[[Case], Iterator[Violation]]] = {
    "G1": claims.numbers,
    "G2": claims.offers,
    "G3": claims.proofs,
    "G4": naming.foreign_names,
    "G5": naming.product_named,
    "G6": form.fits_channel,
    "G7": form.mandatory_parts,
    "G8": people.personal_data,
    "G9": people.clean_language,
    "G10": people.leaks,
    "G11": form.right_language,
    "G12": form.well_formed,
    "G14": form.in_voice,
    "G17": claims.currency_format,
}
"""Those on the words of one text. G13 is `form.variants_differ`, G15, G16 and G18 stand in `recllm.adcopy.record`."""


@dataclass(frozen=True, slots=True)
class Review:
    """All that is said about one text."""

    checks: tuple[Check, ...]
    """For each guarantee one passed check, or one for each violation."""
    warnings: tuple[RuleWarning, ...] = ()
    """What the rule packs ask a person to look at; none of it keeps the text back."""


def review(text: str, request: CopyRequest, *, facts: FactSheet | None = None, prompt: str = "") -> Review:
    """Checks one text against the facts of the request's item, and by its rule packs.

    facts: the item's, where they are no longer those of the catalogue. prompt: what a model was told besides the facts,
    none of which may come back.
    """
    if len(text) > limit("max_text"):
        message = f"the text has {len(text)} characters; no channel takes more than {limit('max_text')}"
        return Review((Check(guarantee="G6", passed=False, message=message),))
    case = Case(text=text, facts=facts or request.facts(), request=request, prompt=prompt)
    broken = rules.broken_rules(case)
    checks: list[Check] = []
    for name, guarantee in GUARANTEES.items():
        violations = chain(guarantee(case), rules.violations(broken, name))
        faults = [Check(guarantee=name, passed=False, message=v.message, span=v.span) for v in violations]
        checks += faults or [Check(guarantee=name, passed=True)]
    return Review(tuple(checks), rules.warnings(broken))


def verify(text: str, request: CopyRequest, *, facts: FactSheet | None = None, prompt: str = "") -> tuple[Check, ...]:
    """`review` without the warnings."""
    return review(text, request, facts=facts, prompt=prompt).checks


def passed(checks: Iterable[Check]) -> bool:
    return all(check.passed for check in checks)
