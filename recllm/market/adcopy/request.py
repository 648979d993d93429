"""What to write: one frozen request that is checked when it is made and passed on down to the verifier.

    request = CopyRequest(item=item, channel="push", now=now, locale="en", person=PersonFacts(in_cart=True))

With it the facts of its item, which are all that may be said. Every lister of a product can write into its title: a
text with instructions, code or reversed writing counts as empty.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import ConfigDict, Strict
from pydantic.dataclasses import dataclass as checked_dataclass

from recllm.base.documents import FilledText, parsed, toml_table
from recllm.base.errors import DataError, PromptError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import VARIANT_PRICES, Item, Occasion, Reason, ReasonKind, exact_amount
from recllm.base.words.sentences import LANGUAGES, language
from recllm.market.adcopy.channels import Channel, channel_named
from recllm.market.adcopy.frames import wording_days
from recllm.market.adcopy.lexicon import families, fold, limit, pattern, read, table, translation, words
from recllm.market.adcopy.packs import Pack
from recllm.market.adcopy.quantities import Quantity, QuantityKind, quantities
from recllm.text.domains import Domain, domain_of, without_domain
from recllm.text.injection import TITLE_CHARS, neutralise
from recllm.text.personal_data import without_personal_data
from recllm.text.templates import Prompts

_DIGITS_AS_LETTERS = translation("injection.digits_as_letters")

Words = tuple[FilledText, ...]
Flag = Annotated[bool, Strict()]


class OfferType(StrEnum):
    PERCENT = "percent"
    """`value` per cent off the price."""
    AMOUNT = "amount"
    """`value` off the price, in the item's currency."""
    FREE_SHIPPING = "free_shipping"
    GIFT = "gift"
    BOGO = "bogo"
    """`count` for the price of one less, or for `value` together: buy one, get one free; 3 for 2; 3 for £10."""
    COUPON = "coupon"
    """A coupon exists; `value`, when given, is what it takes off, in the item's currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An offer, from `start` on, before `end`, each open if None. Raises `DataError` for a wrong value."""

    type: OfferType
    value: Decimal | None = None
    start: datetime | None = None
    end: datetime | None = None
    count: int = 2
    """Of an offer on several."""
    code: str | None = None
    min_spend: Decimal | None = None
    """Least value of an order, in the item's currency."""
    gift: str | None = None
    """What is given, such as "tote bag"."""
    scope: str | None = None
    """What it is for, as a text says it: "hair care".
    None for the item, or for the whole order."""
    excluded: str | None = None
    """What it is not for, as a text says it: "gift cards"."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", exact_amount(self.value, "the value of an offer"))
        object.__setattr__(self, "min_spend", exact_amount(self.min_spend, "the least value of an order"))
        needs_value = self.type in (OfferType.PERCENT, OfferType.AMOUNT)
        if needs_value and (self.value is None or self.value <= 0):
            raise DataError(f"an offer of type {self.type} needs a value above 0, not {self.value}")
        if self.type is OfferType.PERCENT and self.value is not None and self.value >= 100:
            raise DataError(f"an offer of {self.value} % off is no price; percent offers lie between 0 and 100")
        if self.count < 2:
            raise DataError(f"an offer on several is for at least 2, not {self.count}")
        for name, moment in (("start", self.start), ("end", self.end)):
            if moment is not None and moment.tzinfo is None:
                raise DataError(f"the offer's {name} {moment} has no time zone; give an aware time")

    def reduced(self, price: Decimal) -> Decimal | None:
        """What a price becomes; None for an offer that is not on the price."""
        if self.value is None:
            return None
        if self.type is OfferType.PERCENT:
            return price * (100 - self.value) / 100
        is_amount = self.type in (OfferType.AMOUNT, OfferType.COUPON) and self.value < price
        return price - self.value if is_amount else None

    def saves(self, price: Decimal) -> bool:
        """Whether it makes an item of this price cheaper, or is for the whole order."""
        n_items = {OfferType.BOGO: self.count, OfferType.AMOUNT: 1}.get(self.type)
        return not (n_items and self.value and self.min_spend is None) or self.value < n_items * price

    def runs(self, now: datetime) -> bool:
        return (self.start is None or self.start <= now) and (self.end is None or now < self.end)


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Voice:
    """How a brand speaks; the defaults bind nothing. As TOML:

    banned = ["cheap", "guys"]
    address = "您"
    exclamation = false
    """

    banned: Words = ()
    """Stand in no text: whole words in Latin script, anywhere in Chinese; "*" stands for up to 20 letters."""
    required: Words = ()
    """Stand in every text."""
    words: Words = ()
    """Words and phrases beyond the facts that a text may hold; several Latin words only together."""
    address: Literal["您", "你"] | None = None
    """您 or 你 in Chinese texts: the other one is not used. None for either."""
    emoji: Flag = True
    exclamation: Flag = True
    tone: Literal["plain", "warm", "playful", "premium"] | None = None
    """Only frames of this voice; None for all."""


VOICE_FILE = "voice.toml"
"""In a workspace's folder."""


