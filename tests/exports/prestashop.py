"""PrestaShop's exports of products and customers, and lines of orders as its SQL manager writes them: semicolons."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, csv_of, liked
from recllm.base.schema import Table

PRODUCT_COLUMNS = (
    "Product ID,Image,Name,Reference,Category,Price (tax excl.),Price (tax incl.),Quantity,Status,Position"
)
CUSTOMER_COLUMNS = (
    "ID,Social title,First name,Last name,Email address,Company,Sales,Enabled,Newsletter,Partner offers,Registration,"
    "Last visit"
)
SPANISH_PRODUCTS = (
    "Product ID,Imagen,Nombre,Referencia,Categoría,Precio (imp. excl.),Precio (imp. incl.),Cantidad,Estado,Posición"
)
SPANISH_CUSTOMERS = (
    "ID,Tratamiento,Nombre,Apellidos,Dirección de correo electrónico,Empresa,Ventas,Activado,Boletín de noticias,"
    "Ofertas de asociados,Registro,Última visita"
)
ORDER_COLUMNS = (
    "id_order,reference,id_customer,current_state,date_add,iso_code,product_id,product_attribute_id,product_reference,"
    "product_name,product_quantity,product_quantity_refunded,product_quantity_return,unit_price_tax_incl"
)
LINES = [
    ("1", "1", "demo_1_S", "Hummingbird T-shirt - Size : S - Color : Blanc cassé", "demo_1_S", 28.68),
    ("1", "2", "demo_1_M", "Hummingbird T-shirt - Size : M - Color : Blanc cassé", "demo_1_M", 28.68),
    ("7", "0", "", "Tasse « été »", "7", 14.28),
    ("8", "34", "", "Carnet - Papier : Ligné", "8-34", 15.48),
]


def exports(rng: random.Random) -> list[Export]:
    return [
        products(),
        customers(),
        orders(rng),
        spanish(products(), SPANISH_PRODUCTS, "cp1252"),
        spanish(customers(), SPANISH_CUSTOMERS, "utf-8"),
    ]


def products() -> Export:
    """Written in Latin-1, with decimal commas and the sign of the euro's place left to a code."""
    rows = [
        {
            "Product ID": number,
            "Name": name,
            "Reference": reference,
            "Category": category,
            "Price (tax excl.)": "23,90",
            "Price (tax incl.)": price,
            "Quantity": 300,
            "Status": status,
            "Position": number,
        }
        for number, name, reference, category, price, status in (
            (1, "Hummingbird T-shirt", "demo_1", "Vêtements", "28,68", 1),
            (7, "Tasse « été »", "", "Accessoires", "14,28", 1),
            (9, "Old mug", "demo_9", "Accessoires", "9,90", 0),
        )
    ]
    return Export(
        source="prestashop-products",
        file_name="product_2024-06-01_100000.csv",
        content=csv_of(PRODUCT_COLUMNS, rows, delimiter=";").encode("cp1252"),
        accepted={Table.ITEMS: 3},
        items={
            "demo_1": {"category": ["Vêtements"], "price": "28.68", "attributes": '{"parent": "1"}'},
            "7": {"title": "Tasse « été »", "available": True},
            "demo_9": {"available": False},
        },
    )


def spanish(export: Export, columns: str, encoding: str) -> Export:
    """The same file, of a back office in Spanish. encoding: that of the export."""
    _, _, rows = export.content.decode(encoding).partition("\r\n")
    text = "\r\n".join([columns.replace(",", ";"), rows])
    consent_from = tuple("Boletín de noticias" for _ in export.consent_from)
    return replace(export, file_name=f"es_{export.file_name}", content=text.encode("cp1252"), consent_from=consent_from)


def customers() -> Export:
    rows = [
        {
            "ID": n,
            "Social title": "Mrs.",
            "First name": "Ann",
            "Last name": "Dupont",
            "Email address": f"person{n}@example.com",
            "Sales": "€29.90",
            "Enabled": 1,
            "Newsletter": n % 2,
            "Partner offers": 1,
            "Registration": "2024-01-05 10:00:00",
        }
        for n in range(1, 6)
    ]
    return Export(
        source="prestashop-customers",
        file_name="customer_2024-06-01_100000.csv",
        content=csv_of(CUSTOMER_COLUMNS, rows, delimiter=";").encode(),
        accepted={Table.USERS: 5, Table.CONSENT: 5},
        consent_from=("Newsletter",),
        consent={(str(n), "email"): bool(n % 2) for n in range(1, 6)},
    )


def orders(
    rng: random.Random,
    n_orders: int = 30,
    n_people: int = 5,
    start: datetime = datetime(2024, 5, 1, 9, 30, 12, tzinfo=UTC),
    every: timedelta = timedelta(hours=11),
    goods: Sequence[tuple[str, str, str, str, str, float]] = LINES,
) -> Export:
    """Combinations without a reference; orders cancelled, refunded, and with a failed payment; a line sent back."""
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        state = {3: "6", 4: "7", 5: "8"}.get(number, "5")
        customer = "0" if number == 6 else str(1 + person)
        picked = rng.sample(liked(goods, person), rng.randint(1, 3))
        for product, combination, reference, name, item_id, price in picked:
            quantity = rng.randint(2, 3)
            sent_back = quantity if number == 7 else int(number == 8)
            rows.append(
                {
                    "id_order": number + 1,
                    "reference": f"XKBKNAB{number:02}",
                    "id_customer": customer,
                    "current_state": state,
                    "date_add": f"{at:%Y-%m-%d %H:%M:%S}",
                    "iso_code": "USD",
                    "product_id": product,
                    "product_attribute_id": combination,
                    "product_reference": reference,
                    "product_name": name,
                    "product_quantity": quantity,
                    "product_quantity_refunded": 0,
                    "product_quantity_return": sent_back,
                    "unit_price_tax_incl": f"{price:.6f}",
                }
            )
            if customer != "0" and state != "8":
                events.append(
                    ExpectedEvent(
                        user_id=customer,
                        item_id=item_id,
                        event="return" if state in {"6", "7"} or number == 7 else "purchase",
                        at=at.isoformat(),
                        quantity=quantity,
                        price=price,
                    )
                )
    return Export(
        source="prestashop-orders",
        file_name="request_sql_1.csv",
        content=csv_of(ORDER_COLUMNS, rows, delimiter=";").encode("cp1252"),
        accepted={Table.ITEMS: len(goods), Table.EVENTS: len(events)},
        events=tuple(events),
        items={
            "demo_1_M": {"attributes": '{"parent": "1"}'},
            "8-34": {"title": "Carnet - Papier : Ligné", "attributes": '{"parent": "8"}'},
        },
    )
