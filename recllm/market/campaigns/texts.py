"""The distinct texts of a campaign: one per item, customer facts, channel, locale and variant, each written once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

import polars as pl

from recllm.base.documents import count_text
from recllm.base.schema import AdCopy, Check, CopyVerdict, Generator, Item, Occasion, ReasonKind
from recllm.base.settings import Settings
from recllm.base.words.sentences import section
from recllm.learn.features.collaborative import NEW_ITEM_DAYS
from recllm.market.adcopy.ads import item_of
from recllm.market.adcopy.channels import channel_named
from recllm.market.adcopy.packs import Pack
from recllm.market.adcopy.request import CopyRequest, FactSheet, FestiveDay, PersonFacts, Voice, voice_of
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.verify.guarantees import Review, review
from recllm.market.adcopy.write import sayable_facts, write_copy
from recllm.market.campaigns.file import CampaignFile
from recllm.market.campaigns.folder import CampaignText, CheckNote, TextFacts
from recllm.market.occasions.calendar import (
    SENSIBLE_DAYS,
    countries_of,
    day_names,
    is_of_other_day,
    is_out_of_season,
    named_days,
    nearest_date,
)
from recllm.shop.data.catalogue import on_offer
from recllm.shop.workspace.workspace import Workspace
from recllm.text.domains import SHOP, domain_of, in_domain


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What of the shop's catalogue a campaign is about."""

    items: Mapping[str, Item]
    """Those of the campaign that the shop still has."""
    lowest: Mapping[str, Decimal]
    """Lowest price of the 30 days before, of the items whose prices are known for so long."""
    brands: frozenset[str]
    """All of the shop's, and those that the campaign names."""
    voice: Voice
    """The shop's."""
    domain: str = SHOP
    """The one that texts are written in."""
    packs: tuple[Pack, ...] = ()
    """Those that the campaign names, else all as they hold in the shop's country."""
    arrived: frozenset[str] = frozenset()
    """Those that came within `NEW_ITEM_DAYS`, and not with the first load."""
    day: FestiveDay | None = None
    """That of the campaign, as of the moment."""
    day_items: frozenset[str] = frozenset()
    """The goods of the day; needed to write, and not to check."""


def catalogue_at(
    workspace: Workspace,
    file: CampaignFile,
    item_ids: Iterable[str],
    moment: datetime,
) -> Catalogue:
    """As the store has it now, on offer at `moment`."""
    ids = set(item_ids)
    with workspace.store().read() as reader:  # by key: a catalogue has many more items than a campaign
        rows, brands, states = reader.items(sorted(ids)), reader.brands(), reader.item_states()
    rows = rows.with_columns(available=on_offer(rows, int(moment.timestamp())))
    items = {row["item_id"]: item_of(row) for row in rows.to_dicts()}
    first = states.group_by("item_id").agg(pl.col("at").min())
    start = moment - timedelta(days=NEW_ITEM_DAYS)
    arrived = first.filter(pl.col("at") > pl.col("at").min(), pl.col("at") >= start)["item_id"]
    lowest = lowest_prices(states.filter(pl.col("item_id").is_in(sorted(ids))), moment)
    known_brands = frozenset(brands) | set(file.words.known_brands)
    domain = domain_of(workspace.locale())
    packs, countries = file.words.packs, countries_of(workspace.settings)
    if "packs" not in file.words.model_fields_set:
        packs = tuple(pack.in_countries(countries) for pack in packs)
    day = festive_day(workspace.settings, file, moment)
    voice = voice_of(workspace.root)
    return Catalogue(items, lowest, known_brands, voice, domain, packs, frozenset(arrived), day)


def festive_day(settings: Settings, file: CampaignFile, moment: datetime) -> FestiveDay | None:
    """The campaign's day of the calendar, the nearest to a moment."""
    day, today = file.target.day, moment.astimezone(settings.zone).date()
    if day is None:
        return None
    on = nearest_date(day, settings, today)
    return FestiveDay(key=day.value, names=day_names(day), on=on, days_left=(on - today).days)


def lowest_prices(states: pl.DataFrame, moment: datetime) -> dict[str, Decimal]:
    """The lowest price within `PRICE_DAYS` days before a moment, of items that had one by then. states: by time."""
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
        price=amount(item.price or FactSheet.of(item).price_from),
        list_price=amount(file.list_prices.get(item.item_id)),
        currency=item.currency,
        available=item.available,
    )


