"""WooCommerce: its own export of products, and orders as two plugins write them."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, csv_of, liked
from recllm.base.schema import Table

ORDER_COLUMNS = (
    "Order Number,Order Status,Order Date,Customer Note,First Name (Billing),Last Name (Billing),Company (Billing),"
    "Address 1&2 (Billing),City (Billing),State Code (Billing),Postcode (Billing),Country Code (Billing),"
    "Email (Billing),Phone (Billing),First Name (Shipping),Last Name (Shipping),Address 1&2 (Shipping),"
    "City (Shipping),State Code (Shipping),Postcode (Shipping),Country Code (Shipping),Payment Method Title,"
    "Cart Discount Amount,Order Subtotal Amount,Shipping Method Title,Order Shipping Amount,Order Refund Amount,"
    "Order Total Amount,Order Total Tax Amount,SKU,Item #,Item Name,Quantity (- Refund),Item Cost,Coupon Code,"
    "Discount Amount,Discount Amount Tax"
)
OLD_ORDER_COLUMNS = ORDER_COLUMNS.replace("Item Name", "Name").replace("Quantity (- Refund)", "Quantity") + ",Currency"
WEBTOFFEE_COLUMNS = (
    "order_id,order_number,order_date,paid_date,status,shipping_total,shipping_tax_total,fee_total,fee_tax_total,"
    "tax_total,cart_discount,order_discount,discount_total,order_total,order_subtotal,order_key,order_currency,"
    "payment_method,payment_method_title,transaction_id,customer_ip_address,customer_user_agent,shipping_method,"
    "customer_id,customer_user,customer_email,billing_first_name,billing_last_name,billing_company,billing_email,"
    "billing_phone,billing_address_1,billing_address_2,billing_postcode,billing_city,billing_state,billing_country,"
    "shipping_first_name,shipping_last_name,customer_note,line_item_1,line_item_2,line_item_3"
)
PRODUCT_COLUMNS = (
    "ID,Type,SKU,GTIN UPC EAN or ISBN,Name,Published,Is featured?,Visibility in catalog,Short description,Description,"
    "Date sale price starts,Date sale price ends,Tax status,Tax class,In stock?,Stock,Low stock amount,"
    "Backorders allowed?,Sold individually?,Weight (kg),Length (cm),Width (cm),Height (cm),Allow customer reviews?,"
    "Purchase note,Sale price,Regular price,Categories,Tags,Shipping class,Images,Download limit,Download expiry days,"
    "Parent,Grouped products,Upsells,Cross-sells,External URL,Button text,Position,Brands,Attribute 1 name,"
    "Attribute 1 value(s),Attribute 1 visible,Attribute 1 global"
)
GERMAN_PRODUCT_COLUMNS = (
    "ID,Typ,Artikelnummer,GTIN,Name,Veröffentlicht,Ist hervorgehoben?,Sichtbarkeit im Katalog,Kurzbeschreibung,"
    "Beschreibung,Angebotsbeginn,Angebotsende,Steuerstatus,Steuerklasse,Vorrätig?,Bestand,Geringe Lagermenge,"
    "Lieferrückstände erlaubt?,Nur einzeln verkaufen?,Gewicht (kg),Länge (cm),Breite (cm),Höhe (cm),"
    "Kundenrezensionen erlauben?,Hinweis zum Kauf,Angebotspreis,Regulärer Preis,Kategorien,Schlagwörter,Versandklasse,"
    "Bilder,Downloadlimit,Ablauftage des Downloads,Übergeordnetes Produkt,Gruppierte Produkte,Zusatzverkäufe,"
    "Cross-Sells (Querverkäufe),Externe URL,Button-Text,Position,Marken,Attribut 1 Name,Attribut 1 Wert(e),"
    "Attribut 1 Sichtbar,Attribut 1 Global"
)
GERMAN_STATES = {
    "Refunded": "Rückerstattet",
    "Cancelled": "Storniert",
    "Failed": "Fehlgeschlagen",
    "Pending payment": "Zahlung ausstehend",
    "Completed": "Abgeschlossen",
}
KINDS = {"Shirt": ("linen", "cotton", "wool", "silk"), "Tea": ("green", "black", "mint", "white")}
PRODUCTS = [
    (f"{kind[0]}-{word[:2].upper()}" if word != "silk" else "", f"{word.title()} {kind.lower()}", 5.0 * number + 4.9)
    for kind, words in KINDS.items()
    for number, word in enumerate(words, 1)
]
"""SKU, name and price; one has no SKU."""


def exports(rng: random.Random) -> list[Export]:
    return [orders(rng), old_orders(rng), webtoffee(rng), products(), german_orders(rng), german_products()]


def orders(
    rng: random.Random,
    n_orders: int = 40,
    n_people: int = 12,
    start: datetime = datetime(2024, 5, 1, 9, 30, tzinfo=UTC),
    every: timedelta = timedelta(hours=7),
) -> Export:
    """Every line says whose it is; one order is a guest's of a till, one failed, two went back, one has two coupons."""
    rows: list[dict[str, Any]] = []
    events, people = [], set()
    for number in range(n_orders):
        at, person = start + number * every, rng.randrange(n_people)
        status = {5: "Refunded", 7: "Cancelled", 9: "Failed", 11: "Pending payment"}.get(number, "Completed")
        email = "" if number == 3 else f"person{person}@example.com"
        order = {
            "Order Number": 5001 + number,
            "Order Status": status,
            "Order Date": f"{at:%Y-%m-%d %H:%M}",
            "Customer Note": "two floors up;\nring twice, please" if number == 2 else "",
            "City (Billing)": "São Paulo",
            "Country Code (Billing)": "BR",
            "Email (Billing)": email,
        }
        for line, (sku, name, price) in enumerate(rng.sample(liked(PRODUCTS, person), rng.randint(1, 3)), 1):
            given_back = number == 13 and line == 1
            quantity = 0 if given_back else rng.randint(1, 3)
            cells = {"SKU": sku, "Item #": line, "Item Name": name, "Quantity (- Refund)": quantity}
            rows.append(order | cells | {"Item Cost": f"{price:.2f}"})
            if email and status in {"Completed", "Refunded", "Cancelled"}:
                people.add(email)
                events.append(
                    ExpectedEvent(
                        user_id=email,
                        item_id=sku or name,
                        event="purchase" if status == "Completed" and not given_back else "return",
                        at=at.isoformat(),
                        quantity=quantity or 1,
                        price=price,
                        basket_id=str(5001 + number),
                    )
                )
        if number == 4:
            rows[-1]["Coupon Code"] = "MAY"
            rows.append(order | {"Coupon Code": "AGAIN", "Discount Amount": "2.00"})
    bought = {row["SKU"] or row["Item Name"] for row in rows if "SKU" in row}
    return Export(
        source="woocommerce-orders",
        file_name="orders-2024-06-01-10-00-00.csv",
        content=csv_of(ORDER_COLUMNS, rows).encode(),
        accepted={
            Table.ITEMS: len(bought),
            Table.USERS: len({row["Email (Billing)"] for row in rows} - {""}),
            Table.EVENTS: len(events),
        },
        events=tuple(events),
        items={"S-LI": {"title": "Linen shirt", "price": "9.90"}},
        basics={min(people): {"city": "São Paulo", "country": "BR"}},
    )


