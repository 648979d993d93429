"""Parsing that several tables have in common: ids, numbers, times, prices."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.errors import IngestError
from recllm.ingest.amounts import parse_numbers
from recllm.ingest.context import Context
from recllm.ingest.faults import Faults
from recllm.ingest.ids import FLOAT_ID, SCIENTIFIC_ID, Ids, clean_ids, nobody
from recllm.ingest.times import CODES, MESSAGES, Times, parse_times

_MOST_PEOPLE = 300_000


def text_or_nulls(fields: pl.DataFrame, name: str) -> pl.Series:
    if name in fields.columns:
        return fields[name]
    return pl.repeat(None, fields.height, dtype=pl.String, eager=True).alias(name)


def parse_ids(fields: pl.DataFrame, field: str, ctx: Context, faults: Faults) -> pl.Series:
    """Cleaned ids of a field, null where empty; rows with unseen characters or overlong ids are marked."""
    column = fields[field]
    name = ctx.plan.column_of(field)
    _refuse_scientific(column, name, ctx.name)
    float_ids = field in ctx.facts.float_ids
    found = clean_ids(column, float_ids=float_ids, max_bytes=ctx.policy.max_id_bytes)
    _note(found, column, float_ids, ctx)
    faults.mark(found.unseen, name, "E_CTRL_CHAR", f"{name} holds an invisible or control character")
    faults.mark(found.long, name, "E_TOO_LONG", f"{name} is longer than {ctx.policy.max_id_bytes} bytes")
    return found.clean


def _refuse_scientific(ids: pl.Series, column: str, name: str) -> None:
    """Raises `IngestError` E_SCI_ID where an id lost its last digits to a spreadsheet."""
    hit = ids.str.contains(SCIENTIFIC_ID).fill_null(False)
    if hit.any():
        example = ids.filter(hit)[0]
        raise IngestError(
            "E_SCI_ID",
            f"{name}: {column} holds {example}: its last digits are lost. Export the column as text, not as a number",
        )


def _note(found: Ids, column: pl.Series, float_ids: bool, ctx: Context) -> None:
    ctx.notes["W_TRIM"] += found.trimmed
    ctx.notes["W_NFC"] += found.composed
    if float_ids:
        ctx.notes["W_FLOAT_ID"] += int(column.str.strip_chars().str.contains(FLOAT_ID).sum())


def parse_person(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    """Cleaned raw user ids; rows without a person are marked."""
    ids = parse_ids(fields, "user_id", ctx, faults)
    column = ctx.plan.column_of("user_id")
    faults.mark(nobody(ids), column, "E_NO_USER", "names no user", fields["user_id"])
    return ids


def pseudonyms(ids: pl.Series, ctx: Context, faults: Faults) -> pl.Series:
    """Pseudonyms of the rows that are still good, null for the others."""
    good = ids.filter(faults.good())
    ctx.users.add(good)
    ctx.people = _introduced(good.unique(), ctx)
    return ids.to_frame("raw").join(ctx.people, on="raw", how="left", maintain_order="left")["made"].alias("user_id")


def _introduced(wanted: pl.Series, ctx: Context) -> pl.DataFrame:
    """The known pairs of raw id and pseudonym with those of `wanted`; a bounded number is kept between chunks."""
    new = wanted.to_frame("raw").join(ctx.people, on="raw", how="anti")
    if new.height + ctx.people.height > _MOST_PEOPLE:
        ctx.people, new = ctx.people.clear(), wanted.to_frame("raw")
    made = pl.Series(ctx.pseudonyms.many(new["raw"].to_list()), dtype=pl.String)
    return pl.concat([ctx.people, new.with_columns(made=made)])


def parse_item_ids(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    ids = parse_ids(fields, "item_id", ctx, faults)
    faults.mark(ids.is_null(), ctx.plan.column_of("item_id"), "E_NO_ITEM", "names no item", fields["item_id"])
    return ids


def parse_amount(fields: pl.DataFrame, field: str, ctx: Context, faults: Faults, *, money: bool = False) -> pl.Series:
    """Float64, null where empty; what is no number is marked."""
    column = fields[field].str.strip_chars()
    column = column.set(column == "", None) if (column == "").any() else column
    found = parse_numbers(column, ctx.facts.decimal, money=money)
    hint = "is not a number" if ctx.facts.decimal == "." else "is not a number with a decimal comma"
    name = ctx.plan.column_of(field)
    faults.mark(found.is_null() & column.is_not_null(), name, "E_NUMBER", hint, column)
    return found


def check_price(price: pl.Series, ctx: Context, faults: Faults) -> pl.Series:
    """Marks prices that cannot be and counts odd ones."""
    name = ctx.plan.column_of("price")
    faults.mark(price < 0, name, "E_NEG_PRICE", "is a negative price", price)
    limit = ctx.policy.max_price
    faults.mark(price > limit, name, "E_PRICE_RANGE", f"is above the highest price allowed, {limit:,.0f}", price)
    good = price.filter(faults.good())
    ctx.notes["W_ZERO_PRICE"] += int((good == 0).sum())
    ctx.prices.add(good)
    return price


def parse_currency(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.Series:
    """ISO codes in capitals; the file's own currency where a row says none."""
    column = fields["currency"].str.strip_chars().str.to_uppercase()
    column = column.set(column == "", None) if (column == "").any() else column
    bad = ~column.str.contains(r"^[A-Z]{3}$")
    faults.mark(bad, ctx.plan.column_of("currency"), "E_CURRENCY", "is not a currency code such as EUR", column)
    return column


def times_of(fields: pl.DataFrame, ctx: Context, faults: Faults) -> tuple[Times, NDArray[np.bool_]]:
    """(parsed times, where they are good). Only rows that are still good may refuse the whole file."""
    column = fields["timestamp"]
    name = ctx.plan.column_of("timestamp")
    how = ctx.facts.times
    if how is None:
        raise IngestError("E_MISSING_COLUMN", f"{ctx.name}: no column for the time")
    found = parse_times(
        column.set(pl.Series(faults.bad), None) if faults.bad.any() else column,
        how,
        name=ctx.name,
        now=ctx.now,
        future_hours=ctx.policy.future_hours,
        earliest_year=ctx.policy.earliest_year,
    )
    for status, code in CODES.items():
        faults.mark(found.status == status, name, code, MESSAGES[status], column)
    ctx.notes["W_DST_AMBIGUOUS"] += found.twice
    return found, found.status == 0