def copy_request(
    file: CampaignFile,
    catalogue: Catalogue,
    text: TextKey | CampaignText,
    now: datetime,
) -> CopyRequest:
    """What decides a text of the campaign, but for the reason and who writes."""
    lowest = catalogue.lowest.get(text.item_id)
    of_history = {} if lowest is None else {"lowest_30d": f"{lowest}"}
    is_known = text.person.times_bought or text.person.in_cart
    is_new = text.item_id in catalogue.arrived and not is_known
    new_arrival = Occasion.NEW_ARRIVAL if is_new else None
    return CopyRequest(
        item=catalogue.items[text.item_id],
        channel=text.channel,
        now=now,
        locale=in_domain(text.locale, catalogue.domain),
        seed=file.words.seed,
        known_brands=catalogue.brands,
        occasion=file.target.text_occasion or new_arrival,
        person=text.person,
        day=catalogue.day and replace(catalogue.day, is_season_good=text.item_id in catalogue.day_items),
        order_by=file.target.order_by,
        shop=file.sender.name,
        link=file.words.link or "",
        offer=file.offer,
        list_price=file.list_prices.get(text.item_id),
        evidence=of_history | file.evidence_for(text.item_id),
        packs=catalogue.packs,
        voice=catalogue.voice,
        variants=file.words.variants,
    )


PRICE_DAYS = 30
"""Days before a reduction whose lowest price it is compared with: Directive 98/6/EC, Article 6a."""
LISTED_TITLES = 5
"""Titles that a remark names."""
MOST_VARIANTS = 8
"""Wordings of one text, for customers of whom the same may be said."""
GROUNDING = "grounding"
"""The rule of a word that nothing grounds, where findings name their rules."""
DAY_RULE = "day"
"""The rule of a text for a day of the calendar that is past, or far ahead."""


def check_notes(
    text: str, request: CopyRequest, file: CampaignFile, generator: str, *, is_verified: bool = False
) -> tuple[tuple[CheckNote, ...], tuple[CheckNote, ...]]:
    """What blocks a text, and what holds it for a person, under the facts of the request's item: also each word that
    nothing grounds, and each slot of the finished message over the channel's limit, as a second short message is a
    second price. is_verified: it passed for this request."""
    answer = Review(()) if is_verified else review(text, request)
    if answer.verdict is not CopyVerdict.PASS:  # the shop's own texts name a till's title written out
        written_out = review(text, request, facts=sayable_facts(request))
        answer = written_out if written_out.verdict is CopyVerdict.PASS else answer
    failed = [(CheckNote(rule=c.guarantee, message=c.message, span=c.span), c.holds) for c in answer.failures]
    failures = tuple(note for note, holds in failed if not holds)
    warnings = [note for note, holds in failed if holds]
    warnings += [CheckNote(rule=w.rule, message=w.message, span=w.span) for w in answer.warnings]
    warnings += [
        CheckNote(rule=GROUNDING, message=f"neither a fact nor the shop's voice holds {word!r}", span=word)
        for word in dict.fromkeys(w.word for w in answer.ungrounded)
    ]
    if (day := request.day) is not None and not 0 <= day.days_left <= SENSIBLE_DAYS:
        when = f"{abs(day.days_left)} days {'after' if day.days_left > 0 else 'before'} the text goes out"
        remark = f"{day.names['en']} is on {day.on}, {when}; send it nearer to the day"
        warnings.append(CheckNote(rule=DAY_RULE, message=remark))
    finished = file.message(text, request.channel, request.locale, generator)
    for slot, words in channel_named(request.channel).split(finished):
        length, limit = slot.length_and_limit(words)
        if length > limit:
            remark = f"with what the law adds, the {slot.name} takes {length} where {limit} fit"
            warnings.append(CheckNote(rule="G6", message=remark))
    return failures, tuple(warnings)


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


class Silence(StrEnum):
    """Why a customer gets no text about a product; the nearest to a text last."""

    NO_TEXT_FOR_PRODUCT = "no_text_for_product"
    """No text is written about such products, or their name cannot be used."""
    OTHER_DAY = "other_day"
    """They are named after another day, or one that is not near."""
    NO_SAVING = "no_saving"
    """The offer makes them no cheaper."""
    NO_PROOF = "no_proof"
    """A law forbids the offer without a proof that is missing."""
    NOTHING_TO_SAY = "nothing_to_say"
    """What is known of the customer carries none."""
    TEXT_BLOCKED = "text_blocked"
    """A check stops every one."""


