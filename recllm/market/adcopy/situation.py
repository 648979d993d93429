"""From facts to the words of a text's slots, and to the conditions that frames ask for.

    situation_of(request, facts).slots["rhythm"]      # "about every two weeks"

Times are coarse on purpose: a shop that names the day of a purchase sounds like a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from math import inf
from typing import Any

from babel.dates import format_skeleton, get_month_names

from recllm.base.schema import Item, Occasion
from recllm.market.adcopy.deadlines import last_day
from recllm.market.adcopy.frames import Situation, frame_file
from recllm.market.adcopy.lexicon import fold, pattern
from recllm.market.adcopy.names import shelf
from recllm.market.adcopy.naming import (
    Level,
    Naming,
    category_name,
    goods_of,
    is_shouted,
    is_silent,
    measures_zh,
    naming,
)
from recllm.market.adcopy.quantities import currency_of, format_money, quantities, rounded
from recllm.market.adcopy.request import Ago, CopyRequest, FactSheet, OfferType, PersonFacts, ThingFacts
from recllm.text.domains import SHOP
from recllm.text.templates import quoted

SOON_DAYS = (1.5, 7)
"""Days until an item is due of which a text says that they are a few."""
FREQUENT = 3
"""Purchases of a category or brand within a year that make it a favourite."""
LONG_AGO_DAYS = 400
LATELY_DAYS, FRESH_DAYS = 60, 20
"""After that, asking whether coffee, or milk, is used up is silly."""
_RECENT_DAYS, _JUST_DAYS = 10, 9
_MONTH_DAYS, _YEAR_DAYS = 120, 300
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_PLACE = re.compile(r"\{([\w.]+)\}")
_OFFER_KIND = {
    OfferType.PERCENT: "percent",
    OfferType.AMOUNT: "amount",
    OfferType.FREE_SHIPPING: "free_delivery",
    OfferType.GIFT: "gift",
    OfferType.BOGO: "bundle",
    OfferType.COUPON: "code",
}
_FRAME_OCCASION = {
    Occasion.REPLENISH: "due_again",
    Occasion.ABANDONED: "left_in_cart",
    Occasion.PRICE_DROP: "price_drop",
    Occasion.BACK_IN_STOCK: "back_in_stock",
    Occasion.NEW_ARRIVAL: "new_arrival",
    Occasion.WIN_BACK: "win_back",
    Occasion.WELCOME: "thank_you",
}
_ON_ORDER = (OfferType.FREE_SHIPPING, OfferType.GIFT, OfferType.COUPON)
"""Offers on a whole order."""


def situation_of(request: CopyRequest, facts: FactSheet) -> Situation:
    """facts: made sayable. An item that no text is written for has no reasons, and so no frames."""
    name = naming(
        _title_of(request, facts),
        facts.category,
        request.language,
        brand=facts.brand,
        titles=request.domain.titles,
        is_till=is_shouted(request.item.title),
    )
    goods = goods_of((request.item.title, *request.item.category))
    if request.domain.name != SHOP:
        goods = frozenset({"one_off", "works"})
    offer = request.running_offer
    category = category_name(facts.category, request.language)
    if offer is not None and offer.type not in _ON_ORDER and fold(offer.scope or "") != fold(category):
        facts = replace(facts, category=())  # "20% off clothing" is untrue where the offer is for base layers
    slots = dict(
        english_slots(request, facts, name) if request.language == "en" else chinese_slots(request, facts, name)
    )
    conditions = conditions_of(request, facts, name, goods)
    reasons = () if is_silent(goods) or name.level is Level.NONE else tuple(reasons_of(request))
    return Situation(
        occasions=frozenset(occasions_of(request, conditions)),
        reasons=reasons,
        goods=goods,
        number=name.number,
        offer=_OFFER_KIND[offer.type] if offer is not None else "",
        conditions=conditions,
        language=request.language,
        slots={key: value for key, value in (slots | domain_slots(request)).items() if value},
        voice=request.voice.tone or "",
    )


def _title_of(request: CopyRequest, facts: FactSheet) -> str:
    """The title that may be shown: as the shop writes it where nothing was cut out, since spaces of a Chinese title say
    where its name ends."""
    if not facts.has_title:
        return ""
    as_written, sayable = (fold(title).replace(" ", "") for title in (request.item.title, facts.title))
    return request.item.title if request.language == "zh" and as_written == sayable else facts.title


def domain_slots(request: CopyRequest) -> dict[str, str]:
    words = request.domain.words[request.language]
    return {"do": words["buy"], "done": words["bought"], "noun": words.get("product", "")}


# --- what holds ------------------------------------------------------------------------------------------------------


def occasions_of(request: CopyRequest, conditions: frozenset[str]) -> Iterator[str]:
    if request.day is not None:  # a text for a day of the calendar is about the day
        yield request.day.key
        return
    yield "any_day"
    if request.occasion is not None:
        yield _FRAME_OCCASION[request.occasion]
    elif request.person.in_cart:
        yield "left_in_cart"
    if conditions & {"due", "overdue", "due_soon", "due_now", "due_late", "bought_twice", "due_by_shop"}:
        yield "due_again"


def reasons_of(request: CopyRequest) -> Iterator[str]:
    """Why this customer gets this item, the strongest first; "none" is always one."""
    person = request.person
    if not request.is_sensitive:
        if person.in_cart:
            yield "in_cart"
        if person.asked_alert:
            yield "asked_alert"
        if person.away is not None:
            yield "lapsed"
        if person.first_order is not None:
            yield "first_purchase"
        if person.times_bought:
            yield "bought_before"
        if person.bought_last_year:
            yield "bought_last_year"
        if person.viewed:
            yield "viewed"
        if person.with_item is not None and not person.times_bought:
            yield from ("goes_with", "people_also_buy")
        if person.because is not None and not person.times_bought and is_near(request.item, person.because):
            yield "because"
        if request.occasion is Occasion.NEW_ARRIVAL and person.category_bought:
            yield from ("new_in_category", *(("new_in_brand",) if person.brand_bought else ()))
        if person.category_bought >= FREQUENT:
            yield "bought_in_category"
        if person.brand_bought >= FREQUENT:
            yield "bought_in_brand"
        if not person.times_bought and person.category_bought:
            yield "never_bought"
    yield "none"


def is_near(item: Item, thing: ThingFacts) -> bool:
    """Whether a customer sees why one led to the other: a light after a light, no cat litter after milk."""
    paths = (item.category[:1], thing.category[:1])
    return paths[0] == paths[1] if all(paths) else shelf((item.title, *paths[0])) == shelf((thing.title, *paths[1]))


def conditions_of(request: CopyRequest, facts: FactSheet, name: Naming, goods: frozenset[str]) -> frozenset[str]:
    """The conditions of frames that hold."""
    day = request.day
    holds = {
        "in_stock": request.item.available,
        "named": name.level in (Level.CLEAN, Level.TILL),
        "clean_title": name.level is Level.CLEAN,
        "till_title": name.level is not Level.CLEAN,
        "category_ok": bool(facts.category and category_name(facts.category, request.language)),
        "giftable gift_item": not goods.isdisjoint({"gift", "toys", "books"}),
        "treat": "snacks" in goods,
        "arrived_30 new": request.occasion is Occasion.NEW_ARRIVAL,
        "back": request.occasion is Occasion.BACK_IN_STOCK,
        "old_price_proven price_drop": old_price_of(request, facts) is not None,
        "season fest_near": day is not None,
        "before_order_by": day is not None and day.days_left >= 1,
        "season_goods": day is not None and day.is_season_good,
        **_of_person(request.person, FRESH_DAYS if "perishable" in goods else LATELY_DAYS),
        **_of_offer(request, facts),
    }
    return frozenset(word for words, is_so in holds.items() if is_so for word in words.split())


def _of_person(person: PersonFacts, lately_days: int) -> Mapping[str, bool]:
    ratio, days = person.waited or 0.0, inf if person.last is None else person.last.days
    return {
        "same_sku bought_before": person.times_bought > 0,
        "due": 0.85 <= ratio <= 1.4,
        "overdue": 1.4 < ratio <= 3,
        "due_soon": 0.75 <= ratio < 0.95
        and person.every_days is not None
        and SOON_DAYS[0] <= person.every_days * (1 - ratio) <= SOON_DAYS[1],
        "due_now": 0.95 <= ratio <= 1.25,
        "due_late": 1.25 < ratio <= 2,
        "early": 0 < ratio < 0.75,
        "just_bought": days < _JUST_DAYS,
        "lately": _JUST_DAYS <= days <= lately_days,
        "bought_twice": person.waited is None and person.times_bought == 2,
        "count_3_to_9": 3 <= person.times_bought <= 9,
        "frequent": person.times_bought >= FREQUENT,
        "cart cart_any": person.in_cart,
        "seen": person.viewed,
        "pair also": person.with_item is not None,
        "fav_category": person.category_bought >= FREQUENT,
        "fav_brand": person.brand_bought >= FREQUENT,
        "never": person.times_bought == 0 and person.category_bought > 0,
        "lapsed away": person.away is not None,
        "first_order first": person.first_order is not None,
        "last_year": person.bought_last_year,
    }


def _of_offer(request: CopyRequest, facts: FactSheet) -> Mapping[str, bool]:
    offer = request.running_offer
    if offer is None:
        return {}
    is_on_order = offer.type in _ON_ORDER
    return {
        "offer_on_order": is_on_order,
        "offer_on_item offer_item": not is_on_order,
        "offer_on_category": bool(offer.scope) and not is_on_order,
        "offer_wide": bool(offer.scope) or is_on_order,
        "no_strings": not (offer.code or offer.min_spend or offer.excluded),
        "ends_known": offer.end is not None,
        "undated": offer.end is None,
        "offer_code": offer.type is OfferType.COUPON,
        "pay_known": price_with_offer(request, facts) is not None,
    }


def old_price_of(request: CopyRequest, facts: FactSheet) -> Decimal | None:
    """The lowest price of the past 30 days, where it is proven and above the price."""
    stated = [q.value for q in quantities(request.evidence.get("lowest_30d", "")) if q.value is not None]
    if len(stated) != 1 or facts.price is None or stated[0] is None or stated[0] <= facts.price:
        return None
    return stated[0]


# --- English ---------------------------------------------------------------------------------------------------------


def english_slots(request: CopyRequest, facts: FactSheet, name: Naming) -> Iterator[tuple[str, str]]:
    person, tables = request.person, frame_file("en").tables
    yield "shop", request.shop
    yield "link", request.link
    yield "basket", "cart" if request.region == "US" else "basket"
    if name.level in (Level.CLEAN, Level.TILL):
        yield from thing_slots("item", name, request.domain.words["en"]["name_quotes"])
    if category := category_name(facts.category, "en"):
        yield from (
            ("category", category),
            ("category.Cap", _capital(category)),
            ("category.headline", category.title()),
        )
        yield "category.is", "are" if category.endswith("s") or " and " in category or " & " in category else "is"
    if facts.brand and fold(facts.brand) not in ("private", "national"):
        yield "brand", facts.brand
    price, is_box = money_text(facts.price, facts), " of " in name.size
    yield "price", f"{price} for a {name.size}" if price and is_box else price
    yield "pack", "" if is_box else name.size
    words = _words(facts, ", ")
    yield from (("words", words), ("Words", _capital(words)))
    yield "author", _attribute(facts, "author", "作者")
    yield "series", _attribute(facts, "series")
    yield from person_english(request, tables)
    old_price = old_price_of(request, facts)
    if old_price is not None and facts.price is not None and facts.currency:
        yield "old_price", _round_money(old_price, facts.currency)
        yield "saving", _round_money(old_price - facts.price, facts.currency)
    yield from offer_english(request, facts, name, tables)
    if request.day is not None:
        yield from (("occasion", request.day.names["en"]), ("calendar", request.day.names["en"]))
        yield "day", _date(request.day.on, request, "EEEEdMMMM")
        if request.order_by is not None:
            yield "order_by", f"by {_date(request.order_by, request, 'dMMMM')}"
        if person.bought_last_year:
            yield from (
                ("season_last", f"last {_month(request.day.on)}"),
                ("season_last.Cap", f"Last {_month(request.day.on)}"),
            )


def person_english(request: CopyRequest, tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    person = request.person
    if person.times_bought:
        if every := person.every_days and _row(tables["rhythm"], person.every_days):
            yield from (("rhythm", every["say"]), ("rhythm.Cap", _capital(every["say"])), ("gap", every["gap"]))
        yield "count", tables["count"].get(str(person.times_bought), "")
        yield "count.Cap", _capital(tables["count"].get(str(person.times_bought), ""))
        yield from ago_english("last", person.last, tables)
    if person.away is not None:
        yield from ago_english("lapsed", person.away, tables)
    for key, thing in (
        ("with_item", person.with_item),
        ("first_item", person.first_order),
        ("because", person.because),
    ):
        if thing is not None and (named := _named(thing, request)).name:
            yield from thing_slots(key, named, request.domain.words["en"]["name_quotes"])
            if key == "with_item":
                for slot, value in ago_english("with_item", person.with_last, tables):
                    if "." in slot:
                        yield slot, value
                        yield "with_date", value
    if person.category_bought >= FREQUENT and person.favourite_category:
        yield "category_bought", person.favourite_category


def thing_slots(key: str, name: Naming, quotes: str = "") -> Iterator[tuple[str, str]]:
    if quotes:
        name = replace(name, name=quoted(name.name, quotes), short=quoted(name.short, quotes))
    short, is_plural = name.short or name.name, name.number == "plural"
    article = "an" if pattern("naming.vowel_sound").match(name.name) else "a"
    yield key, name.name
    yield f"{key}.Cap", _capital(name.name)
    yield from ((f"{key}.short", short), (f"{key}.Short", _capital(short)), (f"{key}.headline", _capital(short)))
    yield from (
        (f"{key}.the", f"the {name.name}" if name.has_article else name.name),
        (f"{key}.The", f"The {name.name}" if name.has_article else _capital(name.name)),
    )
    indefinite = f"{article} {name.name}" if name.number == "singular" and name.has_article else name.name
    yield from ((f"{key}.a", indefinite), (f"{key}.A", _capital(indefinite)))
    another = f"another {short}" if name.number == "singular" and name.has_article else f"more {short}"
    yield from ((f"{key}.more", another), (f"{key}.More", _capital(another)))
    yours = f"copy of {name.name}" if name.number == "title" else short
    yield from ((f"{key}.your", f"your {yours}"), (f"{key}.Your", f"Your {yours}"))
    yield from (
        (f"{key}.is", "are" if is_plural else "is"),
        (f"{key}.was", "were" if is_plural else "was"),
        (f"{key}.has", "have" if is_plural else "has"),
    )
    yield from ((f"{key}.s", "" if is_plural else "s"), (f"{key}.es", "" if is_plural else "es"))
    yield from (
        (f"{key}.it", "they" if is_plural else "it"),
        (f"{key}.It", "They" if is_plural else "It"),
        (f"{key}.them", "them" if is_plural else "it"),
    )


def ago_english(key: str, ago: Ago | None, tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if ago is None or ago.days >= LONG_AGO_DAYS:
        return
    days, day = ago
    month = _month(day)
    if days < _RECENT_DAYS:
        week = "about a week ago" if days >= 4 else "a few days ago"
        yield from ((key, week), (f"{key}.in", week))
    elif days >= _YEAR_DAYS:
        yield from ((key, f"last {month}"), (f"{key}.in", f"last {month}"))
    else:
        third = "" if days > _MONTH_DAYS else "early " if day.day <= 10 else "mid-" if day.day <= 20 else "late "
        yield from (
            (key, f"in {third}{month}"),
            (f"{key}.in", f"in {third}{month}"),
            (f"{key}.since", f"since {third}{month}"),
        )
    if row := _row(tables["span"], days):
        yield from ((f"{key}_span", row["span"]), (f"{key}.span", row["span"]), (f"{key}.ago", f"{row['span']} ago"))


def offer_english(
    request: CopyRequest, facts: FactSheet, name: Naming, tables: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    offer = request.running_offer
    if offer is None:
        return
    value = ""
    if offer.type is OfferType.PERCENT and offer.value is not None:
        value = f"{offer.value.normalize():f}%"
    elif offer.type is OfferType.BOGO:
        value = "buy one, get one free"
    elif offer.value is not None and facts.currency:
        value = _round_money(offer.value, facts.currency)
    until = short_until = ""
    if offer.end is not None:
        is_us = request.region == "US"
        until = f"{'through' if is_us else 'until'} {_date(last_day(offer.end), request, 'dMMMM')}"
        short_until = f"{'through' if is_us else 'until'} {_date(last_day(offer.end), request, 'dMMM')}"
    scope = offer.scope or ("" if offer.type in _ON_ORDER else f"the {name.name}" if name.has_article else name.name)
    gift = offer.gift or ""
    offer_slots = {
        "value": value,
        "scope": scope,
        "until": until,
        "code": offer.code or "",
        "min_spend": ""
        if offer.min_spend is None or not facts.currency
        else _round_money(offer.min_spend, facts.currency),
        "excluded": offer.excluded or "",
        "gift": gift,
        "gift.free": f"a free {gift}" if gift else "",
    }
    forms = tables["offer"][_OFFER_KIND[offer.type]]
    short = {**offer_slots, "until": short_until}
    on, line = worded_offer(forms["on"], offer_slots), worded_offer(forms["line"], offer_slots)
    terms = "[{until}][, code {code}][, on orders from {min_spend}][; {excluded} excluded]"
    terms = worded_offer(terms, offer_slots).lstrip(",; ")
    short_terms = worded_offer("[{until}][, code {code}][, from {min_spend}]", short).lstrip(", ")
    sms = worded_offer(forms["line"].replace("on orders from", "from"), short)
    yield "offer", on
    yield from (
        ("offer.short", worded_offer(forms["short"], offer_slots)),
        ("offer.Short", _capital(worded_offer(forms["short"], offer_slots))),
    )
    yield from (("offer.on", on), ("offer.On", _capital(on)), ("offer.with", worded_offer(forms["with"], offer_slots)))
    yield from (("offer.line", _capital(line)), ("offer.line.low", line), ("offer.sms", _capital(sms)))
    yield from (("offer.terms", _capital(terms)), ("offer.terms.low", terms))
    if len(short_terms) <= 38:
        yield from (("offer.short_terms", short_terms), ("offer.Short_terms", _capital(short_terms)))
    yield from (
        ("until", until),
        ("Until", _capital(until)),
        ("code", offer_slots["code"]),
        ("min_spend", offer_slots["min_spend"]),
        ("excluded", offer_slots["excluded"]),
        ("short_until", short_until),
    )
    yield from (("gift", gift), ("gift.free", offer_slots["gift.free"]))
    if offer.type is OfferType.BOGO:
        yield "single_price", money_text(facts.price, facts)
    yield "pays", money_text(price_with_offer(request, facts), facts)


def worded_offer(form: str, offer_slots: Mapping[str, str]) -> str:
    """The words of an offer without those whose fact is missing; "" where a fact outside of brackets is."""

    def optional(match: re.Match[str]) -> str:
        return match[1] if all(offer_slots.get(name) for name in _PLACE.findall(match[1])) else ""

    form = _BRACKET.sub(optional, form)
    if not all(offer_slots.get(name) for name in _PLACE.findall(form)):
        return ""
    return _PLACE.sub(lambda match: offer_slots[match[1]], form)


# --- Chinese ---------------------------------------------------------------------------------------------------------


def chinese_slots(request: CopyRequest, facts: FactSheet, name: Naming) -> Iterator[tuple[str, str]]:
    tables = frame_file("zh").tables
    for voice, word in tables["you"].items():
        yield f"you@{voice}", request.voice.address or word
    yield "you", request.voice.address or "您"
    yield "shop", request.shop
    yield "link", request.link
    if name.level in (Level.CLEAN, Level.TILL) and name.short:
        size = name.size.replace(" ", "").replace("*", "×")
        marks = request.domain.words["zh"]["name_quotes"]
        called = name.name + size if len(name.name + size) <= 16 else name.name
        yield "item", quoted(called, marks) if marks else called
        yield from (
            ("short", name.short),
            ("mw", next((m for n, m in measures_zh().items() if name.short.endswith(n)), "")),
        )
        yield "spec", size
    yield "category", category_name(facts.category, "zh")
    yield "brand", facts.brand or ""
    yield "price", yuan_text(facts.price, facts)
    described = [
        value
        for value in facts.attributes.values()
        if not value.isascii() and len(value) <= 10 and value not in facts.title
    ]
    yield from (("desc", described[0] if described else ""), ("desc2", described[1] if len(described) > 1 else ""))
    yield from person_chinese(request, tables)
    old_price = old_price_of(request, facts)
    if old_price is not None and facts.price is not None:
        yield from (
            ("was", yuan_text(old_price, facts)),
            ("list", yuan_text(old_price, facts)),
            ("cut", yuan_text(old_price - facts.price, facts)),
        )
    yield from offer_chinese(request, facts, tables)
    if request.day is not None:
        yield from (("festival", request.day.names["zh"]), ("festival_date", _date_zh(request.day.on)))
        if request.order_by is not None:
            yield "ship", f"{_date_zh(request.order_by)}前下单，节前送到"
            yield "ship_promise", "y"


def person_chinese(request: CopyRequest, tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    person = request.person
    if person.times_bought:
        yield "n", str(person.times_bought) if 3 <= person.times_bought <= 9 else ""
        yield "times", f"{person.times_bought}次"
        yield "rhythm", _row(tables["rhythm"], person.every_days).get("say", "") if person.every_days else ""
        yield from ago_chinese(person.last, tables, ("last", "since", "last_date"))
    if person.away is not None:
        yield from ago_chinese(person.away, tables, ("", "away", "last_date"))
    for key, thing in (
        ("with_item", person.with_item),
        ("first_item", person.first_order),
        ("because", person.because),
    ):
        if thing is not None and (short := _named(thing, request).short):
            marks = request.domain.words["zh"]["name_quotes"]
            yield key, quoted(short, marks) if marks else short
    if person.with_last is not None and person.with_last.days <= 60:
        yield from ago_chinese(person.with_last, tables, ("with_last", "", ""))


def ago_chinese(ago: Ago | None, tables: Mapping[str, Any], keys: tuple[str, str, str]) -> Iterator[tuple[str, str]]:
    """Slots for how long ago, for the span, and for the third of the month."""
    if ago is None or ago.days >= LONG_AGO_DAYS:
        return
    days, day = ago
    row, (since, span, third) = _row(tables["span"], days), keys
    if since:
        yield since, row.get("say", "").replace("{days}", f"{days:.0f}")
    if span:
        yield span, row.get("span", "").replace("{days}", f"{days:.0f}")
    if third:
        yield third, f"{day.month}月{'上旬' if day.day <= 10 else '中旬' if day.day <= 20 else '下旬'}"


def offer_chinese(request: CopyRequest, facts: FactSheet, tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    offer = request.running_offer
    if offer is None:
        return
    value = "" if offer.value is None else f"{offer.value.normalize():f}"
    offer_slots = {
        "zhe": f"{((100 - offer.value) / 10).normalize():f}" if offer.type is OfferType.PERCENT and offer.value else "",
        "off": value if offer.type in (OfferType.AMOUNT, OfferType.COUPON) else "",
        "min": "" if offer.min_spend is None else f"{offer.min_spend.normalize():f}",
        "code": offer.code or "",
        "gift": offer.gift or "",
        "scope": offer.scope or "",
        "until": _date_zh(last_day(offer.end)) if offer.end is not None else "",
        "pay": yuan_text(price_with_offer(request, facts), facts),
    }
    kind = _OFFER_KIND[offer.type]
    form = tables["offer"].get(f"{kind}_min" if offer_slots["min"] and f"{kind}_min" in tables["offer"] else kind, "")
    yield from offer_slots.items()
    yield "offer", worded_offer(form, offer_slots) or ("买一送一" if offer.type is OfferType.BOGO else "")


def price_with_offer(request: CopyRequest, facts: FactSheet) -> Decimal | None:
    """The price after the offer, where the offer alone decides it."""
    offer, price = request.running_offer, facts.price
    if offer is None or offer.value is None or price is None or offer.min_spend is not None:
        return None
    if offer.type is OfferType.PERCENT:
        return price * (100 - offer.value) / 100
    return price - offer.value if offer.type is OfferType.AMOUNT and offer.value < price else None


def yuan_text(amount: Decimal | None, facts: FactSheet) -> str:
    if amount is None or not facts.currency or currency_of(facts.currency) is None:
        return ""
    if facts.currency != "CNY":
        return format_money(amount, facts.currency, "zh")
    return f"{rounded(amount, 'CNY').normalize():f}元"


def _date_zh(day: date) -> str:
    return f"{day.month}月{day.day}日"


# --- shared ----------------------------------------------------------------------------------------------------------


def _row(rows: Sequence[Mapping[str, Any]], days: float) -> Mapping[str, Any]:
    """The row of a table whose days hold these; {} for none."""
    return next((row for row in rows if row["from"] <= round(days) <= row["to"]), {})


def _named(thing: ThingFacts, request: CopyRequest) -> Naming:
    return naming(thing.title, thing.category, request.language, brand=thing.brand, titles=request.domain.titles)


def _capital(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def _attribute(facts: FactSheet, *names: str) -> str:
    return next((value for name, value in facts.attributes.items() if fold(name) in names), "")


def _words(facts: FactSheet, separator: str) -> str:
    """What the catalogue says of the item in a few words, without sizes and colours, which the customer chooses."""
    skipped = ("size", "colour", "color", "pack", "pack size", "author", "series", "尺码", "颜色", "规格")
    values = [v for name, v in facts.attributes.items() if fold(name) not in skipped and len(v) <= 24 and v.isascii()]
    values = [value for value in values if " " in value or any(c.isdigit() for c in value)]
    text = separator.join(values[:3])
    return text if 0 < len(text) <= 44 else separator.join(values[:1])


def _month(day: date) -> str:
    return str(get_month_names("wide", locale="en")[day.month])


def _date(day: date, request: CopyRequest, skeleton: str) -> str:
    locale = "en_US" if request.region == "US" else "en_GB"
    return str(format_skeleton(skeleton, day, locale=locale))


def money_text(amount: Decimal | None, facts: FactSheet) -> str:
    """As an English text shows it; "" where the amount or its currency is not known."""
    if amount is None or facts.currency is None or currency_of(facts.currency) is None:
        return ""
    return _round_money(amount, facts.currency)


def _round_money(amount: Decimal, currency: str) -> str:
    """£10 and £7.50: without cents where there are none."""
    text = format_money(amount, currency, "en")
    return text.removesuffix(".00")
