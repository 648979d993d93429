"""Options and column maps of a file. All else is read from the file itself or refused, never guessed.

A column map is a TOML file that says how one shop's file expresses a table; `column_map.toml` shows every part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

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

from recllm.base.documents import first_fault, toml_table
from recllm.base.errors import IngestError, UsageError
from recllm.base.schema import Action, Table
from recllm.shop.ingest.column_names import FIELDS, NOTES, STATES, TEST, normal

BLOCK_BYTES = 4 << 20
_MAPS = files("recllm.shop.ingest") / "maps"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReadOptions(_Part):
    """Form of the file. None means: not stated."""

    encoding: str | None = None
    """Tried after a byte order mark and strict UTF-8, e.g. "gb18030" or "cp1252"."""
    delimiter: str | None = None
    """One character; detected in the first 64 KiB when not stated."""
    quotes: Literal["on", "off"] | None = None
    """"off" where quotes are plain characters, as in tab-delimited reports."""
    decimal: Literal[".", ","] | None = None
    tz: str | None = None
    """Zone of times without one, e.g. "Europe/London"."""
    likely_tz: str | None = None
    """The same where nothing states one: of the system that writes the file."""
    ts_format: str | None = None
    """"iso", "epoch", "excel" (serial day numbers) or a strptime pattern such as "%d.%m.%y %H:%M"."""
    date_order: Literal["dmy", "mdy"] | None = None
    """Of day and month in 03/04/2025; inferred when some day is above 12 and no row contradicts."""
    currency: str | None = None
    """ISO code of all prices, when no column has it."""
    sheet: str | None = None
    """Of a workbook; not needed if only one sheet has cells."""


class IngestOptions(ReadOptions):
    """Overrides of the map and of what the file shows."""

    shop_tz: str | None = None
    """The shop's own zone: used when neither `tz` nor the map states one."""
    shop_currency: str | None = None
    """The shop's own currency: prices of events in another one are dropped."""
    event_names: Mapping[str, Action] = {}
    """Names of events in the shop's domain, besides the usual ones: {"watch": Action.PURCHASE}."""
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")] | None = None
    """Of a file of another shop: its people, items, baskets and events become NAMESPACE:ID."""
    block_bytes: int = BLOCK_BYTES
    """Bytes per block; bounds the memory of a load."""
    now: datetime | None = None
    """The present, for times in the future; the clock when None."""

    def __init__(self, **values: Any) -> None:
        """Raises `UsageError` for an unknown option or a value that it does not take."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(first_fault(error, type(self), "reading")) from None


def read_options(values: Mapping[str, str]) -> dict[str, str]:
    """Options of a command line. Raises `UsageError` for an unknown one or a wrong value."""
    names = {*ReadOptions.model_fields, "namespace"} - {"likely_tz"}
    for name in values.keys() - names:
        raise UsageError(f"--read {name}: no such option; known: {', '.join(sorted(names))}")
    IngestOptions(**values)
    return dict(values)


def as_list(value: object) -> object:
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"has to be a name or a list of names, not {value!r}")
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(as_list)]


def checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
        pl.Series([""]).str.contains(pattern)
    except (re.error, RecursionError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{pattern!r} is not a pattern: {str(error).split(chr(10), 1)[0]}") from error
    return pattern


SearchPattern = Annotated[str, AfterValidator(checked_pattern)]
"""A regular expression that Python and polars both take."""


class JoinedColumns(_Part):
    """One text of several columns; empty ones are left out."""

    columns: Names
    separator: str = " "
    otherwise: Names = ()
    """Replaces the first column where it is empty: the first of these that is not."""
    instead: Names = ()
    """Replaces the whole text: the first of these that is not empty."""


class WrittenPath(_Part):
    """Paths in one column: the one with the most names counts, of equals the first."""

    column: str
    levels: str = Field(min_length=1)
    """Between two names of a path."""
    several: str = ""
    """Between two paths; after a backslash it belongs to a name."""
    without: Names = ()
    """Names that are left out, such as a root of everything."""

    def names(self, text: str) -> list[str]:
        """The names of the path, widest first."""
        paths = re.split(rf"(?<!\\){re.escape(self.several)}", text) if self.several else [text]
        split = [
            [name for text in path.split(self.levels) if (name := text.replace("\\", "").strip()) not in self.without]
            for path in paths
        ]
        return max(([name for name in names if name] for names in split), key=len)


ColumnPath = Annotated[
    tuple[str, ...] | WrittenPath,
    BeforeValidator(lambda value: value if isinstance(value, Mapping | WrittenPath) else as_list(value)),
]
"""Columns of a path, widest name first, or the column in which it is written."""


class LineTotal(_Part):
    """A unit price that is the `total` column divided by the `per` column."""

    total: str
    per: str


class RowRule(_Part):
    """Rows in which one of the conditions on the column holds."""

    column: str
    values: Names = Field((), alias="in")
    others: Names = Field((), alias="not_in")
    matches: SearchPattern | None = None
    state: Literal["returned", "left_out", "bought"] | None = None
    empty: StrictBool = False
    unless: Names = ()
    """Columns: only rows in which all of them are empty."""
    equals: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model_fields_set & {"values", "others", "matches", "state", "empty", "equals"}:
            raise ValueError("takes column and one of in, not_in, matches, empty, equals, state")
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
        for pattern in filter(None, (self.matches, self.state and STATES[self.state])):
            holds = holds | column.str.contains(pattern)
        if self.equals:
            compared = frame[self.equals].str.strip_chars()
            numbers = column.cast(pl.Float64, strict=False) == compared.cast(pl.Float64, strict=False)
            holds = holds | ((column == compared) & (column != "")).fill_null(False) | numbers.fill_null(False)
        for name in self.unless:
            holds = holds & ~(frame[name].str.strip_chars() != "").fill_null(False)
        return holds.fill_null(False)


class RejectRule(RowRule):
    reason: str = "left out by the map"


def test_rules(columns: Iterable[str]) -> tuple[RejectRule, ...]:
    """Leave out the rows that one of these columns calls a test."""
    rules = ({"column": name, "matches": TEST, "reason": "a test"} for name in columns if normal(name) in NOTES)
    return tuple(map(RejectRule.model_validate, rules))


def order_rules(states: Iterable[str], user_columns: Iterable[str] = ()) -> dict[str, Any]:
    """Of a map. Rows without a customer, as of a till, are no mistakes."""
    left_out: list[Any] = [{"column": name, "empty": True, "reason": "no customer"} for name in user_columns]
    returns: list[Any] = []
    for name in states:
        left_out.append({"column": name, "state": "left_out", "reason": "was cancelled or not paid"})
        returns.append({"column": name, "state": "returned"})
    rejected = tuple(map(RejectRule.model_validate, left_out))
    return {"reject": rejected, "returns": tuple(map(RowRule.model_validate, returns))}


class CarriedColumns(_Part):
    """Cells that only the first of consecutive rows with the same `by` has."""

    by: str
    columns: Names


class ParentRows(_Part):
    """Rows of products that complete the rows of their variants."""

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
    """Cells that hold a line of an order each."""

    columns: SearchPattern
    separator: str = Field(min_length=1)
    names: Mapping[str, str]
    """Name of a part -> name of its column."""


class RepeatedColumns(_Part):
    columns: SearchPattern

    @model_validator(mode="after")
    def _check(self) -> Self:
        if re.compile(self.columns).groups != 2:
            raise ValueError(f"columns = {self.columns!r} has to have two groups, a name and a number")
        return self


class ComposedColumn(_Part):
    columns: Names
    separator: str = " "
    matches: SearchPattern | None = None
    """The text is empty where this does not match."""
    text: str = "${1}"
    """Replacement of the match."""


_TranslatedValues = Annotated[
    Mapping[str, Mapping[str, str]],
    AfterValidator(lambda fields: {f: {text.casefold(): m for text, m in v.items()} for f, v in fields.items()}),
]


class ColumnMap(_Part):
    """A column map; `column_map.toml` explains each part."""

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
    values: _TranslatedValues = {}
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
    only_refusals: StrictBool = False
    text_marks: StrictBool = False
    optional: StrictBool = False
    special: Names = ()
    keep: Literal["all", "most_common", "variants", "names"] = "all"

    @property
    def built_fields(self) -> frozenset[str]:
        """Fields that are not a plain column."""
        return frozenset((*self.constants, *self.joins, *self.paths, *self.totals))

    @model_validator(mode="after")
    def _check(self) -> Self:
        tables = (Table.ITEMS, Table.USERS) if self.keep == "most_common" else (Table.ITEMS,)
        if self.keep != "all" and self.table not in tables:
            raise ValueError(f'keep = "{self.keep}" is for {" and ".join(tables)}')
        if self.only_new and self.keep != "most_common":
            raise ValueError('only_new goes with keep = "most_common"')
        if self.table is not None:
            fields = FIELDS[self.table]
            for section in ("columns", "constants", "defaults", "joins", "paths", "totals", "values"):
                unknown = ", ".join(sorted(set(getattr(self, section)) - set(fields)))
                if unknown:
                    raise ValueError(f"[{section}] {unknown} is no field of {self.table}; fields: {', '.join(fields)}")
        return self


def shipped_maps() -> list[str]:
    return sorted(p.name.removesuffix(".toml") for p in _MAPS.iterdir() if p.name.endswith(".toml"))


def load_map(name_or_path: str | Path | Traversable) -> ColumnMap:
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
        raise IngestError("E_MAP", f"map {name}: {first_fault(error, ColumnMap, 'a map')}") from error
    except ValueError as error:
        raise IngestError("E_MAP", f"map {name}: {error}") from error
