"""G1 to G5, G17: what is claimed is true: numbers, prices, offers, claims that need proof; the product is named, and
nothing else is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain, product

from recllm.market.adcopy.lexicon import (
    HAN_RUN,
    any_of,
    families,
    fold,
    limit,
    neutral_words,
    pattern,
    read,
    stems,
    table,
    word_class,
    words,
)
from recllm.market.adcopy.naming import name_and_size
from recllm.market.adcopy.quantities import (
    EACH,
    UNITS,
    WEEKDAYS,
    Quantity,
    QuantityKind,
    currency_of,
    day_in_words,
    format_money,
    last_day,
    renderings,
    rounded,
)
from recllm.market.adcopy.request import FactSheet, OfferType
from recllm.market.adcopy.situation import money_text
from recllm.market.adcopy.verify.case import Case, Violation, listed, matches, stated_by_facts, used_with, violations
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
_OTHER_GOODS = {"en": "claims.other_goods", "zh": "claims.other_goods_zh"}
_SENTENCE = re.compile(r"[.!?…:;\n]+|[\"“”(]")
_TOKEN = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_NEAR = 80  # characters next to a number, with the words that say what it is


def numbers(case: Case) -> Iterator[Violation]:
    """G1: every number, price, share, date and count of the text stands among the facts, with the same unit.

    What contradicts a fact blocks, as does every price, reduction and date; a number that no fact speaks of is a
    person's to judge.
    """
    for quantity in case.quantities:
        if not (is_fact(quantity, case) or is_around(quantity, case)):
            span = quantity.span.strip()
            fact = contradicted_fact(quantity, case)
            is_other_day = quantity.kind is QuantityKind.DATE and not is_deadline(quantity, case)  # "Easter: 5 April"
            is_few = quantity.kind is QuantityKind.NUMBER and not span[0].isdigit() and (quantity.value or 4) <= 3
            holds = is_other_day or is_few or (not fact and quantity.kind not in _NEVER_GUESSED)
            yield Violation(f"{quantity.kind} {span!r} is not among the facts{fact and f': {fact}'}", span, holds)
    yield from wrong_weekdays(case)


def is_around(quantity: Quantity, case: Case) -> bool:
    """True for a small number that counts something else than the item: "three songs", 两个水坑; nothing that it may be
    said to have, and no time."""
    if quantity.kind is not QuantityKind.NUMBER or quantity.value is None or not 1 <= quantity.value <= limit("around"):
        return False
    span, text = quantity.span.strip(), case.reading.squashed
    at = text.find(span)
    if at < 0 or any(c.isdigit() for c in span):
        return False
    if case.language == "zh":
        parts, following = word_class("counted_parts_zh"), text[at + len(span) :]
        has_it = any(c in text[max(0, at - 2) : at] for c in word_class("having_zh"))
        if has_it or span.endswith(parts) or following.startswith(parts) or quantity.unit not in _OF_SCENES:
            return False
        nouns = [following[:n] for n in (4, 3, 2) if len(following) >= n] + [c for c in following[:1] if c == "人"]
        if any(noun in case.facts.folded for noun in nouns):
            return False
        return following[:2] not in case.item_pairs and any(n in neutral_words() or n in case.apart for n in nouns)
    if quantity.unit not in ("", "bag", "box", "bottle"):
        return False
    end = at + len(span)
    before, after = _TOKEN.findall(text[max(0, at - _NEAR) : at]), _TOKEN.findall(text[end : end + _NEAR])[:2]
    is_ascribed = not listed("en", "ascribing").isdisjoint(before[-3:])
    if is_ascribed or any(stem(word) in word_class("counted_parts") for word in (*after, quantity.unit)):
        return False
    is_of_item = any(stem(word) in case.item_stems | stems(case.facts.words) for word in after)
    return bool(after) and after[0] not in word_class("glue") and not is_of_item


_OF_SCENES = ("ct", "person", "floor", "box", "bag", "bottle")
"""Units of a Chinese count that may be of something else than the item."""


def is_deadline(date: Quantity, case: Case) -> bool:
    """True for a date that stands where a deadline does: "until 5 April", 4月5日截止."""
    text, span = case.reading.squashed, date.span.strip()
    before, after = pattern("quantities.deadline_before"), pattern("quantities.deadline_after")
    mentions = list(re.finditer(re.escape(span), text))
    return not mentions or any(
        before.search(text[max(0, m.start() - _NEAR) : m.start()]) or after.match(text, m.end()) for m in mentions
    )


def wrong_weekdays(case: Case) -> Iterator[Violation]:
    """G1: a weekday next to a date is its weekday, in the year that brings the date nearest to now."""
    text, now = case.reading.squashed, case.request.now
    for quantity in case.quantities:
        at = text.find(quantity.span.strip()) if quantity.kind is QuantityKind.DATE and quantity.unit[0] != "-" else -1
        if at < 0:
            continue
        before = pattern("quantities.weekday_before").search(text[max(0, at - _NEAR) : at])
        after = pattern("quantities.weekday_after").match(text, at + len(quantity.span.strip()))
        if not (match := before or after):
            continue
        *year, month, day = map(int, quantity.unit.split("-"))
        try:
            days = [date(y, month, day) for y in (year or range(now.year - 1, now.year + 2))]
        except ValueError:  # 29 February, or no day
            continue
        nearest = min(days, key=lambda d: abs((d - now.date()).days))
        right, span = WEEKDAYS[nearest.weekday()], quantity.span.strip()
        named = match["en"] or WEEKDAYS["一二三四五六日".index(match["zh"].replace("天", "日"))]
        if named[:3] != right[:3]:
            yield Violation(f"{span!r} is a {right.capitalize()}, not {match[0].strip()!r}", span)


_PROMISED = ("off", "off again", "threshold")
"""Roles of money that is promised."""
_COUNTED = ("ct", "box", "bag", "bottle", "")
"""Units of things that have a price each."""
_NEVER_GUESSED = (QuantityKind.MONEY, QuantityKind.DISCOUNT, QuantityKind.DATE)


def contradicted_fact(quantity: Quantity, case: Case) -> str:
    """The fact that a wrong quantity contradicts, and what would be right; empty where no fact is of its kind."""
    facts, kind = case.facts, quantity.kind
    if kind is QuantityKind.MONEY and quantity.role not in _PROMISED:
        name, amount = "price", facts.price
        if quantity.role == "list":
            name, amount = "former price", case.request.list_price
        written = money_text(amount, facts, case.language)
        return f"the {name} is {written}" if written else f"no {name} is known, leave it out"
    if kind in (QuantityKind.MONEY, QuantityKind.DISCOUNT):
        return offer_in_words(case)
    if kind is QuantityKind.DATE:
        return end_in_words(case)
    stated = [q for q in (*facts.quantities, *case.evidence_quantities) if q.kind is kind and q.value is not None]
    if quantity.unit:
        stated = [q for q in stated if q.unit == quantity.unit]
    elif kind is QuantityKind.NUMBER:
        stated = [q for q in stated if quantity.role and stem(q.role) == stem(quantity.role)]
    spans = ", ".join(dict.fromkeys(q.span.strip() for q in stated))
    return f"the facts say {spans}" if spans else ""


def offer_in_words(case: Case) -> str:
    """The running offer as a message shows it."""
    offer = case.offer
    if offer is None:
        return "no offer runs, leave it out"
    if offer.value is None or offer.type is OfferType.BOGO:
        return f"the offer is {case.slots.get('offer.short') or case.slots.get('offer') or offer.type}"
    value = f"{offer.value.normalize():f}"
    if offer.type is OfferType.PERCENT:
        return f"the offer is {value} % off"
    return f"the offer is {money_text(offer.value, case.facts, case.language) or value} off"


def end_in_words(case: Case) -> str:
    """The last day of the running offer as a message shows it."""
    if case.offer is None or case.offer.end is None:
        return "no offer with an end runs, leave it out"
    return f"the offer's last day is {day_in_words(last_day(case.offer.end), case.language)}"


def is_fact(quantity: Quantity, case: Case) -> bool:
    """True when the facts of the item or its running offer state the quantity."""
    kind, offer, facts = quantity.kind, case.offer, case.facts
    if (kind, quantity.value, quantity.unit) in case.stated or case.tells_time(quantity):
        return True
    if quantity.role == "list" and quantity.value is not None and quantity.value == case.request.lowest_price:
        return True
    if kind in (QuantityKind.NUMBER, QuantityKind.PERCENT, QuantityKind.CODE) and quantity in facts.quantities:
        return True
    codes = [code for fact in facts.quantities if fact.kind is QuantityKind.CODE for code in fact.unit.split("-")]
    if kind is QuantityKind.CODE and quantity.unit in codes:
        return True  # 3XL of M-3XL
    if kind is QuantityKind.MONEY:
        return is_price(quantity, case)
    if kind is QuantityKind.DISCOUNT:
        return is_reduction(quantity, case)
    if kind is QuantityKind.DATE:
        if offer is None:
            return False
        # the first day, the last day and the end of the running offer, with and without the year
        end = offer.end
        last = end - timedelta(microseconds=1) if end else None
        if pattern("quantities.day_out").search(quantity.span):  # until 24:00 of the last day
            is_midnight = end is not None and (end.time() == time.min or end.time() >= time(23, 59))
            return is_midnight and last is not None and quantity.unit.endswith(last.strftime("%m-%d"))
        days = [day for day in (offer.start, end, last) if day]
        return any(quantity.unit in map(day.strftime, ("%m-%d", "%Y-%m-%d", "-%d")) for day in days)
    if kind is QuantityKind.MULTITUDE:
        return stem(quantity.unit) in stems(facts.words) or stated_by_facts(quantity.unit, facts)
    word, unit, of_title = quantity.role, quantity.unit, stems(read(facts.title).words)
    is_word_of_facts = not word or word in word_class("glue") or stem(word) in stems(facts.words)
    return any(
        (is_word_of_facts and (unit == fact.unit or (unit == "year" and not fact.unit)))  # "aged 4" of "4+"
        # "60 count" counts the tablets of the title
        or (unit == "ct" and not fact.unit and fact.role and stem(fact.role) in of_title)
        # "eight buns" counts the eight of "8 count" where the item is called buns, and so does "eight for $2.49"
        or (fact.unit == "ct" and not unit and (word == "for" or stem(word) in of_title))
        for fact in facts.quantities
        if kind is fact.kind and quantity.value == fact.value
    )


def is_reduction(quantity: Quantity, case: Case) -> bool:
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


def is_price(quantity: Quantity, case: Case) -> bool:
    facts, offer, value, role = case.facts, case.offer, quantity.value, quantity.role
    if facts.currency is None or value is None:
        return False
    before = pattern("claims.price_before_zh", SPAN=re.escape(quantity.span))
    is_counted = any(fact.span == quantity.span for fact in facts.quantities)
    if is_counted and quantity.span.endswith("块") and not before.search(case.reading.folded):
        return True  # 60块: 块 counts pieces and yuan
    currency = currency_of(facts.currency)
    spellings = (*chain(*currency.signs.values()), *currency.chinese_words, *currency.words) if currency else ()
    sign = quantity.unit or ("元" if facts.currency == "CNY" else "")  # 到手36
    if sign not in map(fold, (facts.currency, *spellings)):
        return False
    together = offer.value if offer is not None and offer.type is OfferType.BOGO else None
    if value in case.amounts_of_terms or (offer is not None and value in (offer.min_spend, together)):
        return True
    left = reduced_price(case)
    offered = offer.value if offer and offer.type in (OfferType.AMOUNT, OfferType.COUPON) else None
    amounts: list[Decimal | None] = []
    if role == "list":  # "£77 instead of £110" while 30 % are off
        amounts = [case.request.list_price, None if left is None else facts.price]
    elif role == "off":  # 20 % of 5.00 are 1.00
        amounts = [offered, case.saving, facts.price - left if facts.price is not None and left is not None else None]
    elif not role or role.startswith("per "):
        begins = pattern("claims.price_from", SPAN=re.escape(quantity.span)).search(case.reading.folded)
        amounts = [facts.price, left, case.saving if case.is_saving(quantity) else None]
        amounts.append(facts.price_from if begins else None)
        amounts.append(case.request.list_price if case.tells_price and case.saving else None)
        amounts.append(offered if facts.price is None else None)  # "a coupon worth 5 dollars", said without "off"
        amounts += unit_prices(role.removeprefix("per "), case) if role else []
    return any(a is not None and _agrees(quantity, rounded(a, facts.currency)) for a in amounts)


def _agrees(quantity: Quantity, amount: Decimal) -> bool:
    """True when an amount of money is what a text says, or lies shortly below or above it where the text says so."""
    value = quantity.value or Decimal(0)
    reach = Decimal(str(limit("bound_reach")))
    match quantity.bound:
        case "under":
            return amount < value <= amount * (1 + reach)
        case "over":
            return value < amount <= value * (1 + reach)
        case "about":
            return abs(amount - value) <= amount * reach / 2
    return value == amount


def unit_prices(word: str, case: Case) -> list[Decimal]:
    """The price by one of the units that the facts count: 60 tablets for $9.99 are $0.17 a tablet."""
    price = case.facts.price
    if price is None:
        return []
    unit = UNITS.get(word, "")
    sizes = [
        fact.value
        for fact in case.facts.quantities
        if fact.kind is QuantityKind.NUMBER and fact.value
        if (unit and fact.unit == unit)
        or (not unit and fact.role and stem(fact.role) == stem(word))
        or (fact.unit == "ct" and stem(word) in case.item_stems)
        or (word == EACH and fact.unit in _COUNTED and fact.value > 1)
        or f"{fact.span}{word}" in case.facts.folded
    ]
    return [price / size for size in sizes]


def reduced_price(case: Case) -> Decimal | None:
    """What the item costs after the running offer; None where no offer on the price runs."""
    offer, price = case.offer, case.facts.price
    return None if price is None or offer is None or case.offer_is_in_price else offer.reduced(price)


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


def offers(case: Case) -> Iterator[Violation]:
    """G2: no word of an offer unless an offer of that type runs now."""
    running = case.offer
    state = "none runs" if running is None else offer_in_words(case)
    for family in families("offers.toml"):
        has_code = running is not None and running.code and OfferType.COUPON in family.offers
        several = running if family.id == "bogo" else None
        is_more = several is not None and (several.count > 2 or several.value is not None)
        if running is None or is_more or not (running.type in family.offers or has_code):
            remark = f"promises an offer ({family.id}), and {state}"
            phrases = (p for p in family.find(case.reading) if p not in case.terms_folded)
            promised = (p for p in phrases if not (p in family.goods and p in case.facts.folded))
            yield from violations((p for p in promised if not (case.tells_saving and says_saving(p))), remark)
    yield from false_deadlines(case)
    if running is not None and speaks_of_an_offer(case):
        needs, amounts = "the offer needs {}, and the text does not say so", [q.value for q in case.quantities]
        if running.code and fold(running.code) not in case.reading.folded:
            yield Violation(needs.format(f"the code {running.code}"), holds=True)
        if running.min_spend and running.min_spend not in amounts:
            minimum = money_text(running.min_spend, case.facts, case.language)
            yield Violation(needs.format(f"an order of at least {minimum or running.min_spend}"), holds=True)


def says_saving(phrase: str) -> bool:
    """True for a word of an offer that a former price makes true: 立省, "a third off"; no "clearance"."""
    return phrase.replace("-", " ") in table("offer_words.toml")["former_price"]


def false_deadlines(case: Case) -> Iterator[Violation]:
    """Deadlines given by their distance, such as "today only", against the end of the running offer."""
    end, now = None if case.offer is None else case.offer.end, case.request.now
    dates = [q.span.strip() for q in case.quantities if q.kind is QuantityKind.DATE and is_fact(q, case)]
    tells_end = bool(dates) or (end is not None and any(phrase.ends_on(end, now) for phrase in case.deadlines))
    for phrase in case.deadlines:
        if end is not None and phrase.ends_on(end, now):
            continue
        if phrase.day in WEEKDAYS and any(f"{phrase.span} {d}" in case.reading.squashed for d in dates):
            continue  # "until Sunday 7 September": the date decides
        if tells_end and (not phrase.strong or phrase.span in word_class("bare_last_day")):
            continue  # "until Sunday. What's for dinner tonight?", 9月30日最后一天
        if not (phrase.strong or speaks_of_an_offer(case)):  # "for this weekend", where nothing is on offer
            continue
        yield Violation(f"{phrase.span!r} is a deadline ({phrase.day}), and {end_in_words(case)}", phrase.span)


def speaks_of_an_offer(case: Case) -> bool:
    """True for a text that promises a reduction, but for what the former price lies above the price."""
    promises = (q for q in case.quantities if q.kind is QuantityKind.DISCOUNT or q.role in _PROMISED)
    phrases = (phrase for family in families("offers.toml") for phrase in family.find(case.reading))
    return any(not case.is_saving(q) for q in promises) or any(
        not (case.tells_saving and says_saving(phrase)) for phrase in phrases
    )


def proofs(case: Case) -> Iterator[Violation]:
    """G3: no claim without its proof: cures, certificates, awards, ranks, ratings, sales, urgency, materials, ..."""
    yield from unproven_comparisons(case)
    yield from unproven_deeds(case)
    for family in families("claims.toml"):
        if not (case.proves(family.evidence) or (case.offer and case.offer.type in family.offers)):
            for phrase in family.find(read(case.own_words) if family.from_facts else case.reading):
                if (family.id == "composition" and phrase in case.apart) or phrase in case.terms_folded:
                    continue
                if not (family.from_facts and (stated_by_facts(phrase, case.facts) or used_with(phrase, case.facts))):
                    of_facts = ", or the words among the item's facts" if family.from_facts else ""
                    never = family.evidence == "never"
                    missing = "no proof makes it sayable" if never else f"needs {family.evidence}{of_facts}"
                    message = f"{phrase!r} claims {family.id} without proof: {missing}"
                    yield Violation(message, phrase, family.id not in _NEVER_UNPROVEN)


_NEVER_UNPROVEN = ("cure", "urgency", "free")
"""Claims of health, deadlines and gifts: without their proof they cannot pass. The others are a person's."""


