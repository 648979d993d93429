"""What a caller may say about a file. Everything else is read from the file itself or refused, never guessed.

A column map tells how one shop's file says what a table means. It is a TOML file; see `maps/` for examples.

table = "events"                        # the table that it is for
only_new = true                         # with it: what is known already stays as it is
only_refusals = true                    # consent: rows that say yes are left out, and those that `reject` names
optional = true                         # a file may lack what the map names, save what its table has to have
nothing = ["Default Title"]             # cells that say nothing, and count as empty
text_marks = true                       # ="123", '123 and a leading tab tell a spreadsheet that a cell is text: the
                                        # mark is no part of it
keep = "most_common"                    # items or users out of a log: one row each, every field its commonest value
special = ["health"]                    # special-category columns that may be taken in as basics

footer = "^\\d+ records"                 # lines with fewer or more cells than the header that are no rows: a pattern

doubled = "first"                       # of columns of one name the first counts: without it such a file is refused

[read]                                  # what IngestOptions may say too, which then wins:
tz = "UTC"                              #   encoding, delimiter, quotes, decimal, tz, ts_format, date_order,
                                        #   currency, sheet
likely_tz = "America/Los_Angeles"       # the zone where neither the caller nor the shop says one
[renames]                               # columns by the names of a language -> by which the map knows them
Typ = "Type"
[columns]
user_id = "household_id"                # or several names, the first that is there counts
[constants]
event = "purchase"
[defaults]                              # what an empty cell of a field means, and a column that is not there
timestamp = "2024-01-01T00:00:00Z"
[joins]                                 # one text of several columns, empty ones left out; "otherwise" stands
                                        # in for the first column where that is empty, and "instead" for the whole
title = { columns = ["product_type", "package_size"], separator = " ", otherwise = ["product_category"] }
[paths]                                 # the category, widest name first
category = ["department", "product_category"]   # or written in one column, several beside each other:
# category = { column = "categories", levels = "/", several = ",", without = ["Default Category"] }
[totals]                                # unit price = line total / quantity
price = { total = "sales_value", per = "quantity" }
[attributes]                            # items: name = "column"
size = "package_size"
[basics]                                # users: name = "column"
age = "age"                             # or several names, as above
[values.event]                          # translations of single values, matched without case
alipay = "purchase"
[[reject]]                              # rows that are not meant: quarantined as E_MAP_REJECT, never held
column = "StockCode"                    # against the reject limit
in = ["POST", "DOT"]                    # or: not_in = ["sale"], matches = "^gift", empty = true,
                                        # equals = "another column"
unless = ["Paid at"]                    # the rule holds only where these columns are empty
reason = "not a product"
[[returns]]                             # rows that take goods back, with the same conditions
column = "Status"
in = ["refunded"]
[carry]                                 # cells that stand only in the first of the rows of one order: the following
by = "Name"                             # ones take them from it
columns = ["Email"]
[parents]                               # rows of variants take the cells that they lack from the row of their product,
named_by = "Parent"                     # which stands anywhere in the file; or: lists = the column of the product
keys = { SKU = "", ID = "id:" }         # that holds the keys of its variants, each what the group of `matches` finds.
columns = ["Categories", "Description"] # keys: columns that name a row, and what is put before them
name = "parent_sku"                     # a new column with the key of the product
[lines]                                 # rows of which some cells hold a line of an order each: a row for each line
columns = "^line_item_\\d+$"            # a pattern of their names
separator = "|"                         # between the parts of such a cell, which are columns then: "name:Mug|sku:M1"
names = { name = "line_name", sku = "line_sku" }
[groups]                                # columns that repeat: a row for each number, which the second group of the
columns = "^(.+) \\(action (\\d+)\\)$"    # pattern finds, with columns of the names that the first one finds
[composed]                              # new columns of others, in their order, for what follows to use: joined, and
"day" = { columns = ["order"], matches = "^E(\\d{4})(\\d\\d)(\\d\\d)", text = "${1}-${2}-${3}" } # what a pattern finds
[composed.at]                           # times with a column of zones beside them: its names -> zones
columns = ["Date", "Time"]
zone = "Time Zone"
zones = { "Eastern Time (US & Canada)" = "America/New_York" }
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from recllm.base.documents import toml_table
from recllm.base.errors import IngestError, UsageError
from recllm.base.schema import Action, Table
from recllm.shop.ingest.column_names import FIELDS

BLOCK_BYTES = 4 << 20
_MAPS = files("recllm.shop.ingest") / "maps"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReadOptions(_Part):
    """How the file is written. None means: not said."""

    encoding: str | None = None
    """Tried after a byte order mark and strict UTF-8, e.g. "gb18030" or "cp1252"."""
    delimiter: str | None = None
    """One character; sniffed from the first 64 KiB when not said."""
    quotes: Literal["on", "off"] | None = None
    """"off" where a quote is a character like any other, as in tab-delimited reports."""
    decimal: Literal[".", ","] | None = None
    tz: str | None = None
    """Zone of times that carry none, e.g. "Europe/London"."""
    likely_tz: str | None = None
    """Zone of such times where nothing says one: the system that writes the file has one of its own."""
    ts_format: str | None = None
    """"iso", "epoch", "excel" (serial day numbers) or a strptime pattern such as "%d.%m.%y %H:%M"."""
    date_order: Literal["dmy", "mdy"] | None = None
    """How 03/04/2025 is meant; inferred when some day is above 12 and no row contradicts."""
    currency: str | None = None
    """ISO code of every price in the file, when no column says it."""
    sheet: str | None = None
    """Of a workbook; not needed where only one sheet holds anything."""


class IngestOptions(ReadOptions):
    """Overrides of the map and of what the file shows."""

    shop_tz: str | None = None
    """The shop's own zone: used when neither `tz` nor the map says one."""
    shop_currency: str | None = None
    """The shop's own currency: prices of events in another one are not kept as prices."""
    event_names: Mapping[str, Action] = {}
    """What events are called in the shop's domain, besides the usual names: {"watch": Action.PURCHASE}."""
    on_bad_bytes: Literal["fail", "quarantine"] = "fail"
    anonymous: Literal["quarantine", "keep"] = "quarantine"
    """"keep" gives every basket without a user its own throw-away person."""
    returns: Literal["on", "off"] = "on"
    """"on" reads a negative quantity as a return; "off" quarantines it."""
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")] | None = None
    """Of a file of another shop, whose numbers mean others: people, items, baskets and events are NAMESPACE:ID."""
    block_bytes: int = BLOCK_BYTES
    """Bytes read and parsed at a time; bounds the memory of a load."""
    now: datetime | None = None
    """Taken as the present when times in the future are refused; the clock when None."""

    def __init__(self, **values: Any) -> None:
        """Raises `UsageError` for an unknown option or a value that it does not take."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UsageError(f"option {first['loc'][0]}: {first['msg']}") from None


def read_options(values: Mapping[str, str]) -> dict[str, str]:
    """Options of a command line, checked. Raises `UsageError` for an unknown one or a value that it does not take."""
    names = {*ReadOptions.model_fields, "namespace", "on_bad_bytes", "anonymous", "returns"} - {"likely_tz"}
    for name in values.keys() - names:
        raise UsageError(f"--read {name}: no such option; known: {', '.join(sorted(names))}")
    IngestOptions(**values)
    return dict(values)


def _as_list(value: object) -> object:
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"has to be a name or a list of names, not {value!r}")
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
"""One name or a list of them."""


def _searched_for(pattern: str) -> str:
    try:
        re.compile(pattern)
        pl.Series([""]).str.contains(pattern)
    except (re.error, RecursionError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ValueError(
            f"{pattern!r} is not a pattern that is searched for: {str(error).split(chr(10), 1)[0]}"
        ) from error
    return pattern


SearchPattern = Annotated[str, AfterValidator(_searched_for)]
"""A regular expression that Python and polars both take."""


class JoinedColumns(_Part):
    """One text of several columns; empty ones are left out."""

    columns: Names
    separator: str = " "
    otherwise: Names = ()
    """What stands in for the first column in rows where it is empty: the first of these that is not."""
    instead: Names = ()
    """What stands for the whole text in rows where it is not empty: the first of these that is not."""


class WrittenPath(_Part):
    """A path that stands in one column, among others: the one with the most names counts, of equals the first."""

    column: str
    levels: str = Field(min_length=1)
    """Between two names of a path."""
    several: str = ""
    """Between two paths; behind a backslash it is a part of a name."""
    without: Names = ()
    """Names that are left out, such as a root of everything."""

    def names(self, text: str) -> list[str]:
        """The names of the path, widest first."""
        paths = re.split(rf"(?<!\\){re.escape(self.several)}", text) if self.several else [text]
        split = [
            [name for part in path.split(self.levels) if (name := part.replace("\\", "").strip()) not in self.without]
            for path in paths
        ]
        return max(([name for name in names if name] for names in split), key=len)


def _as_path(value: object) -> object:
    return value if isinstance(value, Mapping | WrittenPath) else _as_list(value)


ColumnPath = Annotated[tuple[str, ...] | WrittenPath, BeforeValidator(_as_path)]
"""Columns of a path, widest name first, or the column in which it is written."""


class LineTotal(_Part):
    """A unit price that is the `total` column divided by the `per` column."""

    total: str
    per: str


class RowRule(_Part):
    """Some rows: the column is empty, or has one of `values` or none of `others`, or is matched by `matches`, or says
    the same as another column."""

    column: str
    values: Names = Field((), alias="in")
    others: Names = Field((), alias="not_in")
    matches: str | None = None
    empty: StrictBool = False
    unless: Names = ()
    """Columns: only rows in which all of them are empty."""
    equals: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model_fields_set & {"values", "others", "matches", "empty", "equals"}:
            raise ValueError("takes column and one of in, not_in, matches, empty, equals")
        try:
            re.compile(self.matches or "")
            pl.Series([""]).str.contains(self.matches or "")  # what searches in the end, with limits of its own
        except (re.error, RecursionError, OverflowError, pl.exceptions.PolarsError) as error:
            reason = str(error).split("\n", 1)[0]
            raise ValueError(f"matches = {self.matches!r} is not a pattern that is searched for: {reason}") from error
        return self

    def holds(self, frame: pl.DataFrame) -> pl.Series:
        """Of each row of a frame with the columns."""
        column = frame[self.column].str.strip_chars()
        holds = pl.Series([False], dtype=pl.Boolean).new_from_index(0, frame.height)
        if self.empty:
            holds = holds | column.is_null() | (column == "")
        if self.values:
            holds = holds | column.is_in(list(self.values))
        if self.others:
            holds = holds | ~column.fill_null("").is_in(list(self.others))
        if self.matches:
            holds = holds | column.str.contains(self.matches)
        if self.equals:
            holds = holds | _same(column, frame[self.equals].str.strip_chars())
        for name in self.unless:
            holds = holds & ~(frame[name].str.strip_chars() != "").fill_null(False)
        return holds.fill_null(False)


class RejectRule(RowRule):
    """Rows to leave out."""

    reason: str = "left out by the map"


class CarriedColumns(_Part):
    """Cells that stand only in the first of consecutive rows with the same `by`."""

    by: str
    columns: Names


def _same(a: pl.Series, b: pl.Series) -> pl.Series:
    """Boolean (n,): rows of equal texts or numbers, two empty ones left out."""
    number_a, number_b = (column.cast(pl.Float64, strict=False) for column in (a, b))
    return ((a == b) & (a != "")).fill_null(False) | (number_a == number_b).fill_null(False)


class ParentRows(_Part):
    """The row of the product to which a row of a variant belongs; the module's docstring explains each part."""

    keys: Mapping[str, str]
    named_by: str | None = None
    lists: str | None = None
    matches: SearchPattern = "(.+)"
    columns: Names = ()
    name: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.named_by is None) == (self.lists is None):
            raise ValueError("takes one of named_by and lists")
        if re.compile(self.matches).groups != 1:
            raise ValueError(f"matches = {self.matches!r} has to have one group, the key of a variant")
        return self


