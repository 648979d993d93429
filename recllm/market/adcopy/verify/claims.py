"""G1 to G5, G17: what is claimed is true: numbers, prices, offers, claims that need proof; the product is named, and
nothing else is.

Word lists know words; the patterns here know the shape around them: how long something lasts, who has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from functools import lru_cache

from recllm.market.adcopy.deadlines import WEEKDAYS, day_in_words, last_day
from recllm.market.adcopy.lexicon import (
    HAN,
    families,
    fold,
    limit,
    pattern,
    read,
    stems,
    table,
    word_class,
)
from recllm.market.adcopy.names import name_and_size
from recllm.market.adcopy.quantities import (
    Quantity,
    QuantityKind,
    currency_of,
    format_money,
    renderings,
    rounded,
)
from recllm.market.adcopy.request import FactSheet, OfferType
from recllm.market.adcopy.verify.case import Case, Violation, matches, stated_by_facts, used_with, violations
from recllm.text.plurals import stem

_SHAPES_OF_CLAIMS = (
    ("claims.lasting", "how long, how or where it lasts", "durability"),
    ("claims.arrives", "when it comes", "delivery"),
    ("claims.produced", "where or how it is made", "origin"),
    ("claims.shown", "who has it", "sales"),
    ("claims.parts", "a part or a mark of it", "composition"),
    ("claims.last_one", "how many are there", "stock"),
    ("claims.within", "how long something may take", "warranty"),
    ("claims.dose", "what it does by the day", "performance"),
    ("claims.becomes", "what becomes of the reader", "performance"),
    ("claims.crowd", "who has it", "sales"),
    ("claims.crowd_of", "who has it", "sales"),
    ("claims.crowd_zh", "who has it", "sales"),
    ("claims.does_zh", "what the product does", "performance"),
)
"""Pattern, what it speaks of, and the key of the proof that allows it."""
_HAN_RUN = re.compile(rf"[{HAN}]+")
_NEAR = 80  # characters next to a number, with the words that say what it is

# --- G1, G17: numbers ----------------------------------------------------------------------------------------------


def numbers(case: Case) -> Iterator[Violation]:
    """G1: every number, price, share, date and count of the text stands among the facts, with the same unit.

    What contradicts a fact blocks, as does every price, reduction and date; a number that no fact speaks of is a
    person's to judge.
    """
    for quantity in case.quantities:
        if not is_fact(quantity, case):
            span = quantity.span.strip()
            fact = _fact_beside(quantity, case)
            is_other_day = quantity.kind is QuantityKind.DATE and not _is_deadline(quantity, case)  # "Easter: 5 April"
            is_few = quantity.kind is QuantityKind.NUMBER and not span[0].isdigit() and (quantity.value or 4) <= 3
            holds = is_other_day or is_few or (not fact and quantity.kind not in _NEVER_GUESSED)
            yield Violation(f"{quantity.kind} {span!r} is not among the facts{fact and f': {fact}'}", span, holds)


def _is_deadline(date: Quantity, case: Case) -> bool:
    """True for a date that stands where a deadline does: "until 5 April", 4月5日截止."""
    text, span = case.reading.squashed, date.span.strip()
    before, after = pattern("quantities.deadline_before"), pattern("quantities.deadline_after")
    mentions = list(re.finditer(re.escape(span), text))
    return not mentions or any(
        before.search(text[max(0, m.start() - _NEAR) : m.start()]) or after.match(text, m.end()) for m in mentions
    )


def weekdays(case: Case) -> Iterator[Violation]:
    """G1: a weekday next to a date is its weekday, in the year that brings the date nearest to now."""
    text, today = case.reading.squashed, case.request.now.date()
    for quantity in case.quantities:
        span = quantity.span.strip()
        if quantity.kind is not QuantityKind.DATE or quantity.unit[0] == "-" or span not in text:
            continue
        before, _, after = text.partition(span)
        match = pattern("quantities.weekday_before").search(before[-_NEAR:])
        if not (match := match or pattern("quantities.weekday_after").match(after)):
            continue
        *year, month, day = map(int, quantity.unit.split("-"))
        with suppress(ValueError):  # 29 February, or no day
            days = [date(y, month, day) for y in (year or range(today.year - 1, today.year + 2))]
            right = WEEKDAYS[min(days, key=lambda d: abs(d - today)).weekday()]
            zh = match["zh"] or ""
            named = WEEKDAYS["一二三四五六日".index(zh.replace("天", "日"))] if zh else match["en"]
            if named[:3] != right[:3]:
                yield Violation(f"{span!r} is a {right.capitalize()}, not {match[0].strip()!r}", span)


_PROMISED = ("off", "off again", "threshold")
"""Roles of money that is promised."""
_NEVER_GUESSED = (QuantityKind.MONEY, QuantityKind.DISCOUNT, QuantityKind.DATE)


def _fact_beside(quantity: Quantity, case: Case) -> str:
    """The fact that a wrong quantity contradicts, and what would be right; empty where no fact is of its kind."""
    facts, offer, kind = case.facts, case.offer, quantity.kind
    if kind is QuantityKind.DISCOUNT or quantity.role in _PROMISED:
        return _offer_in_words(case)
    if kind is QuantityKind.MONEY:
        is_former = quantity.role == "list"
        name, amount = ("former price", facts.list_price) if is_former else ("price", facts.price)
        if amount is None or facts.currency is None or currency_of(facts.currency) is None:
            return f"no {name} is known, leave it out"
        return f"the {name} is {format_money(amount, facts.currency, case.language)}"
    if kind is QuantityKind.DATE:
        if offer is None or offer.end is None:
            return "no offer with an end runs, leave it out"
        return f"the offer's last day is {day_in_words(last_day(offer.end), case.language)}"
    stated = (*facts.quantities, *case.evidence_quantities)
    of_the_kind = [f for f in stated if f.kind is kind is not QuantityKind.CODE and f.value is not None]
    if quantity.unit:
        of_the_kind = [f for f in of_the_kind if f.unit == quantity.unit]
    elif kind is QuantityKind.NUMBER:
        of_the_kind = [f for f in of_the_kind if quantity.role and stem(f.role) == stem(quantity.role)]
    spans = ", ".join(dict.fromkeys(f.span.strip() for f in of_the_kind))
    return f"the facts say {spans}" if spans else ""


def _offer_in_words(case: Case) -> str:
    """The running offer as a message shows it."""
    offer, facts = case.offer, case.facts
    if offer is None:
        return "no offer runs, leave it out"
    if offer.value is None:
        return f"the offer is {offer.type}"
    if offer.type is OfferType.PERCENT or facts.currency is None or currency_of(facts.currency) is None:
        return f"the offer is {offer.value.normalize():f}{' %' if offer.type is OfferType.PERCENT else ''} off"
    return f"the offer is {format_money(offer.value, facts.currency, case.language)} off"


def is_fact(quantity: Quantity, case: Case) -> bool:
    """True when the facts of the item or its running offer state the quantity."""
    kind, facts = quantity.kind, case.facts
    if kind is QuantityKind.MONEY:
        return _is_price(quantity, case)
    if (kind, quantity.value, quantity.unit) in case.stated:
        return True
    if kind is QuantityKind.DISCOUNT:
        return _is_reduction(quantity, case)
    if kind is QuantityKind.DATE:
        return _is_day_of_offer(quantity, case)
    if kind is QuantityKind.MULTITUDE:
        return stem(quantity.unit) in stems(facts.words) or stated_by_facts(quantity.unit, facts)
    if kind is QuantityKind.CODE:  # 3XL of M-3XL
        return any(quantity.unit in fact.unit.split("-") for fact in facts.quantities if fact.kind is kind)
    title = stems(read(facts.title).words)
    return quantity in facts.quantities or any(
        _counts_the_same(quantity, fact, title, facts)
        for fact in facts.quantities
        if kind is fact.kind and quantity.value == fact.value
    )


def _counts_the_same(quantity: Quantity, fact: Quantity, title: frozenset[str], facts: FactSheet) -> bool:
    """True where two equal numbers count one thing. title: its stems."""
    word = quantity.role
    if quantity.unit == fact.unit or (quantity.unit == "year" and not fact.unit):  # "aged 4" of "4+"
        return not word or word in word_class("glue") or stem(word) in stems(facts.words)
    if quantity.unit == "ct" and not fact.unit:  # "60 count" counts the tablets of the title
        return bool(fact.role) and stem(fact.role) in title
    # "eight buns" counts the eight of "8 count" where the item is called buns, and so does "eight for $2.49"
    return fact.unit == "ct" and not quantity.unit and (word == "for" or stem(word) in title)


def _is_day_of_offer(quantity: Quantity, case: Case) -> bool:
    """True for the first day, the last day and the end of the running offer, with and without the year."""
    if case.offer is None:
        return False
    end = case.offer.end
    last = end - timedelta(microseconds=1) if end else None
    if pattern("quantities.day_out").search(quantity.span):  # until 24:00 of the last day
        is_midnight = end is not None and (end.time() == time.min or end.time() >= time(23, 59))
        return is_midnight and last is not None and quantity.unit.endswith(last.strftime("%m-%d"))
    days = [day for day in (case.offer.start, end, last) if day]
    return any(quantity.unit in map(day.strftime, ("%m-%d", "%Y-%m-%d", "-%d")) for day in days)


def _is_reduction(quantity: Quantity, case: Case) -> bool:
    """True for the share that the running offer, or else the former price, takes off: "a third" is any share within
    half a per cent of it."""
    offer, price, share = case.offer, case.facts.price, quantity.value
    if case.is_saving(quantity):
        return True
    if offer is None or offer.value is None or share is None:
        return False
    if offer.type is OfferType.PERCENT:
        is_fraction = share != share.to_integral_value()
        return abs(offer.value - share) < limit("fraction_tolerance") if is_fraction else offer.value == share
    return (
        offer.type in (OfferType.AMOUNT, OfferType.COUPON) and bool(price) and 100 * offer.value == share * (price or 0)
    )


def _is_price(quantity: Quantity, case: Case) -> bool:
    facts, offer, value = case.facts, case.offer, quantity.value
    if facts.currency is None or value is None:
        return False
    if quantity.span.endswith("块") and any(fact.span == quantity.span for fact in facts.quantities):
        # 60块 of an item whose facts say 60块: 块 counts pieces and yuan, and no word of a price stands before it
        return not pattern("claims.price_before_zh", SPAN=re.escape(quantity.span)).search(case.reading.folded)
    currency = currency_of(facts.currency)
    signs = (*currency.signs["en"], *currency.signs["zh"], *currency.chinese_words) if currency else ()
    sign = quantity.unit
    if not sign and facts.currency == "CNY":
        sign = "元"  # 到手36
    if sign not in {fold(s) for s in (facts.currency, *signs)} and not (currency and sign in currency.words):
        return False
    if value in case.stated_amounts:
        return True
    offered = offer.value if offer and offer.type in (OfferType.AMOUNT, OfferType.COUPON) else None
    is_plain = quantity.role == ""
    amount = facts.price if is_plain else {"list": facts.list_price, "off": offered}.get(quantity.role)
    amounts = [amount]
    if quantity.role == "list":
        amounts.append(case.lowest_price)
        if reduced_price(case) is not None:
            amounts.append(facts.price)  # "£77 instead of £110" while 30 % are off
    if is_plain:
        if amount is None:  # "a coupon worth 5 dollars": the offer's value, said without "off"
            amounts.append(offered)
        amounts += [reduced_price(case), case.saving if case.is_saving(quantity) else None]
        amounts.append(facts.list_price if case.tells_price and case.saving else None)
    elif quantity.role == "off":
        left = reduced_price(case)
        amounts.append(facts.price - left if facts.price is not None and left is not None else None)
        amounts.append(case.saving)  # 20 % of 5.00 are 1.00
    return any(a is not None and value == rounded(a, facts.currency) for a in amounts)


def reduced_price(case: Case) -> Decimal | None:
    """What the item costs after the running offer; None where no offer on the price runs."""
    offer, price = case.offer, case.facts.price
    if price is None or offer is None or offer.value is None:
        return None
    if offer.type is OfferType.PERCENT:
        return price * (100 - offer.value) / 100
    is_amount = offer.type in (OfferType.AMOUNT, OfferType.COUPON) and offer.value < price
    return price - offer.value if is_amount else None


def currency_format(case: Case) -> Iterator[Violation]:
    """G17: amounts are written as the locale writes them: sign, place, decimals."""
    code = case.facts.currency
    for quantity in case.quantities:
        is_in_words = quantity.unit in ("cent", "cents", "pence", "p") or not any(map(str.isdigit, quantity.span))
        if quantity.kind is QuantityKind.MONEY and quantity.value is not None and code and not is_in_words:
            accepted = renderings(quantity.value, code, case.language)
            if quantity.unit and quantity.span.replace(" ", "") not in accepted:
                right = format_money(quantity.value, code, case.language) if currency_of(code) else min(accepted)
                message = f"{quantity.span!r} is not how {case.request.locale} writes {code}: write {right}"
                yield Violation(message, quantity.span, holds=True)


# --- G2: offers ----------------------------------------------------------------------------------------------------


def offers(case: Case) -> Iterator[Violation]:
    """G2: no word of an offer unless an offer of that type runs now."""
    running = case.offer
    state = "none runs" if running is None else _offer_in_words(case)
    for family in families("offers.toml"):
        has_code = running is not None and running.code and OfferType.COUPON in family.offers
        if running is None or not (running.type in family.offers or has_code):
            remark = f"promises an offer ({family.id}), and {state}"
            phrases = (p for p in family.find(case.reading) if p not in case.statements_folded)
            promised = (p for p in phrases if not (p in family.goods and p in case.facts.folded))
            yield from violations((p for p in promised if not (case.tells_saving and says_saving(p))), remark)


def says_saving(phrase: str) -> bool:
    """True for a word of an offer that a former price makes true: 立省, "a third off"; no "clearance"."""
    return phrase.replace("-", " ") in table("offer_words.toml")["former_price"]


def offer_deadlines(case: Case) -> Iterator[Violation]:
    """G2: deadlines given by their distance, such as "today only", against the end of the running offer."""
    running, now = case.offer, case.request.now
    end = running.end if running is not None else None
    dates = [q.span.strip() for q in case.quantities if q.kind is QuantityKind.DATE and is_fact(q, case)]
    tells_end = case.tells_end or bool(dates)
    for phrase in case.deadlines:
        if end is not None and phrase.ends_on(end, now):
            continue
        if phrase.day in WEEKDAYS and any(f"{phrase.span} {d}" in case.reading.squashed for d in dates):
            continue  # "until Sunday 7 September": the date decides
        if tells_end and (not phrase.strong or phrase.span in word_class("bare_last_day")):
            continue  # "until Sunday. What's for dinner tonight?", 9月30日最后一天
        if not (phrase.strong or _speaks_of_an_offer(case)):  # "for this weekend", where nothing is on offer
            continue
        if running is None:
            state = "no offer runs: leave it out"
        elif running.end is None:
            state = "the offer has no end: leave it out"
        else:
            state = f"the offer's last day is {day_in_words(last_day(running.end), case.language)}: write that"
        yield Violation(f"{phrase.span!r} is a deadline ({phrase.day}), and {state}", phrase.span)


def _speaks_of_an_offer(case: Case) -> bool:
    """True for a text that promises a reduction, but for what the former price lies above the price."""
    promises = (q for q in case.quantities if q.kind is QuantityKind.DISCOUNT or q.role in _PROMISED)
    phrases = (phrase for family in families("offers.toml") for phrase in family.find(case.reading))
    return any(not case.is_saving(q) for q in promises) or any(
        not (case.tells_saving and says_saving(phrase)) for phrase in phrases
    )


# --- G3: claims that need proof ------------------------------------------------------------------------------------


def proofs(case: Case) -> Iterator[Violation]:
    """G3: no claim without its proof: cures, certificates, awards, ranks, ratings, sales, urgency, materials, ..."""
    for family in families("claims.toml"):
        if not (case.proves(family.evidence) or (case.offer and case.offer.type in family.offers)):
            for phrase in family.find(read(case.own_words) if family.from_facts else case.reading):
                if phrase in case.statements_folded:
                    continue
                if not (family.from_facts and (stated_by_facts(phrase, case.facts) or used_with(phrase, case.facts))):
                    of_facts = ", or the words among the item's facts" if family.from_facts else ""
                    never = family.evidence == "never"
                    missing = "no proof makes it sayable" if never else f"needs {family.evidence}{of_facts}"
                    message = f"{phrase!r} claims {family.id} without proof: {missing}"
                    yield Violation(message, phrase, family.id not in _NEVER_UNPROVEN)


_NEVER_UNPROVEN = ("cure", "urgency", "free")
"""Claims of health, deadlines and gifts: without their proof they cannot pass. The others are a person's."""