def german_orders(rng: random.Random) -> Export:
    """English names of columns and German states, semicolons."""
    export = orders(rng)
    text = export.content.decode()
    for state, german in GERMAN_STATES.items():
        text = text.replace(f",{state},", f",{german},")
    return replace(export, file_name="orders-2024-06-02.csv", content=text.encode())


def german_products() -> Export:
    """Names of columns in German, and signs of cp1252 as a spreadsheet saves them."""
    export = products()
    _, _, rows = export.content.decode("utf-8-sig").partition("\r\n")
    text = f"{GERMAN_PRODUCT_COLUMNS}\r\n{rows}"
    return replace(export, file_name="wc-product-export-2-6-2024.csv", content=text.encode("cp1252"))


def old_orders(rng: random.Random) -> Export:
    """An older version, in which only the first line of an order is filled."""
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(6):
        at = datetime(2024, 5, 1, 9, 30, tzinfo=UTC) + timedelta(days=number)
        for line, (sku, name, price) in enumerate(rng.sample(PRODUCTS, 2)):
            row = {"Order Number": 900 + number, "SKU": sku, "Item #": line + 1, "Name": name, "Quantity": line + 1}
            row["Item Cost"] = f"{price:.2f}"
            if line == 0:
                row |= {"Order Status": "Processing", "Order Date": f"{at:%Y-%m-%d %H:%M}", "Currency": "USD"}
                row["Email (Billing)"] = f"person{number}@example.com"
            rows.append(row)
            events.append(
                ExpectedEvent(
                    user_id=f"person{number}@example.com",
                    item_id=sku or name,
                    event="purchase",
                    at=at.isoformat(),
                    quantity=line + 1,
                    price=price,
                )
            )
    return Export(
        source="woocommerce-orders",
        file_name="orders-old.csv",
        content=b"\xef\xbb\xbf" + csv_of(OLD_ORDER_COLUMNS, rows, delimiter=";").encode(),
        accepted={Table.ITEMS: len({event.item_id for event in events}), Table.USERS: 6, Table.EVENTS: len(events)},
        events=tuple(events),
    )


