"""eBay's orders report: lines of commas above and below the header, totals of orders, and a count at the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, csv_of, liked
from recllm.base.schema import Table

COLUMNS = (
    "Sales Record Number,Order Number,Buyer Username,Buyer Name,Buyer Email,Buyer Note,Buyer Address 1,Buyer Address 2,"
    "Buyer City,Buyer State,Buyer Zip,Buyer Country,Buyer Tax Identifier Name,Buyer Tax Identifier Value,Ship To Name,"
    "Ship To Phone,Ship To Address 1,Ship To Address 2,Ship To City,Ship To State,Ship To Zip,Ship To Country,"
    "Item Number,Item Title,Custom Label,Sold Via Promoted Listings,Quantity,Sold For,Shipping And Handling,"
    "Item Location,Item Zip Code,Item Country,eBay Collect And Remit Tax Rate,eBay Collect And Remit Tax Type,"
    "eBay Reference Name,eBay Reference Value,Tax Status,Seller Collected Tax,eBay Collected Tax,"
    "eBay Collected Charges,Total Price,eBay Collected Tax and Fees Included in Total,Payment Method,Sale Date,"
    "Paid On Date,Ship By Date,Minimum Estimated Delivery Date,Maximum Estimated Delivery Date,Shipped On Date,"
    "Feedback Left,Feedback Received,My Item Note,PayPal Transaction ID,Shipping Service,Tracking Number,"
    "Transaction ID,Variation Details,Global Shipping Program,Click And Collect,eBay Plus,Tax City,Tax State,Tax Zip,"
    "Tax Country,eBay International Shipping"
)
LISTINGS = [
    ("110551991234", "Vintage lamp, brass", "LAMP-1", "", 1249.99),
    ("110551991235", "Band shirt", "", "[Size:S]", 19.5),
    ("110551991235", "Band shirt", "", "[Size:M]", 19.5),
]


def exports(rng: random.Random) -> list[Export]:
    return [orders(rng), british_orders()]


def item_id(listing: tuple[str, str, str, str, float]) -> str:
    number, _, label, variation, _ = listing
    return label or f"{number} {variation}".strip()


def report(rows: list[dict[str, Any]], header: str = COLUMNS) -> str:
    """With the frame that eBay puts around it."""
    first, *lines = csv_of(header, rows).replace("\r\n", "\n").splitlines()
    blank = "," * header.count(",")
    names = ",".join(f'"{name}"' for name in first.split(","))
    count = f'{len(rows)},record(s) downloaded,"from May-01-24 00:00:00 to May-31-24 23:59:59"'
    return "\n".join([blank, names, blank, *lines, "", count, "Seller ID : old_things"]) + "\n"


def orders(
    rng: random.Random,
    n_orders: int = 20,
    n_people: int = 6,
    start: datetime = datetime(2024, 5, 1, tzinfo=UTC),
    every: timedelta = timedelta(days=1),
    goods: Sequence[tuple[str, str, str, str, float]] = LISTINGS,
) -> Export:
    """An order of several products has a line with the buyer and the total before them; one order is not paid."""
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_orders):
        day, person = (start + number * every).replace(hour=0), number % n_people
        buyer, date = f"buyer_{person}", f"{day:%b-%d-%y}"
        picked = rng.sample(liked(goods, person), rng.randint(1, 2))
        common = {"Sales Record Number": 700 + number, "Order Number": f"12-{10_000 + number}-54321"}
        of_buyer = {
            "Buyer Username": buyer,
            "Buyer City": "Dayton",
            "Buyer Country": "United States",
            "Sale Date": date,
            "Paid On Date": "" if number == 4 else date,
        }
        if len(picked) > 1:
            rows.append(common | of_buyer | {"Total Price": "$99.00"})
            of_buyer = {}
        for listing in picked:
            number_of_listing, title, label, variation, price = listing
            quantity = rng.randint(1, 2)
            rows.append(
                common
                | of_buyer
                | {
                    "Item Number": number_of_listing,
                    "Item Title": title,
                    "Custom Label": label,
                    "Variation Details": variation,
                    "Quantity": quantity,
                    "Sold For": f"${price:,.2f}",
                }
            )
            if number != 4:
                events.append(
                    ExpectedEvent(
                        user_id=buyer,
                        item_id=item_id(listing),
                        event="purchase",
                        at=day.isoformat(),
                        quantity=quantity,
                        price=price,
                    )
                )
    return Export(
        source="ebay-orders",
        file_name="eBay-OrdersReport-May-31-2024.csv",
        content=b"\xef\xbb\xbf" + report(rows).encode(),
        accepted={Table.ITEMS: len(goods), Table.USERS: n_people, Table.EVENTS: len(events)},
        events=tuple(events),
        items={
            "LAMP-1": {"title": "Vintage lamp, brass", "price": "1249.99"},
            "110551991235 [Size:M]": {"title": "Band shirt (Size:M)", "attributes": '{"parent": "110551991235"}'},
        },
        basics={"buyer_1": {"city": "Dayton", "country": "United States"}},
    )


def british_orders() -> Export:
    """Of another site: other capitals, the day before the month, pounds, three lines."""
    header = (
        COLUMNS.replace("Sales Record", "Sales record").replace("Sale Date", "Sale date").replace("Paid On", "Paid on")
    )
    rows = [
        {
            "Sales record Number": n,
            "Order Number": f"03-1000{n}-54321",
            "Buyer Username": "buyer_9",
            "Item Number": LISTINGS[0][0],
            "Item Title": LISTINGS[0][1],
            "Custom Label": LISTINGS[0][2],
            "Quantity": 1,
            "Sold For": "£1,100.00",
            "Sale date": f"0{n}-May-24",
            "Paid on Date": f"0{n}-May-24",
        }
        for n in (1, 2, 3)
    ]
    return Export(
        source="ebay-orders",
        file_name="eBay-OrdersReport-UK.csv",
        content=report(rows, header).encode(),
        accepted={Table.ITEMS: 1, Table.USERS: 1, Table.EVENTS: 3},
        events=tuple(
            ExpectedEvent(
                user_id="buyer_9", item_id="LAMP-1", event="purchase", at=f"2024-05-0{n}T00:00:00+00:00", price=1100.0
            )
            for n in (1, 2, 3)
        ),
        options={"currency": "GBP"},
    )
