"""Everything that decides a text except its opening line: the facts, where it goes, and what it is checked by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Required, TypedDict

from recllm.adcopy.channels import channel as channel_named
from recllm.adcopy.compose import Draft, compose, names
from recllm.adcopy.facts import FactSheet, Offer
from recllm.adcopy.frame import Frame
from recllm.adcopy.injection import is_hostile
from recllm.adcopy.opening_line import bare_prompt, reason_kind, sober
from recllm.adcopy.packs import Pack
from recllm.adcopy.packs import pack as pack_named
from recllm.adcopy.titles import with_sayable_title
from recllm.adcopy.verify import known_locale, verify
from recllm.adcopy.voice import Voice
from recllm.errors import UsageError
from recllm.policy import Policy
from recllm.schema import Check, Item, Reason, ReasonKind
from recllm.text.templates import Prompts

Rejected = tuple[str, tuple[Check, ...]]
"""A text or line that was stopped, and the checks that it failed."""


class Wanted(TypedDict, total=False):
    """What `write_copy` and `write_variants` are told about a text besides its item and who writes."""

    channel: Required[str]
    now: Required[datetime]
    """Decides whether the offer runs."""
    locale: str
    """Language and perhaps region, such as en, en-GB or zh; en otherwise."""
    reason: Reason | None
    """Told as a neutral kind ("goes with what you like"), never as what the person did."""
    known_brands: Iterable[str]
    """The catalogue's brands: none but the item's own may be named."""
    offer: Offer | None
    list_price: Decimal | None
    evidence: Mapping[str, str] | None
    """Proofs that the shop has, by the key of the claim or rule that asks for them."""
    policy: Policy | None
    """For items of its sensitive categories no reason is told and no model asked."""
    prompts: Prompts | None
    packs: Iterable[Pack | str]
    """The laws where the text goes, as packs or names of shipped ones. An offer that they forbid is left out."""
    voice: Voice | None
    """The brand's."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One text to be written; build it with `open_job`."""

    facts: FactSheet
    frame: Frame
    kind: ReasonKind
    askable: bool
    """False where no model may be asked: sensitive or hostile items, medicines, titles."""
    known_brands: frozenset[str]
    evidence: Mapping[str, str]
    packs: tuple[Pack, ...]
    voice: Voice

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
            packs=self.packs,
            voice=self.voice,
        )

    def faults(self, text: str) -> tuple[Check, ...]:
        return tuple(check for check in self.check(text) if not check.passed)


def open_job(
    item: Item,
    *,
    channel: str,
    now: datetime,
    locale: str = "en",
    reason: Reason | None = None,
    known_brands: Iterable[str] = (),
    offer: Offer | None = None,
    list_price: Decimal | None = None,
    evidence: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    prompts: Prompts | None = None,
    packs: Iterable[Pack | str] = (),
    voice: Voice | None = None,
) -> tuple[Job, tuple[Rejected, ...]]:
    """The job, and what its rule packs forbade before a word was written: see `_without_forbidden_offer`.

    Raises `UsageError` for an unknown channel, locale or pack, and for a channel that takes no text for a person.
    """
    frame = _frame(channel, locale, now, prompts)
    facts = with_sayable_title(FactSheet.of(item, offer=offer, list_price=list_price), frame)
    sensitive = (policy or Policy()).is_sensitive((*item.category, item.title))
    job = Job(
        facts=facts.with_spellings(names(facts.title)),
        frame=frame,
        kind=reason_kind(reason, item.item_id, sensitive=sensitive),
        askable=not (sensitive or is_hostile(item) or sober(facts) or frame.channel.title_only),
        known_brands=frozenset(known_brands),
        evidence=evidence or {},
        packs=tuple(pack_named(p) if isinstance(p, str) else p for p in packs),
        voice=voice or Voice(),
    )
    return _without_forbidden_offer(job)


def _frame(channel: str, locale: str, now: datetime, prompts: Prompts | None) -> Frame:
    place = channel_named(channel)
    if place.segment_only:
        raise UsageError(
            f"{channel} takes approved templates for a whole segment only; no text is written for a person"
        )
    return Frame(channel=place, locale=known_locale(locale), now=now, prompts=prompts or Prompts.load())


def _without_forbidden_offer(job: Job) -> tuple[Job, tuple[Rejected, ...]]:
    """A law may forbid to tell an offer, as one without proof of the former price: then the text leaves it out."""
    told = job.draft(None).text
    if not job.packs or job.facts.offer is None or not (faults := job.faults(told)):
        return job, ()
    silent = replace(job, facts=replace(job.facts, offer=None).with_sources())
    fewer = len(silent.faults(silent.draft(None).text)) < len(faults)
    return (silent, ((told, faults),)) if fewer else (job, ())
