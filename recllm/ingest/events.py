"""Rows of the events table: from text to the frame that the store takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from recllm.ingest.context import Context
from recllm.ingest.faults import Faults
from recllm.ingest.identity import identify
from recllm.ingest.ids import nobody
from recllm.ingest.plan import TOTAL
from recllm.ingest.shared import (
    check_price,
    parse_amount,
    parse_currency,
    parse_ids,
    parse_item_ids,
    parse_person,
    pseudonyms,
    times_of,
)
from recllm.ingest.times import NO_OFFSET
from recllm.schema import Action

EVENT_NAMES: Mapping[Action, tuple[str, ...]] = {
    Action.PURCHASE: (
        "purchase", "purchased", "buy", "bought", "order", "ordered", "transaction", "sale", "pay", "paid", "购买",
        "下单", "支付", "付款", "成交",
    ),
    Action.VIEW: ("view", "viewed", "pv", "page_view", "pageview", "detail", "browse", "product_view", "浏览", "查看"),
    Action.CART: ("cart", "add_to_cart", "addtocart", "add_cart", "basket", "add_to_basket", "加购", "购物车"),
    Action.FAVOURITE: ("favourite", "favorite", "fav", "wishlist", "like", "collect", "收藏", "喜欢"),
    Action.RETURN: ("return", "returned", "refund", "refunded", "退货", "退款"),
    Action.SHOWN: ("shown", "impression", "exposure", "展示", "曝光"),
    Action.CLICK: ("click", "clicked", "点击"),
    Action.DISMISS: ("dismiss", "dismissed", "hide", "not_interested", "不感兴趣"),
    Action.RATING: ("rating", "rate", "rated", "stars", "评分", "打分"),
}  # fmt: skip
_CODES = {name: action.value for action, names in EVENT_NAMES.items() for name in names}
_KNOWN = ", ".join(Action)


def build_events(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.DataFrame:
    """One row per row of `fields`; only those without a fault are meant for the store."""
    person = _person(fields, ctx, faults)
    item = parse_item_ids(fields, ctx, faults)
    event = _kinds(fields, ctx, faults)
    times, _ = times_of(fields, ctx, faults)
    quantity, event = _quantities(fields, event, ctx, faults)
    price = _prices(fields, quantity, ctx, faults)
    optional = {name: parse_ids(fields, name, ctx, faults) for name in _OPTIONAL_IDS if name in fields.columns}
    optional |= _ratings_and_positions(fields, event, ctx, faults)
    ctx.items.add(item.filter(faults.good()))
    offset = pl.Series(times.offset, dtype=pl.Int16)
    return pl.DataFrame(
        {
            "user_id": pseudonyms(person, ctx, faults),
            "item_id": item,
            "event": event,
            "at": pl.Series(times.at, dtype=pl.Int64),
            "tz_offset_minutes": offset.set(offset == NO_OFFSET, None),
            "quantity": quantity.abs(),
            "price": price,
            **optional,
        }
    )


_OPTIONAL_IDS = ("event_id", "basket_id", "request_id", "model_version")


def finish_events(rows: pl.DataFrame, ctx: Context) -> pl.DataFrame:
    """Good rows with their keys, ready for the store."""
    event_id = rows["event_id"] if "event_id" in rows.columns else None
    return identify(rows.drop("event_id", strict=False), event_id, ctx.occurrences)


def _person(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    if ctx.options.anonymous != "keep":
        return parse_person(fields, ctx, faults)
    ids = parse_ids(fields, "user_id", ctx, faults)
    absent = nobody(ids)
    ctx.notes["W_ANONYMOUS"] += int(absent.sum())
    return ids.zip_with(~absent, _throw_away(fields)) if absent.any() else ids


def _throw_away(fields: pl.DataFrame) -> pl.Series:
    """A person for each basket, or for each different event where there is none: never one for all of them."""
    name = "basket_id" if "basket_id" in fields.columns else None
    whole = fields.select(pl.concat_str(pl.all().fill_null(""), separator="\x1f"))[fields.columns[0]]
    if name is None:
        return "anonymous event " + whole
    basket = fields[name].str.strip_chars()
    return ("anonymous basket " + basket).zip_with(basket.is_not_null() & (basket != ""), "anonymous event " + whole)


def _kinds(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    if "event" not in fields.columns:
        return pl.repeat(Action.PURCHASE.value, fields.height, dtype=pl.String, eager=True).alias("event")
    said = fields["event"].str.strip_chars()
    key = said.str.to_lowercase().str.replace_all(r"[\s\-]+", "_")
    found = key.replace_strict(_CODES, default=None, return_dtype=pl.String)
    faults.mark(found.is_null(), ctx.plan.column_of("event"), "E_EVENT", f"is no known event; known: {_KNOWN}", said)
    ctx.notes["W_EVENT_ALIAS"] += int((found != said).sum())
    return found.alias("event")


def _quantities(fields: pl.DataFrame, event: pl.Series, ctx: Context, faults: Faults) -> tuple[pl.Series, pl.Series]:
    """(quantities as signed in the file, kinds with returns told apart)."""
    if "quantity" not in fields.columns:
        return pl.repeat(1.0, fields.height, dtype=pl.Float64, eager=True), event
    name = ctx.plan.column_of("quantity")
    quantity = parse_amount(fields, "quantity", ctx, faults)
    bought = event.is_in([Action.PURCHASE.value, Action.RETURN.value]).fill_null(False)
    absent = quantity.is_null() & pl.Series(~faults.bad)
    ctx.notes["W_DEFAULT_QTY"] += int((absent & bought).sum())
    quantity = quantity.fill_null(1.0)
    faults.mark((quantity == 0) & bought, name, "E_ZERO_QTY", "is a quantity of nothing", fields["quantity"])
    negative = quantity < 0
    if not negative.any():
        return quantity, event
    returnable = bought if ctx.options.returns == "on" else event == Action.RETURN.value
    faults.mark(negative & ~returnable, name, "E_NEG_QTY", "is negative and no return", fields["quantity"])
    turned = negative & (event == Action.PURCHASE.value)
    ctx.notes["W_RETURN"] += int((turned & faults.good()).sum())
    return quantity, event.set(turned, Action.RETURN.value)


def _prices(fields: pl.DataFrame, quantity: pl.Series, ctx: Context, faults: Faults) -> pl.Series:
    if TOTAL in fields.columns:
        total = parse_amount(fields, TOTAL, ctx, faults, money=True)
        price = total / quantity.set(quantity == 0, None)
        price = price.set(price == 0, 0.0)  # no minus zero from a return of something free
    elif "price" in fields.columns:
        price = parse_amount(fields, "price", ctx, faults, money=True)
    else:
        return pl.repeat(None, fields.height, dtype=pl.Float64, eager=True)
    check_price(price, ctx, faults)
    if "currency" not in fields.columns:
        return price
    currency = parse_currency(fields, ctx, faults)
    foreign = (currency != ctx.facts.currency).fill_null(False) & price.is_not_null()
    ctx.notes["W_FOREIGN_PRICE"] += int((foreign & faults.good()).sum())
    return price.set(foreign, None)


def _ratings_and_positions(
    fields: pl.DataFrame, event: pl.Series, ctx: Context, faults: Faults
) -> dict[str, pl.Series]:
    found = {}
    rated = event == Action.RATING.value
    if "value" in fields.columns:
        found["value"] = parse_amount(fields, "value", ctx, faults)
    absent = found["value"].is_null() if found else pl.repeat(True, fields.height, eager=True)
    faults.mark(rated & absent, ctx.plan.column_of("value"), "E_NO_VALUE", "a rating without a value")
    if "position" in fields.columns:
        position = parse_amount(fields, "position", ctx, faults)
        whole = (position == position.round(0)) & position.is_between(0, np.iinfo(np.int32).max)
        faults.mark(~whole, ctx.plan.column_of("position"), "E_NUMBER", "is no position", fields["position"])
        found["position"] = position.set(~whole, None).cast(pl.Int32)
    return found
