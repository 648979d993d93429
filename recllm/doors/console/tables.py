"""Tables of the console: each value once, for the page in the reader's language and for a file as machines read it.

A page has a `ConsoleTable` among its values, made by `Visit.table` from the columns in `tables.toml`, and draws it with
`parts.grid(table)`. That writes a link to the same address with `csv=<name of the table>`, which `Visit.page` answers
with all rows as a file. In a file a share is a number in [0, 1], a time is ISO 8601 in UTC, money is a plain number, a
missing value is empty, and no text starts a formula. Column names are the same in every language.
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cache
from math import floor, log10
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from recllm.base.documents import guarded
from recllm.base.stats.intervals import ConfidenceInterval
from recllm.base.words.words import Words
from recllm.shop.workspace.keys import Scope

CellValue = str | int | float | bool | date | datetime | ConfidenceInterval | None
"""None is written as a dash on a page, and is empty in a file."""


class CellKind(StrEnum):
    """What a column's values are, which says how a page writes them."""

    TEXT = "text"
    NUMBER = "number"
    SHARE = "share"
    """In [0, 1]; a page writes per cent."""
    MONEY = "money"
    DAY = "day"
    MOMENT = "moment"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    name: str
    """Its heading in a file."""
    label: str = ""
    """Its heading on the page, in `tables.toml` the path of its words; "" for a column that only the file has."""
    kind: CellKind = CellKind.TEXT
    digits: int = 0
    """Digits behind the decimal mark on the page."""
    is_ranged: bool = False
    """Whether its values are intervals: a file then has the columns `<name>_low` and `<name>_high` too."""
    is_in_file: bool = True
    """False where it repeats another column for the eye."""
    is_wide: bool = False
    """Whether a phone leaves it out."""
    is_english: bool = False
    """Whether its texts are English on every page, for screen readers."""
    words: str = ""
    """Path of the words of its values, as `table` of `table.events`; "" where a page writes the value."""
    scope: Scope | None = None
    """Without this scope the file leaves it out, as it identifies customers."""

    @property
    def is_time(self) -> bool:
        return self.kind in (CellKind.DAY, CellKind.MOMENT)

    @property
    def is_number(self) -> bool:
        return self.kind in (CellKind.NUMBER, CellKind.SHARE, CellKind.MONEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """A value that the page writes in its own way; the file has the value."""

    value: CellValue = None
    text: str | None = None
    """On the page; by the column's kind when None."""
    href: str = ""
    remark: str = ""
    """On a second line, small."""
    tag: str = ""
    """A mark behind the text."""
    tone: str = ""
    """Of the tag: good, warn, bad or plain."""
    picture: tuple[str, str] | None = None
    """Product whose picture stands before the text, and its category; None for no picture."""


TableRow = Sequence[CellValue | TableCell]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConsoleTable:
    """Rows of one page under a heading."""

    name: str
    """Of the file, and in the address; unique on a page."""
    title: str
    columns: tuple[TableColumn, ...]
    rows: Sequence[TableRow]
    """Rows of the page, each with a value for every column."""
    all_rows: Callable[[], Iterable[TableRow]] | None = None
    """Rows of the file where these are more than the page shows."""

    def cells(self, row: TableRow) -> list[tuple[TableColumn, TableCell]]:
        pairs = zip(self.columns, row, strict=True)
        return [(column, _cell(value)) for column, value in pairs if column.label]


@cache
def declared_tables() -> Mapping[str, tuple[str, tuple[TableColumn, ...]]]:
    """Name of a table of `tables.toml` -> path of its title, and its columns with the paths of their headings."""
    tables = tomllib.loads(Path(__file__).with_name("tables.toml").read_text("utf-8"))
    columns = TypeAdapter(tuple[TableColumn, ...])
    return {name: (table["title"], columns.validate_python(table["columns"])) for name, table in tables.items()}


def _cell(value: CellValue | TableCell) -> TableCell:
    return value if isinstance(value, TableCell) else TableCell(value=value)


def cell_text(words: Words, column: TableColumn, cell: TableCell) -> str:
    if cell.text is not None:
        return cell.text
    value = cell.value
    if isinstance(value, ConfidenceInterval):
        return _number_text(words, column, value.value)
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return words.day(value) if column.kind is CellKind.DAY else words.moment(value)
    if isinstance(value, date):
        return words.calendar_day(value)
    if isinstance(value, int | float):
        return _number_text(words, column, value)
    return words.say(f"{column.words}.{value}") if column.words else value


def cell_remark(words: Words, column: TableColumn, cell: TableCell) -> str:
    """The small second line of a cell: its own remark, or the range of an interval."""
    value = cell.value
    if cell.text is not None or not isinstance(value, ConfidenceInterval):
        return cell.remark
    return " – ".join(_number_text(words, column, end) for end in (value.low, value.high))


def _number_text(words: Words, column: TableColumn, value: float) -> str:
    match column.kind:
        case CellKind.SHARE:
            return words.percent(value, column.digits)
        case CellKind.MONEY:
            return words.money(value)
        case _:
            return words.number(value, column.digits)


def tables_of(values: object) -> Iterator[ConsoleTable]:
    """The tables among a page's values, and in its lists and mappings."""
    if isinstance(values, ConsoleTable):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tables_of(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tables_of(value)


def csv_lines(table: ConsoleTable, may: Callable[[Scope], bool]) -> Iterator[str]:
    """The file, line by line, with the byte order mark that spreadsheets need. may: the reader's scopes."""
    columns = [(n, c) for n, c in enumerate(table.columns) if c.is_in_file and (c.scope is None or may(c.scope))]
    ends = ("", "_low", "_high")
    names = (guarded(c.name) + end for _, c in columns for end in (ends if c.is_ranged else ends[:1]))
    yield "\ufeff" + _csv_line(names)
    for row in table.rows if table.all_rows is None else table.all_rows():
        texts: list[str] = []
        for n, column in columns:
            value = _cell(row[n]).value
            ranged = (getattr(value, name, None) for name in ("value", "low", "high"))
            texts += map(_csv_text, ranged if column.is_ranged else [value])
        yield _csv_line(texts)


def _csv_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return repr(value) if isinstance(value, int | float) else guarded(value)


def _csv_line(cells: Iterable[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\r\n").writerow(cells)
    return stream.getvalue()


CHART_WIDTH, CHART_HEIGHT = 560, 190
"""Of the drawing of `day_chart` before it is stretched."""


def day_chart(words: Words, table: ConsoleTable) -> Mapping[str, Any]:
    """What `parts.days` draws: a line by day over the area under it. table: days and numbers, oldest first."""
    points: Sequence[Any] = table.rows
    high = max(1, *(value for _, value in points))
    size = 10.0 ** floor(log10(high / 3))
    step = next(s for s in (size * n for n in (1, 2, 2.5, 5, 10, 20)) if s >= 1 and 3 * s >= high)
    marks = sorted({n * (len(points) - 1) // 3 for n in range(4)})
    heights = [CHART_HEIGHT * (1 - value / (3 * step)) for _, value in points]
    line = "L".join(f"{CHART_WIDTH * n / (len(points) - 1):.1f} {height:.1f}" for n, height in enumerate(heights))
    return {
        "caption": table.title,
        "line": f"M{line}",
        "area": f"M{line}V{CHART_HEIGHT}H0Z",
        "y": [words.number(n * step) for n in (3, 2, 1, 0)],
        "x": [words.short_day(points[n][0]) for n in marks],
        "table": table,
    }
