"""From a request to an advertisement whose every claim was checked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from recllm.adcopy.compose import ComposedText, compose, compositions, sayable_facts, without_title
from recllm.adcopy.lexicon import limit
from recllm.adcopy.opening_line import (
    Rejected,
    bare_prompt,
    can_be_asked,
    generated_lines,
    line_faults,
    ranked,
    shop_lines,
)
from recllm.adcopy.quantities import format_money
from recllm.adcopy.request import CopyRequest, FactSheet
from recllm.adcopy.verify.guarantees import likeness, variants_differ, verify
from recllm.errors import UsageError
from recllm.schema import AdCopy, Check, Encoder, Generator, ReasonKind
from recllm.text.templates import Prompts

TEMPLATE = "template"
"""What `AdCopy.generator` says of the shop's own lines."""


@dataclass(frozen=True, slots=True)
class _CheckedText:
    line: str | None
    """The opening line."""
    generator: str
    """Whose line it is."""
    composed: ComposedText
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


def write_copy(
    request: CopyRequest, *, generator: Generator | None = None, encoder: Encoder | None = None
) -> tuple[AdCopy, ...]:
    """One advertisement, or up to `request.variants` that differ (G13), the most relevant to item and reason first.

    The same arguments give the same texts, at least one. The generator writes the opening line only; title, brand,
    price, offer and call are filled in by code. Of its lines those that pass every check come first, by their closeness
    to item and reason (by `encoder`, when given); then the shop's own for the kind of reason (`prompts/ad_lines`, and
    before them the voice's), then its general ones. A text that is too like an earlier one is tried with fewer facts,
    then left out. `AdCopy.generator` says whose line it is, `AdCopy.rejected` holds what was stopped and why.

    A generator with an attribute `languages` is asked in these languages only; one that `takes_constraints` is told
    what its lines may not hold, one that is `tuned` is asked without examples. Raises `UsageError` for a channel that
    takes no text for a person.
    """
    if request.limits.segment_only:
        raise UsageError(
            f"{request.channel} takes approved templates for a whole segment only; no text is written for a person"
        )
    kind = ReasonKind.GENERAL if request.is_sensitive else request.reason_kind
    rng = random.Random(f"{request.seed}:{request.item.item_id}")
    rejected: list[Rejected] = []
    facts = sayable_facts(request)
    facts = _without_forbidden_offer(facts, request, rejected)
    lines: list[tuple[str | None, str]] = []
    if generator is not None and can_be_asked(facts, request):

        def failures(line: str) -> tuple[Check, ...]:
            return _checked(line, "", compose(line, facts, request), facts, request).failures

        generated = generated_lines(facts, request, kind, generator, failures, rejected)
        lines += [(line, generator.name) for line in ranked(generated, facts, kind, request.locale, encoder)]
    lines += [(line, TEMPLATE) for line in shop_lines(request, kind, rng)]
    texts: list[_CheckedText] = []
    for line, source in lines:
        if len(texts) < request.variants and (text := _unlike(texts, line, source, facts, request)):
            texts.append(text)
    if not texts:  # a title like no other: the item goes by its category, or by a general name
        facts = without_title(facts, request.locale)
        for line in shop_lines(request, kind, rng):
            texts = [_checked(line, TEMPLATE, compose(line, facts, request), facts, request)]
            if not texts[0].failures:
                break
    return tuple(_ad_copy(text, facts, request, tuple(rejected)) for text in texts)


def is_sayable(line: str, facts: FactSheet, request: CopyRequest) -> bool:
    """True when a text with the opening line passes every check."""
    if not can_be_asked(facts, request) or line_faults(line, facts, request.language):
        return False
    return not _checked(line, "", compose(line, facts, request), facts, request).failures


def _checked(
    line: str | None, generator: str, composed: ComposedText, facts: FactSheet, request: CopyRequest
) -> _CheckedText:
    checks = verify(composed.text, request, facts=facts, prompt=bare_prompt(request.locale))
    return _CheckedText(line, generator, composed, checks)


def _without_forbidden_offer(facts: FactSheet, request: CopyRequest, rejected: list[Rejected]) -> FactSheet:
    """A law may forbid to tell an offer, as one without proof of the former price: then the text leaves it out."""
    if not request.packs or facts.offer is None:
        return facts
    silent = replace(facts, offer=None)
    loud, quiet = (_checked(None, TEMPLATE, compose(None, f, request), f, request) for f in (facts, silent))
    if len(quiet.failures) >= len(loud.failures):
        return facts
    rejected.append((loud.composed.text, loud.failures))
    return silent


def _unlike(
    texts: Sequence[_CheckedText], line: str | None, generator: str, facts: FactSheet, request: CopyRequest
) -> _CheckedText | None:
    """The richest text of a line that differs from all earlier ones, if it passes."""
    if line and any(text.line and likeness(line, text.line) > limit("max_likeness") for text in texts):
        return None
    earlier = [text.composed.text for text in texts]
    for composed in compositions(line, facts, request):
        if request.limits.fits(composed.text) and not any(variants_differ([*earlier, composed.text])):
            text = _checked(line, generator, composed, facts, request)
            return None if text.failures else text
    return None


def _ad_copy(text: _CheckedText, facts: FactSheet, request: CopyRequest, rejected: tuple[Rejected, ...]) -> AdCopy:
    values = {name: str(getattr(facts, name)) for name in text.composed.facts_used}
    if "price" in values and facts.price is not None and facts.currency is not None:
        values["price"] = format_money(facts.price, facts.currency, request.locale)
    if "offer" in values and facts.offer is not None:
        values["offer"] = f"{facts.offer.type} {'' if facts.offer.value is None else facts.offer.value}".strip()
    template = f"ad_text.{request.channel}"
    return AdCopy(
        text=text.composed.text,
        channel=request.channel,
        locale=request.locale,
        generator=text.generator,
        verified=not text.failures,
        checks=text.checks,
        facts_used=values,
        template_version=Prompts.load().version(template, request.locale),
        item_id=facts.item_id,
        rejected=rejected,
    )
