"""The guarantees: one function each, and the verdict that follows from them.

    review(text, CopyRequest(item=item, channel="push", now=now)).verdict

`blocked`: the text contradicts a fact, is hostile or personal, or a law forbids it. `person`: it breaks a soft rule, a
rule pack warns, or it holds a word that nothing grounds (see `recllm.market.adcopy.verify.grounding`). `pass`: neither.

The word lists, patterns and limits are data, in `adcopy/data/`. They help a reviewer; they are not legal advice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from recllm.base.schema import Check, CopyVerdict
from recllm.market.adcopy.frames import Situation
from recllm.market.adcopy.lexicon import fold, limit, read
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.verify import claims, form
from recllm.market.adcopy.verify.case import Case, Violation
from recllm.market.adcopy.verify.grounding import UngroundedWord, reads_as_foreign, ungrounded

GUARANTEES: Mapping[str, Callable[[Case], Iterator[Violation]]] = {
    "G1": claims.numbers,
    "G2": claims.offers,
    "G3": claims.proofs,
    "G4": claims.foreign_names,
    "G5": claims.product_named,
    "G6": form.fits_channel,
    "G7": form.mandatory_parts,
    "G8": form.personal_data,
    "G9": form.clean_language,
    "G10": form.leaks,
    "G11": form.right_language,
    "G12": form.well_formed,
    "G14": form.in_voice,
    "G17": claims.currency_format,
}
"""Those on the words of one text. G13, that variants differ, holds by how `recllm.market.adcopy.write` makes them; G15
and G18 stand in `recllm.market.adcopy.record`, G16 in `recllm.market.adcopy.write`."""


_OF_CLAIMS = ("G1", "G2", "G3", "G4")
"""What the name of a work is not asked for: it is no number, offer, claim or name of the text's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleWarning:
    """A phrase that breaks no law by itself: a person looks at it."""

    guarantee: str
    rule: str
    """Pack and rule, such as "us_ftc/new"."""
    span: str
    message: str


@dataclass(frozen=True, slots=True)
class Review:
    """All that is said about one text."""

    checks: tuple[Check, ...]
    """For each guarantee one passed check, or one for each violation."""
    warnings: tuple[RuleWarning, ...] = ()
    """What the rule packs ask a person to look at."""
    ungrounded: tuple[UngroundedWord, ...] = ()
    """The words and numbers that nothing known grounds."""

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def verdict(self) -> CopyVerdict:
        if any(not check.holds for check in self.failures):
            return CopyVerdict.BLOCKED
        return CopyVerdict.PERSON if self.failures or self.warnings or self.ungrounded else CopyVerdict.PASS

    @property
    def verified(self) -> bool:
        """True for `pass` alone."""
        return self.verdict is CopyVerdict.PASS


def review(
    text: str, request: CopyRequest, *, facts: FactSheet | None = None, situation: Situation | None = None
) -> Review:
    """Checks one text against the facts of the request, and by its rule packs.

    facts: the item's, where the catalogue has others now. situation: that of request and facts, for several texts.
    """
    if len(text) > limit("max_text"):
        too_long = f"the text has {len(text)} characters; no channel takes more than {limit('max_text')}"
        return Review((Check(guarantee="G6", passed=False, message=too_long),))
    facts = facts or request.facts()
    slots = (situation or situation_of(request, facts)).slots
    names = tuple(slots[name] for name in ("item.short", "item", "short", "category") if name in slots)
    statements = tuple(dict.fromkeys((*slots.values(), *request.statements)))
    case = Case(text=text, facts=facts, request=request, statements=statements, names=names)
    forbidden: dict[str, list[Violation]] = defaultdict(list)
    warnings: list[RuleWarning] = []
    for name, rule in ((f"{pack.name}/{rule.id}", rule) for pack in request.packs for rule in pack.rules):
        is_demand_met = rule.demands and fold(rule.demands) in case.reading.folded
        if case.language not in rule.languages or is_demand_met or case.proves(rule.evidence):
            continue
        for phrase in rule.find(case.beside_work.reading):
            remedy = "" if rule.evidence == "never" else f"; needs {rule.evidence}"
            message = f"{phrase!r} {rule.message} ({rule.citation}{remedy})"
            if rule.severity == "error":
                forbidden[rule.guarantee].append(Violation(message, phrase))
            else:
                warnings.append(RuleWarning(guarantee=rule.guarantee, rule=name, span=phrase, message=message))
    if reads_as_foreign(case, words_without_ground := ungrounded(case)):
        forbidden["G11"].append(Violation(f"reads like neither English nor Chinese: {form.FOREIGN}", holds=True))
    checks: list[Check] = []
    for name, guarantee in GUARANTEES.items():
        violations = chain(guarantee(case.beside_work if name in _OF_CLAIMS else case), forbidden[name])
        faults = [
            Check(guarantee=name, passed=False, message=v.message, span=v.span, holds=v.holds)
            for v in violations
            if not (v.holds and name != "G14" and _is_of_full_title(v.span, case))
        ]
        checks += faults or [Check(guarantee=name, passed=True)]
    return Review(tuple(checks), tuple(warnings), words_without_ground)


def _is_of_full_title(span: str, case: Case) -> bool:
    """True for a piece of the item's title in a text that holds the whole title: its name is no matter of manner,
    but for what the brand itself never says."""
    if not span.strip():
        return False
    titles = {read(title).folded for title in (case.facts.title, case.title_written_out) if title}
    return any(fold(span) in title and title in case.reading.folded for title in titles)
