"""The rows of a chunk on the way from text to values, and what the chunks of a load share.

A bad row is marked with its first error. Ids are opaque: trimmed and in NFC, and otherwise unchanged. Texts of
products lose invisible characters only; other oddities are counted.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce
from operator import or_

import numpy as np
import polars as pl

from recllm.base.arrays import Mask
from recllm.base.errors import IngestError
from recllm.base.policy import Policy
from recllm.base.schema import VARIANT_IDS, VARIANT_NAMES
from recllm.shop.ingest.file_schema import FLOAT_ID, FileSchema
from recllm.shop.ingest.options import IngestOptions
from recllm.shop.ingest.parse.numbers import parse_numbers
from recllm.shop.ingest.parse.times import FUTURE, OK, ROW_ERRORS, ParsedTimes, parse_times
from recllm.shop.ingest.read.records import BadRecord, Chunk
from recllm.shop.ingest.record import Occurrences
from recllm.shop.workspace.privacy import PERSON_PREFIX, Pseudonymiser
from recllm.text.injection import UNSEEN_LETTERS
from recllm.text.personal_data import find_personal_data, personal_data_hints

MAX_ID_BYTES = 256  # in UTF-8

_CACHED_PEOPLE = 300_000

_SCIENTIFIC_ID = r"^[+-]?(\d+(\.\d+)?[eE]\+\d+|\d\.\d+[eE]\d+)$"
MISSING_IDS = frozenset(
    {"nan", "null", "none", "nil", "n/a", "na", "#n/a", "-", "--", "undefined", "unknown", "(null)", "\\n", "<na>"}
)
"""Words for a missing id in a user column; joined, they would become one huge customer."""

_NOT_PLAIN, _NOT_PLAIN_TEXT = r"[^!-~]", r"[^ -~]"
_UNSEEN_IN_ID = rf"[\p{{Cc}}\p{{Cf}}\p{{Zl}}\p{{Zp}}{UNSEEN_LETTERS}]"
UNSEEN_IN_TEXT = r"[[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]--[\n\t\u{200c}\u{200d}]]"
"""Controls, zero-width, bidi and tag characters; joiners stay, as scripts need them."""
_SEARCHED_CHARS = 4_000
_HINTED_CHARS = 500
"""Above this length hints are slower than the search, and match nearly every text."""


class PseudonymCache:
    """Raw ids so far and their pseudonyms, in memory only and of a bounded number."""

    def __init__(self, pseudonymiser: Pseudonymiser) -> None:
        self._pseudonymiser = pseudonymiser
        self._pairs = pl.DataFrame(schema={"raw": pl.String, "user_id": pl.String})

    def user_ids(self, raw: pl.Series) -> pl.Series:
        """The pseudonym of each id, null where the id is."""
        distinct = raw.drop_nulls().unique().to_frame("raw")
        new = distinct.join(self._pairs, on="raw", how="anti")
        if new.height + self._pairs.height > _CACHED_PEOPLE:
            self._pairs, new = self._pairs.clear(), distinct
        user_ids = pl.Series(self._pseudonymiser.many(new["raw"].to_list()), dtype=pl.String)
        self._pairs = pl.concat([self._pairs, new.with_columns(user_id=user_ids)])
        return raw.to_frame("raw").join(self._pairs, on="raw", how="left", maintain_order="left")["user_id"]


class MostCommon:
    """Items or users of a log: one row per id, with the most common value of each field."""

    def __init__(
        self,
        key: str,
        keep: str = "most_common",
        stored: Mapping[str, bool] | None = None,
    ) -> None:
        """keep: as in a map. A product has its variants' shortest title, their price if it is one, is available where
        one is, and has all attributes. "names": an only `variant` stands behind the title, a `variant_pack` is apart.
        stored: known items, and whether they are such products: variants that orders made items, and others of their
        product, stay so."""
        self._key, self._keep, self._stored = key, keep, stored or {}
        self._first_titles: dict[str, str] = {}
        self._products: dict[str, str] = {}
        """Title -> id of its first product."""
        self._variants: dict[str, tuple[str, str, str]] = {}
        """Key of a row -> product, id and title of the variant."""
        self._apart: set[str] = set()
        """Products whose variants are items of their own."""
        self._schema: dict[str, pl.DataType] = {}
        self._counts: dict[str, pl.DataFrame] = {}
        self._n_rows = 0

    def add(self, rows: pl.DataFrame) -> None:
        self._schema = dict(rows.schema)
        if self._keep != "most_common":
            cells = rows.select(self._key, "title", "attributes").iter_rows()
            rows = rows.with_columns(pl.Series(self._key, [self._variant(*row) for row in cells], dtype=pl.String))
        numbered = rows.with_row_index("first", offset=self._n_rows).with_columns(rows=pl.lit(1, pl.UInt32))
        self._n_rows += rows.height
        for column in rows.columns:
            group = list(dict.fromkeys([self._key, column]))
            pairs = numbered.filter(pl.col(column).is_not_null()).select(*group, "first", "rows")
            if column in self._counts:
                pairs = pl.concat([self._counts[column], pairs])
            self._counts[column] = pairs.group_by(group).agg(pl.min("first"), pl.sum("rows"))

    def rows(self) -> pl.DataFrame:
        """One row per id in the order of the file; of equally common values the first."""
        if not self._schema:
            return pl.DataFrame()
        own_titles: dict[str, str] = {}
        if self._keep != "most_common":
            ids = {}
            for name, (product, variant, title) in self._variants.items():
                ids[name] = variant if product in self._apart else product
                own_titles |= {variant: title} if product in self._apart else {}
            for column, counts in self._counts.items():
                pairs = counts.with_columns(pl.col(self._key).replace_strict(ids))
                group = pairs.group_by(list(dict.fromkeys([self._key, column])))
                self._counts[column] = group.agg(pl.min("first"), pl.sum("rows"))
        merged = self._counts[self._key].sort("first").select(self._key, "rows")
        for column in self._schema:
            if column != self._key:
                commonest = self._counts[column].sort(["rows", "first"], descending=[True, False])
                commonest = commonest if self._keep == "most_common" else self._of_product(commonest, column)
                commonest = commonest.unique(self._key, keep="first", maintain_order=True).select(self._key, column)
                merged = merged.join(commonest, on=self._key, how="left", maintain_order="left")
        if own_titles:
            merged = merged.with_columns(title=pl.col(self._key).replace_strict(own_titles, default=pl.col("title")))
        if self._keep == "names":
            size = pl.col("attributes").str.json_path_match("$.variant").fill_null("")
            is_unsaid = (pl.col("rows") == 1) & ~pl.col("title").str.contains(size, literal=True)
            merged = merged.with_columns(
                title=pl.when(is_unsaid).then(pl.format("{} {}", "title", size)).otherwise("title")
            )
        return merged.select(pl.col(column).cast(dtype) for column, dtype in self._schema.items())

    def _variant(self, item_id: str, title: str, attributes: str) -> str:
        """A row's key until all are read: a product may be one item, or each variant."""
        product, stated = item_id, json.loads(attributes)
        if self._keep == "names":
            name = title + stated.get("variant_pack", "")
            product = self._products.setdefault(self._first_titles.setdefault(item_id, name), item_id)
        names = [name for key in (VARIANT_IDS, VARIANT_NAMES) for name in stated.get(key, "").split("\n") if name]
        sold = [name for name in names if name in self._stored and name not in (product, item_id)]
        if sold and not self._stored.get(product):
            self._apart.add(product)
        variant = [*sold, *names, product][0]
        key = f"{product}\n{variant}"
        self._variants.setdefault(key, (product, variant, stated.get(VARIANT_NAMES, title)))
        return key

    def _of_product(self, values: pl.DataFrame, column: str) -> pl.DataFrame:
        """The distinct values of each id in a column, with that of the product first."""
        if column == "title":
            return values.sort(pl.col(column).str.len_chars(), maintain_order=True)
        if column == "price":
            return values.filter(pl.len().over(self._key) == 1)
        if column == "available":
            return values.sort(column, descending=True, maintain_order=True)
        if column == "attributes":
            texts = values.sort("first").group_by(self._key, maintain_order=True).agg(column)
            return texts.with_columns(pl.Series(column, map(joined_attributes, texts[column]), dtype=pl.String))
        return values