def unproven_deeds(case: Case) -> Iterator[Violation]:
    """No word on what the product does, how long it lasts, when it comes and who has it: everyday words can say all
    that, so their order gives it away."""
    unread = case.own_words if case.language == "zh" else case.text
    text = "\n".join(read(line).squashed for line in unread.split("\n"))  # no claim runs over a line's end
    shapes = [(pattern(name), subject, proof) for name, subject, proof in _SHAPES_OF_CLAIMS]
    dates = [q for q in case.quantities if q.kind is QuantityKind.DATE and is_fact(q, case)]
    if case.language == "en":
        verbs = "|".join(word_class("claim_verbs"))
        shapes.append((pattern("claims.that_does", VERBS=verbs), "what the product does", "performance"))
        if not case.request.evidence.get("performance"):
            names = stems(read(case.facts.title).words)  # "wooden blocks" of building blocks is their name
            of_item = {*names, *word_class("stand_for_item")}
            doing = pattern("claims.does", VERBS=verbs).finditer(text)
            acts = [m for m in doing if stem(m["subject"]) in of_item and stem(m["verb"]) not in names]
            measures = (q for q in case.quantities if q.kind is QuantityKind.NUMBER and q.unit and is_fact(q, case))
            sizes = any_of(q.span.strip() for q in measures) if acts else ""  # "holds 350 ml"
            deeds = (
                m[0]
                for m in acts
                if not (sizes and pattern("claims.measures", SIZES=sizes).match(text, m.start("verb")))
                and not _is_stated(text[m.end("verb") :], m["verb"], case)
            )
            deeds = (deed for deed in deeds if deed not in case.facts.folded)
            yield from violations(deeds, "speaks of what the product does: needs performance", holds=True)
    for shape, subject, proof in shapes:
        if not case.request.evidence.get(proof):
            granted = (case.facts.folded, case.terms_folded, *(f"order by {day}" for day in WEEKDAYS if dates))
            phrases = (p for p in matches(shape, text) if not any(p in k for k in granted))
            phrases = (p for p in phrases if not _holds_words(p, case.facts))
            yield from violations(phrases, f"speaks of {subject}: needs {proof}", holds=True)


