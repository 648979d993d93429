"""Made-up exports of shop systems, as these write them, with their usual defects, which README.md names; none is copied
from a real file. A folder holds the files of one kind, expected.json what is in the store after a load."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xlsxwriter

from recllm.base.schema import Table

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class ExpectedEvent:
    """An event that has to be in the store after the load."""

    user_id: str
    item_id: str
    event: str
    at: str
    """ISO 8601 in UTC."""
    quantity: float
    price: float | None
    basket_id: str | None


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
    """(user id, purpose) -> the decision."""
    options: dict[str, Any] = field(default_factory=dict)
    """What has to be given with the file, such as the zone of its times."""


def accepted(counts: dict[str, int]) -> dict[Table, int]:
    return {Table(name): n for name, n in counts.items()}


def export_of(entry: dict[str, Any]) -> Export:
    names = tuple(ExpectedEvent.__dataclass_fields__)
    return Export(
        source=entry["source"],
        file_name=entry["file"],
        content=(HERE / entry["source"] / entry["file"]).read_bytes(),
        accepted=accepted(entry["accepted"]),
        events=tuple(ExpectedEvent(**dict(zip(names, row, strict=True))) for row in entry.get("events", ())),
        consent_from=tuple(entry.get("consent_from", ())),
        consent={(user, purpose): decision for user, purpose, decision in entry.get("consent", ())},
        **{name: entry.get(name, {}) for name in ("items", "basics", "options")},
    )


EXPORTS = [export_of(entry) for entry in json.loads((HERE / "expected.json").read_text("utf-8"))]


def first_export(source: str) -> Export:
    return next(export for export in EXPORTS if export.source == source)


@dataclass(frozen=True, kw_only=True)
class LargeExport:
    """An export of 121 people over 150 days. The goods are of two kinds, and each person buys of one alone."""

    file_name: str
    content: bytes
    accepted: dict[Table, int]
    bought: dict[str, set[str]]
    """User id -> items that they bought or looked at."""


def large_export(source: str) -> LargeExport:
    entry = json.loads((HERE / "large" / "expected.json").read_text("utf-8"))[source]
    return LargeExport(
        file_name=entry["file"],
        content=gzip.decompress((HERE / "large" / f"{entry['file']}.gz").read_bytes()),
        accepted=accepted(entry["accepted"]),
        bought={user: set(items) for user, items in entry["bought"].items()},
    )


def workbook_of(header: str, rows: Iterable[dict[str, Any]]) -> bytes:
    """A workbook of one sheet. header: names with commas."""
    stream = io.BytesIO()
    with xlsxwriter.Workbook(stream, {"in_memory": True}) as book:
        sheet, names = book.add_worksheet(), header.split(",")
        sheet.write_row(0, 0, names)
        for number, row in enumerate(rows, 1):
            sheet.write_row(number, 0, [row.get(name, "") for name in names])
    return stream.getvalue()
