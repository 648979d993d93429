"""From an item to an advertisement whose every claim was checked."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from recllm.adcopy.channels import channel as channel_named
from recllm.adcopy.compose import Draft, compose, names
from recllm.adcopy.facts import FactSheet, Offer
from recllm.adcopy.frame import Frame
from recllm.adcopy.hooks import (
    MAX_TOKENS,
    ReasonKind,
    bare_prompt,
    hook_faults,
    hook_prompt,
    own_lines,
    ranked,
    reason_kind,
    sober,
)
from recllm.adcopy.hostile import is_hostile
from recllm.adcopy.money import format_money, language
from recllm.adcopy.titles import with_sayable_title, without_title
from recllm.adcopy.verify import known_locale, passed, verify
from recllm.errors import GenerationError, UsageError
from recllm.policy import Policy
from recllm.schema import AdCopy, Check, Encoder, Generator, Item, Reason
from recllm.text import Prompts

Rejected = tuple[str, tuple[Check, ...]]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything that decides a text except its opening line."""

    facts: FactSheet
    frame: Frame
    kind: ReasonKind
    known_brands: frozenset[str]
    evidence: Mapping[str, str]

    def draft(self, hook: str | None) -> Draft:
        return compose(hook, self.facts, self.frame)

    def check(self, text: str) -> tuple[Check, ...]:
        return verify(
            text,
            self.facts,
            channel=self.frame.channel.name,
            locale=self.frame.locale,
            now=self.frame.now,
            known_brands=self.known_brands,
            evidence=self.evidence,
            prompt=bare_prompt(self.frame.locale, self.frame.prompts),
        )


@dataclass(frozen=True, slots=True)
class _Written:
    draft: Draft
    checks: tuple[Check, ...]
    generator: str


def write_copy(
    item: Item,
    *,
    channel: str,
    now: datetime,
    locale: str = "en",
    reason: Reason | None = None,
    generator: Generator | None = None,
    n_candidates: int = 8,
    seed: int = 0,
    known_brands: Iterable[str] = (),
    offer: Offer | None = None,
    list_price: Decimal | None = None,
    evidence: Mapping[str, str] | None = None,
    encoder: Encoder | None = None,
    policy: Policy | None = None,
    prompts: Prompts | None = None,
    user_id: str | None = None,
) -> AdCopy:
    """One advertisement for one item, checked as a whole; the same arguments give the same text.

    The generator writes the opening line only; title, brand, price, offer and call are filled by code. Of its
    `n_candidates` lines the best that passes every check is taken: close to the item (by `encoder`, when given) and no
    echo of the prompt. When none passes, or the generator fails, one of the shop's own lines (`prompts/ad_lines`) is.
    `AdCopy.generator` says whose line it is, `AdCopy.rejected` holds the lines that were stopped and why.
    A generator with an attribute `languages` is asked in these languages only.

    `reason` is told as a neutral kind ("goes with what you like"), never as what the person did. For items of a
    sensitive category (`policy`) it is not told at all, and for these, for medicines and for items whose texts speak
    to machines no generator is asked.
    `now` decides whether the offer runs. Raises `UsageError` for an unknown channel or locale.
    """
    prompts = prompts or Prompts.load()
    place = channel_named(channel)
    if place.segment_only:
        raise UsageError(
            f"{channel} takes approved templates for a whole segment only; no text is written for a person"
        )
    frame = Frame(channel=place, locale=known_locale(locale), now=now, prompts=prompts)
    facts = with_sayable_title(FactSheet.of(item, offer=offer, list_price=list_price), frame)
    sensitive = (policy or Policy()).is_sensitive((*item.category, item.title))
    job = _Job(
        facts=facts.with_spellings(names(facts.title)),
        frame=frame,
        kind=reason_kind(reason, item.item_id, sensitive=sensitive),
        known_brands=frozenset(known_brands),
        evidence=evidence or {},
    )
    rejected: list[Rejected] = []
    written = None
    if generator is not None and not (sensitive or is_hostile(item) or sober(facts) or frame.channel.title_only):
        hooks = _ask(generator, job, n_candidates, seed, rejected)
        written = _best(hooks, job, generator.name, encoder, rejected)
    rng = random.Random(f"{seed}:{item.item_id}")
    written = written or _own(job, rng)
    if not passed(written.checks):  # a title like no other: the item goes by its category, or by a general name
        job = replace(job, facts=without_title(job.facts, frame))
        written = _own(job, rng)
    return _copy(job, written, tuple(rejected), user_id)


def _ask(generator: Generator, job: _Job, n: int, seed: int, rejected: list[Rejected]) -> list[str]:
    """The generator's lines, each once; a failure is recorded and leaves none."""
    spoken = getattr(generator, "languages", None)
    if spoken is not None and language(job.frame.locale) not in spoken:
        message = f"{generator.name} writes {', '.join(sorted(spoken))} only"
        rejected.append(("", (Check(guarantee="G11", passed=False, message=message),)))
        return []
    prompt = hook_prompt(job.facts, job.kind, job.frame.locale, job.frame.prompts)
    try:
        return list(
            dict.fromkeys(generator.generate(prompt, n=n, max_tokens=MAX_TOKENS[language(job.frame.locale)], seed=seed))
        )
    except GenerationError as error:
        rejected.append(("", (Check(guarantee="G16", passed=False, message=str(error)),)))
        return []


def _best(hooks: list[str], job: _Job, name: str, encoder: Encoder | None, rejected: list[Rejected]) -> _Written | None:
    fit: dict[str, _Written] = {}
    for hook in hooks:
        faults = hook_faults(hook, job.facts, job.frame.locale)
        if not faults:
            draft = job.draft(hook)
            checks = job.check(draft.text)
            faults = tuple(check for check in checks if not check.passed)
            fit |= {} if faults else {hook: _Written(draft, checks, name)}
        if faults:
            rejected.append((hook, faults))
    best = ranked(list(fit), job.facts, bare_prompt(job.frame.locale, job.frame.prompts), encoder)
    return fit[best[0]] if best else None


def _own(job: _Job, rng: random.Random) -> _Written:
    """The shop's own words: the first of its lines that passes, else facts alone."""
    lines = own_lines(job.kind, job.frame.locale, job.frame.prompts, rng)
    general = own_lines(ReasonKind.GENERAL, job.frame.locale, job.frame.prompts, rng)
    for hook in (*lines, *general, None):
        draft = job.draft(hook)
        checks = job.check(draft.text)
        if passed(checks):
            break
    return _Written(draft, checks, "template")


def _copy(job: _Job, written: _Written, rejected: tuple[Rejected, ...], user_id: str | None) -> AdCopy:
    return AdCopy(
        text=written.draft.text,
        channel=job.frame.channel.name,
        locale=job.frame.locale,
        generator=written.generator,
        verified=passed(written.checks),
        checks=written.checks,
        facts_used={name: _value(job, name) for name in written.draft.used},
        template_version=job.frame.prompts.version(f"ad_text.{job.frame.channel.name}", job.frame.locale),
        item_id=job.facts.item_id,
        user_id=user_id,
        rejected=rejected,
    )


def _value(job: _Job, name: str) -> str:
    facts = job.facts
    if name == "price" and facts.price is not None and facts.currency is not None:
        return format_money(facts.price, facts.currency, job.frame.locale)
    if name == "offer" and facts.offer is not None:
        value = "" if facts.offer.value is None else f" {facts.offer.value}"
        return f"{facts.offer.type}{value}"
    return str(getattr(facts, name))
