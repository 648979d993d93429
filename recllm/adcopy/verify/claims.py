"""G1, G2, G3, G17: what is claimed is true: numbers, prices, offers, and claims that need proof."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

from recllm.adcopy.facts import OfferType
from recllm.adcopy.lexicon import Family, families, word_class
from recllm.adcopy.money import CURRENCIES, renderings, same_amount
from recllm.adcopy.quantities import Kind, Quantity
from recllm.adcopy.reading import fold, read
from recllm.adcopy.verify import comparisons as turns
from recllm.adcopy.verify.case import Case, Fault, stated_by_facts, stem, used_with


def numbers(case: Case) -> Iterator[Fault]:
    """G1: every number, price, share, date and count of the text stands among the facts, with the same unit."""
    for quantity in case.quantities:
        if not _is_fact(quantity, case):
            yield Fault(f"{quantity.kind} {quantity.span.strip()!r} is not among the facts", quantity.span.strip())


def _is_fact(quantity: Quantity, case: Case) -> bool:
    if quantity.kind in (Kind.NUMBER, Kind.PERCENT, Kind.CODE) and quantity in case.facts.quantities:
        return True
    if quantity.kind is Kind.MONEY:
        return _is_price(quantity, case)
    if quantity.kind is Kind.DISCOUNT:
        offer = case.offer
        return offer is not None and offer.type is OfferType.PERCENT and offer.value == quantity.value
    if quantity.kind is Kind.DATE:
        return quantity.unit in _dates(case)
    if quantity.kind is Kind.MULTITUDE:
        return stem(quantity.unit) in {stem(w) for w in case.facts.words} or stated_by_facts(quantity.unit, case.facts)
    return any(_same(quantity, fact, case) for fact in case.facts.quantities)


def _same(quantity: Quantity, fact: Quantity, case: Case) -> bool:
    if quantity.kind is not fact.kind or quantity.value != fact.value:
        return False
    if quantity.unit != fact.unit:
        return fact.unit == "ct" and not quantity.unit and stem(quantity.role) in _title_stems(case)
    word = quantity.role
    return not word or word in word_class("glue") or stem(word) in {stem(w) for w in case.facts.words}


def _title_stems(case: Case) -> set[str]:
    """ "Eight buns" counts the eight of "8 count" where the item is called buns."""
    return {stem(word) for word in read(case.facts.title).words}


def _is_price(quantity: Quantity, case: Case) -> bool:
    currency, value = case.facts.currency, quantity.value
    if currency is None or value is None or not _names_currency(quantity.span, currency):
        return False
    amounts = {"list": case.facts.list_price, "": case.facts.price, "off": _offer_amount(case)}
    amount = amounts.get(quantity.role)
    if amount is None and quantity.role == "":  # "a coupon worth 5 dollars": the offer's value, said without "off"
        amount = _offer_amount(case)
    return amount is not None and same_amount(value, amount, currency)


def _offer_amount(case: Case) -> Decimal | None:
    offer = case.offer
    return offer.value if offer and offer.type in (OfferType.AMOUNT, OfferType.COUPON) else None


def _names_currency(span: str, currency: str) -> bool:
    """True when the sign or word beside an amount can mean this currency."""
    known = CURRENCIES.get(currency.upper())
    signs = {currency, *(known.signs["en"] + known.signs["zh"] + known.words["zh"] if known else ())}
    rest = "".join(c for c in span if not (c.isdigit() or c in " ,."))
    return rest in {fold(sign) for sign in signs} or rest in _SPOKEN.get(currency.upper(), ())


_SPOKEN = {
    "USD": ("dollars", "dollar"),
    "CAD": ("dollars", "dollar"),
    "AUD": ("dollars", "dollar"),
    "EUR": ("euros", "euro"),
    "GBP": ("quid",),
    "CNY": ("yuan", "人民币", "rmb"),
    "JPY": ("yen",),
}


def _dates(case: Case) -> set[str]:
    """The first day, the last whole day and the end of the running offer."""
    offer = case.offer
    days = [d for d in (offer.start, offer.end) if d is not None] if offer else []
    days += [offer.end - timedelta(microseconds=1)] if offer and offer.end else []
    return {day.strftime(form) for day in days for form in ("%m-%d", "%Y-%m-%d")}


def offers(case: Case) -> Iterator[Fault]:
    """G2: no word of an offer unless an offer of that type runs now."""
    running = case.offer
    yield from turns.price_talk(case)
    for family in families("offers.toml"):
        if running is None or running.type not in family.offers:
            for phrase in family.find(case.reading):
                yield Fault(f"{phrase!r} promises an offer ({family.id}), and none runs", phrase)
    if running is None:
        for quantity in case.quantities:
            if quantity.kind is Kind.DISCOUNT or quantity.role in ("off", "threshold"):
                yield Fault(f"{quantity.span!r} promises a reduction, and no offer runs", quantity.span)


def proofs(case: Case) -> Iterator[Fault]:
    """G3: no claim without its proof: cures, certificates, awards, ranks, ratings, sales, urgency, materials, ..."""
    yield from turns.others(case)
    yield from turns.ingredients(case)
    for family in families("claims.toml"):
        if not _is_proven(family, case):
            for phrase in family.find(read(case.own_words) if family.from_facts else case.reading):
                if not (family.from_facts and (stated_by_facts(phrase, case.facts) or used_with(phrase, case.facts))):
                    yield Fault(f"{phrase!r} claims {family.id} without proof", phrase)


def _is_proven(family: Family, case: Case) -> bool:
    running = case.offer
    if family.evidence == "offer.end":
        return running is not None and running.end is not None
    if running is not None and running.type in family.offers:
        return True
    return family.evidence != "never" and bool(case.evidence.get(family.evidence))


def currency_format(case: Case) -> Iterator[Fault]:
    """G17: amounts are written as the locale writes them: sign, place, decimals."""
    currency = case.facts.currency
    for quantity in case.quantities:
        if quantity.kind is Kind.MONEY and quantity.value is not None and currency:
            spelled = quantity.span.replace(" ", "")
            if spelled not in renderings(quantity.value, currency, case.locale):
                example = sorted(renderings(quantity.value, currency, case.locale))[0]
                yield Fault(
                    f"{quantity.span!r} is not how {case.locale} writes {currency}, such as {example}", quantity.span
                )
