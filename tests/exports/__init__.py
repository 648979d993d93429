"""Made-up exports of shop systems, as these write them, with their usual defects; nothing is copied from a real file.

Each module has `exports(rng)`, which gives the files of one system. `tests/test_sources.py` loads each into an empty
workspace and compares what is there with what the file was made from. What says who bought what is made with any number
of orders and people, as `tests/test_exports_to_campaigns.py` needs it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import xlsxwriter

from recllm.base.schema import Table


@dataclass(frozen=True, kw_only=True)
class ExpectedEvent:
    """An event that has to be in the store after the load."""

    user_id: str
    item_id: str
    event: str
    at: str
    """ISO 8601 in UTC."""
    quantity: float = 1.0
    price: float | None = None
    basket_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Export:
    """One file of a system, and what it says."""

    source: str
    """Name of the source that it has to be taken for."""
    file_name: str
    content: bytes
    accepted: dict[Table, int]
    """Rows of each table that are kept."""
    events: tuple[ExpectedEvent, ...] = ()
    """All events, in any order."""
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Item id -> columns of the store's items that have to have these values."""
    basics: dict[str, dict[str, str]] = field(default_factory=dict)
    """User id -> basics."""
    consent_from: tuple[str, ...] = ()
    consent: dict[tuple[str, str], bool] = field(default_factory=dict)
    """(user id, purpose) -> what they said."""
    options: dict[str, Any] = field(default_factory=dict)
    """What whoever loads the file has to say, e.g. the zone of its times."""


Good = TypeVar("Good")


def liked(goods: Sequence[Good], person: int) -> Sequence[Good]:
    """What a person buys of: the first half of the goods where their number is odd, else the second; of fewer than
    eight everybody buys all."""
    if len(goods) < 8:
        return goods
    half = len(goods) // 2
    return goods[:half] if person % 2 else goods[half:]


def csv_of(header: str, rows: Iterable[dict[str, Any]], *, delimiter: str = ",") -> str:
    """header: names with commas. Columns that a row lacks are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header.split(","), restval="", delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def workbook_of(header: str, rows: Iterable[dict[str, Any]]) -> bytes:
    """The same as a workbook of one sheet."""
    stream = io.BytesIO()
    with xlsxwriter.Workbook(stream, {"in_memory": True}) as book:
        sheet, names = book.add_worksheet(), header.split(",")
        sheet.write_row(0, 0, names)
        for number, row in enumerate(rows, 1):
            sheet.write_row(number, 0, [row.get(name, "") for name in names])
    return stream.getvalue()
