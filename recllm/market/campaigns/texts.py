"""The distinct texts of a campaign: one per item, what may be said of the customer, channel, locale and variant, each
written once. What is said of customers is coarse, so that several share a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import polars as pl

from recllm.base.documents import count_text
from recllm.base.schema import CopyVerdict, Generator, Item, ReasonKind
from recllm.base.settings import Settings
from recllm.market.adcopy.ads import item_of
from recllm.market.adcopy.channels import channel_named, complete
from recllm.market.adcopy.frames import frames_for
from recllm.market.adcopy.packs import approved_words, vocabulary_file
from recllm.market.adcopy.request import CopyRequest, FactSheet, FestiveDay, PersonFacts, Voice
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.verify.guarantees import review
from recllm.market.adcopy.write import TEMPLATE, save, sayable_facts, write_copy, write_recorded
from recllm.market.campaigns.file import CampaignFile
from recllm.market.campaigns.folder import COPIES, CampaignText, CheckNote, PlannedPerson, TextFacts
from recllm.market.occasions.calendar import SENSIBLE_DAYS, nearest_date, profile_of
from recllm.shop.data.catalogue import on_offer
from recllm.shop.workspace.workspace import Workspace
from recllm.text.domains import SHOP, domain_of, in_domain

# --- what texts are about --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What of the shop's catalogue a campaign is about."""

    items: Mapping[str, Item]
    """Those of the campaign that the shop still has."""
    lowest: Mapping[str, Decimal]
    """Lowest price of the 30 days before, of the items whose prices are known for so long."""
    brands: frozenset[str]
    """All of the shop's, and those that the campaign names."""
    vocabulary: frozenset[str] = frozenset()
    """Words beyond the facts that the shop's people approved."""
    domain: str = SHOP
    """The one that texts are written in."""
    day: FestiveDay | None = None
    """That of the campaign, as of the moment."""
    day_items: frozenset[str] = frozenset()
    """The goods of the day; needed to write, and not to check."""


def catalogue_at(workspace: Workspace, file: CampaignFile, item_ids: Iterable[str], moment: datetime) -> Catalogue:
    """As the store has it now, on offer at `moment`."""
    ids = set(item_ids)
    with workspace.store().read() as reader:  # by key: a catalogue has many more items than a campaign
        rows, brands, states = reader.items(sorted(ids)), reader.brands(), reader.item_states()
    rows = rows.with_columns(available=on_offer(rows, int(moment.timestamp())))
    items = {row["item_id"]: item_of(row) for row in rows.to_dicts()}
    vocabulary = approved_words(vocabulary_file(workspace.root))
    lowest = lowest_prices(states.filter(pl.col("item_id").is_in(sorted(ids))), moment)
    known_brands = frozenset(brands) | set(file.words.known_brands)
    domain, day = domain_of(workspace.locale()), festive_day(workspace.settings, file, moment)
    return Catalogue(items, lowest, known_brands, vocabulary, domain, day)


def festive_day(settings: Settings, file: CampaignFile, moment: datetime) -> FestiveDay | None:
    """The campaign's day of the calendar, the nearest to a moment."""
    day, today = file.target.day, moment.astimezone(ZoneInfo(settings.timezone or "UTC")).date()
    if day is None:
        return None
    on = nearest_date(day, settings, today)
    return FestiveDay(key=day.value, names=profile_of(day, settings).names, on=on, days_left=(on - today).days)


def lowest_prices(states: pl.DataFrame, moment: datetime) -> dict[str, Decimal]:
    """The lowest price that held within `PRICE_DAYS` days before a moment; of items that had a price by then alone.

    states: as `StoreReader.item_states`, in the order of time.
    """
    start = moment - timedelta(days=PRICE_DAYS)
    lowest = {}
    for (item_id,), of_item in states.filter(pl.col("price").is_not_null(), pl.col("at") <= moment).group_by("item_id"):
        before = of_item.filter(pl.col("at") <= start)
        if before.height:
            within = [before["price"][-1], *of_item.filter(pl.col("at") > start)["price"]]
            lowest[str(item_id)] = min(map(Decimal, within))
    return lowest


def facts_of(item: Item | None, file: CampaignFile) -> TextFacts:
    """What a text about the item may rest on; of an item that is gone, that it is gone."""
    if item is None:
        return TextFacts(title="", available=False)

    def amount(value: Decimal | None) -> str | None:
        return None if value is None else f"{value.normalize():f}"

    return TextFacts(
        title=item.title,
        price=amount(item.price),
        list_price=amount(file.list_prices.get(item.item_id)),
        currency=item.currency,
        available=item.available,
    )