@dataclass(frozen=True, eq=False)
class CampaignWriter:
    """Writes the texts of a campaign that go out at `send`; what holds for a product is found once."""

    workspace: Workspace
    file: CampaignFile
    catalogue: Catalogue
    send: datetime
    sheets: dict[tuple[str, str, str], FactSheet] = field(default_factory=dict)
    """Product, channel and locale -> what may be said of the product."""
    silences: dict[tuple[str, str, str], Silence | None] = field(default_factory=dict)
    """The same -> why no customer gets a text about it; None where some may."""
    verdicts: dict[TextKey, Silence | None] = field(default_factory=dict)
    unproven: dict[str, Check] = field(default_factory=dict)
    """Product -> the check that asks for a proof."""

    @property
    def silent_items(self) -> dict[str, Silence]:
        """Product -> why nothing is said of it to any customer of a channel and locale."""
        return {item_id: silence for (item_id, _, _), silence in self.silences.items() if silence is not None}

    def request(self, key: TextKey) -> tuple[CopyRequest, FactSheet]:
        request = replace(copy_request(self.file, self.catalogue, key, self.send), policy=self.workspace.policy)
        about = key.item_id, key.channel, key.locale
        if about not in self.sheets:
            self.sheets[about] = sayable_facts(request)
        return request, self.sheets[about]

    def silence(self, item_id: str, channel: str, locale: str) -> Silence | None:
        """Why nothing is said of a product to any customer; None where it depends on the customer."""
        about = item_id, channel, locale
        if about not in self.silences:
            key = TextKey(item_id, ReasonKind.GENERAL, channel, locale, modelled=False)
            self.silences[about] = None
            item, day = self.catalogue.items[item_id], self.file.target.day
            named = named_days(" > ".join([item.title, *item.category]).lower())
            settings, today = self.workspace.settings, self.send.date()
            if is_out_of_season(named, settings, today) if day is None else is_of_other_day(named, day):
                self.silences[about] = Silence.OTHER_DAY
            elif self.file.offer and item.price and not self.file.offer.saves(item.price):
                self.silences[about] = Silence.NO_SAVING
            elif not situation_of(*self.request(key)).reasons:
                self.silences[about] = Silence.NO_TEXT_FOR_PRODUCT
            elif self.file.offer is not None and self.verdict(key) is Silence.NO_PROOF:
                self.silences[about] = Silence.NO_PROOF
        return self.silences[about]

    def verdict(self, key: TextKey) -> Silence | None:
        """Why the first text, without a generative model, cannot go out; None where it can."""
        key = key._replace(kind=ReasonKind.GENERAL, modelled=False)  # they decide no word of it
        if key not in self.verdicts:
            request, facts = self.request(key)
            copies = write_copy(replace(request, variants=1), facts=facts)
            silence = None if copies else Silence.NOTHING_TO_SAY
            for copy in copies:
                failures, _ = self.notes(copy, request)
                missing = next((check for check in copy.checks if check.needs), None)
                if failures and missing is not None and self.file.offer is not None:
                    silence = Silence.NO_PROOF
                    self.unproven.setdefault(key.item_id, missing)
                elif failures:
                    silence = Silence.TEXT_BLOCKED
            self.verdicts[key] = silence
        return self.verdicts[key]

    def texts(
        self, keys: Counter[TextKey], *, generator: Generator | None
    ) -> tuple[dict[TextKey, list[CampaignText]], list[str]]:
        """The variants of each key, the widest read first, and remarks.

        A key has one for every two of its customers, at least as many as the campaign compares, and at most
        `MOST_VARIANTS`. Where no text passes it is the one that fails.
        """
        texts: dict[TextKey, list[CampaignText]] = {}
        number, n_failed = 0, 0
        n_of_item: Counter[tuple[str, str]] = Counter()
        used: Counter[str] = Counter()
        for key in sorted(keys, key=lambda k: (-keys[k], str(k))):
            texts[key] = []
            request, facts = self.request(key)
            n_variants = max(self.file.words.variants, min(MOST_VARIANTS, (keys[key] + 1) // 2))
            # each key begins with other words than the one before
            seed = request.seed + n_of_item[key.item_id, key.channel]
            n_of_item[key.item_id, key.channel] += 1
            # where no text that begins so passes, those of the verdict
            for first_draw in dict.fromkeys((seed, request.seed)):
                written = write_copy(
                    replace(request, variants=n_variants, seed=first_draw),
                    generator=generator if key.modelled else None,
                    facts=facts,
                    used=used,
                )
                notes = [self.notes(copy, request) for copy in written]
                if not any(failures for failures, _ in notes):
                    break
            for copy, (failures, warnings) in zip(written, notes, strict=True):
                number += 1
                checks = [check for _, failed in copy.rejected for check in failed]
                n_failed += any(check.guarantee == "G16" for check in checks)
                text = CampaignText(
                    **key._asdict(),
                    id=f"t{number}",
                    variant=len(texts[key]),
                    text=copy.text,
                    generator=copy.generator,
                    failures=failures,
                    warnings=warnings,
                    facts=facts_of(request.item, self.file),
                    people=0,
                )
                texts[key].append(text)
        of_all = f"{n_failed} of {count_text(number, 'text')}"
        return texts, [f"the generator failed at {of_all}; these are from templates"] if n_failed else []

    def notes(self, copy: AdCopy, request: CopyRequest) -> tuple[tuple[CheckNote, ...], tuple[CheckNote, ...]]:
        """As `check_notes`."""
        return check_notes(copy.text, request, self.file, copy.generator, is_verified=copy.verified)

    def product_remarks(self) -> Iterator[str]:
        """Which products nothing is said of, and why."""
        why = section("campaigns.silent_item", "en")
        for silence in Silence:
            item_ids = [name for name, reason in self.silent_items.items() if reason is silence]
            titles = [repr(self.catalogue.items[name].title) for name in item_ids[:LISTED_TITLES]]
            if item_ids:
                n_items, dots = count_text(len(item_ids), "product"), ", ..." * (len(item_ids) > LISTED_TITLES)
                yield f"{n_items} left out, as {why[silence]}: {', '.join(titles)}{dots}"