def _is_stated(following: str, verb: str, case: Case) -> bool:
    """True where the facts hold what follows a verb: "holds one camera and two lenses"; and for "buns last Easter"."""
    if verb == "last" and following.split()[:1] and following.split()[0].strip(".,;:") in word_class("after_last"):
        return True
    clause = re.split(r"[.,;:!?\n]", following)[0]
    return bool(clause.strip()) and (_holds_words(clause, case.facts) or clause.strip() in case.terms_folded)


def _holds_words(phrase: str, facts: FactSheet) -> bool:
    """True when the facts hold every word of a phrase but those that join words: "with an ash wood handle"."""
    content = " ".join(w for w in words(phrase) if w not in word_class("glue") and w != "with") or phrase
    return stated_by_facts(content, facts)


def unproven_comparisons(case: Case) -> Iterator[Violation]:
    """No comparison with other products of the kind; what stands in the item's own title, such as "other hot cereal",
    is its name."""
    title = read(case.facts.title)
    if case.language == "en":
        names = {re.escape(stem(w)) for w in title.words if w.isascii() and w.isalpha() and len(w) > 2}
    else:
        names = {run[i : i + 2] for run in HAN_RUN.findall(title.folded) for i in range(len(run) - 1)}
    if names and not case.request.evidence.get("comparison"):
        shape = pattern(_OTHER_GOODS[case.language], NAMES="|".join(sorted(names)))
        phrases = (p for p in matches(shape, case.reading.squashed) if p not in title.folded)
        yield from violations(phrases, "speaks of others without proof: needs comparison", holds=True)


