"""Files with a form of their own: Square's sales, Amazon's listings, lists of orders and subscribers, what GA4 and
Matomo show on a page, Youzan's report of orders. Among them are other encodings, titles, sums and doubled columns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from exports import ExpectedEvent, Export, csv_of, liked
from recllm.base.schema import Table

SQUARE_COLUMNS = (
    "Date,Time,Time Zone,Category,Item,Qty,Price Point Name,SKU,Modifiers Applied,Gross Sales,Discounts,Net Sales,Tax,"
    "Transaction ID,Payment ID,Device Name,Notes,Details,Event Type,Location,Dining Option,Customer ID,Customer Name,"
    "Customer Reference ID,Unit,Count,Itemization Type"
)
LISTING_COLUMNS = (
    "item-name,item-description,listing-id,seller-sku,price,quantity,open-date,image-url,item-is-marketplace,"
    "product-id-type,zshop-shipping-fee,item-note,item-condition,asin1,product-id,fulfillment-channel"
)
SUBSCRIBER_COLUMNS = "ID,Email,Type,Customer First Name,Customer Last Name,Status,Web Site,Store,Store View"
ORDER_LIST_COLUMNS = (
    "ID,Purchase Point,Purchase Date,Bill-to Name,Ship-to Name,Grand Total (Base),Grand Total (Purchased),Status,"
    "Customer Email,Customer Group,Payment Method,Total Refunded"
)
GA4_COLUMNS = "Date + hour (YYYYMMDDHH),Transaction ID,Item ID,Item name,Item variant,Items purchased,Item revenue"
VISIT_COLUMNS = ("idSite", "idVisit", "visitorId", "serverTimestamp", "serverTimePretty", "userId", "visitorType")
ACTION_COLUMNS = (
    "type",
    "url",
    "serverTimePretty",
    "timestamp",
    "productViewName",
    "productViewSku",
    "productViewPrice",
)
YOUZAN_COLUMNS = (
    "订单号,订单状态,订单创建时间,买家付款时间,交易成功时间,商品金额合计,运费,订单实付金额,全部商品名称,商品种类数,收货人省份,收货人城市,"
    "收货人/提货人,收货人手机号/提货人手机号,买家备注,买家手机号,分销员,订单退款状态,订单已退款金额,分销员,分销员手机号"
)
NEW_YORK = ZoneInfo("America/New_York")
WARES = [("Mug", "Regular", "MUG-1", 18.0), ("Mug", "Large", "MUG-2", 1250.0), ("Card", "Regular", "", 4.5)]
STATIONERY = [
    WARES[2],
    ("Notebook", "A5", "NB-5", 12.0),
    ("Fountain pen", "Fine", "FP-1", 48.0),
    ("Gift wrap", "Regular", "", 6.0),
]
COFFEES = [(f"S{number}", f"Coffee, S{number}") for number in range(3)]
DRINKS = [
    *COFFEES,
    ("S3", "Coffee, decaf"),
    ("T0", "Tea, Assam"),
    ("T1", "Tea, Darjeeling"),
    ("T2", "Tea, mint"),
    ("T3", "Tea, rooibos"),
]
CAKES = [("草莓蛋糕(8寸)", 268)]


def exports(rng: random.Random) -> list[Export]:
    return [
        square(rng),
        amazon_listings(),
        magento_subscribers(),
        magento_order_list(),
        ga4_exploration(),
        matomo_visits(rng),
        youzan_order_list(rng),
        rfm_sheet(),
    ]


def square(
    rng: random.Random,
    n_sales: int = 30,
    n_people: int = 5,
    start: datetime = datetime(2024, 3, 1, 23, 5, 9, tzinfo=UTC),
    every: timedelta = timedelta(hours=13),
    goods: Sequence[tuple[str, str, str, float]] = WARES,
) -> Export:
    """Some sales are nobody's; a refund has a line and a time of its own; tips and gift cards are no products."""
    rows: list[dict[str, Any]] = []
    events, people = [], set()
    for number in range(n_sales):
        at = start + number * every  # summer time begins in between
        is_refund, person = number in (8, 21), "" if number % 3 == 0 else f"CUST{number % n_people}"
        good = rng.choice(liked(goods, number % n_people))
        item, point, sku, price = good if number % 7 else ("Custom Amount", "Regular", "", 9.0)
        quantity, local = 1 + number % 2, at.astimezone(NEW_YORK)
        total = f"${price * quantity:,.2f}"
        rows.append(
            {
                "Date": f"{local:%Y-%m-%d}",
                "Time": f"{local:%H:%M:%S}",
                "Time Zone": "Eastern Time (US & Canada)",
                "Category": "Stationery" if good in STATIONERY else "Ceramics",
                "Item": item,
                "Price Point Name": point,
                "SKU": sku,
                "Qty": f"{-quantity if is_refund else quantity}.0",
                "Gross Sales": f"-{total}" if is_refund else total,
                "Transaction ID": f"T{number}",
                "Event Type": "Refund" if is_refund else "Payment",
                "Customer ID": person,
            }
        )
        people |= {person} - {""}
        if person and item != "Custom Amount":
            kind = "return" if is_refund else "purchase"
            events.append(
                ExpectedEvent(
                    user_id=person,
                    item_id=sku or item,
                    event=kind,
                    at=at.isoformat(),
                    quantity=quantity,
                    price=price,
                )
            )
    rng.shuffle(rows)
    return Export(
        source="square-items",
        file_name="items-2024-03-01-2024-03-31.csv",
        content=csv_of(SQUARE_COLUMNS, rows).encode(),
        accepted={Table.ITEMS: len(goods), Table.USERS: len(people), Table.EVENTS: len(events)},
        events=tuple(events),
        items={"MUG-2": {"title": "Mug Large", "category": ["Ceramics"], "attributes": '{"parent": "Mug"}'}},
    )


