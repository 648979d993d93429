"""Magento's exports of products and customers, and lines of orders as a query of its database gives them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, csv_of, liked
from recllm.base.schema import Table

PRODUCT_COLUMNS = (
    "sku,store_view_code,attribute_set_code,product_type,categories,product_websites,name,description,"
    "short_description,weight,product_online,tax_class_name,visibility,price,special_price,special_price_from_date,"
    "special_price_to_date,url_key,meta_title,meta_keywords,meta_description,base_image,created_at,updated_at,"
    "new_from_date,new_to_date,display_product_options_in,map_price,msrp_price,map_enabled,gift_message_available,"
    "custom_design,country_of_manufacture,additional_attributes,qty,out_of_stock_qty,is_in_stock,website_id,"
    "related_skus,crosssell_skus,upsell_skus,additional_images,bundle_price_type,bundle_values,associated_skus,"
    "configurable_variations,configurable_variation_labels"
)
CUSTOMER_COLUMNS = (
    "email,_website,_store,confirmation,created_at,created_in,disable_auto_group_change,dob,firstname,gender,group_id,"
    "lastname,middlename,password_hash,prefix,rp_token,rp_token_created_at,store_id,suffix,taxvat,updated_at,"
    "website_id,password"
)
ORDER_COLUMNS = (
    "increment_id,created_at,status,customer_email,order_currency_code,item_id,parent_item_id,product_type,sku,name,"
    "price,qty_ordered,qty_canceled,qty_refunded"
)
VARIANTS = [(f"MH01-{size}-Black", f"Chaz Hoodie-{size}-Black", 52.0) for size in ("S", "M")]
BAG = ("24-MB01", "Joust Duffle Bag", 34.0)
GOODS = [*VARIANTS, BAG]


def exports(rng: random.Random) -> list[Export]:
    return [products(), customers(), orders(rng)]


def products() -> Export:
    """Variants before their configurable product, a row with the German texts, one that is switched off."""
    text = "<p>Lots of <em>pockets</em>,&nbsp;one hood</p>"
    common = {"attribute_set_code": "Top", "product_websites": "base", "product_online": 1}
    rows: list[dict[str, Any]] = [
        common | {"sku": sku, "product_type": "simple", "name": name, "price": f"{price:.4f}"}
        for sku, name, price in VARIANTS
    ]
    rows.append(
        common
        | {"sku": "MH01", "product_type": "configurable", "name": "Chaz Hoodie", "description": text}
        | {"categories": "Default Category,Default Category/Men/Tops/Hoodies & Sweatshirts,Default Category/Sale"}
        | {
            "configurable_variations": "|".join(f"sku={sku},size={sku[5]},color=Black" for sku, _, _ in VARIANTS),
            "configurable_variation_labels": "size=Size,color=Color",
        }
    )
    rows.append({"sku": "MH01", "store_view_code": "de", "product_type": "configurable", "name": "Chaz Kapuzenjacke"})
    rows.append({"sku": VARIANTS[0][0], "store_view_code": "de", "product_type": "simple", "name": "Kapuzenjacke S"})
    bag = {"sku": BAG[0], "product_type": "simple", "name": BAG[1], "price": "34.0000", "short_description": "A bag"}
    rows.append(common | bag | {"product_online": 2, "categories": "Default Category/Gear"})
    return Export(
        source="magento-products",
        file_name="catalog_product_20240601_100000.csv",
        content=csv_of(PRODUCT_COLUMNS, rows).encode(),
        accepted={Table.ITEMS: 3},
        items={
            "MH01-M-Black": {
                "title": "Chaz Hoodie-M-Black",
                "price": "52.0000",
                "description": text,
                "category": ["Men", "Tops", "Hoodies & Sweatshirts"],
                "attributes": '{"parent": "MH01"}',
            },
            BAG[0]: {"available": False, "description": "A bag", "attributes": "{}"},
        },
    )


def customers() -> Export:
    rows = [
        {
            "email": f"person{n}@example.com",
            "_website": "base",
            "_store": "default",
            "created_at": "2023-01-01 10:00:00",
            "created_in": "Default Store View",
            "firstname": "Ann",
            "gender": "Female" if n % 2 else "",
            "group_id": 1,
            "password_hash": "aaaa:bbbb:1",
            "store_id": 1,
            "website_id": 1,
        }
        for n in range(5)
    ]
    return Export(
        source="magento-customers",
        file_name="customer_20240601_100000.csv",
        content=csv_of(CUSTOMER_COLUMNS, rows).encode(),
        accepted={Table.USERS: 5},
        basics={"person1@example.com": {"gender": "Female"}},
    )


def orders(
    rng: random.Random,
    n_orders: int = 30,
    n_people: int = 5,
    start: datetime = datetime(2024, 5, 1, 9, 30, 12, tzinfo=UTC),
    every: timedelta = timedelta(hours=11),
    goods: Sequence[tuple[str, str, float]] = GOODS,
) -> Export:
    """A configurable product gives two lines; orders were cancelled and closed, one line was refunded whole, one in
    part; an order that was not paid and one without an address."""
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        status = {3: "canceled", 4: "closed", 5: "pending_payment"}.get(number, "complete")
        email = "" if number == 6 else f"person{person}@example.com"
        order = {
            "increment_id": f"{number + 1:09}",
            "created_at": f"{at:%Y-%m-%d %H:%M:%S}",
            "status": status,
            "customer_email": email,
            "order_currency_code": "USD",
        }
        for sku, name, price in rng.sample(liked(goods, person), rng.randint(1, 2)):
            is_simple, quantity = sku.startswith("24-"), rng.randint(2, 4)
            refunded = quantity if number == 7 else int(number == 8)
            line = {
                "item_id": len(rows) + 1,
                "product_type": "simple" if is_simple else "configurable",
                "sku": sku,
                "name": name,
                "price": f"{price:.4f}",
                "qty_ordered": f"{quantity:.4f}",
                "qty_canceled": f"{quantity if status == 'canceled' else 0:.4f}",
                "qty_refunded": f"{refunded:.4f}",
            }
            rows.append(order | line)
            if not is_simple:
                part = {"item_id": len(rows) + 1, "parent_item_id": len(rows), "product_type": "simple"}
                rows.append(order | line | part | {"price": "0.0000"})
            if email and status != "pending_payment":
                events.append(
                    ExpectedEvent(
                        user_id=email,
                        item_id=sku,
                        event="return" if status in {"canceled", "closed"} or number == 7 else "purchase",
                        at=at.isoformat(),
                        quantity=quantity,
                        price=price,
                    )
                )
    return Export(
        source="magento-orders",
        file_name="sales_order_item.csv",
        content=csv_of(ORDER_COLUMNS, rows).encode(),
        accepted={Table.ITEMS: len(goods), Table.EVENTS: len(events)},
        events=tuple(events),
        items={BAG[0]: {"title": BAG[1], "price": "34.0000", "currency": "USD"}},
    )
