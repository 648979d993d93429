"""Rows of the items table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal

import polars as pl

from recllm.ingest.amounts import parse_numbers, undressed
from recllm.ingest.context import Context
from recllm.ingest.faults import Faults
from recllm.ingest.shared import check_price, parse_amount, parse_currency, parse_item_ids, text_or_nulls
from recllm.ingest.wording import clean_texts

YES = frozenset(
    {"true", "yes", "y", "1", "t", "in stock", "in_stock", "instock", "available", "on", "是", "有", "有货", "在售"}
)
NO = frozenset(
    {
        "false",
        "no",
        "n",
        "0",
        "f",
        "out of stock",
        "out_of_stock",
        "outofstock",
        "unavailable",
        "sold out",
        "off",
        "否",
        "无",
        "缺货",
        "下架",
        "售罄",
    }
)
_PATH_SPLIT = (">", "›", "»", "|")


def yes_or_no(column: pl.Series, yes: frozenset[str] = YES, no: frozenset[str] = NO) -> pl.Series:
    """Boolean, null where the text is neither."""
    words: Mapping[str, bool] = dict.fromkeys(yes, True) | dict.fromkeys(no, False)
    key = column.str.strip_chars().str.to_lowercase()
    return key.replace_strict(words, default=None, return_dtype=pl.Boolean).alias(column.name)


def build_items(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.DataFrame:
    """One row per row of `fields`; only those without a fault are meant for the store."""
    item = parse_item_ids(fields, ctx, faults)
    ctx.items.add(item.filter(faults.good()))
    texts = {n: clean_texts(text_or_nulls(fields, n), ctx.notes) for n in ("title", "brand", "description")}
    faults.mark(texts["title"].is_null(), ctx.plan.column_of("title"), "E_NO_TITLE", "an item needs a title")
    return pl.DataFrame(
        {
            "item_id": item,
            **texts,
            "category": _categories(fields, ctx),
            "price": _prices(fields, ctx, faults),
            "currency": _currencies(fields, ctx, faults),
            "available": _available(fields, ctx, faults),
            "attributes": _attributes(fields, ctx, faults),
        }
    )


def _categories(fields: pl.DataFrame, ctx: Context) -> pl.Series:
    """A JSON list each: from a map's path as it is, else split at > or |, or read from a JSON list."""
    column = text_or_nulls(fields, "category")
    if "category" in ctx.plan.paths:
        return column
    column = clean_texts(column, ctx.notes)
    texts = column.unique().drop_nulls().to_list()
    paths = [json.dumps(category_path(t), ensure_ascii=False) for t in texts]
    return column.replace_strict(texts, paths, default=None, return_dtype=pl.String)


def category_path(text: str) -> list[str]:
    """The names of "Home > Kitchen > Pans", widest first."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            found = None
        if isinstance(found, list) and all(isinstance(part, str) for part in found):
            return [part.strip() for part in found if part.strip()]
    for mark in _PATH_SPLIT:
        if mark in text:
            return [part.strip() for part in text.split(mark) if part.strip()]
    return [text]


def _prices(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    """Exact decimal texts."""
    if "price" not in fields.columns:
        return text_or_nulls(fields, "price")
    numbers = check_price(parse_amount(fields, "price", ctx, faults, money=True), ctx, faults)
    texts = fields["price"].unique().drop_nulls()
    exact = [_exact(t, ctx.facts.decimal) for t in undressed(texts, money=True).to_list()]
    found = fields["price"].replace_strict(texts, exact, default=None, return_dtype=pl.String)
    return found.set(numbers.is_null(), None)


def _exact(text: str, decimal: str) -> str | None:
    plain = text.replace("," if decimal == "." else ".", "").replace(decimal, ".")
    if parse_numbers(pl.Series([plain]), ".")[0] is None:
        return None
    return format(Decimal(plain), "f")


def _currencies(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    if "currency" in fields.columns:
        return parse_currency(fields, ctx, faults).fill_null(ctx.options.currency or ctx.options.shop_currency)
    return pl.repeat(ctx.facts.currency, fields.height, dtype=pl.String, eager=True)


def _available(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    said = text_or_nulls(fields, "available")
    found = yes_or_no(said)
    wrong = found.is_null() & said.is_not_null()
    faults.mark(wrong, ctx.plan.column_of("available"), "E_AVAILABLE", "is neither yes nor no", said)
    return found.fill_null(True)


def _attributes(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    column = text_or_nulls(fields, "attributes")
    if ctx.plan.attributes:
        return column
    texts = column.unique().drop_nulls().to_list()
    found = column.replace_strict(texts, [_plain_object(t) for t in texts], default=None, return_dtype=pl.String)
    wrong = found.is_null() & column.is_not_null()
    name = ctx.plan.column_of("attributes")
    faults.mark(wrong, name, "E_ATTRIBUTES", "is not a JSON object of plain values", column)
    return found.fill_null("{}")


def _plain_object(text: str) -> str | None:
    try:
        found = json.loads(text, parse_float=str, parse_int=str)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(found, dict) or any(isinstance(v, dict | list) for v in found.values()):
        return None
    plain = {
        str(k): "true" if v is True else "false" if v is False else str(v) for k, v in found.items() if v is not None
    }
    return json.dumps(plain, ensure_ascii=False, sort_keys=True)
