"""Rows of the four tables: from fields of text to the frames that the store takes.

Each builder gives one row per row of its batch; those without an error are for the store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from recllm.base.schema import Action, Purpose, Table
from recllm.shop.ingest.column_names import VALUES
from recllm.shop.ingest.file_schema import LINE_TOTAL
from recllm.shop.ingest.parse.batch import FieldBatch, clean_texts, null_if_empty
from recllm.shop.ingest.parse.numbers import parse_numbers, undressed
from recllm.shop.ingest.parse.times import NO_OFFSET

ACTION_OF_NAME = {name: action for action, names in VALUES["event"].items() for name in names}
_OPTIONAL_IDS = ("event_id", "basket_id", "request_id", "model_version")
YES, NO = frozenset(VALUES["yes"]), frozenset(VALUES["no"])
GRANTED, DENIED = YES.union(VALUES["granted"]), NO.union(VALUES["denied"])


def build_events(batch: FieldBatch) -> pl.DataFrame:
    user, item = batch.raw_user_ids(), batch.item_ids()
    event = batch.constant(Action.PURCHASE.value, pl.String)
    if batch.has("event"):
        names = batch.fields["event"].str.strip_chars()
        key = names.str.to_lowercase().str.replace_all(r"[\s\-]+", "_")
        event = key.replace_strict(
            ACTION_OF_NAME | dict(batch.load.options.event_names), default=None, return_dtype=pl.String
        )
        batch.mark("event", event.is_null(), "E_EVENT", f"is no known event; known: {', '.join(Action)}", names)
        batch.load.notes["W_EVENT_ALIAS"] += int((event != names).sum())
    event = event.set(batch.returned() & (event == Action.PURCHASE.value).fill_null(False), Action.RETURN.value)
    times = batch.times()
    quantity, event = signed_quantities(batch, event)
    price = event_prices(batch, quantity)
    optional = {name: batch.ids(name) for name in _OPTIONAL_IDS if batch.has(name)}
    optional |= {name: batch.in_namespace(optional[name]) for name in ("event_id", "basket_id") if name in optional}
    optional["value"] = batch.number("value")
    is_rating = event == Action.RATING.value
    batch.mark("value", is_rating & optional["value"].is_null(), "E_NO_VALUE", "a rating without a value")
    if batch.has("position"):
        position = batch.number("position")
        fits = (position == position.round(0)) & position.is_between(0, np.iinfo(np.int32).max)
        batch.mark("position", ~fits, "E_NUMBER", "is no position", batch.fields["position"])
        optional["position"] = position.set(~fits, None).cast(pl.Int32)
    offset = pl.Series(times.offset, dtype=pl.Int16)
    return pl.DataFrame(
        {
            "user_id": batch.pseudonyms(user),
            "item_id": item,
            "event": event,
            "at": pl.Series(times.at, dtype=pl.Int64),
            "tz_offset_minutes": offset.set(offset == NO_OFFSET, None),
            "quantity": quantity.abs(),
            "price": price,
            **optional,
        }
    )


def signed_quantities(batch: FieldBatch, event: pl.Series) -> tuple[pl.Series, pl.Series]:
    """(quantities as signed in the file, events with returns marked)."""
    if not batch.has("quantity"):
        return batch.constant(1.0, pl.Float64), event
    load, texts = batch.load, batch.fields["quantity"]
    quantity = batch.number("quantity")
    bought = event.is_in([Action.PURCHASE.value, Action.RETURN.value]).fill_null(False)
    load.notes["W_DEFAULT_QTY"] += int((quantity.is_null() & batch.good() & bought).sum())
    quantity = quantity.fill_null(1.0)
    batch.mark("quantity", (quantity == 0) & bought, "E_ZERO_QTY", "is a quantity of nothing", texts)
    negative = quantity < 0
    if not negative.any():
        return quantity, event
    batch.mark("quantity", negative & ~bought, "E_NEG_QTY", "is negative and no return", texts)
    returned = negative & (event == Action.PURCHASE.value)
    load.notes["W_RETURN"] += int((returned & batch.good()).sum())
    return quantity, event.set(returned, Action.RETURN.value)


def event_prices(batch: FieldBatch, quantity: pl.Series) -> pl.Series:
    if batch.has(LINE_TOTAL):
        price = batch.number(LINE_TOTAL, money=True) / quantity.set(quantity == 0, None)
    elif batch.has("price"):
        price = batch.number("price", money=True)
    else:
        return batch.constant(None, pl.Float64)
    price = price.zip_with(quantity >= 0, price.abs())  # of returns, with or without a sign
    batch.check_prices(price)
    if batch.load.schema.is_foreign:
        batch.load.notes["W_FOREIGN_PRICE"] += int((price.is_not_null() & batch.good()).sum())
        return batch.constant(None, pl.Float64)
    if not batch.has("currency"):
        return price
    foreign = (batch.currency() != batch.load.schema.currency).fill_null(False) & price.is_not_null()
    batch.load.notes["W_FOREIGN_PRICE"] += int((foreign & batch.good()).sum())
    return price.set(foreign, None)


def build_items(batch: FieldBatch) -> pl.DataFrame:
    item, notes = batch.item_ids(), batch.load.notes
    texts = {name: clean_texts(batch.text(name), notes) for name in ("title", "brand", "description")}
    batch.mark("title", texts["title"].is_null(), "E_NO_TITLE", "an item needs a title")
    category = batch.text("category")
    if "category" not in batch.load.schema.column_map.paths:
        category = map_texts(
            clean_texts(category, notes), lambda text: json.dumps(category_path(text), ensure_ascii=False)
        )
    price = item_prices(batch)
    if batch.has("currency"):
        default = batch.load.options.currency or batch.load.options.shop_currency
        currency = batch.currency().fill_null(pl.lit(default, dtype=pl.String))
    else:
        currency = batch.constant(batch.load.schema.currency, pl.String)
    on_sale, in_stock = availability(batch, "available"), availability(batch, "stock")
    available = on_sale.fill_null(in_stock) & in_stock.fill_null(on_sale)
    attributes = batch.text("attributes")
    if not batch.load.schema.column_map.attributes:  # else the map has built JSON objects
        objects = map_texts(attributes, plain_object)
        wrong = objects.is_null() & attributes.is_not_null()
        batch.mark("attributes", wrong, "E_ATTRIBUTES", "is not a JSON object of plain values", attributes)
        attributes = objects.fill_null("{}")
    for name, column in (("title", texts["title"]), ("description", texts["description"]), ("attributes", attributes)):
        batch.count_personal_data(column.alias(name), batch.load.schema.column_of(name))
    return pl.DataFrame(
        {
            "item_id": item,
            **texts,
            "category": category,
            "price": price,
            "currency": currency,
            "available": available.fill_null(True),
            "attributes": attributes,
            "available_until": offer_ends(batch),
            "stock_stated": available.is_not_null().set(available.is_null(), None),
        }
    )


def availability(batch: FieldBatch, field: str) -> pl.Series:
    """Boolean, null where the field does not say: from a yes or no, or a number of pieces."""
    texts = null_if_empty(batch.text(field).str.strip_chars())
    stated = yes_or_no(texts)
    available = stated.zip_with(stated.is_not_null(), texts.cast(pl.Float64, strict=False) > 0)
    batch.mark(field, available.is_null() & texts.is_not_null(), "E_AVAILABLE", "is neither yes nor no", texts)
    return available


def offer_ends(batch: FieldBatch) -> pl.Series:
    """Epoch microseconds of ISO 8601 texts, in the zone of the file or shop; a date counts until its end."""
    texts = null_if_empty(batch.text("available_until").str.strip_chars())
    options = batch.load.options
    zone = ZoneInfo(options.tz or options.shop_tz or "UTC")

    def moment(text: str) -> int | None:
        try:
            if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
                at = datetime.combine(date.fromisoformat(text), time.min, zone) + timedelta(days=1)
            else:
                at = datetime.fromisoformat(text)
                at = at if at.tzinfo else at.replace(tzinfo=zone)
            return round(at.timestamp() * 1_000_000)
        except (ValueError, OverflowError):
            return None

    ends = map_texts(texts, moment, pl.Int64)
    wrong = ends.is_null() & texts.is_not_null()
    batch.mark("available_until", wrong, "E_TIMESTAMP", "is no ISO 8601 time, such as 2025-11-12T00:00:00+08:00", texts)
    return ends


def yes_or_no(column: pl.Series, yes: frozenset[str] = YES, no: frozenset[str] = NO) -> pl.Series:
    """Boolean, null where the text is neither."""
    words = dict.fromkeys(yes, True) | dict.fromkeys(no, False)
    return column.str.strip_chars().str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)


def map_texts(column: pl.Series, function: Callable[[str], Any], dtype: type[pl.DataType] = pl.String) -> pl.Series:
    """The function of each text, called once for equal ones."""
    texts = column.unique().drop_nulls().to_list()
    return column.replace_strict(texts, [function(text) for text in texts], default=None, return_dtype=dtype)


def category_path(text: str) -> list[str]:
    """The names of "Home > Kitchen > Pans" or of a JSON list, widest first."""
    # all food stands under this name in the taxonomies of Google and Shopify, tobacco under a narrower one
    text = text.replace("Food, Beverages & Tobacco", "Food & Beverages")
    if text.startswith("["):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError):
            names = None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return [name.strip() for name in names if name.strip()]
    for separator in (">", "›", "»", "|"):
        if separator in text:
            return [name.strip() for name in text.split(separator) if name.strip()]
    return [text]


def item_prices(batch: FieldBatch) -> pl.Series:
    """Exact decimal texts."""
    if not batch.has("price"):
        return batch.text("price")
    numbers = batch.number("price", money=True)
    batch.check_prices(numbers)
    point = batch.load.schema.decimal

    def exact(text: str) -> str | None:
        text = text.replace("," if point == "." else ".", "").replace(point, ".")
        return None if parse_numbers(pl.Series([text]), ".")[0] is None else format(Decimal(text), "f")

    return map_texts(undressed(batch.fields["price"], money=True), exact).set(numbers.is_null(), None)


def plain_object(text: str) -> str | None:
    try:
        values = json.loads(text, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or any(isinstance(value, dict | list) for value in values.values()):
        return None
    texts = {n: str(v).lower() if isinstance(v, bool) else str(v) for n, v in values.items() if v is not None}
    return json.dumps(texts, ensure_ascii=False, sort_keys=True)


def build_users(batch: FieldBatch) -> pl.DataFrame:
    user = batch.raw_user_ids()
    for name, column in batch.load.schema.basics.items():
        batch.count_personal_data(batch.chunk.frame[column], column, label=f"{name.replace('_', ' ')}: ")
    return pl.DataFrame({"user_id": batch.pseudonyms(user), "basics": batch.fields["basics"]})


def build_consent(batch: FieldBatch) -> pl.DataFrame:
    user = batch.raw_user_ids()
    purpose = batch.fields["purpose"].str.strip_chars().str.to_lowercase().str.replace_all(r"[\s\-]+", "_")
    unknown = ~purpose.is_in([p.value for p in Purpose]).fill_null(False)
    message = f"is no known purpose; known: {', '.join(Purpose)}"
    batch.mark("purpose", unknown, "E_PURPOSE", message, batch.fields["purpose"])
    granted = yes_or_no(batch.fields["granted"], GRANTED, DENIED)
    batch.mark("granted", granted.is_null(), "E_GRANTED", "is neither granted nor denied", batch.fields["granted"])
    times = batch.times(may_lie_ahead=~granted)  # a refusal counts whatever its date
    return pl.DataFrame(
        {
            "user_id": batch.pseudonyms(user),
            "purpose": purpose,
            "granted": granted,
            "at": pl.Series(times.at, dtype=pl.Int64),
        }
    )


BUILDERS: Mapping[Table, Callable[[FieldBatch], pl.DataFrame]] = {
    Table.EVENTS: build_events,
    Table.ITEMS: build_items,
    Table.USERS: build_users,
    Table.CONSENT: build_consent,
}
