"""G1, G2, G3, G17: what is claimed is true: numbers, prices, offers, and claims that need proof.

Word lists know words; the patterns here know the shape around them: comparisons, praise by others, added ingredients.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from recllm.adcopy.lexicon import HAN, Family, families, fold, pattern, read, stem, stems, word_class
from recllm.adcopy.quantities import Quantity, QuantityKind, currency_of, renderings, rounded
from recllm.adcopy.request import OfferType
from recllm.adcopy.verify.case import Case, Violation, stated_by_facts, used_with

_PRAISE = {"en": pattern("claims.praise"), "zh": pattern("claims.praise_zh")}
_NONE_BETTER = {"en": pattern("claims.none_better"), "zh": pattern("claims.none_better_zh")}
_ADDED = (pattern("claims.added"), pattern("claims.added_zh"))
_PRICE_TALK = {"en": pattern("claims.price_talk"), "zh": pattern("claims.price_talk_zh")}
_NO_PRICE_TALK = pattern("claims.no_price_talk")
_HAN_RUN = re.compile(rf"[{HAN}]+")

# --- G1: numbers ---------------------------------------------------------------------------------------------------


def numbers(case: Case) -> Iterator[Violation]:
    """G1: every number, price, share, date and count of the text stands among the facts, with the same unit."""
    for quantity in case.quantities:
        if not _is_fact(quantity, case):
            span = quantity.span.strip()
            yield Violation(f"{quantity.kind} {span!r} is not among the facts", span)


def _is_fact(quantity: Quantity, case: Case) -> bool:
    kind, offer = quantity.kind, case.offer
    if kind in (QuantityKind.NUMBER, QuantityKind.PERCENT, QuantityKind.CODE) and quantity in case.facts.quantities:
        return True
    if kind is QuantityKind.MONEY:
        return _is_price(quantity, case)
    if kind is QuantityKind.DISCOUNT:
        return offer is not None and offer.type is OfferType.PERCENT and offer.value == quantity.value
    if kind is QuantityKind.DATE:
        return quantity.unit in _offer_days(case)
    if kind is QuantityKind.MULTITUDE:
        return stem(quantity.unit) in stems(case.facts.words) or stated_by_facts(quantity.unit, case.facts)
    return any(_says_the_same(quantity, fact, case) for fact in case.facts.quantities)


def _says_the_same(quantity: Quantity, fact: Quantity, case: Case) -> bool:
    if quantity.kind is not fact.kind or quantity.value != fact.value:
        return False
    if quantity.unit != fact.unit:  # "eight buns" counts the eight of "8 count" where the item is called buns
        is_count = fact.unit == "ct" and not quantity.unit
        return is_count and stem(quantity.role) in stems(read(case.facts.title).words)
    word = quantity.role
    return not word or word in word_class("glue") or stem(word) in stems(case.facts.words)


def _is_price(quantity: Quantity, case: Case) -> bool:
    facts, offer, value = case.facts, case.offer, quantity.value
    if facts.currency is None or value is None or not _names_currency(quantity.span, facts.currency):
        return False
    offered = offer.value if offer and offer.type in (OfferType.AMOUNT, OfferType.COUPON) else None
    amount = {"list": facts.list_price, "": facts.price, "off": offered}.get(quantity.role)
    if amount is None and quantity.role == "":  # "a coupon worth 5 dollars": the offer's value, said without "off"
        amount = offered
    return amount is not None and value == rounded(amount, facts.currency)


def _names_currency(span: str, code: str) -> bool:
    """True when the sign or word beside an amount can mean this currency."""
    currency = currency_of(code)
    signs = (*currency.signs["en"], *currency.signs["zh"], *currency.chinese_words) if currency else ()
    sign = "".join(c for c in span if not (c.isdigit() or c in " ,."))
    return sign in {fold(s) for s in (code, *signs)} or bool(currency and sign in currency.words)


def _offer_days(case: Case) -> set[str]:
    """The first day, the last day and the end of the running offer, with and without the year."""
    offer = case.offer
    if offer is None:
        return set()
    last = offer.end - timedelta(microseconds=1) if offer.end else None
    return {day.strftime(form) for day in (offer.start, offer.end, last) if day for form in ("%m-%d", "%Y-%m-%d")}


def currency_format(case: Case) -> Iterator[Violation]:
    """G17: amounts are written as the locale writes them: sign, place, decimals."""
    code, locale = case.facts.currency, case.request.locale
    for quantity in case.quantities:
        if quantity.kind is QuantityKind.MONEY and quantity.value is not None and code:
            accepted = renderings(quantity.value, code, locale)
            if quantity.span.replace(" ", "") not in accepted:
                message = f"{quantity.span!r} is not how {locale} writes {code}, such as {min(accepted)}"
                yield Violation(message, quantity.span)


# --- G2: offers ----------------------------------------------------------------------------------------------------


def offers(case: Case) -> Iterator[Violation]:
    """G2: no word of an offer unless an offer of that type runs now, and no talk of prices unless the text states one
    or an offer runs."""
    running = case.offer
    if running is None and not any(q.kind is QuantityKind.MONEY for q in case.quantities):
        text = _NO_PRICE_TALK.sub(lambda m: "\x00" * len(m[0]), read(case.own_words).squashed)
        for match in _PRICE_TALK[case.language].finditer(text):
            yield Violation(f"{match[0]!r} speaks of a price and states none", match[0])
    for family in families("offers.toml"):
        if running is None or running.type not in family.offers:
            for phrase in family.find(case.reading):
                yield Violation(f"{phrase!r} promises an offer ({family.id}), and none runs", phrase)
    if running is None:
        for quantity in case.quantities:
            if quantity.kind is QuantityKind.DISCOUNT or quantity.role in ("off", "threshold"):
                yield Violation(f"{quantity.span!r} promises a reduction, and no offer runs", quantity.span)


# --- G3: claims that need proof ------------------------------------------------------------------------------------


def proofs(case: Case) -> Iterator[Violation]:
    """G3: no claim without its proof: cures, certificates, awards, ranks, ratings, sales, urgency, materials, ..."""
    yield from _comparisons(case)
    yield from _ingredients(case)
    for family in families("claims.toml"):
        if not _is_proven(family, case):
            for phrase in family.find(read(case.own_words) if family.from_facts else case.reading):
                if not (family.from_facts and (stated_by_facts(phrase, case.facts) or used_with(phrase, case.facts))):
                    yield Violation(f"{phrase!r} claims {family.id} without proof", phrase)


def _is_proven(family: Family, case: Case) -> bool:
    running = case.offer
    if family.evidence == "offer.end":
        return running is not None and running.end is not None
    if running is not None and running.type in family.offers:
        return True
    return family.evidence != "never" and bool(case.request.evidence.get(family.evidence))


def _comparisons(case: Case) -> Iterator[Violation]:
    """No comparison with other products of the kind, no "none is better", no praise in others' names."""
    text, title = case.reading.squashed, read(case.facts.title)
    if case.language == "en":
        names = {re.escape(stem(w)) for w in title.words if w.isascii() and w.isalpha() and len(w) > 2}
        other_goods = "claims.other_goods"
    else:
        names = {run[i : i + 2] for run in _HAN_RUN.findall(title.folded) for i in range(len(run) - 1)}
        other_goods = "claims.other_goods_zh"
    shapes = [(_PRAISE[case.language], "rating"), (_NONE_BETTER[case.language], "comparison")]
    if names:
        shapes.append((pattern(other_goods, NAMES="|".join(sorted(names))), "comparison"))
    for shape, proof in shapes:
        if not case.request.evidence.get(proof):
            yield from (Violation(f"{m[0]!r} speaks of others without proof", m[0]) for m in shape.finditer(text))


def _ingredients(case: Case) -> Iterator[Violation]:
    """What the text says was added or smells through stands among the facts."""
    if case.request.evidence.get("composition"):
        return
    for shape in _ADDED:
        for match in shape.finditer(case.reading.squashed):
            name = next(value for value in match.groups() if value)
            if not (stated_by_facts(name, case.facts) or used_with(name, case.facts)):
                yield Violation(f"{match[0]!r} names what the facts do not hold", match[0])