def deeds(case: Case) -> Iterator[Violation]:
    """G3: no word on what the product does, how long it lasts, when it comes and who has it: everyday words can say all
    that, so their order gives it away."""
    unread = case.own_words if case.language == "zh" else case.text
    text = "\n".join(read(line).squashed for line in unread.split("\n"))  # no claim runs over a line's end
    shapes = [(pattern(name), subject, proof) for name, subject, proof in _SHAPES_OF_CLAIMS]
    dates = [q for q in case.quantities if q.kind is QuantityKind.DATE and is_fact(q, case)]
    if case.language == "en":
        that_does = pattern("claims.that_does", VERBS="|".join(word_class("claim_verbs")))
        shapes.append((that_does, "what the product does", "performance"))
    for shape, subject, proof in shapes:
        if not case.request.evidence.get(proof):
            granted = (case.facts.folded, case.statements_folded, *(f"order by {day}" for day in WEEKDAYS if dates))
            phrases = (
                p for p in matches(shape, text) if not (any(p in k for k in granted) or stated_by_facts(p, case.facts))
            )
            yield from violations(phrases, f"speaks of {subject}: needs {proof}", holds=True)


# --- G4, G5: names -------------------------------------------------------------------------------------------------


def foreign_names(case: Case) -> Iterator[Violation]:
    """G4: no brand but the item's own."""
    own_brand, brands = read(case.facts.brand or "").words, _brands(case.request.known_brands)
    words, longest = case.reading.words, limit("max_brand_words")
    named_by_facts = {f" {' '.join(read(text).words)} " for text in case.facts.texts}
    for start in range(len(words)):
        for size in range(1, min(longest, len(words) - start) + 1):
            gram = words[start : start + size]
            name = brands.get(gram)
            if not name or gram == own_brand or any(f" {' '.join(gram)} " in text for text in named_by_facts):
                continue
            # a brand that is a plain word, such as "Dove", is meant only with a capital inside a sentence
            is_plain = len(gram) == 1 and gram[0] in table("brands.toml")["plain_words"]
            if not is_plain or pattern("naming.inner", NAME=re.escape(name)).search(case.text):
                yield Violation(f"{name!r} is another brand", name)


