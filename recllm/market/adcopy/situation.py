"""From facts to the words of a text's slots, and to the conditions that frames ask for.

    situation_of(request, facts).slots["rhythm"]      # "about every two weeks"

Times are coarse on purpose: a shop that names the day of a purchase sounds like a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from math import inf
from typing import Any

from babel.dates import get_month_names

from recllm.base.schema import Occasion
from recllm.market.adcopy.frames import REGRET_DAYS, Situation, capital, content_stems, frame_file, is_kept, is_used_up
from recllm.market.adcopy.lexicon import fold, pattern, wearer_of
from recllm.market.adcopy.naming import (
    OTHER_SHELF,
    Naming,
    animals_in,
    category_name,
    goods_of,
    is_silent,
    naming,
    shelf,
    stems_of_goods,
)
from recllm.market.adcopy.quantities import currency_of, day_in_words, format_money, last_day, rounded
from recllm.market.adcopy.request import Ago, CopyRequest, FactSheet, OfferType, ThingFacts
from recllm.text.domains import SHOP
from recllm.text.templates import quoted

SOON_DAYS = (1.5, 7)
"""Days until an item is due of which a text says that they are a few."""
FREQUENT = 3
"""Purchases of a category or brand within a year that make it a favourite."""
LONG_AGO_DAYS = 400
LATELY_DAYS = {"perishable": (9, 20), "care": (28, 90), "": (9, 60)}
"""Kind of goods -> first and last day of asking whether they are used up."""
_THING_OF_REASON = {"because_bought": "because", "goes_with": "with_item", "people_also_buy": "with_item"}
"""Reason -> slot of the other thing that it names."""
_RECENT_DAYS = 9
"""Days until a purchase has a date."""
_MONTH_DAYS, _YEAR_DAYS = 120, 300
_PERISHABLE_DAYS = 45
"""The longest rhythm of milk and the like that a text speaks of."""
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_PLACE = re.compile(r"\{([\w.]+)\}")
_NUMERALS = "零一二三四五六七八九"
_MONTHS = get_month_names("wide", locale="en")
_ON_ORDER = (OfferType.FREE_SHIPPING, OfferType.GIFT, OfferType.COUPON)
"""Offers on a whole order."""


def situation_of(request: CopyRequest, facts: FactSheet) -> Situation:
    """facts: made sayable. An item that no text is written for has no reasons, and so no frames."""
    item, offer = request.item, request.running_offer
    title = facts.title if facts.has_title else ""
    as_written, sayable = (fold(text).replace(" ", "") for text in (item.title, title))
    if title and request.language == "zh" and as_written == sayable:
        title = item.title  # as the shop writes it: spaces of a Chinese title say where its name ends
    name = naming(
        title,
        facts.category,
        request.language,
        brand=facts.brand,
        titles=request.domain.titles,
        is_till=item.title.isupper(),
    )
    goods = goods_of((item.title, *item.category))
    if request.domain.name != SHOP:
        goods = frozenset({"one_off", "works"})
    category = category_name(facts.category, request.language)
    if offer is not None and offer.type not in _ON_ORDER and fold(offer.scope or "") != fold(category):
        category = ""  # "20% off clothing" is untrue where the offer is for base layers
    conditions = frozenset(condition for condition, holds in conditions_of(request, name, goods).items() if holds)
    slots = slots_of(request, facts, name, category)
    unrelated = {slot for slot in ("because", "with_item") if not is_related(request, slot, slots)}
    reasons = tuple(reason for reason in reasons_of(request, goods) if _THING_OF_REASON.get(reason) not in unrelated)
    return Situation(
        occasions=frozenset(occasions_of(request, conditions)),
        reasons=() if is_silent(goods) or (not name.name and name.level == "category") else reasons,
        goods=goods,
        number=name.number,
        offer=offer.type.value if offer is not None else "",
        conditions=conditions,
        language=request.language,
        slots={key: value for key, value in slots.items() if value},
        voice=request.voice.tone or "",
    )


def is_related(request: CopyRequest, slot: str, slots: Mapping[str, str]) -> bool:
    """Whether a customer sees why a purchase led to the item: a light after a light, no cat litter after milk.
    What is bought together may be of two categories. Without these the two share a word or a shelf."""
    thing: ThingFacts | None = getattr(request.person, slot)
    if thing is None or request.domain.name != SHOP:
        return True
    names = [slots.get("item", ""), slots.get(slot, "")]
    shorts = [slots.get("item.short", names[0]), slots.get(f"{slot}.short", names[1])]
    short, long = sorted(map(fold, shorts if slot == "with_item" else names), key=len)
    if short and short in long:  # "hot water bottle, to go with your hot water bottle"
        return False
    texts = [(request.item.title, *request.item.category[:1]), (thing.title, *thing.category[:1])]
    animals = [animals_in(text[0]) for text in texts]
    is_for_others = len({"", *map(wearer_of, texts)}) > 2
    if is_for_others or (all(animals) and not animals[0] & animals[1]):
        return False
    if request.item.category and thing.category:
        return slot == "with_item" or texts[0][1] == texts[1][1]
    finish = stems_of_goods("finish")  # a black frame, a black doormat
    first, second = (content_stems(name, request.language) - finish for name in names)
    return not first.isdisjoint(second) or shelf(texts[0]) == shelf(texts[1]) not in ("home", OTHER_SHELF)


def occasions_of(request: CopyRequest, conditions: frozenset[str]) -> Iterator[str]:
    if request.day is not None:  # a text for a day of the calendar is about the day
        yield request.day.key
        return
    yield "any_day"
    if request.occasion is not None:
        yield request.occasion.value
    elif request.person.in_cart:
        yield Occasion.ABANDONED.value
    if conditions & {"due", "overdue", "due_soon", "bought_twice"}:
        yield Occasion.REPLENISH.value


def reasons_of(request: CopyRequest, goods: frozenset[str]) -> Iterator[str]:
    """Why this customer gets this item, the strongest first, and "none"; no reason for one that they have."""
    person = request.person
    is_first = not person.times_bought
    is_reminder = request.day is None and request.occasion in (None, Occasion.REPLENISH)
    is_consumed = is_used_up(goods, person.is_repurchased)
    is_due = is_consumed or not is_reminder or goods.isdisjoint({"consumable", "refill"})
    is_for_day = request.day is not None and "seasonal" in goods and person.bought_last_year
    is_had = person.times_bought == 1 and not (is_consumed or is_for_day)
    is_recent = person.last is not None and person.last.days <= REGRET_DAYS
    offer, stays = request.running_offer, "works" not in goods and is_kept(goods, person.is_repurchased, is_recent)
    if offer and request.item.price and not offer.saves(request.item.price):
        return
    is_on_order = offer is not None and offer.type in _ON_ORDER
    is_regretted = bool(offer and is_recent and person.times_bought <= 2)
    if stays and not is_on_order and (is_had or is_regretted):
        return  # a jacket in the wardrobe is no news, its lower price bad news
    is_stale = "perishable" in goods and (person.every_days or 0) > _PERISHABLE_DAYS
    is_new = request.occasion is Occasion.NEW_ARRIVAL and person.category_bought > 0
    holds = {
        "in_cart": person.in_cart,
        "lapsed": person.away is not None,
        "first_purchase": person.first_order is not None,
        "bought_before": (person.times_bought > 1 or (not is_first and is_due)) and not is_stale,
        "bought_last_year": person.bought_last_year,
        "new_in_category": is_new,
        "new_in_brand": is_new and person.brand_bought > 0,
        "goes_with": person.with_item is not None and is_first,
        "people_also_buy": person.with_item is not None and is_first,
        "because_bought": person.because is not None and is_first,
        "bought_in_category": person.category_bought >= FREQUENT,
        "bought_in_brand": person.brand_bought >= FREQUENT,
        "never_bought": is_first and person.category_bought > 0,
    }
    reasons = [reason for reason, is_so in holds.items() if is_so and not request.is_sensitive]
    yield from reasons[:1] if person.in_cart else reasons  # of what lies in the cart nothing else is said
    yield "none"


def conditions_of(request: CopyRequest, name: Naming, goods: frozenset[str]) -> Mapping[str, bool]:
    """Each condition of frames, and whether it holds; frames also name slots, reasons and occasions."""
    person, day, offer = request.person, request.day, request.running_offer
    first_day, last_day = LATELY_DAYS[next((kind for kind in LATELY_DAYS if kind in goods), "")]
    ratio, days = person.waited or 0.0, inf if person.last is None else person.last.days
    # "three weeks ago, every three weeks": due by its words
    rows = [_row(frame_file(request.language).tables["span"], n) for n in (days, person.every_days or inf) if n < inf]
    is_in_words = len(rows) == 2 and rows[0] == rows[1] != {}
    is_on_order = offer is not None and offer.type in _ON_ORDER
    return {
        "in_stock": request.item.available,
        "stock_stated": request.item.stock_stated,
        "named": name.level in ("clean", "till"),
        "clean_title": name.level == "clean",
        "season_goods": day is not None and day.is_season_good,
        "due": 0.85 <= ratio <= 1.4 or is_in_words,
        "overdue": 1.4 < ratio <= 3,
        "due_soon": 0.75 <= ratio < 0.95
        and not is_in_words
        and person.every_days is not None
        and SOON_DAYS[0] <= person.every_days * (1 - ratio) <= SOON_DAYS[1],
        "due_now": 0.95 <= ratio <= 1.25 or is_in_words,
        "due_late": 1.25 < ratio <= 2,
        "early": 0 < ratio < 0.75 and not is_in_words,
        "just_bought": days < first_day,
        "lately": first_day <= days <= last_day,
        "bought_twice": person.waited is None and person.times_bought == 2,
        "frequent": person.times_bought >= FREQUENT,
        "offer_on_order": is_on_order,
        "offer_wide": offer is not None and (bool(offer.scope) or is_on_order),
        "no_strings": offer is not None and not (offer.code or offer.min_spend or offer.excluded),
    }


def slots_of(request: CopyRequest, facts: FactSheet, name: Naming, category: str) -> dict[str, str]:
    """The facts in words, some of them empty."""
    words, lowest, price = request.domain.words[request.language], request.lowest_price, facts.price
    slots = {
        "shop": request.shop,
        "link": request.link,
        "category": category,
        "brand": facts.brand or "",
        "do": words["buy"],
        "done": words["bought"],
        "noun": words.get("product", ""),
    }
    if request.language == "zh":
        slots |= item_chinese(request, facts, name)
        return slots | person_chinese(request) | offer_chinese(request, facts)
    if lowest is not None and price is not None and lowest > price:
        slots |= {"old_price": money_text(lowest, facts), "saving": money_text(lowest - price, facts)}
    if category:
        is_several = category.endswith("s") or " and " in category or " & " in category
        slots |= {"category.headline": category.title(), "category.is": "are" if is_several else "is"}
    slots |= item_english(request, facts, name) | person_english(request)
    shorts = [slots.get(f"{thing}.short", "").split()[-1:] for thing in ("item", "with_item")]
    if shorts[0] == shorts[1] != []:  # no "night light with your night light"
        slots["item.short"] = slots["item"]
    return slots | offer_english(request, facts, name)


def item_english(request: CopyRequest, facts: FactSheet, name: Naming) -> dict[str, str]:
    day, is_box = request.day, " of " in name.size
    price, lowest = money_text(facts.price, facts), money_text(facts.price_from, facts)
    price = price or (f"from {lowest}" if lowest else "")
    slots = {
        "basket": "cart" if request.region == "US" else "basket",
        "price": f"{price} for a {name.size}" if price and is_box else price,
        "pack": "" if is_box else name.size,
        "words": described_in_english(facts),
        "author": next((value for key, value in facts.attributes.items() if fold(key) in ("author", "作者")), ""),
    }
    if name.level in ("clean", "till"):
        slots |= thing_slots("item", name, request)
    if day is not None:
        slots |= {"occasion": day.names["en"], "day": day_in_words(day.on, request.region, "EEEEdMMMM")}
        if request.order_by is not None and day.days_left >= 1:
            slots["order_by"] = f"by {day_in_words(request.order_by, request.region)}"
        slots["season_last"] = f"last {_MONTHS[day.on.month]}" if request.person.bought_last_year else ""
    return slots


def person_english(request: CopyRequest) -> dict[str, str]:
    person, tables = request.person, frame_file("en").tables
    slots = ago_english("lapsed", person.away)
    if person.times_bought:
        every = _row(tables["rhythm"], person.every_days) if person.every_days else {}
        slots |= {
            "rhythm": every.get("say", ""),
            "gap": every.get("gap", ""),
            "count": tables["count"].get(str(person.times_bought), ""),
            **ago_english("last", person.last),
        }
    for key, named in _other_things(request):
        slots |= thing_slots(key, named, request) if named.name else {}
    if "with_item" in slots and (ago := ago_english("with_item", person.with_last)):
        slots |= {slot: value for slot, value in ago.items() if "." in slot}
    return slots


def thing_slots(key: str, name: Naming, request: CopyRequest) -> dict[str, str]:
    """What a text calls a thing, by article and number."""
    called, short = (_marked(text, request) for text in (name.name, name.short or name.name))
    is_plural, is_one = name.number == "plural", name.number == "singular" and name.has_article
    article = "an" if pattern("naming.vowel_sound").match(called) else "a"
    forms = {
        "short": short,
        "the": f"the {called}" if name.has_article else called,
        "a": f"{article} {called}" if is_one else called,
        "more": f"another {short}" if is_one else f"more {short}",
        **{form: words[is_plural] for form, words in _OF_NUMBER.items()},
    }
    return {key: called, **{f"{key}.{form}": word for form, word in forms.items()}}


_OF_NUMBER = {
    "is": ("is", "are"),
    "was": ("was", "were"),
    "has": ("has", "have"),
    "s": ("s", ""),
    "es": ("es", ""),
    "it": ("it", "they"),
    "them": ("it", "them"),
}
"""Form -> the word for one thing, and for several."""


def ago_english(key: str, ago: Ago | None) -> dict[str, str]:
    if ago is None or ago.days >= LONG_AGO_DAYS:
        return {}
    days, day = ago
    if days < _RECENT_DAYS:
        when = "about a week ago" if days >= 6 else "a few days ago"
    elif days >= _YEAR_DAYS:
        when = f"last {_MONTHS[day.month]}"
    else:
        third = "" if days > _MONTH_DAYS else "early " if day.day <= 10 else "mid-" if day.day <= 20 else "late "
        when = f"in {third}{_MONTHS[day.month]}"
    row = _row(frame_file("en").tables["span"], days)
    spans = {f"{key}.span": row["span"], f"{key}.ago": f"{row['span']} ago"} if row else {}
    return {key: when, f"{key}.in": when, **spans}


def offer_english(request: CopyRequest, facts: FactSheet, name: Naming) -> dict[str, str]:
    offer = request.running_offer
    if offer is None:
        return {}
    value = money_text(offer.value, facts)
    if offer.type is OfferType.PERCENT and offer.value is not None:
        value = f"{offer.value.normalize():f}%"
    elif offer.type is OfferType.BOGO and not (value and offer.value):
        value = "buy one, get one free" if offer.count == 2 else f"{offer.count} for {offer.count - 1}"
    elif offer.type is OfferType.BOGO:
        value = f"{offer.count} for {value}"
    until = short_until = ""
    if offer.end is not None:
        word, day = "through" if request.region == "US" else "until", last_day(offer.end)
        until, short_until = (f"{word} {day_in_words(day, request.region, form)}" for form in ("MMMMd", "MMMd"))
    scope = offer.scope or ""
    if not scope and offer.type not in _ON_ORDER:
        scope = f"the {name.name}" if name.has_article else name.name
    terms = {
        "until": until,
        "code": offer.code or "",
        "min_spend": money_text(offer.min_spend, facts),
        "excluded": offer.excluded or "",
        "gift": offer.gift or "",
        "gift.free": f"a free {offer.gift}" if offer.gift else "",
    }
    stated = {"value": value, "scope": scope, **terms}
    forms, short = frame_file("en").tables["offer"][offer.type], {**stated, "until": short_until}
    on, line = worded_offer(forms["on"], stated), worded_offer(forms["line"], stated)
    in_words = worded_offer("[{until}][, code {code}][, on orders from {min_spend}][; {excluded} excluded]", stated)
    short_terms = worded_offer("[{until}][, code {code}][, on orders from {min_spend}]", short).lstrip(", ")
    return terms | {
        "offer": on,
        "offer.short": worded_offer(forms["short"], stated),
        "offer.on": on,
        "offer.order": f"{value} off your order" if value and offer.type is OfferType.COUPON else "",
        "offer.with": worded_offer(forms["with"], stated),
        "offer.line": capital(line),
        "offer.line.low": line,
        "offer.sms": capital(worded_offer(forms["line"], short)),
        "offer.terms": capital(in_words.lstrip(",; ")),
        "offer.short_terms": short_terms,
        "short_until": short_until,
        "single_price": money_text(facts.price, facts) if offer.type is OfferType.BOGO else "",
        "pays": money_text(price_with_offer(request, facts), facts),
    }


def worded_offer(form: str, offer_slots: Mapping[str, str]) -> str:
    """The words of an offer without those whose fact is missing; "" where a fact outside of brackets is."""

    def is_known(words: str) -> bool:
        return all(offer_slots.get(name) for name in _PLACE.findall(words))

    form = _BRACKET.sub(lambda match: match[1] if is_known(match[1]) else "", form)
    if not is_known(form):
        return ""
    return _PLACE.sub(lambda match: offer_slots[match[1]], form)


def item_chinese(request: CopyRequest, facts: FactSheet, name: Naming) -> dict[str, str]:
    day, values, lowest = request.day, facts.attributes.values(), yuan_text(facts.price_from, facts)
    described = [v for v in values if not v.isascii() and len(v) <= 10 and v not in facts.title]
    slots = {
        "you": request.voice.address or frame_file("zh").tables["you"][request.voice.tone or "plain"],
        "price": yuan_text(facts.price, facts) or (f"{lowest}起" if lowest else ""),
        "desc": "".join(described[:1]),
        "desc2": "".join(described[1:2]),
    }
    if name.level in ("clean", "till") and name.short:
        size = name.size.replace(" ", "").replace("*", "×")
        sized = f"{name.name} {size}" if " " in name.name and size else name.name + size
        called = sized if len(sized) <= 16 else name.name
        measures = frame_file("zh").tables["measure"].items()
        measure = next((word for word, nouns in measures if name.short.endswith(tuple(nouns))), "")
        slots |= {"item": _marked(called, request), "short": name.short, "spec": size}
        slots |= {} if "×" in size else {"mw": measure}  # a case of boxes is no box
    if day is not None:
        slots |= {"festival": day.names["zh"], "festival_date": day_in_words(day.on, "zh")}
        if request.order_by is not None:
            slots["ship"] = f"{day_in_words(request.order_by, 'zh')}前下单，节前送到"
    return slots


def _marked(name: str, request: CopyRequest) -> str:
    marks = request.domain.words[request.language]["name_quotes"]
    return quoted(name, marks) if marks else name


def person_chinese(request: CopyRequest) -> dict[str, str]:
    person = request.person
    slots = {key: _marked(named.short, request) for key, named in _other_things(request) if named.short}
    if person.times_bought:
        every = _row(frame_file("zh").tables["rhythm"], person.every_days) if person.every_days else {}
        slots |= {
            "n": str(person.times_bought) if 3 <= person.times_bought <= 9 else "",
            "times": f"{person.times_bought}次",  # in no frame: grounds what others write
            "rhythm": every.get("say", ""),
            **ago_chinese(person.last, last="say", since="span"),
        }
    slots |= ago_chinese(person.away, away="span")
    if person.with_last is not None and person.with_last.days <= 60:
        slots["with_last"] = ago_chinese(person.with_last, with_last="say").get("with_last", "")
    return slots


def ago_chinese(ago: Ago | None, **entries: str) -> dict[str, str]:
    """Slots by entries of the table of times, and for the third of the month."""
    if ago is None or ago.days >= LONG_AGO_DAYS:
        return {}
    row, day = _row(frame_file("zh").tables["span"], ago.days), ago.on
    slots = {slot: row.get(entry, "").replace("{days}", f"{ago.days:.0f}") for slot, entry in entries.items()}
    third = "上旬" if day.day <= 10 else "中旬" if day.day <= 20 else "下旬"
    return {**slots, "last_date": f"{day.month}月{third}"}


def offer_chinese(request: CopyRequest, facts: FactSheet) -> dict[str, str]:
    offer = request.running_offer
    if offer is None:
        return {}
    zhe = (100 - offer.value) / 10 if offer.type is OfferType.PERCENT and offer.value else None
    off = None if offer.type is OfferType.PERCENT else offer.value
    # frames write 元 after them
    amounts = {"off": off, "min": offer.min_spend} if facts.currency == "CNY" else {}
    stated = {
        "zhe": "" if zhe is None else f"{zhe.normalize():f}",
        **{name: f"{amount.normalize():f}" for name, amount in amounts.items() if amount is not None},
        "count": f"{offer.count}",
        "paid": _NUMERALS[offer.count - 1] if offer.count <= len(_NUMERALS) else "",
        "code": offer.code or "",
        "gift": offer.gift or "",
        "scope": offer.scope or "",
        "until": "" if offer.end is None else day_in_words(last_day(offer.end), "zh"),
        "pay": yuan_text(price_with_offer(request, facts), facts),
    }
    kind, forms = offer.type.value, frame_file("zh").tables["offer"]
    kind = "together" if offer.type is OfferType.BOGO and off is not None else kind
    form = forms.get(f"{kind}_min" if offer.min_spend is not None and f"{kind}_min" in forms else kind, "")
    return stated | {"offer": worded_offer(form, stated)}


def price_with_offer(request: CopyRequest, facts: FactSheet) -> Decimal | None:
    """The price after the offer, where the offer alone decides it."""
    offer, price = request.running_offer, facts.price
    if offer is None or price is None or offer.min_spend is not None or offer.type is OfferType.COUPON:
        return None
    return offer.reduced(price)


def yuan_text(amount: Decimal | None, facts: FactSheet) -> str:
    if amount is not None and facts.currency == "CNY":
        return f"{rounded(amount, 'CNY').normalize():f}元"
    return money_text(amount, facts, "zh")


def money_text(amount: Decimal | None, facts: FactSheet, language: str = "en") -> str:
    """£10 and £7.50 in English; "" where the amount or its currency is unknown."""
    if amount is None or facts.currency is None or currency_of(facts.currency) is None:
        return ""
    text = format_money(amount, facts.currency, language)
    return text.removesuffix(".00") if language == "en" else text


def _row(rows: Sequence[Mapping[str, Any]], days: float) -> Mapping[str, Any]:
    """The row of a table whose days hold these; {} for none."""
    return next((row for row in rows if row["from"] <= round(days) <= row["to"]), {})


def _other_things(request: CopyRequest) -> Iterator[tuple[str, Naming]]:
    """(slot, what it is called) of what the customer bought besides."""
    person, titles = request.person, request.domain.titles
    things = {"with_item": person.with_item, "first_item": person.first_order, "because": person.because}
    for slot, thing in things.items():
        if thing is not None:
            yield slot, naming(thing.title, thing.category, request.language, brand=thing.brand, titles=titles)


def described_in_english(facts: FactSheet) -> str:
    """What the catalogue says of the item in a few words; the customer chooses sizes and colours."""
    skipped = ("size", "colour", "color", "pack", "pack size", "author", "series", "尺码", "颜色", "规格")
    values = [v for name, v in facts.attributes.items() if fold(name) not in skipped and len(v) <= 24 and v.isascii()]
    values = [value for value in values if " " in value or any(c.isdigit() for c in value)]
    text = ", ".join(values[:3])
    return text if 0 < len(text) <= 44 else ", ".join(values[:1])
