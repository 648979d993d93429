"""The rows of one chunk on their way from text to values, and what the chunks of a load share.

A row that cannot be used is marked with its first error; parsing goes on for the other rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.errors import IngestError
from recllm.ingest.file_schema import FileSchema
from recllm.ingest.options import IngestOptions
from recllm.ingest.parse.numbers import parse_numbers
from recllm.ingest.parse.text_cleaning import (
    FLOAT_ID,
    NOT_PLAIN,
    SCIENTIFIC_ID,
    UNSEEN_IN_ID,
    is_nobody,
    null_if_empty,
)
from recllm.ingest.parse.times import CODES, MESSAGES, ParsedTimes, parse_times
from recllm.ingest.record import Occurrences
from recllm.ingest.tallies import IdTally, PriceTally
from recllm.policy import Policy

_CACHED_PEOPLE = 300_000


class Pseudonyms(Protocol):
    """What ingest needs of `privacy.Pseudonymiser`."""

    def many(self, raw: Sequence[str], /) -> list[str]: ...


class PseudonymCache:
    """Raw ids met so far and their pseudonyms, in memory only and of a bounded number."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms
        self._pairs = pl.DataFrame(schema={"raw": pl.String, "user_id": pl.String})

    def user_ids(self, raw: pl.Series) -> pl.Series:
        """The pseudonym of each id, null where the id is."""
        distinct = raw.drop_nulls().unique().to_frame("raw")
        new = distinct.join(self._pairs, on="raw", how="anti")
        if new.height + self._pairs.height > _CACHED_PEOPLE:
            self._pairs, new = self._pairs.clear(), distinct
        user_ids = pl.Series(self._pseudonyms.many(new["raw"].to_list()), dtype=pl.String)
        self._pairs = pl.concat([self._pairs, new.with_columns(user_id=user_ids)])
        return raw.to_frame("raw").join(self._pairs, on="raw", how="left", maintain_order="left")["user_id"]