@lru_cache(maxsize=8)
def _brands(known_brands: frozenset[str]) -> Mapping[tuple[str, ...], str]:
    """Folded words of a brand -> the brand as the catalogue or the list has it."""
    names = [*table("brands.toml")["famous"], *sorted(known_brands)]
    return {words: name for name in names if (words := read(name).words) and (len(words) > 1 or len(words[0]) > 1)}


def product_named(case: Case) -> Iterator[Violation]:
    """G5: the title's head word, or the narrowest category, stands in the text; of an item without a name nothing has
    to, nor where the text is about a cart, an order or the shop."""
    person, offer = case.request.person, case.offer
    is_about_order = offer is not None and offer.type in (OfferType.COUPON, OfferType.FREE_SHIPPING, OfferType.GIFT)
    if not case.facts.title or person.in_cart or person.away or person.first_order or is_about_order:
        return
    text = _joined(case.reading.words)
    names = (_joined(read(name).words) for name in dict.fromkeys(head_names(case)))
    if not any(len(name) > 1 and name in text for name in names):
        yield Violation(f"the product {case.facts.title!r} is not named", holds=True)


def _joined(words: tuple[str, ...]) -> str:
    """Their stems, with a space around each; a single space for none."""
    return " ".join(("", *map(stem, words), ""))


def head_names(case: Case) -> list[str]:
    """What counts as naming: the title, its last and longest words, in Chinese its last pairs of characters, and the
    narrowest category."""
    facts = case.facts
    name, brand = pattern("titles.first_part").split(name_and_size(facts.title)[0])[0], fold(facts.brand or "")
    latin = [w for w in read(name).words if len(w) > 2 and w.isalpha() and w.isascii() and w not in read(brand).words]
    runs = (run.removeprefix(brand) for run in _HAN_RUN.findall(fold(facts.title)))
    pairs = [run[i : i + 2] for run in runs for i in range(max(0, len(run) - 4), len(run) - 1)]
    return [facts.title, *facts.category[-1:], *case.names, *latin[-2:], *sorted(latin, key=len)[-1:], *pairs]
