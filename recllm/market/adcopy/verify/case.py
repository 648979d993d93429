"""What one text is checked against, and the small pieces that the checks share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, cached_property, lru_cache

from recllm.market.adcopy.lexicon import (
    HAN_RUN,
    Reading,
    any_of,
    bases,
    fold,
    limit,
    pattern,
    read,
    stems,
    table,
    word_class,
    words,
)
from recllm.market.adcopy.naming import OTHER_SHELF, name_and_size, shelf, written_out
from recllm.market.adcopy.quantities import Deadline, Quantity, QuantityKind, deadlines, quantities
from recllm.market.adcopy.request import CopyRequest, FactSheet, Offer, OfferType
from recllm.text.personal_data import PersonalDataKind, find_personal_data
from recllm.text.plurals import stem
from recllm.text.templates import Prompts, natural

_CLAUSE = re.compile(r"[.,!?:;()…–—，。！？：；、（）\n]+")
_AFTER_MONTH = pattern("quantities.after_month", MONTHS="|".join(rf"(?<={month}\.) " for month in word_class("months")))
"""Ends a sentence: "in late September. 20% off" is no date."""
_LATIN_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_OF_OFFER = ("offer", "until", "pay")
"""Slots in Chinese that name no thing."""
_IT = {"en": "it", "zh": "它"}
"""Stands for the name of a work where claims are looked for."""
_WORDS_OF_NAME = {True: 2, False: 3}
"""Words, or Chinese characters, that make a name that is no plain word: by whether it is in plain Latin script."""
_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}
_CONSUMED = ("food", "drink", "care", "pets")
"""Shelves whose items are eaten, drunk or put on the skin."""


@cache
def listed(language: str, name: str) -> frozenset[str]:
    return frozenset(str(table(f"surroundings.{language}.toml")[name]).split())


_CHINESE_NAMES = any_of(map(fold, listed("zh", "things") | listed("zh", "food")))
_CHINESE_THINGS = re.compile(_CHINESE_NAMES)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A text with everything that decides whether it may be said."""

    text: str
    facts: FactSheet
    request: CopyRequest
    slots: Mapping[str, str] = field(default_factory=dict)
    """What is known of the item, the customer, the occasion, the offer and the shop, as texts say it."""

    @cached_property
    def reading(self) -> Reading:
        """Without a "lowest price in 30 days" that the proof shows to be true."""
        reading = read(self.text)
        if not self.is_lowest_price:
            return reading
        return read(pattern("claims.lowest_30d").sub(" ", reading.folded))

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """Each once, line by line: a line's last number and the next line's first are two."""
        lines = _AFTER_MONTH.sub("\n", self.text).split("\n")
        if self.is_lowest_price:
            lines = [pattern("claims.lowest_30d").sub(" ", fold(line)) for line in lines]
        return tuple(dict.fromkeys(q for line in lines for q in quantities(line)))

    @cached_property
    def personal_data(self) -> tuple[tuple[PersonalDataKind, str], ...]:
        """What the text holds of it, also dressed up; a name or a street of the item's own facts is the item's."""
        texts = dict.fromkeys((self.text, self.reading.folded))
        pieces = ((f.kind, text[f.start : f.end]) for text in texts for f in find_personal_data(text))
        folded = {(kind, fold(piece)): (kind, piece) for kind, piece in pieces}
        may_be_named = (PersonalDataKind.NAME, PersonalDataKind.ADDRESS)
        return tuple(folded[key] for key in folded if not (key[0] in may_be_named and key[1] in self.facts.folded))

    @cached_property
    def is_lowest_price(self) -> bool:
        """True when the price is not above the lowest one of 30 days."""
        price, lowest = self.facts.price, self.request.lowest_price
        return price is not None and lowest is not None and price <= lowest

    @property
    def former(self) -> Decimal | None:
        """The former price; where no list price is known, the lowest one of 30 days by its proof."""
        return self.request.list_price or self.request.lowest_price

    @property
    def saving(self) -> Decimal | None:
        """What the former price lies above the price, where no offer changes it any more."""
        price, former = self.facts.price, self.former
        is_final = self.offer is None or self.offer_is_in_price
        return former - price if price and former and former > price and is_final else None

    @property
    def offer_is_in_price(self) -> bool:
        """True where the price is what the running offer leaves of the former price, as some shops keep their lists."""
        price, former, offer = self.facts.price, self.request.list_price, self.offer
        left = None if former is None or offer is None else offer.reduced(former)
        return left is not None and price is not None and abs(left - price) < Decimal("0.01")

    @cached_property
    def stated(self) -> frozenset[tuple[QuantityKind, Decimal | None, str]]:
        """The quantities of `slots` and of what the customer bought, and the counts, shares and days of proofs; none of
        them sets a price."""
        person = self.request.person
        bought = (thing.title for thing in (person.with_item, person.because, person.first_order) if thing)
        stated = [q for text in (*self.slots.values(), *bought) for q in quantities(text)]
        counts = (q for q in (*stated, *self.evidence_quantities) if q.kind is not QuantityKind.MONEY)
        return frozenset((q.kind, q.value, q.unit) for q in counts)

    def tells_time(self, quantity: Quantity) -> bool:
        """True for a time that is known of the customer, as roughly as texts tell times: "two weeks" of 15 days."""
        person, days = self.request.person, _DAYS.get(quantity.unit)
        times = [person.every_days, *(ago.days for ago in (person.last, person.with_last, person.away) if ago)]
        stated = float(quantity.value or 0) * (days or 0)
        return days is not None and any(time and abs(stated - time) <= time / 6 for time in times)

    @cached_property
    def terms_folded(self) -> str:
        """The offer and its day in words, its gift, scope and exclusions, folded, one a line."""
        offer = self.offer
        texts = (*map(self.slots.get, ("offer", "occasion")), offer.gift, offer.scope, offer.excluded) if offer else ()
        return "\n".join(read(text).squashed for text in texts if text)

    @cached_property
    def amounts_of_terms(self) -> frozenset[Decimal | None]:
        """The amounts of the shop's terms: "2 for £5", "free delivery from £50"."""
        stated = quantities(self.request.evidence.get("terms", ""))
        return frozenset(q.value for q in stated if q.kind is QuantityKind.MONEY)

    @cached_property
    def evidence_quantities(self) -> tuple[Quantity, ...]:
        """The counts, shares and days that the proofs of the shop state; a proof sets no price."""
        stated = (q for text in self.request.evidence.values() for q in quantities(text))
        return tuple(q for q in stated if q.kind not in (QuantityKind.MONEY, QuantityKind.DISCOUNT))

    @cached_property
    def deadlines(self) -> tuple[Deadline, ...]:
        return tuple(deadlines(self.reading))

    @cached_property
    def language(self) -> str:
        return self.request.language

    @property
    def offer(self) -> Offer | None:
        """The offer, if it runs now."""
        return self.request.running_offer

    @cached_property
    def tells_saving(self) -> bool:
        """True when the text shows the former price, or what it lies above the price."""
        return self.saving is not None and (self.tells_former or any(self.is_saving(q) for q in self.quantities))

    @cached_property
    def tells_former(self) -> bool:
        """Whether the text shows the former price as such, or next to the price: "£90 becomes £63"."""
        stated = (QuantityKind.MONEY, self.former)
        former = [q.role for q in self.quantities if (q.kind, q.value) == stated]
        return "list" in former or ("" in former and self.tells_price)

    @cached_property
    def tells_price(self) -> bool:
        money = (q for q in self.quantities if q.kind is QuantityKind.MONEY)
        return any((not q.role or q.role.startswith("per ")) and q.value == self.facts.price for q in money)

    def is_saving(self, quantity: Quantity) -> bool:
        """True for what the former price lies above the price, as an amount or as a share to the nearest per cent."""
        saving, former, value = self.saving, self.former, quantity.value
        if saving is None or not former or value is None:
            return False
        if quantity.kind is QuantityKind.DISCOUNT:
            return bool(abs(100 * saving / former - value) <= limit("fraction_tolerance"))
        is_money = quantity.kind is QuantityKind.MONEY
        # "was £60, now £48. That's £12 towards treats"
        is_told = is_money and not quantity.role and self.tells_former and self.tells_price
        return value == saving and (quantity.role == "off" or is_told)

    @cached_property
    def title_written_out(self) -> str:
        return written_out(self.facts.title)

    @cached_property
    def item_texts(self) -> tuple[str, ...]:
        """The item's texts as its facts hold them, and written out as a text shows them: SFT DRNKS, soft drinks."""
        short_forms = Prompts.load().short_forms
        item = self.request.item
        texts = [text for text in (*self.facts.texts, item.title, *item.category) if text]
        expanded = [written_out(text) for text in texts]
        names = [name_and_size(title)[0] for title in (self.facts.title, written_out(item.title)) if title]
        as_written = (natural(text, short_forms) for text in texts)
        return tuple(dict.fromkeys((*self.facts.texts, *as_written, *expanded, *names)))

    @cached_property
    def own_words(self) -> str:
        """The text without the item's own texts: what its writer chose to say about it."""
        is_name = re.compile("[^a-z]").search if self.language == "en" else bool  # and no word such as basket
        slots = {name: text for name, text in self.slots.items() if self.language == "en" or name not in _OF_OFFER}
        names = (text for text in slots.values() if len(text) > 2 and is_name(text))
        lowered = self.text.lower()
        texts = {t for t in (*self.item_texts, *names) if t.lower() in lowered and (len(t) > 1 or not t.isascii())}
        return re.sub(any_of(texts), " ", self.text, flags=re.IGNORECASE) if texts else self.text

    @cached_property
    def beside_work(self) -> Case:
        """The same without the name of a work, which claims nothing by itself: Free Willy. A name that states a price,
        or of a single word, is read like any other text."""
        title = self.facts.title
        priced = any(q.kind in (QuantityKind.MONEY, QuantityKind.DISCOUNT) for q in quantities(title))
        if self.request.domain.titles != "works" or priced:
            return self
        if len(words(title)) < _WORDS_OF_NAME[title.isascii()]:
            return self
        return replace(self, text=re.sub(f"《?{re.escape(title)}》?", _IT[self.language], self.text))

    @cached_property
    def apart(self) -> frozenset[str]:
        """The words of `data/surroundings.*.toml` that only stand apart from the item in this text, folded.

        A word stands apart when neither neighbour in its clause is a word of the item and nothing shortly before it
        ascribes it; a word that denies or limits (`loose`), when its clause speaks of no item. Food stands apart from
        what is eaten, drunk or put on the skin only where an English text names it as what the item is served with.
        """
        of_shelf = shelf((self.facts.title, *reversed(self.facts.category)))
        contents = listed("en", "contents") | listed("zh", "contents")
        has_contents = any(fold(name) in contents for name in self.request.item.attributes)
        is_consumed = of_shelf in _CONSUMED or (of_shelf == OTHER_SHELF and has_contents)
        apart: set[str] = set()
        joined: set[str] = set()
        loose = listed("en", "loose")
        for clause in _CLAUSE.split(self.reading.squashed):
            clause_words = frozenset(_LATIN_WORD.findall(clause))
            is_of_item = bool(stems(clause_words) & self.item_stems or clause_words & listed("en", "pronouns"))
            (joined if is_of_item else apart).update(clause_words & loose)
            pairs = {clause[i : i + 2] for i in range(len(clause) - 1)}
            is_of_item = bool(pairs & self.item_pairs) or any(word in clause for word in listed("zh", "pronouns"))
            (joined if is_of_item else apart).update("".join(HAN_RUN.findall(clause)))
            for word, is_apart in (
                *self._english_things(clause, is_consumed),
                *self._chinese_things(clause, is_consumed),
            ):
                (apart if is_apart else joined).add(word)
        return frozenset(apart - joined - {*"".join(listed("zh", "held"))})

    def _english_things(self, clause: str, is_consumed: bool) -> Iterator[tuple[str, bool]]:
        """(thing, whether it stands apart) of a clause."""
        ascribing, served = listed("en", "ascribing"), listed("en", "served")
        tokens = [t.removesuffix("'s") for t in _LATIN_WORD.findall(clause)]
        for i, token in enumerate(tokens):
            token_bases = bases(token)
            is_food = not token_bases.isdisjoint(listed("en", "food"))
            if is_food or not token_bases.isdisjoint(listed("en", "things")):
                before = tokens[max(0, i - 3) : i]
                neighbours = {stem(t) for t in (*before[-1:], *tokens[i + 1 : i + 2])}
                is_alone = neighbours.isdisjoint(self.item_stems) and ascribing.isdisjoint(before)
                is_alone = is_alone and listed("en", "ascribed").isdisjoint(tokens[i + 1 : i + 2])
                yield token, is_alone and not (is_food and is_consumed and served.isdisjoint(before))

    def _chinese_things(self, clause: str, is_consumed: bool) -> Iterator[tuple[str, bool]]:
        """(thing, whether it stands apart) of a clause; a neighbour of the item shares two characters with it."""
        for match in _CHINESE_THINGS.finditer(clause):
            before, after = clause[: match.start()].removesuffix("的"), clause[match.end() :]
            is_beside = before[-2:] in self.item_pairs or after[:2] in self.item_pairs
            is_beside = is_beside or (before != "" and before[-1] in table("surroundings.zh.toml")["ascribing"])
            yield match[0], not is_beside and not (is_consumed and match[0] in listed("zh", "food"))

    @cached_property
    def item_stems(self) -> frozenset[str]:
        """Stems of the words of the item's texts."""
        return stems(w for text in self.item_texts for w in words(text) if w not in word_class("glue"))

    @cached_property
    def item_pairs(self) -> frozenset[str]:
        """Pairs of characters of the item's texts."""
        return frozenset(text[i : i + 2] for text in map(fold, self.item_texts) for i in range(len(text) - 1))

    def proves(self, evidence: str) -> bool:
        """True when what a claim rests on is there: a key of the caller's evidence, "list_price", "offer.end",
        "offer.price" (an offer on the price runs, or the text shows what a former price lies above it) or "offer." and
        the type of the running offer; never for "never"."""
        if evidence == "list_price":
            return self.request.list_price is not None
        subject, _, detail = evidence.partition(".")
        if subject != "offer":
            return evidence != "never" and bool(self.request.evidence.get(evidence))
        running = self.offer
        if running is None:
            return detail == "price" and self.tells_saving
        if detail == "end":
            return running.end is not None
        if detail == "price":
            return running.type in (OfferType.PERCENT, OfferType.AMOUNT, OfferType.COUPON)
        return running.type == detail


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a check failed, and the piece of the text that shows it."""

    message: str
    span: str = ""
    holds: bool = False
    """True where a person may decide; any other violation blocks the text."""
    needs: str = ""
    """The evidence that would meet the rule."""


def violations(phrases: Iterable[str], remark: str, *, holds: bool = False) -> Iterator[Violation]:
    """One for each phrase that stands in the text: the phrase, and what is wrong with it."""
    return (Violation(f"{phrase!r} {remark}", phrase, holds) for phrase in phrases)


def matches(shape: re.Pattern[str], text: str) -> Iterator[str]:
    return (match[0] for match in shape.finditer(text))


def stated_by_facts(phrase: str, facts: FactSheet) -> bool:
    """True when the item's facts hold the phrase, singular and plural alike, and not only to deny it: "sugar-free"."""
    if pattern("claims.denied", WORD=re.escape(fold(phrase))).search(facts.folded):
        return False
    if fold(phrase) in facts.folded and not phrase.isascii():
        return True
    parts = [stem(word) for word in read(phrase).words]
    return bool(parts) and stems(facts.words).issuperset(parts)


@lru_cache(maxsize=1024)
def words_beside(kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Words next to an item of these names, endings cut off. kind: "use" for what goes with it, coffee of a mug;
    "scene" for where it stands, wick of a candle."""
    readings = [read(name) for name in names]
    of_names = {stem(word) for reading in readings for word in reading.words}
    return tuple(
        word.rstrip("*")
        for entry in table("uses.toml")[kind]
        if any(stem(t) in of_names if t.isascii() else any(t in r.folded for r in readings) for t in entry["things"])
        for word in entry["words"]
    )


def used_with(phrase: str, facts: FactSheet) -> bool:
    """True when the item is a thing that goes with the phrase without being made of it: coffee, and a mug."""
    return stem(phrase) in map(stem, words_beside("use", facts.names))