class OrderLines(_Part):
    """Cells that hold a line of an order each; the module's docstring explains each part."""

    columns: SearchPattern
    separator: str = Field(min_length=1)
    names: Mapping[str, str]
    """Name of a part -> name of its column."""


class RepeatedColumns(_Part):
    """Columns that repeat, numbered; the module's docstring explains it."""

    columns: SearchPattern

    @model_validator(mode="after")
    def _check(self) -> Self:
        if re.compile(self.columns).groups != 2:
            raise ValueError(f"columns = {self.columns!r} has to have two groups, a name and a number")
        return self


class ComposedColumn(_Part):
    """A new column of others; the module's docstring explains each part."""

    columns: Names
    separator: str = " "
    matches: SearchPattern | None = None
    """What the joined text has to be matched by; it is empty where it is not."""
    text: str = "${1}"
    """What is written for the match."""
    zone: str | None = None
    zones: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for zone in self.zones.values():
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError, OSError) as error:
                raise ValueError(f"zones: {zone!r} is no time zone") from error
        return self


def _without_case(values: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    return {field: {text.casefold(): meaning for text, meaning in table.items()} for field, table in values.items()}


class ColumnMap(_Part):
    """A column map; the module's docstring explains each part."""

    table: Table | None = None
    read: ReadOptions = ReadOptions()
    columns: Mapping[str, Names] = {}
    constants: Mapping[str, str] = {}
    defaults: Mapping[str, str] = {}
    joins: Mapping[str, JoinedColumns] = {}
    paths: Mapping[str, ColumnPath] = {}
    totals: Mapping[str, LineTotal] = {}
    attributes: Mapping[str, str] = {}
    basics: Mapping[str, Names] = {}
    values: Annotated[Mapping[str, Mapping[str, str]], AfterValidator(_without_case)] = {}
    reject: tuple[RejectRule, ...] = ()
    returns: tuple[RowRule, ...] = ()
    carry: CarriedColumns | None = None
    parents: ParentRows | None = None
    lines: OrderLines | None = None
    groups: RepeatedColumns | None = None
    composed: Mapping[str, ComposedColumn] = {}
    renames: Mapping[str, str] = {}
    doubled: Literal["refused", "first"] = "refused"
    footer: SearchPattern | None = None
    nothing: Names = ()
    only_new: StrictBool = False
    """Items or users out of a log: those that the store knows already stay as they are."""
    only_refusals: StrictBool = False
    """Consent: rows that agree are left out."""
    text_marks: StrictBool = False
    optional: StrictBool = False
    """Whether what the map names and a file lacks is left out, but for what the table cannot do without."""
    special: Names = ()
    keep: Literal["all", "most_common"] = "all"

    @property
    def built_fields(self) -> frozenset[str]:
        """Fields that are not one column as it is."""
        return frozenset((*self.constants, *self.joins, *self.paths, *self.totals))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.keep == "most_common" and self.table not in {Table.ITEMS, Table.USERS}:
            raise ValueError('keep = "most_common" is for items and users')
        if self.only_new and self.keep != "most_common":
            raise ValueError('only_new goes with keep = "most_common"')
        if self.table is not None:
            fields = FIELDS[self.table]
            for part in ("columns", "constants", "defaults", "joins", "paths", "totals", "values"):
                unknown = ", ".join(sorted(set(getattr(self, part)) - set(fields)))
                if unknown:
                    raise ValueError(f"[{part}] {unknown} is no field of {self.table}; fields: {', '.join(fields)}")
        return self


def shipped_maps() -> list[str]:
    return sorted(p.name.removesuffix(".toml") for p in _MAPS.iterdir() if p.name.endswith(".toml"))


def load_map(name_or_path: str | Path) -> ColumnMap:
    """A shipped map by name, or a TOML file by path. Raises `IngestError` E_MAP."""
    name, shipped = str(name_or_path), shipped_maps()
    try:
        text = (_MAPS / f"{name}.toml" if name in shipped else Path(name)).read_text("utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        raise IngestError(
            "E_MAP", f"there is no map {name!r}; shipped maps: {', '.join(shipped)}; or give a TOML file"
        ) from None
    return parse_map(text, name)


def parse_map(text: str, name: str) -> ColumnMap:
    """A map from TOML text. Every key has to be known. Raises `IngestError` E_MAP."""
    try:
        return ColumnMap.model_validate(toml_table(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            parts: dict[str, type[_Part]] = {
                "read": ReadOptions,
                "joins": JoinedColumns,
                "totals": LineTotal,
                "reject": RejectRule,
                "returns": RowRule,
                "carry": CarriedColumns,
                "parents": ParentRows,
                "lines": OrderLines,
                "groups": RepeatedColumns,
                "composed": ComposedColumn,
            }
            part = parts.get(str(first["loc"][0]), ColumnMap)
            why = f"is unknown; known: {', '.join(f.alias or name for name, f in part.model_fields.items())}"
        raise IngestError("E_MAP", f"map {name}: {where} {why}") from error
    except ValueError as error:
        raise IngestError("E_MAP", f"map {name}: {error}") from error
