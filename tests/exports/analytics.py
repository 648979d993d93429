"""Web analytics: the events of Google Analytics 4 and Matomo's visits log, flattened to a line for each product."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, csv_of, liked
from recllm.base.schema import Table

GA4_COLUMNS = (
    "event_date,event_timestamp,event_name,event_bundle_sequence_id,user_id,user_pseudo_id,platform,device_category,"
    "geo_country,traffic_source,page_location,transaction_id,currency,item_id,item_name,item_brand,item_variant,"
    "item_category,item_category2,price,quantity,item_revenue"
)
MATOMO_COLUMNS = (
    "idVisit,visitorId,userId,visitIp,serverDate,type,timestamp,url,pageTitle,orderId,revenue,itemSKU,itemName,"
    "itemCategory,price,quantity,productViewSku,productViewName,productViewPrice"
)
PRODUCTS = [
    ("TR-1", "Trail runner", "Shoes", 89.0),
    ("CP-2", "Cap, blue", "Hats", 19.5),
    ("SK-3", "Socks", "Shoes", 7.25),
]
ASSORTMENT = [
    PRODUCTS[0],
    PRODUCTS[2],
    ("RR-4", "Road runner", "Shoes", 119.0),
    ("IN-5", "Insoles", "Shoes", 24.0),
    PRODUCTS[1],
    ("SH-6", "Sun hat, straw", "Hats", 29.0),
    ("BN-7", "Beanie, merino", "Hats", 34.0),
    ("HB-8", "Headband", "Hats", 12.0),
]
GA4_KINDS = {
    "view_item": "view",
    "add_to_cart": "cart",
    "purchase": "purchase",
    "add_to_wishlist": "favourite",
    "refund": "return",
}


def exports(rng: random.Random) -> list[Export]:
    return [ga4(rng, "", "bq-results-20240601.csv"), ga4(rng, "items.", "ga4_items.csv"), matomo(rng)]


def ga4(
    rng: random.Random,
    prefix: str,
    file_name: str,
    n_events: int = 120,
    n_people: int = 9,
    start: datetime = datetime(2024, 6, 1, 5, tzinfo=UTC),
    every: timedelta = timedelta(minutes=37),
    goods: Sequence[tuple[str, str, str, float]] = PRODUCTS,
) -> Export:
    """Pages and scrolls without products, products that are not set, and people without an id beside the five kinds."""
    rows: list[dict[str, Any]] = []
    events = []
    other_kinds = ("page_view", "session_start", "scroll", "view_item_list")
    for number in range(n_events):
        at, person = start + number * every + timedelta(microseconds=number), number % n_people
        kind = rng.choice(other_kinds) if number % 3 == 0 else rng.choices(list(GA4_KINDS), (8, 4, 4, 2, 1))[0]
        item_id, name, category, price = rng.choice(liked(goods, person))
        is_signed_in, is_denied, is_unset = number % 4 == 0, number % 17 == 0, number % 19 == 0
        browser = f"18273645{person}.1717200000"
        user_id = f"c{person}" if is_signed_in and not is_denied else ""
        has_product = kind in GA4_KINDS or kind == "view_item_list"
        quantity = 2 if kind in ("purchase", "refund") else ""
        row = {
            "event_date": f"{at:%Y%m%d}",
            "event_timestamp": round(at.timestamp() * 1_000_000),
            "event_name": kind,
            "user_id": user_id,
            "user_pseudo_id": "" if is_denied else browser,
            "transaction_id": f"T{number}" if kind == "purchase" else "(not set)",
            "currency": "USD" if has_product else "",
        }
        if has_product:
            row |= {f"{prefix}item_id": "(not set)" if is_unset else item_id, f"{prefix}item_name": name}
            row |= {f"{prefix}price": price, f"{prefix}quantity": quantity, f"{prefix}item_category": category}
            row |= {f"{prefix}item_brand": "Leaf"}
        rows.append(row)
        if kind in GA4_KINDS and not is_denied and not is_unset:
            events.append(
                ExpectedEvent(
                    user_id=user_id or browser,
                    item_id=item_id,
                    event=GA4_KINDS[kind],
                    at=at.isoformat(),
                    quantity=quantity or 1,
                    price=price,
                )
            )
    header = GA4_COLUMNS
    for name in ("item_id", "item_name", "item_brand", "item_category", "item_category2", "price", "quantity"):
        header = header.replace(f",{name},", f",{prefix}{name},")
    return Export(
        source="ga4-events",
        file_name=file_name,
        content=csv_of(header, rows).encode(),
        accepted={Table.ITEMS: len(goods), Table.EVENTS: len(events)},
        events=tuple(events),
        items={"CP-2": {"title": "Cap, blue", "brand": "Leaf", "category": ["Hats"], "price": "19.5"}},
    )


def matomo(
    rng: random.Random,
    n_actions: int = 60,
    n_people: int = 8,
    start: datetime = datetime(2024, 6, 1, 5, tzinfo=UTC),
    every: timedelta = timedelta(minutes=53),
    goods: Sequence[tuple[str, str, str, float]] = PRODUCTS,
) -> Export:
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_actions):
        at, person = start + number * every, number % n_people
        item_id, name, category, price = rng.choice(liked(goods, person))
        kind = ("action", "ecommerceOrder", "action", "event", "ecommerceAbandonedCart", "outlink")[number % 6]
        browser, user_id = f"{person:016x}", f"c{person}" if rng.random() < 0.5 else ""
        row = {
            "idVisit": 1000 + number // 6,
            "visitorId": browser,
            "userId": user_id,
            "type": kind,
            "timestamp": round(at.timestamp()),
            "url": "https://shop.example/p?a=1,2",
        }
        is_view = number % 6 == 0
        if kind.startswith("ecommerce"):
            row |= {"itemSKU": item_id, "itemName": name, "itemCategory": category, "price": price, "quantity": 3}
            row |= {"orderId": f"A-{number}" if kind == "ecommerceOrder" else ""}
        elif is_view:
            row |= {"productViewSku": item_id, "productViewName": name, "productViewPrice": price}
        rows.append(row)
        if is_view or kind.startswith("ecommerce"):
            events.append(
                ExpectedEvent(
                    user_id=user_id or browser,
                    item_id=item_id,
                    event={"action": "view", "ecommerceOrder": "purchase"}.get(kind, "cart"),
                    at=at.isoformat(),
                    quantity=1 if is_view else 3,
                    price=None if is_view else price,
                )
            )
    return Export(
        source="matomo-actions",
        file_name="visits.csv",
        content=csv_of(MATOMO_COLUMNS, rows).encode(),
        accepted={Table.ITEMS: len({event.item_id for event in events}), Table.EVENTS: len(events)},
        events=tuple(events),
        items={PRODUCTS[1][0]: {"title": PRODUCTS[1][1]}},
    )