def foreign_names(case: Case) -> Iterator[Violation]:
    """G4: no brand but the item's own, and no title of a work that the facts do not hold."""
    yield from foreign_brands(case)
    for match in pattern("naming.work").finditer(case.reading.folded):
        title = match["name"].replace("〈", "《").replace("〉", "》")
        if title not in case.facts.folded and not any(title in fold(text) for text in case.slots.values()):
            yield Violation(f"{match[0]!r} is a title that the facts do not hold", match[0], holds=True)


def foreign_brands(case: Case) -> Iterator[Violation]:
    own_brand, brands = read(case.facts.brand or "").words, _brands(case.request.known_brands)
    words = case.reading.words
    fact_words = [f" {' '.join(read(text).words)} " for text in case.facts.texts]
    for start, size in product(range(len(words)), range(1, limit("max_brand_words") + 1)):
        gram = words[start : start + size]
        name = brands.get(gram) if start + size <= len(words) else None
        if not name or gram == own_brand or any(f" {' '.join(gram)} " in text for text in fact_words):
            continue
        # a brand that is a plain word, such as "Dove", is meant only with a capital inside a sentence
        plain = len(gram) == 1 and gram[0] in table("brands.toml")["plain_words"]
        if not plain or any(fold(token) == gram[0] for token in inner_capitals(case.text)):
            yield Violation(f"{name!r} is another brand", name)