# --- checks ----------------------------------------------------------------------------------------------------------


def message(file: CampaignFile, text: str, channel: str, locale: str, generator: str) -> str:
    """A text as it leaves, with what the law adds on its channel; the words of a model are marked as such."""
    return complete(text, channel=channel, locale=locale, sender=file.sender, generated=generator != TEMPLATE)


def copy_request(file: CampaignFile, catalogue: Catalogue, text: TextKey | CampaignText, now: datetime) -> CopyRequest:
    """What decides a text of the campaign, but for the reason and who writes."""
    return CopyRequest(
        item=catalogue.items[text.item_id],
        channel=text.channel,
        now=now,
        locale=in_domain(text.locale, catalogue.domain),
        seed=file.words.seed,
        known_brands=catalogue.brands,
        occasion=file.target.occasion,
        person=text.person,
        day=catalogue.day and replace(catalogue.day, is_season_good=text.item_id in catalogue.day_items),
        order_by=file.target.order_by,
        shop=file.sender.name,
        link=file.words.link or "",
        offer=file.offer,
        list_price=file.list_prices.get(text.item_id),
        evidence=_proofs(file, catalogue, text.item_id),
        packs=file.words.packs,
        voice=file.words.voice or Voice(),
        variants=file.words.variants,
        vocabulary=catalogue.vocabulary,
    )


def _proofs(file: CampaignFile, catalogue: Catalogue, item_id: str) -> dict[str, str]:
    """Those of the file, and the lowest price of 30 days by the store's history."""
    lowest = catalogue.lowest.get(item_id)
    return ({} if lowest is None else {"lowest_30d": f"{lowest}"}) | dict(file.evidence_for(item_id))


PRICE_DAYS = 30
"""Days before a reduction whose lowest price it is compared with: Directive 98/6/EC, Article 6a."""
MOST_VARIANTS = 8
"""Wordings of one text, for customers of whom the same may be said."""
GROUNDING = "grounding"
"""The rule of a word that nothing grounds, where findings name their rules."""
DAY_RULE = "day"
"""The rule of a text for a day of the calendar that is past, or far ahead."""


def verdict_of_notes(failures: Sequence[CheckNote], warnings: Sequence[CheckNote]) -> CopyVerdict:
    """The verdict that follows from what `check_notes` gives."""
    return CopyVerdict.BLOCKED if failures else CopyVerdict.PERSON if warnings else CopyVerdict.PASS


def check_notes(
    text: str, request: CopyRequest, file: CampaignFile, generator: str
) -> tuple[tuple[CheckNote, ...], tuple[CheckNote, ...]]:
    """What blocks a text, and what holds it for a person, under the facts of the request's item; a text with neither
    passes.

    What holds it includes each word that nothing grounds, and each slot of the finished message which is longer than
    the channel's limit: a second short message is a second price, which a person should agree to.
    """
    answer = review(text, request)
    if answer.verdict is not CopyVerdict.PASS:  # the shop's own texts name a till's title as it is written out
        written_out = review(text, request, facts=sayable_facts(request))
        answer = written_out if written_out.verdict is CopyVerdict.PASS else answer
    blocking = [check for check in answer.failures if not check.holds]
    failures = tuple(CheckNote(rule=c.guarantee, message=c.message, span=c.span) for c in blocking)
    holding = [check for check in answer.failures if check.holds]
    warnings = [CheckNote(rule=c.guarantee, message=c.message, span=c.span) for c in holding]
    warnings += [CheckNote(rule=w.rule, message=w.message, span=w.span) for w in answer.warnings]
    warnings += [
        CheckNote(rule=GROUNDING, message=f"no fact and no approved word grounds {word!r}", span=word)
        for word in dict.fromkeys(w.word for w in answer.ungrounded)
    ]
    if (day := request.day) is not None and not 0 <= day.days_left <= SENSIBLE_DAYS:
        why = (
            f"{day.names['en']} is on {day.on}, {abs(day.days_left)} days {'after' if day.days_left > 0 else 'before'}"
        )
        warnings.append(CheckNote(rule=DAY_RULE, message=f"{why} the text goes out; send it nearer to the day"))
    finished = message(file, text, request.channel, request.locale, generator)
    for slot, words in channel_named(request.channel).split(finished):
        length, limit = slot.length_and_limit(words)
        if length > limit:
            remark = f"with what the law adds, the {slot.name} takes {length} where {limit} fit"
            warnings.append(CheckNote(rule="G6", message=remark))
    return failures, tuple(warnings)


