"""The texts of the copybook with their facts, as the checks take them.

Its facts become the fields of `CopyRequest`; one without a field (a service, what a page shows) is a proof under its
own name. No field takes the amount of a fixed price or of several for a price, prices of several items, what a customer
looked at or asked for, and the sizes that they wear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from inputs import DATA

from recllm.base.schema import VARIANT_PRICES, Item
from recllm.market.adcopy.quantities import day_in_words
from recllm.market.adcopy.request import Ago, CopyRequest, FestiveDay, Offer, OfferType, PersonFacts, ThingFacts

FOLDER = DATA / "copybook"
CHANNELS = {"sms": "sms_gsm", "search": "google_rsa", "横幅": "banner", "App推送": "push", "电子邮件": "email"}
CHANNELS |= {"淘宝京东标题": "taobao_title", "小红书": "xhs", "短信": "sms_cn"}
CHANNELS |= {"微信社群": "social", "微信私聊": "social", "详情页": "wechat"}
OFFERS = {str(kind): kind for kind in OfferType} | {"free_delivery": OfferType.FREE_SHIPPING, "折扣": OfferType.PERCENT}
OFFERS |= {"立减": OfferType.AMOUNT, "满减": OfferType.AMOUNT, "满赠": OfferType.GIFT, "券码": OfferType.COUPON}
OFFERS |= {"包邮": OfferType.FREE_SHIPPING}
TODAY = {"en": "2025-10-08", "zh": "2026-05-03"}
"""Of texts of which nothing says the day."""
DESCRIBING = ("say", "pack", "age", "author", "fits", "size", "sizes", "size_options", "series", "no", "spec", "color")
DESCRIBING += ("colour", "weight", "material", "binding", "desc", "bed", "contents", "words", "attrs", "colors")
"""Attributes of the item, as many as its sheet takes, in this order."""
PROOFS = {"in_stock": "stock", "also_buy": "sales", "arrived": "launch_date", "new_days": "launch_date"}
"""Fact -> the proof that it is. Others are proofs under their own names."""
TERMS = ("service", "separate_price", "price_from", "adapter", "items", "prices", "ship")
"""Facts that are terms of the shop, besides an offer of no known type."""
UNSAID = ("sender", "opt_out", "optout", "shop_name", "sign", "nature", "good", "number", "title_level", "short")
UNSAID += ("viewed_days_ago", "seen_days", "notify", "asked_alert", "sensitive", "adult", "linked", "saving")
LOWEST = {"lowest_30d": "the list price, 2025-10-01 to 2025-10-31"}
"""Every shop of the sets knows the lowest price of the last 30 days."""
_CURRENCIES = {"£": "GBP", "€": "EUR", "$": "USD"}
_AMOUNT = re.compile(r"[£€$]\d+(?:\.\d+)?|\d+(?:\.\d+)?(?=元)")
_DAY = re.compile(r"(?:(\d{4})-)?([01]\d-[0-3]\d)(?:T.*)?")


def entries(file: str, language: str) -> list[dict[str, Any]]:
    """file: "copybook" or "bad". Without those that say that no text is sent."""
    lines = (FOLDER / f"{file}.{language}.jsonl").read_text("utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["text"] and "decision" not in row["text"]]


def text_of(row: Mapping[str, Any]) -> str:
    """As it is checked: without what code adds when a text leaves, or puts into a place of its own."""
    parts, shop = dict(row["text"]), shop_of(row)
    if "preview" in parts:  # Chinese mails have no headline
        parts = {"subject": parts["subject"], "preview": parts["preview"], "headline": shop, **parts}
    if "line" in parts and isinstance(row["shop"], str):  # a line on the item's page stands under its name
        parts = {"title": row["facts"].get("item") or row["facts"].get("title", ""), **parts}
    for name in ("label", "footer", "short_title"):
        parts.pop(name, None)
    button, tags = parts.pop("button", ""), " ".join(parts.pop("tags", ()))
    lines = [value if isinstance(value, str) else "\n".join(value) for value in (*parts.values(), tags) if value]
    text = ("\n\n" if "headlines" in parts else "\n").join(lines)
    text = text.removesuffix(f" Stop: {row['facts'].get('opt_out')}").removeprefix(f"【{shop}】")
    return f"{text}\n\n{button}" if button else text


def shop_of(row: Mapping[str, Any]) -> str:
    return str(row["shop"]["name"] if isinstance(row["shop"], dict) else row["facts"].get("shop_name", ""))


def request_of(row: Mapping[str, Any], **conditions: Any) -> CopyRequest:
    """conditions: packs and what else is no fact of the entry."""
    language = "en" if isinstance(row["shop"], dict) else "zh"
    facts = {name: value for name, value in row["facts"].items() if value}
    for part in ("item", "person", "cart", "calendar"):
        if isinstance(facts.get(part), dict):
            prefix = "cart_" if part == "cart" else ""
            facts |= {prefix + name: value for name, value in facts.pop(part).items()}
    offer = facts.pop("offer", {})
    offer = offer if isinstance(offer, dict) else {"terms": offer}
    if not offer and (least := facts.get("service", {}).get("free_delivery_from")):
        offer = {"kind": "free_delivery", "min_spend": least}
    start, end = (offer.get(a) or offer.get(b) for a, b in (("start", "from"), ("end", "until")))
    today = day_of(facts.pop("today", None) or start or end or TODAY[language])
    kind = OFFERS.get(offer.get("kind") or offer.get("type", ""))
    shown = _AMOUNT.search(str(row["text"])) if "fault" in row else None  # bad texts are not to fail by their price
    price = amount(facts.pop("price", shown[0] if shown else None))
    called = facts.pop("item", "")
    attributes: dict[str, Any] = {"called": called} if called else {}
    for name in DESCRIBING:
        value = facts.pop(name, ())
        attributes |= {v: v for v in value} if isinstance(value, list) else {name: str(value)} if value else {}
    if facts.pop("price_is", "") == "from":
        price, attributes[VARIANT_PRICES] = None, str(price)
    several = [thing["say"] if isinstance(thing, dict) else thing for thing in facts.get("items", ())]
    category, title = facts.pop("category", ()), facts.pop("title", called or ", ".join(several))
    list_price = facts.pop("old_price", None) or facts.pop("seen_price", None)
    on, order_by, name = facts.pop("date", None), facts.pop("order_by", None), facts.pop("name", "")
    evidence = LOWEST | ({"lowest_30d": list_price} if facts.pop("old_price_proof", None) else {})
    request: dict[str, Any] = {
        "item": Item(
            item_id=row["id"],
            title=title,
            brand=facts.pop("brand", None),
            category=(category,) if isinstance(category, str) else tuple(category),
            price=price,
            currency=next((code for sign, code in _CURRENCIES.items() if sign in str(row)), "CNY"),
            attributes=attributes,
        ),
        "locale": facts.pop("locale", language),
        "person": person_of(facts, title, today),
        "day": festive_day(name, day_of(on), today) if on else None,
        "order_by": day_of(order_by) if order_by else None,
        "link": facts.pop("link", ""),
    }
    terms = [in_words(facts.pop(name), language, "元") for name in TERMS if name in facts]
    terms += [in_words(offer, language, "元")] if kind is None else []
    evidence |= dict.fromkeys(("terms", "delivery", "warranty"), ", ".join(terms))
    evidence["free"] = evidence["terms"] if "free" in evidence["terms"] else ""
    if "qty" in offer:
        facts["gift_terms"] = f"{offer['gift']}{offer['qty']}个，{offer.get('how', '')}"
    evidence |= {PROOFS.get(name, name): in_words(v, language) for name, v in facts.items() if name not in UNSAID}
    return CopyRequest(
        channel=CHANNELS.get(row["channel"], row["channel"]),
        now=datetime.combine(today, time(9), UTC),
        shop=shop_of(row),
        offer=offer_of(offer, kind, start, end) if kind else None,
        list_price=amount(list_price),
        evidence=evidence,
        **request,
        **conditions,
    )


def festive_day(name: str, on: date, today: date) -> FestiveDay:
    return FestiveDay(key="any", names={"en": name}, on=on, days_left=(on - today).days)


def person_of(facts: dict[str, Any], title: str, today: date) -> PersonFacts:
    """What is used goes from the facts."""

    def ago(*names: str) -> Ago | None:
        days = max(facts.pop(name, 0) for name in names)
        return Ago.of(days, today) if days else None

    def thing(name: str) -> ThingFacts | None:
        value = facts.pop(name, "")
        facts["with_days"] = facts.get("with_days") or (value["days_ago"] if isinstance(value, dict) else 0)
        return ThingFacts(value["title"] if isinstance(value, dict) else value) if value else None

    bought, every, last = facts.pop("bought", facts.pop("n", 0)), facts.pop("every_days", None), ago("last_days")
    first = facts.pop("first", title if facts.pop("first_purchase_days_ago", 0) else "")
    of_category = [facts.pop(name, 0) for name in ("category_count", "fav_n", "category_bought", "fav_category")]
    last_year = [facts.pop(name, None) for name in ("same_occasion_last_year", "same_season_last_year", "last_year")]
    return PersonFacts(
        times_bought=bought if isinstance(bought, int) else 1,
        every_days=every,
        last=last,
        waited=last.days / every if last and every else None,
        in_cart=any([facts.pop(name, 0) for name in ("in_cart", "cart_days", "cart_n", "cart", "cart_items")]),
        with_item=thing("with_item") or thing("also_of"),
        with_last=ago("with_days"),
        category_bought=next((int(n) if isinstance(n, int) else 1 for n in of_category if n), 0),
        brand_bought=facts.pop("bought_of_brand", 0) or facts.pop("bought_of_author", 0) or len(facts.pop("owned", ())),
        away=ago("last_order_days", "away_days"),
        first_order=ThingFacts(first) if first else None,
        bought_last_year=any(last_year),
    )


def offer_of(offer: Mapping[str, Any], kind: OfferType, start: str | None, end: str | None) -> Offer:
    value = amount(offer.get("value") or offer.get("off"))
    if kind is OfferType.PERCENT and value is not None and "type" in offer:
        value = 100 - 10 * value  # 8折
    return Offer(
        type=kind,
        value=None if kind in (OfferType.GIFT, OfferType.FREE_SHIPPING) else value,
        start=datetime.combine(day_of(start), time(), UTC) if start else None,
        end=datetime.combine(day_of(end) + timedelta(days=1), time(), UTC) if end else None,
        code=None if offer.get("code") == "none" else offer.get("code"),
        min_spend=amount(offer.get("min_spend") or offer.get("min")),
        **{name: offer.get(name) for name in ("gift", "scope", "excluded")},
    )


def day_of(text: str) -> date:
    """Of 2025-10-08, 06-18 and 11-11T24:00; of 今天20:00 the day of texts that name none."""
    year, day = (_DAY.findall(text) or _DAY.findall(TODAY["zh"]))[0]
    return date.fromisoformat(f"{year or 2026}-{day}")


def amount(value: Any) -> Decimal | None:
    """None where it states no number."""
    digits = re.search(r"\d+(?:\.\d+)?", str(value or ""))
    return Decimal(digits[0]) if digits else None


def in_words(value: Any, language: str, unit: str = "") -> str:
    """A fact as a proof states it, days as a text has them. unit: of plain numbers."""
    if isinstance(value, dict):  # "returns days 60 days"
        named = [(name.split("_"), in_words(part, language, unit)) for name, part in value.items()]
        return ", ".join(" ".join([*words, part, words[-1]]) for words, part in named)
    if isinstance(value, list):
        return ", ".join(in_words(part, language) for part in value)
    is_day = isinstance(value, str) and _DAY.fullmatch(value)
    return day_in_words(day_of(value), language) if is_day else f"{value}{unit}" if language == "zh" else str(value)