def voice_of(workspace: Path) -> Voice:
    """How the shop speaks in all its texts; the defaults where the folder has no `voice.toml`.
    Raises `DataError` with the file and the field that is wrong."""
    file = workspace / VOICE_FILE
    try:
        values = toml_table(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Voice()
    except ValueError as error:
        raise DataError(f"{file}: no brand voice, since it is not TOML: {error}") from error
    return parsed(Voice, values, owner="a voice", prefix=f"{file}: ")


class Ago(NamedTuple):
    """A time in the past, as a text may tell it: roughly."""

    days: float
    on: date

    @classmethod
    def of(cls, days: float, today: date) -> Self:
        return cls(days, today - timedelta(days=round(days)))

    def coarse(self) -> Self:
        """The same for all times that the same words name."""
        edges = wording_days()
        edge = edges[bisect_right(edges, self.days) - 1]
        third = 5 if self.on.day <= 10 else 15 if self.on.day <= 20 else 25
        return self._replace(days=edge, on=self.on.replace(day=third))


class ThingFacts(NamedTuple):
    """Another item that a text names."""

    title: str
    category: tuple[str, ...] = ()
    brand: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonFacts:
    """What a text may say of the customer and the item; the defaults say nothing."""

    times_bought: int = 0
    is_repurchased: bool | None = None
    """Whether customers come back for it; None where unknown."""
    every_days: float | None = None
    """Median days between purchases, of a steady buyer alone: at least three, the middle half of the gaps within a
    third of the median."""
    last: Ago | None = None
    """The last purchase of the item."""
    waited: float | None = None
    """Days since then over `every_days`."""
    in_cart: bool = False
    with_item: ThingFacts | None = None
    """Something the customer bought that is bought together with the item more often than chance."""
    with_last: Ago | None = None
    because: ThingFacts | None = None
    """The purchase that a recommendation's reason names."""
    category_bought: int = 0
    """Purchases in the item's category within a year."""
    brand_bought: int = 0
    away: Ago | None = None
    """The last purchase of a customer who has stayed away."""
    first_order: ThingFacts | None = None
    """What the customer bought, if it was the first and only order, lately."""
    bought_last_year: bool = False
    """Around the same day of last year."""

    @property
    def is_customer(self) -> bool:
        """Whether a purchase of the customer is known, or something in the cart."""
        bought = self.times_bought or self.category_bought or self.brand_bought or self.bought_last_year
        return bool(bought or self.in_cart or self.with_item or self.because or self.away or self.first_order)

    def coarse(self) -> PersonFacts:
        """The same for all customers who read the same words."""
        edges = (0.75, 0.85, 0.95, 1.25, 1.4, 2.0, 3.0)
        waited = self.waited
        if waited is not None:
            waited = (0.5, 0.8, 0.9, 1.0, 1.3, 1.7, 2.5, 4.0)[bisect_right(edges, waited)]
        return replace(
            self,
            times_bought=min(self.times_bought, 10),
            every_days=self.every_days and Ago(self.every_days, date.max).coarse().days,
            last=self.last and self.last.coarse(),
            waited=waited,
            with_last=self.with_last and self.with_last.coarse(),
            category_bought=min(self.category_bought, 3),
            brand_bought=min(self.brand_bought, 3),
            away=self.away and self.away.coarse(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FestiveDay:
    """A day of the calendar that a text is for."""

    key: str
    """As frames name it: christmas, double_11, ..."""
    names: Mapping[str, str]
    """Language -> name."""
    on: date
    days_left: int
    is_season_good: bool = False
    """The item sold more around the day in earlier years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """Everything that decides a text but the generator.
    Raises `UsageError` or `DataError` for a wrong value."""

    item: Item
    channel: str
    """A name of data/channels.toml."""
    now: datetime
    """An aware time; decides whether the offer runs."""
    locale: str = "en"
    """Language and perhaps region and domain, such as en, en-GB or zh@media."""
    occasion: Occasion | None = None
    """Why the text comes now."""
    person: PersonFacts = PersonFacts()
    """What may be said of the customer."""
    day: FestiveDay | None = None
    order_by: date | None = None
    """The last day to order for `day`."""
    shop: str = ""
    """The shop's name."""
    link: str = ""
    """Where the text leads to, as short as a text shows it: "shop.example/oat"."""
    seed: int = 0
    known_brands: frozenset[str] = frozenset()
    """The catalogue's brands: none but the item's own may be named."""
    offer: Offer | None = None
    list_price: Decimal | None = None
    """The former price, any number of at least 0."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """Proofs that the shop has, by the key of the claim in data/claims.toml or of the rule that asks for them, for
    instance {"certification": "EU 2018/848, no. 123"}."""
    policy: Policy = field(default_factory=Policy)
    """Of items of its sensitive categories nothing is said of the customer, and no model is asked."""
    packs: tuple[Pack, ...] = ()
    """The laws where the text goes. A text with an offer that they forbid is blocked."""
    voice: Voice = field(default_factory=Voice)
    """The brand's."""
    variants: int = 1
    """Most texts that differ."""

    def __post_init__(self) -> None:
        channel_named(self.channel)
        checked_locale(self.locale)
        if self.now.tzinfo is None:
            raise UsageError(f"now is {self.now}, which has no time zone; give an aware time")
        if self.variants < 1:
            raise UsageError(f"variants is {self.variants}; ask for at least 1")
        object.__setattr__(self, "list_price", exact_amount(self.list_price, "the list price"))
        longest = limit("name_chars")  # each check takes time by the length, and a longer one is never shown
        category = tuple(name[:longest] for name in self.item.category[-limit("max_levels") :])
        object.__setattr__(self, "item", replace(self.item, title=self.item.title[:longest], category=category))
        object.__setattr__(self, "known_brands", frozenset(self.known_brands))

    @property
    def language(self) -> str:
        """ "en" or "zh"."""
        return language(self.locale)

    @property
    def region(self) -> str:
        """ "US" for dates and words as they are written there; else "GB"."""
        return "US" if without_domain(self.locale).replace("_", "-").endswith("-US") else "GB"

    @property
    def domain(self) -> Domain:
        """What people do with the item, which decides the words."""
        return Prompts.load().domain(domain_of(self.locale))

    @property
    def free_words(self) -> frozenset[str]:
        """Words beyond the facts that a text may hold: the brand's and the domain's own."""
        return frozenset((*self.domain.neutral[self.language], *self.voice.words, *self.voice.required))

    @property
    def limits(self) -> Channel:
        """The slots and limits of the channel."""
        return channel_named(self.channel)

    @property
    def lowest_price(self) -> Decimal | None:
        """The lowest price of the past 30 days, where the proof of it is an amount."""
        amounts = (QuantityKind.MONEY, QuantityKind.NUMBER)
        stated = [q.value for q in quantities(self.evidence.get("lowest_30d", "")) if q.kind in amounts]
        return stated[0] if len(stated) == 1 else None

    @property
    def is_sensitive(self) -> bool:
        return self.policy.is_sensitive((*self.item.category, self.item.title))

    @property
    def running_offer(self) -> Offer | None:
        """The offer while it runs, of a kind that the domain has."""
        offer = self.offer
        return offer if offer and offer.runs(self.now) and offer.type in self.domain.offers else None

    @property
    def is_hostile(self) -> bool:
        """True when a text of the item that is shown or asked about speaks to machines."""
        item = self.item
        attributes = chain.from_iterable(islice(item.attributes.items(), limit("max_attributes")))
        texts = (item.title, item.brand, *item.category, *attributes)
        return any(speaks_to_machines(text) for text in texts if text)


def checked_locale(locale: str) -> str:
    """The locale, when texts can be written in its language; raises `UsageError` otherwise."""
    if language(locale) not in LANGUAGES:
        raise UsageError(f"unknown locale {locale!r}; texts are written in: {', '.join(LANGUAGES)}")
    try:
        Prompts.load().domain(domain_of(locale))
    except PromptError as error:
        raise UsageError(f"unknown locale {locale!r}: {error}") from None
    return locale


def reason_kind(reason: Reason | None, item_id: str) -> ReasonKind:
    """From the evidence of a reason; GENERAL where there is none, or it does not count."""
    if reason is None or reason.delta < 0:
        return ReasonKind.GENERAL
    source, _, evidence = reason.evidence_id.partition(":")
    if source == "B":
        return ReasonKind.KNOWN if evidence == item_id else ReasonKind.TOGETHER
    return {"H": ReasonKind.INTEREST, "I": ReasonKind.PICKED}.get(source, ReasonKind.GENERAL)


@dataclass(frozen=True, kw_only=True)
class FactSheet:
    """The facts of one item. Only what stands here may be said; build it with `of`."""

    title: str
    brand: str | None = None
    category: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    price: Decimal | None = None
    price_from: Decimal | None = None
    """The lowest of the variants' prices, where these differ."""
    currency: str | None = None
    description: str = ""
    """Grounds words; no claim is proven by it."""
    has_title: bool = True
    """False where the title may not be shown, and a category or a general name stands for it."""

    @classmethod
    def of(cls, item: Item) -> FactSheet:
        """The sheet of an item: texts made harmless, at most six attributes, in the order of the catalogue.

        A text that speaks to machines counts as empty: no shop sells a thing of that name. So does a sentence where a
        name belongs: no brand, category or attribute is called so, and what it states would count as a fact.
        """
        longest, longest_description = limit("attribute_chars"), limit("description_chars")
        attributes = {
            _name(name, longest): _harmless(value, longest)
            for name, value in list(item.attributes.items())[: limit("max_attributes")]
            if name != VARIANT_PRICES
        }
        brand = _name(item.brand or "", longest)
        prices = item.attributes.get(VARIANT_PRICES, "").replace(",", ".").split("\n")
        are_read = item.price is None and all(re.fullmatch(r"\d+(?:\.\d{1,2})?", price) for price in prices)
        return cls(
            title=_harmless(item.title),
            brand=None if not brand or fold(brand) in table("brands.toml")["no_names"] else brand,
            category=tuple(c for c in (_name(name) for name in item.category) if c),
            attributes={name: value for name, value in attributes.items() if name and value},
            price=item.price if item.price is None or item.price > 0 else None,
            price_from=min(map(Decimal, prices)) if are_read else None,
            currency=item.currency,
            description=_harmless(
                without_personal_data((item.description or "")[: limit("description_read")]), longest_description
            ),
        )

    @property
    def names(self) -> tuple[str, ...]:
        return (self.title, *self.category)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every text of the sheet: title, brand, categories, attribute names and values."""
        attributes = chain(self.attributes, self.attributes.values())
        return tuple(filter(None, (self.title, self.brand, *self.category, *attributes)))

    @cached_property
    def folded(self) -> str:
        """All texts folded for matching, one a line."""
        return "\n".join(read(text).squashed for text in self.texts)

    @cached_property
    def words(self) -> frozenset[str]:
        """The folded words of all texts."""
        return frozenset(word for text in self.texts for word in words(text))

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities that the texts state: sizes, counts, shares.
        Prices are never taken from a text."""
        counts = (f"{value} {name}" for name, value in self.attributes.items() if value.isdigit())  # pieces = 50
        return tuple(q for text in (*self.texts, *counts) for q in quantities(text))


def _harmless(text: str, max_chars: int = TITLE_CHARS) -> str:
    return "" if speaks_to_machines(html.unescape(text)) else neutralise(text, max_chars=max_chars)


def _name(text: str, max_chars: int = TITLE_CHARS) -> str:
    harmless = _harmless(text, max_chars)
    ends = harmless.endswith((".", "!", "?", "。", "！", "？"))
    return "" if ends and len(words(harmless)) >= limit("sentence_words") else harmless


def speaks_to_machines(text: str) -> bool:
    """True for instructions, role tokens, code, links and hidden writing, in the beginning of a catalogue's text."""
    text = text[: limit("name_chars")]
    folded, shapes = fold(text), (pattern("reading.role_token"), pattern("injection.code"))
    if pattern("injection.hidden").search(text) or any(shape.search(folded) for shape in shapes):
        return True
    readings = (read(text), read(folded.translate(_DIGITS_AS_LETTERS)))
    return any(family.find(reading) for family in families("instructions.toml") for reading in readings)