def amazon_listings() -> Export:
    """cp1252, and inches in names."""
    lines = [LISTING_COLUMNS.replace(",", "\t")]
    for sku, name in (("CI-12", '12" skillet – pre-seasoned'), ("00123", "Café press"), ("DO-5", "Dutch oven")):
        cells = dict.fromkeys(LISTING_COLUMNS.split(","), "")
        cells |= {"item-name": name, "item-description": f"<b>{name}</b>", "listing-id": "0697", "seller-sku": sku}
        cells |= {"price": "34.99", "open-date": "2024-05-01 09:53:17 PST", "item-condition": "11", "asin1": f"B0{sku}"}
        lines.append("\t".join(cells.values()))
    return Export(
        source="amazon-listings",
        file_name="Active+Listings+Report+06-01-2024.txt",
        content="\r\n".join([*lines, ""]).encode("cp1252"),
        accepted={Table.ITEMS: 3},
        items={"00123": {"title": "Café press", "price": "34.99", "attributes": '{"asin": "B000123"}'}},
    )


def magento_subscribers() -> Export:
    states = ("Subscribed", "Unsubscribed", "Not Activated", "Unconfirmed")
    rows = [
        {"ID": 90 - n, "Email": f"person{n}@example.com", "Type": "Guest", "Customer First Name": "----"}
        | {"Status": states[n % 4], "Web Site": "Main Website", "Store View": "Default Store View"}
        for n in range(10)
    ]
    return Export(
        source="magento-subscribers",
        file_name="subscribers.csv",
        content=csv_of(SUBSCRIBER_COLUMNS, rows).encode(),
        accepted={Table.USERS: 10, Table.CONSENT: 6},
        consent_from=("Status",),
        consent={(f"person{n}@example.com", "email"): n % 4 == 0 for n in range(10) if n % 4 < 2},
    )


def magento_order_list() -> Export:
    """Cells of several lines with commas, of which one has as many as a row, and no products."""
    rows = [
        {"ID": f"{n:09}", "Purchase Point": "Main Website\n    Main Store,,,,,,,,,,,\n        Default Store View"}
        | {"Purchase Date": "May 5, 2024 3:04:11 PM", "Bill-to Name": "Ann", "Grand Total (Base)": "244.0000"}
        | {"Customer Email": "" if n == 3 else f"person{n % 4}@example.com", "Customer Group": "General"}
        for n in range(12)
    ]
    return Export(
        source="magento-order-list",
        file_name="orders.csv",
        content=csv_of(ORDER_LIST_COLUMNS, rows).encode(),
        accepted={Table.USERS: 4},
        basics={"person1@example.com": {"customer_group": "General"}},
    )


def ga4_exploration() -> Export:
    """Comments above the header, a line of totals with a cell more, and products without an id."""
    rows = [
        {"Date + hour (YYYYMMDDHH)": f"20240501{n:02}", "Transaction ID": 100 + n, "Item ID": item_id}
        | {"Item name": name, "Item variant": variant, "Items purchased": 2, "Item revenue": 30}
        for n, (item_id, name, variant) in enumerate(
            [("M-1", "Mug", "Oat"), ("M-2", "Mug", "Slate"), ("(not set)", "Gift card", "(not set)")] * 3
        )
    ]
    header, *lines = csv_of(GA4_COLUMNS, rows).split("\r\n")
    comments = ["# " + "-" * 40, "# Purchases by item", "# 20240501-20240531", "# " + "-" * 40, ""]
    text = "\r\n".join([*comments, header, ",,,,,18,270,Grand total", *lines])
    return Export(
        source="ga4-exploration",
        file_name="Free form 1.csv",
        content=text.encode(),
        accepted={Table.ITEMS: 3},
        items={"M-2": {"title": "Mug Slate"}, "Gift card": {"title": "Gift card"}},
    )


