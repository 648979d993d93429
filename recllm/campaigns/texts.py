"""The distinct texts of a campaign: one per item, kind of reason, channel, locale and variant, each written once.

No text is written for a person, so none can say what a person did, and there are as many as a person can read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from recllm.adcopy.channels import channel_named, complete
from recllm.adcopy.record import CopyRecord, save, write_recorded
from recllm.adcopy.request import CopyRequest, Voice
from recllm.adcopy.submissions import Submission, Verdict, judge
from recllm.adcopy.write import TEMPLATE
from recllm.campaigns.catalogue import facts_of
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.people import Recipient
from recllm.campaigns.plan_types import CampaignText, CheckNote
from recllm.policy import Policy
from recllm.schema import AdCopy, Encoder, Generator, Item, ReasonKind


@dataclass(frozen=True, slots=True, order=True)
class TextKey:
    """What decides a text, besides the campaign."""

    item_id: str
    kind: ReasonKind
    channel: str
    locale: str
    modelled: bool
    """Whether a generative model may be asked for it."""


@dataclass(frozen=True, kw_only=True)
class WritingContext:
    """What all texts of a campaign have in common."""

    file: CampaignFile
    items: Mapping[str, Item]
    brands: frozenset[str]
    """All that are known."""
    send: datetime
    generator: Generator | None
    generator_name: str
    """What finds the generator again."""
    encoder: Encoder
    policy: Policy
    records: Path
    """The folder that receives what makes a text again."""


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
        seed=file.words.seed,
        known_brands=brands,
        offer=file.offer,
        list_price=file.list_prices.get(item.item_id),
        evidence=file.evidence_for(item.item_id),
        packs=file.words.packs,
        voice=file.words.voice or Voice(),
        variants=file.words.variants,
    )


def message(file: CampaignFile, text: str, *, channel: str, locale: str, generator: str) -> str:
    """A text as it leaves, with what the law adds on its channel; the words of a model are marked as such."""
    return complete(text, channel=channel, locale=locale, sender=file.sender, generated=generator != TEMPLATE)


def check_notes(
    file: CampaignFile, verdict: Verdict, text: str, *, channel: str, locale: str, generator: str
) -> tuple[tuple[CheckNote, ...], tuple[CheckNote, ...]]:
    """What fails, and what only asks for a person's eyes.

    That includes each slot of the finished message which is longer than the channel's limit: a second short message is
    a second price, which a person should agree to.
    """
    failures = tuple(CheckNote(rule=c.guarantee, message=c.message, span=c.span) for c in verdict.failures)
    warnings = [CheckNote(rule=w.rule, message=w.message, span=w.span) for w in verdict.warnings]
    finished = message(file, text, channel=channel, locale=locale, generator=generator)
    for slot, words in channel_named(channel).split(finished):
        length, limit = slot.length_and_limit(words)
        if length > limit:
            remark = f"with what the law adds, the {slot.name} takes {length} where {limit} fit"
            warnings.append(CheckNote(rule="G6", message=remark))
    return failures, tuple(warnings)


def key_of(recipient: Recipient, modelled: Mapping[str, bool]) -> TextKey:
    """modelled: of each person, whether a generative model may be asked for a text that they get."""
    return TextKey(recipient.item_id, recipient.kind, recipient.channel, recipient.locale, modelled[recipient.user_id])


def text_keys(recipients: Iterable[Recipient], modelled: Mapping[str, bool], file: CampaignFile) -> Counter[TextKey]:
    """How many addressed people get each text; 0 for texts on public channels."""
    keys: Counter[TextKey] = Counter()
    items = set()
    for recipient in recipients:
        keys[key_of(recipient, modelled)] += not recipient.held_out
        items.add(recipient.item_id)
    for item in sorted(items):
        for channel in file.public_channels:
            keys.update({TextKey(item, ReasonKind.GENERAL, channel, locale, False): 0 for locale in file.locales})
    return keys


def write_texts(keys: Counter[TextKey], context: WritingContext) -> tuple[dict[TextKey, list[CampaignText]], list[str]]:
    """The variants of each key, the widest read first, and remarks. People of a key are shared out later.

    A key has up to as many variants as the campaign wants and as differ; where no text passes, the one that fails.
    """
    file = context.file
    texts: dict[TextKey, list[CampaignText]] = {}
    number, n_failed = 0, 0
    for key in sorted(keys, key=lambda k: (-keys[k], k)):
        texts[key] = []
        item = context.items[key.item_id]
        request = _request(file, item, context.brands, channel=key.channel, locale=key.locale, now=context.send)
        for copy, record in write_recorded(
            replace(request, reason_kind=key.kind, policy=context.policy),
            generator=context.generator if key.modelled else None,
            encoder=context.encoder,
            generator_spec=context.generator_name,
            adapter=str(file.words.adapter or ""),
        ):
            number += 1
            save(record, context.records)
            n_failed += any(check.guarantee == "G16" for _, checks in copy.rejected for check in checks)
            texts[key].append(_text(f"t{number}", key, len(texts[key]), copy, record, context))
    remarks = []
    variants = file.words.variants
    if short := sum(len(written) < variants for written in texts.values()):
        remarks.append(f"of {short} of {len(texts)} texts there are fewer than {variants} variants that differ")
    if n_failed:
        remarks.append(f"the generator failed at {n_failed} of {number} texts; these are the shop's own lines")
    return texts, remarks


def _text(
    name: str, key: TextKey, variant: int, copy: AdCopy, record: CopyRecord, context: WritingContext
) -> CampaignText:
    item, file = context.items[key.item_id], context.file
    verdict = judged(file, context.brands, copy.text, item, key.channel, key.locale, context.send)
    failures, warnings = check_notes(
        file, verdict, copy.text, channel=key.channel, locale=key.locale, generator=copy.generator
    )
    return CampaignText(
        id=name,
        item_id=key.item_id,
        kind=key.kind.value,
        channel=key.channel,
        locale=key.locale,
        modelled=key.modelled,
        variant=variant,
        text=copy.text,
        generator=copy.generator,
        record=record.id,
        failures=failures,
        warnings=warnings,
        facts=facts_of(item, file),
        people=0,
    )


def with_readers(
    texts: Mapping[TextKey, Sequence[CampaignText]], readers: Mapping[str, int]
) -> tuple[CampaignText, ...]:
    """All texts in the order of their numbers, each with the number of people that get it."""
    return tuple(replace(text, people=readers.get(text.id, 0)) for variants in texts.values() for text in variants)
