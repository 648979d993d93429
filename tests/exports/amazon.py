"""Amazon's reports for sellers: tab-delimited text with quotes that quote nothing, in Latin-1 where it is not ASCII."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, liked
from recllm.base.schema import Table

ORDER_COLUMNS = (
    "order-id,order-item-id,purchase-date,payments-date,buyer-email,buyer-name,buyer-phone-number,sku,product-name,"
    "quantity-purchased,currency,item-price,item-tax,shipping-price,shipping-tax,ship-service-level,recipient-name,"
    "ship-address-1,ship-address-2,ship-address-3,ship-city,ship-state,ship-postal-code,ship-country,ship-phone-number,"
    "item-promotion-discount,item-promotion-id,ship-promotion-discount,ship-promotion-id,delivery-start-date,"
    "delivery-end-date,delivery-time-zone,delivery-Instructions,sales-channel"
)
SHIPMENT_COLUMNS = (
    "amazon-order-id,merchant-order-id,shipment-id,shipment-item-id,amazon-order-item-id,merchant-order-item-id,"
    "purchase-date,payments-date,shipment-date,reporting-date,buyer-email,buyer-name,buyer-phone-number,sku,"
    "product-name,quantity-shipped,currency,item-price,item-tax,shipping-price,shipping-tax,gift-wrap-price,"
    "gift-wrap-tax,ship-service-level,recipient-name,ship-address-1,ship-address-2,ship-address-3,ship-city,ship-state,"
    "ship-postal-code,ship-country,ship-phone-number,bill-address-1,bill-address-2,bill-address-3,bill-city,"
    "bill-state,bill-postal-code,bill-country,item-promotion-discount,ship-promotion-discount,carrier,tracking-number,"
    "estimated-arrival-date,fulfillment-center-id,fulfillment-channel,sales-channel"
)
ALL_ORDERS_COLUMNS = (
    "amazon-order-id,merchant-order-id,purchase-date,last-updated-date,order-status,fulfillment-channel,sales-channel,"
    "order-channel,ship-service-level,product-name,sku,asin,item-status,quantity,currency,item-price,item-tax,"
    "shipping-price,shipping-tax,gift-wrap-price,gift-wrap-tax,item-promotion-discount,ship-promotion-discount,"
    "ship-city,ship-state,ship-postal-code,ship-country,promotion-ids,is-business-order,purchase-order-number,"
    "price-designation"
)
PRODUCTS = [
    ("MON-27", 'Monitor 27" with stand', 199.99),
    ("MUG", '"Best dad" mug', 12.5),
    ("CAF-1", "Cafetière à piston, 1 litre", 30.0),
]


def tabbed(header: str, rows: list[dict[str, Any]]) -> str:
    names = header.split(",")
    lines = ["\t".join(names), *("\t".join(str(row.get(name, "")) for name in names) for row in rows)]
    return "\r\n".join(lines) + "\r\n"


def exports(rng: random.Random) -> list[Export]:
    return [orders(rng), shipments(rng), all_orders()]


def orders(
    rng: random.Random,
    n_orders: int = 30,
    n_people: int = 7,
    start: datetime = datetime(2024, 5, 1, 9, 30, 12, tzinfo=UTC),
    every: timedelta = timedelta(hours=11),
    goods: Sequence[tuple[str, str, float]] = PRODUCTS,
) -> Export:
    """A line that goes on with the one before, one that was cancelled before it was paid, one in another currency."""
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        email = "" if number == 4 else f"buyer{person}@marketplace.amazon.com"
        for sku, name, price in rng.sample(liked(goods, person), rng.randint(1, 2)):
            quantity = 0 if number == 5 else rng.randint(1, 3)
            rows.append(
                {
                    "order-id": f"113-{number:07}-1234567",
                    "order-item-id": 10_000_000_000_000 + len(rows),
                    "purchase-date": f"{at - timedelta(hours=7):%Y-%m-%dT%H:%M:%S}-07:00",
                    "buyer-email": email,
                    "sku": sku,
                    "product-name": name,
                    "quantity-purchased": quantity,
                    "currency": "CAD" if number == 6 else "USD",
                    "item-price": f"{price * quantity:.2f}",
                    "ship-city": "Montréal",
                    "ship-country": "CA",
                    "sales-channel": "Amazon.com",
                }
            )
            if email and quantity:
                events.append(
                    ExpectedEvent(
                        user_id=email,
                        item_id=sku,
                        event="purchase",
                        at=at.isoformat(),
                        quantity=quantity,
                        price=None if number == 6 else round(price * quantity, 2) / quantity,
                    )
                )
        if number == 8:
            rows.append({"item-promotion-discount": "-1.00", "item-promotion-id": "MAY"})
    return Export(
        source="amazon-orders",
        file_name="23456789019874.txt",
        content=tabbed(ORDER_COLUMNS, rows).encode("cp1252"),
        accepted={Table.ITEMS: len(goods), Table.USERS: n_people, Table.EVENTS: len(events)},
        events=tuple(events),
        items={sku: {"title": name} for sku, name, _ in goods},
        basics={"buyer1@marketplace.amazon.com": {"city": "Montréal", "country": "CA"}},
    )


def shipments(
    rng: random.Random,
    n_orders: int = 12,
    n_people: int = 4,
    start: datetime = datetime(2024, 5, 1, 9, 30, 12, tzinfo=UTC),
    every: timedelta = timedelta(hours=11),
    goods: Sequence[tuple[str, str, float]] = PRODUCTS,
) -> Export:
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        (sku, name, price), email = rng.choice(liked(goods, person)), f"buyer{person}@marketplace.amazon.com"
        rows.append(
            {
                "amazon-order-id": f"114-{number:07}-1234567",
                "shipment-id": f"D{number}",
                "shipment-item-id": f"DI{number}",
                "purchase-date": f"{at:%Y-%m-%dT%H:%M:%S}+00:00",
                "buyer-email": email,
                "sku": sku,
                "product-name": name,
                "quantity-shipped": 2,
                "currency": "USD",
                "item-price": f"{2 * price:.2f}",
                "ship-country": "US",
            }
        )
        events.append(
            ExpectedEvent(user_id=email, item_id=sku, event="purchase", at=at.isoformat(), quantity=2, price=price)
        )
    return Export(
        source="amazon-shipments",
        file_name="23456789019875.txt",
        content=tabbed(SHIPMENT_COLUMNS, rows).encode(),
        accepted={
            Table.ITEMS: len({event.item_id for event in events}),
            Table.USERS: n_people,
            Table.EVENTS: len(events),
        },
        events=tuple(events),
        basics={"buyer1@marketplace.amazon.com": {"country": "US"}},
    )


def all_orders() -> Export:
    """No buyer in it: its products are taken."""
    rows = [
        {
            "amazon-order-id": f"115-{number:07}-1234567",
            "purchase-date": "2024-05-01T09:30:12+00:00",
            "order-status": "Shipped",
            "product-name": PRODUCTS[number % 3][1],
            "sku": PRODUCTS[number % 3][0],
            "asin": f"B00000000{number % 3}",
            "item-status": "Shipped",
            "quantity": 1,
            "currency": "USD",
            "item-price": "12.50",
        }
        for number in range(6)
    ]
    return Export(
        source="amazon-all-orders",
        file_name="23456789019876.txt",
        content=tabbed(ALL_ORDERS_COLUMNS, rows).encode(),
        accepted={Table.ITEMS: 3},
        items={"MUG": {"title": '"Best dad" mug', "attributes": '{"asin": "B000000001"}'}},
    )