def matomo_visits(
    rng: random.Random,
    n_visits: int = 20,
    n_people: int = 6,
    start: datetime = datetime(2024, 6, 1, 5, tzinfo=UTC),
    every: timedelta = timedelta(hours=1),
    goods: Sequence[tuple[str, str]] = COFFEES,
) -> Export:
    """UTF-16; up to three actions beside each other, whose times have the name of a column of the visit."""
    header = [*VISIT_COLUMNS[:4], *(f"{name} (actionDetails {n})" for n in range(3) for name in ACTION_COLUMNS)]
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_visits):
        begin, person = start + number * every, number % n_people
        browser, user_id = f"{person:016x}", f"ann{person}@example.com" if number % 2 else ""
        row = {"idVisit": 100 + number, "visitorId": browser, "userId": user_id, "serverTimePretty": "05:00:00"}
        row |= {"serverTimestamp": round(begin.timestamp())}
        for action in range(rng.randint(0, 3)):
            at, is_order = begin + timedelta(minutes=action), action == 2
            sku, name = ("", "") if is_order else rng.choice(liked(goods, person))
            cells = {"type": "ecommerceOrder" if is_order else "action", "timestamp": round(at.timestamp())}
            cells |= {"productViewSku": sku, "productViewName": name}
            row |= {f"{column} (actionDetails {action})": cell for column, cell in cells.items()}
            if sku:
                events.append(ExpectedEvent(user_id=user_id or browser, item_id=sku, event="view", at=at.isoformat()))
        rows.append(row)
    return Export(
        source="matomo-visits",
        file_name="Export _ Visits Log.csv",
        content=csv_of(",".join([*header, *VISIT_COLUMNS[4:]]), rows).encode("utf-16"),
        accepted={Table.ITEMS: len({event.item_id for event in events}), Table.EVENTS: len(events)},
        events=tuple(events),
        items={events[0].item_id: {"title": dict(goods)[events[0].item_id]}},
    )


def youzan_order_list(
    rng: random.Random,
    n_orders: int = 12,
    n_people: int = 5,
    start: datetime = datetime(2024, 3, 1, 1, tzinfo=UTC),
    every: timedelta = timedelta(hours=9),
    goods: Sequence[tuple[str, int]] = CAKES,
) -> Export:
    """The header names 分销员 twice; only orders of one product say what was bought."""
    lines, events, people = [YOUZAN_COLUMNS], [], set()
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        phone, (cake, price) = f"1380000{person:04d}", rng.choice(liked(goods, person))
        local, is_paid = f"{at + timedelta(hours=8):%Y-%m-%d %H:%M:%S}", number != 4
        pieces, kinds = 1 + number % 3, 2 if number % 4 == 1 else 1
        cell = "; ".join([f"{cake}({pieces}件)", "碱水面包(1件)"][:kinds])
        state = "交易完成" if number != 6 else "交易关闭"
        cells = {"订单号": f"E{number:021d}", "订单状态": state, "订单创建时间": local, "全部商品名称": cell}
        cells |= {"买家付款时间": local if is_paid else "", "商品金额合计": f"{price * pieces}.00", "商品种类数": kinds}
        cells |= {"收货人手机号/提货人手机号": phone, "买家手机号": "138******00", "收货人城市": "成都市"}
        lines.append(",".join(str(cells.get(name, "")) for name in YOUZAN_COLUMNS.split(",")))
        people.add(phone)
        if kinds == 1 and is_paid:
            events.append(
                ExpectedEvent(
                    user_id=phone,
                    item_id=cake,
                    event="return" if number == 6 else "purchase",
                    at=at.isoformat(),
                    quantity=pieces,
                )
            )
    return Export(
        source="youzan-order-list",
        file_name="orders_20240401.csv",
        content=b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode(),
        accepted={Table.ITEMS: len(goods), Table.USERS: len(people), Table.EVENTS: len(events)},
        events=tuple(events),
        items={"草莓蛋糕(8寸)": {"title": "草莓蛋糕(8寸)"}},
        basics={"13800000001": {"city": "成都市"}},
    )


def rfm_sheet() -> Export:
    """A sheet saved as CSV: two titles, an empty row, signs of cp1252 and a row of sums."""
    lines = ["RFM-Auswertung Röstwerk;;;;", "Stand: 27.11.2026;;;;", ";;;;"]
    lines.append("Customer ID;Recency (days);Frequency;Monetary (€);Segment")
    lines += [f"{n:06};{10 * n};{1 + n % 3};1.8{n:02},35;New" for n in range(20)]
    lines.append("Summe;;39;37.000,00;")
    return Export(
        source="rfm",
        file_name="rfm_2026-11.csv",
        content="\r\n".join([*lines, ""]).encode("cp1252"),
        accepted={Table.USERS: 20},
        basics={"000007": {"recency": "70", "frequency": "2", "monetary": "1.807,35", "segment": "New"}},
    )