@dataclass(slots=True, kw_only=True)
class LoadState:
    """What is settled for one load, and the tallies that run over all its chunks."""

    file: str
    """Name of the file, for messages."""
    schema: FileSchema
    options: IngestOptions
    policy: Policy
    pseudonyms: PseudonymCache
    now: datetime
    notes: Counter[str] = field(default_factory=Counter)
    """Warnings by code."""
    occurrences: Occurrences = field(default_factory=Occurrences)
    users: IdTally = field(default_factory=IdTally)
    items: IdTally = field(default_factory=IdTally)
    prices: PriceTally = field(default_factory=PriceTally)


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row cannot be used."""

    column: str
    code: str
    message: str
    exempt: bool
    """Left out on purpose: it does not count towards the reject limit."""


class FieldBatch:
    """The fields of a chunk as text, methods that parse one of them, and the errors of the rows so far."""

    def __init__(self, fields: pl.DataFrame, load: LoadState) -> None:
        self.fields = fields
        self.load = load
        self.errors: dict[int, RowError] = {}
        """By row."""
        self.bad: NDArray[np.bool_] = np.zeros(fields.height, bool)

    def has(self, field: str) -> bool:
        return field in self.fields.columns

    def good(self) -> pl.Series:
        """Boolean (n,): rows without an error so far."""
        return pl.Series(~self.bad)

    def constant(self, value: str | bool | float | None, dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
        """The same value in every row."""
        return pl.repeat(value, self.fields.height, dtype=dtype, eager=True)

    def text(self, field: str) -> pl.Series:
        """The field as it is; nulls where the file has no such field."""
        return self.fields[field] if self.has(field) else self.constant(None, pl.String).alias(field)

    def mark(
        self,
        field: str,
        mask: pl.Series | NDArray[np.bool_],
        code: str,
        message: str,
        values: pl.Series | None = None,
        *,
        column: str | None = None,
        exempt: bool = False,
    ) -> None:
        """Marks the rows where `mask`; with `values` the message begins with the row's value in quotes.

        column: the file's name of the column, where it is not that of the field.
        """
        hits = (mask.fill_null(False).to_numpy() if isinstance(mask, pl.Series) else mask) & ~self.bad
        column = column or self.load.schema.column_of(field)
        for row in np.flatnonzero(hits).tolist():
            text = message
            if values is not None:
                value = values[row]
                text = f"{'an empty cell' if value is None else repr(str(value)[:60])} {message}"
            self.errors[row] = RowError(column, code, text, exempt)
        self.bad |= hits

    def ids(self, field: str) -> pl.Series:
        """Cleaned ids, null where empty; rows with unseen characters or overlong ids are marked.

        Raises `IngestError` E_SCI_ID where an id lost its last digits to a spreadsheet.
        """
        column, load = self.fields[field], self.load
        name = load.schema.column_of(field)
        scientific = column.filter(column.str.contains(SCIENTIFIC_ID).fill_null(False))
        if len(scientific):
            raise IngestError(
                "E_SCI_ID",
                f"{load.file}: {name} holds {scientific[0]}: its last digits are lost. Export the column as text, not "
                "as a number",
            )
        ids = column.str.strip_chars()
        load.notes["W_TRIM"] += int((ids != column).sum())
        if ids.str.contains(NOT_PLAIN).any():
            composed = ids.str.normalize("NFC")
            load.notes["W_NFC"] += int((composed != ids).sum())
            ids, unseen = composed, composed.str.contains(UNSEEN_IN_ID)
            self.mark(field, unseen, "E_CTRL_CHAR", f"{name} holds an invisible or control character")
        if field in load.schema.float_ids:
            load.notes["W_FLOAT_ID"] += int(ids.str.contains(FLOAT_ID).sum())
            ids = ids.str.strip_suffix(".0")
        ids, limit = null_if_empty(ids), load.policy.max_id_bytes
        self.mark(field, ids.str.len_bytes() > limit, "E_TOO_LONG", f"{name} is longer than {limit} bytes")
        return ids

    def raw_user_ids(self) -> pl.Series:
        """Cleaned raw user ids; rows without a person are marked."""
        ids = self.ids("user_id")
        self.mark("user_id", is_nobody(ids), "E_NO_USER", "names no user", self.fields["user_id"])
        return ids

    def pseudonyms(self, raw: pl.Series) -> pl.Series:
        """Pseudonyms of the rows that are still good, null for the others."""
        good = raw.set(pl.Series(self.bad), None)
        self.load.users.add(good)
        return self.load.pseudonyms.user_ids(good)

    def item_ids(self) -> pl.Series:
        """Cleaned item ids; rows without an item are marked."""
        ids = self.ids("item_id")
        self.mark("item_id", ids.is_null(), "E_NO_ITEM", "names no item", self.fields["item_id"])
        return ids

    def number(self, field: str, *, money: bool = False) -> pl.Series:
        """Float64, null where empty; what is no number is marked. `money` allows currency signs around it."""
        column, decimal = null_if_empty(self.fields[field].str.strip_chars()), self.load.schema.decimal
        numbers = parse_numbers(column, decimal, money=money)
        message = "is not a number" if decimal == "." else "is not a number with a decimal comma"
        self.mark(field, numbers.is_null() & column.is_not_null(), "E_NUMBER", message, column)
        return numbers

    def check_prices(self, price: pl.Series) -> None:
        """Marks prices that cannot be and counts odd ones."""
        limit = self.load.policy.max_price
        self.mark("price", price < 0, "E_NEG_PRICE", "is a negative price", price)
        self.mark("price", price > limit, "E_PRICE_RANGE", f"is above the highest price allowed, {limit:,.0f}", price)
        good = price.filter(self.good())
        self.load.notes["W_ZERO_PRICE"] += int((good == 0).sum())
        self.load.prices.add(good)

    def currency(self) -> pl.Series:
        """ISO codes in capitals, null where empty; what is no code is marked."""
        codes = null_if_empty(self.fields["currency"].str.strip_chars().str.to_uppercase())
        wrong = ~codes.str.contains(r"^[A-Z]{3}$")
        self.mark("currency", wrong, "E_CURRENCY", "is not a currency code such as EUR", codes)
        return codes

    def times(self) -> ParsedTimes:
        """Only rows that are still good may refuse the whole file."""
        column, load = self.fields["timestamp"], self.load
        if load.schema.times is None:
            raise IngestError("E_MISSING_COLUMN", f"{load.file}: no column for the time")
        times = parse_times(
            column.set(pl.Series(self.bad), None) if self.bad.any() else column,
            load.schema.times,
            file=load.file,
            now=load.now,
            future_hours=load.policy.future_hours,
            earliest_year=load.policy.earliest_year,
        )
        for status, code in CODES.items():
            self.mark("timestamp", times.status == status, code, MESSAGES[status], column)
        load.notes["W_DST_AMBIGUOUS"] += times.n_ambiguous
        return times