def joined_attributes(objects: pl.Series) -> str:
    """One JSON object with the distinct values of each name, one a line."""
    values: dict[str, dict[str, None]] = {}
    for name, text in (pair for entry in objects for pair in json.loads(entry).items()):
        values.setdefault(name, {})[text] = None
    return json.dumps({name: "\n".join(texts) for name, texts in values.items()}, ensure_ascii=False)


@dataclass(slots=True, kw_only=True)
class LoadState:
    """The settings of one load, and the counts over all its chunks."""

    file: str
    schema: FileSchema
    options: IngestOptions
    policy: Policy
    pseudonyms: PseudonymCache
    now: datetime
    notes: Counter[str] = field(default_factory=Counter)
    """Warnings by code."""
    personal_data: Counter[str] = field(default_factory=Counter)
    """Texts with personal data, by column of the file."""
    occurrences: Occurrences = field(default_factory=Occurrences)


class FieldBatch:
    """The fields of a chunk as text, their parsers, and the errors of rows so far."""

    def __init__(self, chunk: Chunk, load: LoadState) -> None:
        self.fields = load.schema.fields(chunk.frame)
        self.load = load
        self.errors: list[BadRecord] = []
        self.bad: Mask = np.zeros(chunk.frame.height, bool)
        self.chunk = chunk

    def has(self, field: str) -> bool:
        return field in self.fields.columns

    def good(self) -> pl.Series:
        """Boolean (n,): rows without an error so far."""
        return pl.Series(~self.bad)

    def constant(self, value: str | bool | float | None, dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
        return pl.repeat(value, self.fields.height, dtype=dtype, eager=True)

    def returned(self) -> pl.Series:
        """Boolean (n,): rows that the map's `returns` name."""
        masks = [rule.holds(self.chunk.frame) for rule in self.load.schema.column_map.returns]
        return reduce(or_, masks, self.constant(False, pl.Boolean))

    def text(self, field: str) -> pl.Series:
        """The field as it is; nulls where the file has no such field."""
        return self.fields[field] if self.has(field) else self.constant(None, pl.String).alias(field)

    def mark(
        self,
        field: str,
        mask: pl.Series | Mask,
        code: str,
        message: str,
        values: pl.Series | None = None,
        *,
        column: str | None = None,
        keep: bool = True,
    ) -> None:
        """Marks the rows where `mask`; with `values` the message begins with the row's value in quotes.

        column: the file's name, where it is not that of the field. keep: False keeps only the row's position.
        """
        hits = (mask.fill_null(False).to_numpy() if isinstance(mask, pl.Series) else mask) & ~self.bad
        column = column or self.load.schema.column_of(field)
        for row in np.flatnonzero(hits).tolist():
            text = message
            if values is not None:
                value = values[row]
                text = f"{'an empty cell' if value is None else repr(str(value)[:60])} {message}"
            record = self.chunk.bad_row(row, column, code, text)
            self.errors.append(
                replace(record, user=self._user_of(row)) if keep else replace(record, raw="", fields=None)
            )
        self.bad |= hits

    def count_personal_data(self, texts: pl.Series, column: str, *, label: str = "") -> None:
        """Of good rows. column: the file's name. label: what a lone number is."""
        distinct = texts.filter(self.good()).drop_nulls().str.slice(0, _SEARCHED_CHARS).value_counts(name="rows")
        candidates = (pl.lit(label) + pl.col(texts.name)).alias("text")
        is_long = pl.col("text").str.len_chars() > _HINTED_CHARS
        is_suspect = pl.any_horizontal(pl.col("text").str.contains(hint) for hint in personal_data_hints())
        distinct = distinct.select(candidates, "rows")
        suspects = pl.concat([distinct.filter(is_long), distinct.filter(~is_long).filter(is_suspect)])
        n_rows = sum(rows for text, rows in suspects.iter_rows() if find_personal_data(text))
        if n_rows:
            self.load.notes["W_PERSONAL_DATA"] += n_rows
            self.load.personal_data[column] += n_rows

    def _user_of(self, row: int) -> str | None:
        cell = self.fields["user_id"][row] if self.has("user_id") else None
        if cell is None:
            return None
        cell = unicodedata.normalize("NFC", cell.strip())
        return (cell.removesuffix(".0") if "user_id" in self.load.schema.float_ids else cell) or None

    def ids(self, field: str) -> pl.Series:
        """Cleaned ids, null where empty; rows with invisible characters or overlong ids are marked.

        Raises `IngestError` E_SCI_ID where an id lost its last digits to a spreadsheet.
        """
        column, load = self.fields[field], self.load
        name = load.schema.column_of(field)
        scientific = column.filter(column.str.contains(_SCIENTIFIC_ID))
        if len(scientific):
            raise IngestError(
                "E_SCI_ID",
                f"{load.file}: {name} holds {scientific[0]}: its last digits are lost. Export the column as text, not "
                "as a number",
            )
        ids = column.str.strip_chars()
        load.notes["W_TRIM"] += int((ids != column).sum())
        if ids.str.contains(_NOT_PLAIN).any():
            composed = ids.str.normalize("NFC")
            load.notes["W_NFC"] += int((composed != ids).sum())
            ids, unseen = composed, composed.str.contains(_UNSEEN_IN_ID)
            self.mark(field, unseen, "E_CTRL_CHAR", f"{name} holds an invisible or control character")
        if field in load.schema.float_ids:
            load.notes["W_FLOAT_ID"] += int(ids.str.contains(FLOAT_ID).sum())
            ids = ids.str.strip_suffix(".0")
        ids, limit = null_if_empty(ids), MAX_ID_BYTES
        self.mark(field, ids.str.len_bytes() > limit, "E_TOO_LONG", f"{name} is longer than {limit} bytes")
        return ids

    def in_namespace(self, ids: pl.Series) -> pl.Series:
        namespace = self.load.options.namespace
        return ids if namespace is None else f"{namespace}:" + ids

    def raw_user_ids(self) -> pl.Series:
        ids = self.ids("user_id")
        missing = ids.is_null() | ids.str.to_lowercase().is_in(list(MISSING_IDS)).fill_null(False)
        missing |= ids.str.contains(rf"^{PERSON_PREFIX}[A-Z2-7]{{26}}$").fill_null(False)  # of an export
        self.mark("user_id", missing, "E_NO_USER", "is no id of the shop's", self.fields["user_id"])
        return self.in_namespace(ids)

    def pseudonyms(self, raw: pl.Series) -> pl.Series:
        """Pseudonyms of the rows that are still good, null for the others."""
        good = raw.set(pl.Series(self.bad), None)
        return self.load.pseudonyms.user_ids(good)

    def item_ids(self) -> pl.Series:
        ids = self.ids("item_id")
        self.mark("item_id", ids.is_null(), "E_NO_ITEM", "names no item", self.fields["item_id"])
        return self.in_namespace(ids)

    def number(self, field: str, *, money: bool = False) -> pl.Series:
        """Float64, null where empty; marks other texts. `money` allows currency signs."""
        column = null_if_empty(self.text(field).str.strip_chars())
        decimal = self.load.schema.decimal
        numbers = parse_numbers(column, decimal, money=money)
        message = "is not a number" if decimal == "." else "is not a number with a decimal comma"
        self.mark(field, numbers.is_null() & column.is_not_null(), "E_NUMBER", message, column)
        return numbers

    def check_prices(self, price: pl.Series) -> None:
        limit = self.load.policy.max_price
        self.mark("price", price < 0, "E_NEG_PRICE", "is a negative price", price)
        self.mark("price", price > limit, "E_PRICE_RANGE", f"is above the highest price allowed, {limit:,.0f}", price)

    def currency(self) -> pl.Series:
        """ISO codes in capitals, null where empty; other texts are marked."""
        codes = null_if_empty(self.fields["currency"].str.strip_chars().str.to_uppercase())
        wrong = ~codes.str.contains(r"^[A-Z]{3}$")
        self.mark("currency", wrong, "E_CURRENCY", "is not a currency code such as EUR", codes)
        return codes

    def times(self, may_lie_ahead: pl.Series | None = None) -> ParsedTimes:
        """Only good rows may refuse the file. may_lie_ahead: boolean (n,), of times in the future."""
        column, load = self.fields["timestamp"], self.load
        if load.schema.times is None:
            raise IngestError("E_MISSING_COLUMN", f"{load.file}: no column for the time")
        times = parse_times(
            column.set(pl.Series(self.bad), None) if self.bad.any() else column,
            load.schema.times,
            file=load.file,
            now=load.now,
        )
        if may_lie_ahead is not None:
            times.status[(times.status == FUTURE) & may_lie_ahead.fill_null(False).to_numpy()] = OK
        for status, (code, message) in ROW_ERRORS.items():
            self.mark("timestamp", times.status == status, code, message, column)
        load.notes["W_DST_AMBIGUOUS"] += times.n_ambiguous
        return times


def clean_texts(column: pl.Series, notes: Counter[str]) -> pl.Series:
    """Without invisible characters, which `notes` count, and outer spaces; or null."""
    clean = column
    if column.str.contains(_NOT_PLAIN_TEXT).any():
        clean = column.str.replace_all(UNSEEN_IN_TEXT, "")
        notes["W_CTRL"] += int((clean != column).sum())
    return null_if_empty(clean.str.strip_chars())


def null_if_empty(column: pl.Series) -> pl.Series:
    return column.set(column == "", None) if (column == "").any() else column