@lru_cache(maxsize=8)
def _brands(known_brands: frozenset[str]) -> Mapping[tuple[str, ...], str]:
    """Folded words of a brand -> the brand as the catalogue or the list has it."""
    names = [*table("brands.toml")["famous"], *sorted(known_brands)]
    return {words: name for name in names if (words := read(name).words) and (len(words) > 1 or len(words[0]) > 1)}


def inner_capitals(text: str) -> Iterator[str]:
    """Capitalised words inside a sentence, none from a line written in title case."""
    for sentence in _SENTENCE.split(text):
        tokens = _TOKEN.findall(sentence)
        inner = [t for t in tokens[1:] if t[0].isupper()]
        if len(tokens) < 4 or len(inner) < limit("title_case_share") * (len(tokens) - 1):
            yield from inner if len(tokens) > 1 and len(inner) < len(tokens) - 1 else ()


def product_named(case: Case) -> Iterator[Violation]:
    """G5: the title's head word, or the narrowest category, stands in the text; of an item without a name nothing has
    to, nor where the text is about a cart, an order or the shop."""
    person, offer = case.request.person, case.offer
    is_about_order = offer is not None and offer.type in (OfferType.COUPON, OfferType.FREE_SHIPPING, OfferType.GIFT)
    if not case.facts.title or person.in_cart or person.away or person.first_order or is_about_order:
        return
    han = "".join(HAN_RUN.findall(fold(_first_part(case.facts))))
    if len(han) > 2 and han[-1] not in case.reading.folded:  # a name with another end: 保温壶 of a 保温杯
        ends = "".join(kind for kind in word_class("kinds_zh") if kind != han[-1])
        if match := re.search(f"{han[-3:-1]}[{ends}]", case.reading.folded):
            yield Violation(f"{match[0]!r} is another thing than {case.facts.title!r}", match[0], holds=True)
            return

    def spaced(names: tuple[str, ...]) -> str:
        """Their stems, with a space around each; a single space for none."""
        return " ".join(("", *map(stem, names), ""))

    text = spaced(case.reading.words)
    names = (spaced(read(name).words) for name in dict.fromkeys(head_names(case)))
    if not any(len(name) > 1 and name in text for name in names):
        yield Violation(f"the product {case.facts.title!r} is not named", holds=True)


