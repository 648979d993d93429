"""Shopify's exports: orders with a line for each product, products with one for each variant and picture, customers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, csv_of, liked
from recllm.base.schema import Table

ORDER_COLUMNS = (
    "Name,Email,Financial Status,Paid at,Fulfillment Status,Fulfilled at,Accepts Marketing,Currency,Subtotal,Shipping,"
    "Taxes,Total,Discount Code,Discount Amount,Shipping Method,Created at,Lineitem quantity,Lineitem name,"
    "Lineitem price,Lineitem compare at price,Lineitem sku,Lineitem requires shipping,Lineitem taxable,"
    "Lineitem fulfillment status,"
    "Billing Name,Billing Street,Billing City,Billing Zip,Billing Country,Billing Phone,Notes,Cancelled at,"
    "Payment Method,Refunded Amount,Vendor,Id,Tags,Source,Phone"
)
PRODUCT_COLUMNS = (
    "Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Published,Option1 Name,Option1 Value,Option2 Name,"
    "Option2 Value,Option3 Name,Option3 Value,Variant SKU,Variant Grams,Variant Inventory Qty,Variant Price,"
    "Variant Compare At Price,Image Src,Image Position,SEO Title,Status"
)
CUSTOMER_COLUMNS = (
    "Customer ID,First Name,Last Name,Email,Accepts Email Marketing,Default Address Company,Default Address Address1,"
    "Default Address City,Default Address Province Code,Default Address Country Code,Default Address Zip,Phone,"
    "Accepts SMS Marketing,Total Spent,Total Orders,Note,Tax Exempt,Tags"
)
SHIRTS = [("linen-shirt", "Linen shirt", size, f"LS-{size}", 49.0) for size in ("S", "M", "L")]
MUG = ("mug", "Mug", "Default Title", "", 12.5)
GOODS = [*SHIRTS, MUG]
ASSORTMENT = [
    *SHIRTS,
    ("linen-trousers", "Linen trousers", "Default Title", "LT-1", 79.0),
    MUG,
    ("teapot", "Stoneware teapot", "Default Title", "TP-1", 64.0),
    ("plate", "Stoneware plate", "Default Title", "PL-1", 24.0),
    ("bowl", "Stoneware bowl", "Default Title", "BO-1", 19.5),
]
ZONE = timedelta(hours=-4)


def exports(rng: random.Random) -> list[Export]:
    return [orders(rng), products(), customers()]


def orders(
    rng: random.Random,
    n_orders: int = 40,
    n_people: int = 12,
    start: datetime = datetime(2024, 5, 1, 14, tzinfo=UTC),
    every: timedelta = timedelta(hours=7),
    goods: Sequence[tuple[str, str, str, str, float]] = GOODS,
) -> Export:
    """Only the first line of an order says whose it is; one is refunded, one was cancelled, one is of a till."""
    rows: list[dict[str, Any]] = []
    events, consent = [], {}
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        email = f"person{person}@example.com"
        is_of_till, is_refunded, is_cancelled, is_paid = number == 3, number == 5, number == 7, number != 9
        local = f"{at + ZONE:%Y-%m-%d %H:%M:%S} -0400"
        agreed = person % 2 == 0
        for line, (_, title, size, sku, price) in enumerate(rng.sample(liked(goods, person), rng.randint(1, 3))):
            name = title if size == "Default Title" else f"{title} - {size}"
            quantity = rng.randint(1, 3)
            row = {
                "Name": f"#{1001 + number}",
                "Email": "" if is_of_till else email,
                "Created at": local,
                "Lineitem quantity": quantity,
                "Lineitem name": name,
                "Lineitem price": f"{price:.2f}",
                "Lineitem sku": sku,
                "Vendor": "Leaf",
            }
            if line == 0:
                row |= {
                    "Financial Status": "refunded" if is_refunded else "paid" if is_paid else "pending",
                    "Accepts Marketing": "yes" if agreed else "no",
                    "Currency": "USD",
                    "Cancelled at": local if is_cancelled else "",
                    "Billing City": "Boston, MA",
                    "Billing Country": "US",
                    "Notes": 'she said "ring twice"\nthen left' if number == 2 else "",
                }
            rows.append(row)
            if not is_of_till:
                consent[email, "email"] = agreed
            if not is_of_till and is_paid:
                events.append(
                    ExpectedEvent(
                        user_id=email,
                        item_id=sku or name,
                        event="return" if is_refunded or is_cancelled else "purchase",
                        at=at.isoformat(),
                        quantity=quantity,
                        price=price,
                        basket_id=f"#{1001 + number}",
                    )
                )
    rows.append(
        {
            "Name": f"#{1000 + n_orders}",
            "Email": email,
            "Created at": local,
            "Lineitem quantity": 1,
            "Lineitem name": "Tip",
        }
    )
    rows[-1] |= {"Lineitem price": "2.00"}
    return Export(
        source="shopify-orders",
        file_name="orders_export_1.csv",
        content=csv_of(ORDER_COLUMNS, rows).encode(),
        accepted={
            Table.ITEMS: len(goods),
            Table.USERS: n_people,
            Table.EVENTS: len(events),
            Table.CONSENT: n_orders - 1,
        },
        events=tuple(events),
        items={"LS-M": {"title": "Linen shirt - M", "price": "49.00", "brand": "Leaf"}, "Mug": {"title": "Mug"}},
        basics={"person1@example.com": {"city": "Boston, MA", "country": "US"}},
        consent_from=("Accepts Marketing",),
        consent=consent,
    )


def products() -> Export:
    """Texts stand in the first line of a product, in several lines of the file of which the last has as many commas as
    the header; a picture has a line of its own; variants without SKU."""
    rows: list[dict[str, Any]] = []
    for number, (handle, title, size, sku, price) in enumerate([*SHIRTS, MUG]):
        row = {"Handle": handle, "Option1 Value": size, "Variant SKU": sku, "Variant Price": f"{price:.2f}"}
        if number in (0, 3):
            text = f'<p>A <b>{title.lower()}</b> of linen&nbsp;&amp; cotton</p>\n<p>wide, long, "soft"</p>'
            row |= {"Title": title, "Body (HTML)": text, "Tags": "linen, new, summer"}
            row |= {"Vendor": "Leaf", "Product Category": "Apparel > Tops", "Type": "Shirt", "Status": "active"}
        rows.append(row)
    rows.append({"Handle": "mug", "Image Src": "https://cdn.example.com/mug.png", "Image Position": 2})
    for number, size in enumerate(("A5", "A6")):
        row = {"Handle": "card", "Option1 Value": size, "Option2 Value": "White", "Variant Price": "3.50"}
        rows.append(row | ({"Title": "Card", "Vendor": "Leaf", "Status": "active"} if number == 0 else {}))
    rows.append({"Handle": "old", "Title": "Old hat", "Variant Price": "9.00", "Vendor": "Leaf", "Status": "archived"})
    return Export(
        source="shopify-products",
        file_name="products_export_1.csv",
        content=b"\xef\xbb\xbf" + csv_of(PRODUCT_COLUMNS, rows).encode(),
        accepted={Table.ITEMS: 7},
        items={
            "LS-L": {
                "title": "Linen shirt L",
                "brand": "Leaf",
                "category": ["Apparel", "Tops"],
                "attributes": '{"parent": "linen-shirt"}',
            },
            "Mug": {"title": "Mug", "available": True},
            "Card - A6 / White": {"title": "Card A6 White", "attributes": '{"parent": "card"}'},
            "Old hat": {"available": False},
        },
    )


def customers() -> Export:
    rows = [
        {
            "Customer ID": f"'{7000000000000 + n}",
            "First Name": "Ann",
            "Email": f"person{n}@example.com" if n else "",
            "Accepts Email Marketing": "yes" if n % 2 else "no",
            "Accepts SMS Marketing": "no",
            "Default Address City": "Boston",
            "Default Address Country Code": "US",
            "Total Spent": "10.00",
            "Total Orders": 1,
        }
        for n in range(6)
    ]
    people = [f"person{n}@example.com" for n in range(1, 6)]
    return Export(
        source="shopify-customers",
        file_name="customers_export.csv",
        content=csv_of(CUSTOMER_COLUMNS, rows).encode(),
        accepted={Table.USERS: 5, Table.CONSENT: 10},
        basics={"person2@example.com": {"country": "US", "city": "Boston"}},
        consent_from=("Accepts Email Marketing", "Accepts SMS Marketing"),
        consent={(person, "email"): bool(n % 2) for n, person in enumerate(people, 1)}
        | {(person, "sms"): False for person in people},
    )