# --- writing ---------------------------------------------------------------------------------------------------------


class TextKey(NamedTuple):
    """What decides a text, besides the campaign."""

    item_id: str
    kind: str
    """A `ReasonKind`."""
    channel: str
    locale: str
    modelled: bool
    """Whether a generative model may be asked for it."""
    person: PersonFacts = PersonFacts()

    @classmethod
    def of(cls, person: PlannedPerson, modelled: bool, facts: PersonFacts) -> TextKey:
        """modelled: whether a generative model may be asked for a text that the customer gets."""
        return cls(person.item_id, person.kind, person.channel, person.locale, modelled, facts)


class Silence(StrEnum):
    """Why a customer gets no text about a product."""

    NOTHING_TO_SAY = "nothing_to_say"
    """What is known of the customer carries none."""
    NO_TEXT_FOR_PRODUCT = "no_text_for_product"
    """No text is written about such products."""


def verdicts_of_frames(
    workspace: Workspace, file: CampaignFile, catalogue: Catalogue, send: datetime
) -> Callable[[TextKey], CopyVerdict | Silence]:
    """What finds the verdict of the text that `write_texts` would begin with, without a generative model."""
    sheets: dict[tuple[str, str, str], FactSheet] = {}

    @cache
    def verdict(key: TextKey) -> CopyVerdict | Silence:
        request = copy_request(file, catalogue, key, send)
        request = replace(request, policy=workspace.policy, variants=1)
        about = key.item_id, key.channel, key.locale
        if about not in sheets:
            sheets[about] = sayable_facts(request)
        situation = situation_of(request, sheets[about])
        copies = write_copy(request) if frames_for(situation, key.channel, request.language) else ()
        if copies:
            return copies[0].verdict
        return Silence.NOTHING_TO_SAY if situation.reasons else Silence.NO_TEXT_FOR_PRODUCT

    return verdict


def public_keys(items: Iterable[str], file: CampaignFile) -> Iterator[TextKey]:
    """The texts of public channels, which say nothing of a customer."""
    for item in sorted(set(items)):
        for channel in file.public_channels:
            yield from (TextKey(item, ReasonKind.GENERAL, channel, locale, False) for locale in file.locales)


def write_texts(
    keys: Counter[TextKey],
    workspace: Workspace,
    file: CampaignFile,
    catalogue: Catalogue,
    send: datetime,
    *,
    generator: Generator | None,
) -> tuple[dict[TextKey, list[CampaignText]], list[str]]:
    """The variants of each key, the widest read first, and remarks. People of a key are shared out later.

    A key has one variant for every two of its customers, so that a mailing does not repeat itself, at least as many as
    the campaign compares, and at most `MOST_VARIANTS`; where no text passes, the one that fails; none where there is
    nothing to say.

    send: when texts go out.
    """
    texts: dict[TextKey, list[CampaignText]] = {}
    number, n_failed = 0, 0
    n_of_item: Counter[tuple[str, str]] = Counter()  # each key begins with other words than the one before
    for key in sorted(keys, key=lambda k: (-keys[k], str(k))):
        texts[key] = []
        request = copy_request(file, catalogue, key, send)
        request = replace(request, seed=request.seed + n_of_item[key.item_id, key.channel])
        n_of_item[key.item_id, key.channel] += 1
        n_variants = max(file.words.variants, min(MOST_VARIANTS, (keys[key] + 1) // 2))
        for copy, record in write_recorded(
            replace(request, policy=workspace.policy, variants=n_variants),
            generator=generator if key.modelled else None,
        ):
            number += 1
            save(record, workspace.root / COPIES)
            n_failed += any(check.guarantee == "G16" for _, checks in copy.rejected for check in checks)
            failures, warnings = check_notes(copy.text, request, file, copy.generator)
            text = CampaignText(
                **key._asdict(),
                id=f"t{number}",
                variant=len(texts[key]),
                text=copy.text,
                generator=copy.generator,
                record=record.id,
                failures=failures,
                warnings=warnings,
                facts=facts_of(request.item, file),
                people=0,
            )
            texts[key].append(text)
    remarks = []
    if n_failed:
        remarks.append(f"the generator failed at {n_failed} of {count_text(number, 'text')}; these are from templates")
    return texts, remarks