def head_names(case: Case) -> list[str]:
    """What counts as naming: the title, the last and longest words of its spellings, and the narrowest category."""
    facts = case.facts
    called = (case.slots[slot] for slot in ("item.short", "item", "short", "category") if slot in case.slots)
    names = [facts.title, *facts.category[-1:], *called]
    brand = set(read(facts.brand or "").words)
    title = _first_part(facts)
    han = "".join(HAN_RUN.findall(fold(title))).removeprefix(fold(facts.brand or ""))
    latin = [w for w in read(title).words if len(w) > 2 and w.isalpha() and w.isascii() and w not in brand]
    names += [*latin[-2:], *sorted(latin, key=len)[-1:]]
    pairs = [han[i : i + 2] for i in range(len(han) - 1)]
    names += [pair for pair in pairs[-3:] if pair not in _tastes(title)]
    if len(han) > 5:  # 桂花乌龙 of 桂花乌龙茶袋泡茶
        names += [han[i : i + 4] for i in range(len(han) - 3) if han[i + 3] not in word_class("dangling_zh")]
    # 童鞋 > 运动鞋: a wider category that ends with the title's kind names it too
    names += [c for c in facts.category[:-1] if len(c) > 1 and han and fold(c)[-1] == han[-1]]
    return names


def _first_part(facts: FactSheet) -> str:
    """A title without size, brand and what follows the name: 手机支架 of 驰印 手机支架 出风口款."""
    name = name_and_size(facts.title)[0]
    parts = [word for word in name.split() if not word.isascii() and fold(word) != fold(facts.brand or "")]
    return parts[0] if parts else pattern("titles.first_part").split(name)[0]


@lru_cache(maxsize=1024)
def _tastes(title: str) -> frozenset[str]:
    """Pairs of characters of a Chinese title that only say what is in it, such as 三文 and 文鱼 of 三文鱼猫粮."""
    composition = next(family for family in families("claims.toml") if family.id == "composition")
    phrases = (p for p in composition.find(read(title)) if not fold(title).endswith(p))
    return frozenset(p[i : i + 2] for p in phrases for i in range(len(p) - 1))
