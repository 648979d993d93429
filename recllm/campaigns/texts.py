"""The distinct texts of a campaign: one per item, kind of reason, channel, locale and variant, each written once.

No text is written for a person, so none can say what a person did, and there are as many as a person can read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from recllm.adcopy.record import CopyRecord, save, write_recorded
from recllm.adcopy.request import CopyRequest, Voice
from recllm.adcopy.submissions import Submission, Verdict, judge
from recllm.campaigns.catalogue import facts_of
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.message import message, overlong
from recllm.campaigns.people import Planned
from recllm.campaigns.plan_types import Doubt, Text
from recllm.policy import Policy
from recllm.schema import AdCopy, Encoder, Generator, Item, ReasonKind


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What decides a text, besides the campaign."""

    item_id: str
    kind: ReasonKind
    channel: str
    locale: str
    modelled: bool


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What all texts of a campaign have in common."""

    file: CampaignFile
    items: Mapping[str, Item]
    brands: frozenset[str]
    send: datetime
    generator: Generator | None
    encoder: Encoder
    policy: Policy
    records: Path


def judged(
    file: CampaignFile, brands: frozenset[str], text: str, item: Item, channel: str, locale: str, now: datetime
) -> Verdict:
    """Every check on a text, under the facts of `item`, with the campaign's packs and voice. brands: all known ones."""
    request = _request(file, item, brands, channel=channel, locale=locale, now=now)
    return judge(Submission(id=item.item_id, text=text, request=request))


def _request(
    file: CampaignFile, item: Item, brands: frozenset[str], *, channel: str, locale: str, now: datetime
) -> CopyRequest:
    """What decides a text of the campaign about `item`, but for the reason and who writes."""
    return CopyRequest(
        item=item,
        channel=channel,
        now=now,
        locale=locale,
        seed=file.seed,
        known_brands=brands,
        offer=file.offer,
        list_price=file.list_prices.get(item.item_id),
        evidence=file.evidence_for(item.item_id),
        packs=file.packs,
        voice=file.voice or Voice(),
        variants=file.variants,
    )


def keys_of(people: Iterable[Planned], modelled: Mapping[str, bool], file: CampaignFile) -> Counter[Key]:
    """How many addressed people get each text; 0 for texts on public channels. modelled: of each person."""
    found: Counter[Key] = Counter()
    for p in people:
        found[key_of(p, modelled)] += not p.held
    for item in sorted({p.item_id for p in people}):
        for channel in file.public:
            found.update({Key(item, ReasonKind.GENERAL, channel, locale, False): 0 for locale in file.locales})
    return found


def key_of(person: Planned, modelled: Mapping[str, bool]) -> Key:
    return Key(person.item_id, person.kind, person.channel, person.locale, modelled[person.user_id])


def write_texts(keys: Counter[Key], writing: Writing) -> tuple[dict[Key, list[Text]], list[str]]:
    """The variants of each key, the widest read first, and remarks. People of a key are shared out later."""
    out: dict[Key, list[Text]] = {}
    number, dead = 0, 0
    for key in sorted(keys, key=lambda k: (-keys[k], k)):
        made: list[Text] = []
        for written in _variants(key, writing):
            number += 1
            save(written.record, writing.records)
            dead += any(check.guarantee == "G16" for _, checks in written.copy.rejected for check in checks)
            made.append(_text(f"t{number}", key, len(made), written, writing))
        out[key] = made
    remarks = []
    few = sum(len(made) < writing.file.variants for made in out.values())
    if few:
        remarks.append(
            f"of {few} of {len(out)} texts there are fewer than {writing.file.variants} variants that differ"
        )
    if dead:
        remarks.append(f"the generator failed at {dead} of {number} texts; these are the shop's own lines")
    return out, remarks


@dataclass(frozen=True)
class _Written:
    copy: AdCopy
    record: CopyRecord
    verdict: Verdict


def _variants(key: Key, writing: Writing) -> list[_Written]:
    """Up to as many texts that differ as the campaign asks for; where none passes, the one that fails."""
    item, generator = writing.items[key.item_id], writing.generator if key.modelled else None
    request = _request(writing.file, item, writing.brands, channel=key.channel, locale=key.locale, now=writing.send)
    recorded = write_recorded(
        replace(request, reason_kind=key.kind, policy=writing.policy),
        generator=generator,
        encoder=writing.encoder,
        generator_spec=writing.file.generator,
        adapter=str(writing.file.adapter or ""),
    )
    return [
        _Written(
            copy, record, judged(writing.file, writing.brands, copy.text, item, key.channel, key.locale, writing.send)
        )
        for copy, record in recorded
    ]


def _text(name: str, key: Key, variant: int, written: _Written, writing: Writing) -> Text:
    failures, warnings = doubts_of(written.verdict)
    whole = message(
        writing.file, written.copy.text, channel=key.channel, locale=key.locale, generator=written.copy.generator
    )
    return Text(
        id=name,
        item_id=key.item_id,
        kind=key.kind.value,
        channel=key.channel,
        locale=key.locale,
        modelled=key.modelled,
        variant=variant,
        text=written.copy.text,
        generator=written.copy.generator,
        record=written.record.id,
        failures=failures,
        warnings=(*warnings, *overlong(whole, key.channel)),
        facts=facts_of(writing.items[key.item_id], writing.file),
        people=0,
    )


def doubts_of(verdict: Verdict) -> tuple[tuple[Doubt, ...], tuple[Doubt, ...]]:
    """What fails, and what only asks for a person's eyes."""
    failures = tuple(Doubt(rule=c.guarantee, message=c.message, span=c.span) for c in verdict.failures)
    return failures, tuple(Doubt(rule=w.rule, message=w.message, span=w.span) for w in verdict.warnings)


def counted(texts: Mapping[Key, Sequence[Text]], people: Mapping[str, int]) -> tuple[Text, ...]:
    """All texts in the order of their numbers, each with the number of people that get it."""
    return tuple(replace(text, people=people.get(text.id, 0)) for made in texts.values() for text in made)