def webtoffee(
    rng: random.Random,
    n_orders: int = 12,
    n_people: int = 5,
    start: datetime = datetime(2024, 5, 1, 9, 30, 15, tzinfo=UTC),
    every: timedelta = timedelta(days=1),
) -> Export:
    """A line for each order with up to three products in it."""
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        status = {2: "refunded", 3: "cancelled", 4: "failed"}.get(number, "completed")
        email = "" if number == 5 else f"person{person}@example.com"
        row = {
            "order_id": 100 + number,
            "order_number": 100 + number,
            "order_date": f"{at:%Y-%m-%d %H:%M:%S}",
            "status": status,
            "order_currency": "USD",
            "billing_email": email,
            "billing_city": "Lyon",
            "billing_country": "FR",
        }
        for line, (sku, name, price) in enumerate(rng.sample(liked(PRODUCTS, person), rng.randint(1, 3)), 1):
            quantity = rng.randint(1, 4)
            total = round(price * quantity, 2)
            row[f"line_item_{line}"] = (
                f"name:{name}|product_id:{line}|sku:{sku}|quantity:{quantity}|total:{total:.2f}|sub_total:{total:.2f}"
            )
            if email and status != "failed":
                events.append(
                    ExpectedEvent(
                        user_id=email,
                        item_id=sku or name,
                        event="purchase" if status == "completed" else "return",
                        at=at.isoformat(),
                        quantity=quantity,
                        price=total / quantity,
                    )
                )
        rows.append(row)
    lines = [row[f"line_item_{n}"].split("|")[0] for row in rows for n in (1, 2, 3) if f"line_item_{n}" in row]
    return Export(
        source="woocommerce-orders-webtoffee",
        file_name="order_export_2024-06-01.csv",
        content=csv_of(WEBTOFFEE_COLUMNS, rows).encode(),
        accepted={Table.ITEMS: len(set(lines)), Table.USERS: n_people, Table.EVENTS: len(events)},
        events=tuple(events),
        items={"T-GR": {"title": "Green tea"}},
        basics={"person1@example.com": {"city": "Lyon", "country": "FR"}},
    )


def products() -> Export:
    """A variable product whose variations come before it, and one that has no SKU; a draft; a text with HTML."""
    common = {"Published": 1, "Visibility in catalog": "visible", "In stock?": 1}
    text = "<p>Of <strong>soft</strong> linen &amp; cotton.<br />\\nWash at 30°</p>"
    rows: list[dict[str, Any]] = [
        common
        | {"ID": 12, "Type": "variation", "SKU": "H-S", "Name": "Hoodie - S", "Parent": "H", "Regular price": 40},
        common
        | {"ID": 13, "Type": "variation", "SKU": "H-M", "Name": "Hoodie - M", "Parent": "H", "Regular price": 42},
        common
        | {"ID": 10, "Type": "variable", "SKU": "H", "Name": "Hoodie", "Description": text, "Brands": "Leaf"}
        | {"Categories": "Sale, Clothing > Hoodies\\, sweaters"},
        common | {"ID": 20, "Type": "variable", "Name": "Cap", "Categories": "Uncategorized"},
        common
        | {"ID": 21, "Type": "variation", "Name": "Cap - Red", "Parent": "id:20", "Regular price": 9.5, "In stock?": 0},
        common
        | {"ID": 30, "Type": "simple, virtual", "SKU": "0030", "Name": "Gift", "Short description": "A gift"}
        | {"Regular price": "25", "Categories": "Gifts", "In stock?": "backorder"},
        common | {"ID": 31, "Type": "simple", "SKU": "D", "Name": "A draft", "Published": 0},
    ]
    rows += [
        common | {"ID": 40 + number, "Type": "simple", "SKU": sku, "Name": name, "Regular price": f"{price:.2f}"}
        | {"Categories": f"Shop > {name.split()[1].title()}"}
        for number, (sku, name, price) in enumerate(PRODUCTS)
    ]  # fmt: skip
    header = PRODUCT_COLUMNS.replace("GTIN UPC EAN or ISBN", "GTIN")
    return Export(
        source="woocommerce-products",
        file_name="wc-product-export-1-6-2024.csv",
        content=b"\xef\xbb\xbf" + csv_of(header, rows).replace("GTIN,", '"GTIN, UPC, EAN, or ISBN",', 1).encode(),
        accepted={Table.ITEMS: 4 + len(PRODUCTS)},
        items={
            "H-M": {
                "title": "Hoodie - M",
                "category": ["Clothing", "Hoodies, sweaters"],
                "brand": "Leaf",
                "price": "42",
                "description": text,
                "attributes": '{"parent": "H"}',
            },
            "Cap - Red": {"available": False, "category": None, "attributes": '{"parent": "id:20"}'},
            "0030": {"description": "A gift", "available": True, "category": ["Gifts"]},
            "Silk shirt": {"price": "24.90"},
        },
    )
