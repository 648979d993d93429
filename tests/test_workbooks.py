"""Workbooks: which sheet, where its header is, what its cells say, and which files are refused."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter
from store_view import view

from recllm.base.errors import IngestError
from recllm.shop.ingest.read import workbook
from recllm.shop.ingest.read.workbook import open_workbook
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "shop", consent_default=True, currency="EUR") as opened:
        yield opened


def write_workbook(path: Path, sheets: dict[str, list[list[Any]]], **options: Any) -> Path:
    book = xlsxwriter.Workbook(str(path), {"default_date_format": "dd.mm.yyyy hh:mm", **options})
    for name, rows in sheets.items():
        sheet = book.add_worksheet(name)
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
    book.close()
    return path


ORDERS = [
    ["Orders of May"],
    [],
    ["Customer ID", "SKU", "Order date", "Qty", "Unit price"],
    ["007", "00123", datetime(2024, 5, 1, 10, 30), 2, 1299.5],
    [],
    ["ann", "=1+1", datetime(2024, 5, 2), -1, 3],
]


def test_a_workbook_is_read_below_its_title_with_dates_and_leading_zeros(shop: Workspace, tmp_path: Path) -> None:
    report = load_file(shop, write_workbook(tmp_path / "o.xlsx", {"Orders": ORDERS, "Notes": []}), "events", tz="UTC")
    assert (report.read, report.accepted, report.quarantined) == (2, 2, 0)
    events = view(shop.store()).events().sort("timestamp")
    assert events["user_id"].to_list() == shop.pseudonymiser().many(["007", "ann"])
    assert events["item_id"][0] == "00123" and events["event"].to_list() == ["purchase", "return"]
    assert events["timestamp"][0].isoformat() == "2024-05-01T10:30:00+00:00" and events["price"][0] == 1299.5
    assert report.warnings["W_BLANK_LINE"] == 1


def test_of_several_sheets_one_is_named(shop: Workspace, tmp_path: Path) -> None:
    file = write_workbook(tmp_path / "o.xlsx", {"Orders": ORDERS, "Old": ORDERS})
    with pytest.raises(IngestError, match="say --read sheet=NAME, one of Orders, Old") as refused:
        load_file(shop, file, "events", tz="UTC")
    assert refused.value.code == "E_SHEET"
    assert load_file(shop, file, "events", tz="UTC", sheet="Old").accepted == 2
    with pytest.raises(IngestError, match="no sheet 'New'"):
        load_file(shop, file, "events", tz="UTC", sheet="New")


def test_workbooks_that_cannot_be_read_are_told(shop: Workspace, tmp_path: Path) -> None:
    locked, cut, empty = (tmp_path / name for name in ("locked.xlsx", "cut.xlsx", "empty.xlsx"))
    locked.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    cut.write_bytes(write_workbook(tmp_path / "o.xlsx", {"Orders": ORDERS}).read_bytes()[:3000])
    write_workbook(empty, {"Nothing": []})
    for file, code, words in (
        (locked, "E_NOT_TEXT", "password"),
        (cut, "E_NOT_TEXT", "cut off"),
        (empty, "E_EMPTY", ""),
    ):
        with pytest.raises(IngestError, match=words) as refused:
            load_file(shop, file, "events")
        assert refused.value.code == code


def test_a_workbook_that_unpacks_to_much_is_refused(shop: Workspace, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(100 << 20))
    with pytest.raises(IngestError) as refused:
        load_file(shop, tmp_path / "bomb.xlsx", "events")
    assert refused.value.code == "E_BOMB"


def test_the_sizes_that_a_file_states_are_not_believed(shop: Workspace, tmp_path: Path) -> None:
    """A workbook like any other, but for one sheet of much space, and for what its headers say of it."""
    file = write_workbook(tmp_path / "o.xlsx", {"Orders": ORDERS})
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet2.xml", bytes(64 << 20))
        true = next(member for member in archive.infolist() if member.filename.endswith("sheet2.xml"))
    stated = (true.file_size).to_bytes(4, "little")
    content = file.read_bytes()
    assert content.count(stated) == 2, "before the data, and in the directory"
    file.write_bytes(content.replace(stated, (1_000).to_bytes(4, "little")))
    with pytest.raises(IngestError, match="unpacks to more than") as refused:
        load_file(shop, file, "events", tz="UTC")
    assert refused.value.code == "E_BOMB"


def test_a_workbook_is_read_in_a_process_with_a_bound_of_memory(
    shop: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["Customer ID", "SKU", "Order date"], *([f"c{n}", f"s{n}", "2024-05-01"] for n in range(150_000))]
    file = write_workbook(tmp_path / "o.xlsx", {"Orders": rows}, constant_memory=True)
    opened = open_workbook(file, None)
    assert sum(chunk.frame.height for chunk in opened.chunks()) == 150_000
    assert sum(chunk.frame.height for chunk in opened.chunks()) == 150_000, "as often as it is asked for"
    numbers = [number for chunk in opened.chunks() for number in chunk.line_no.tolist()]
    assert numbers == list(range(2, 150_002))
    for bound in (180 << 20, 24 << 20):  # in the middle of it, and at its start
        monkeypatch.setattr(workbook, "MAX_BYTES", bound)
        with pytest.raises(IngestError, match=f"needs more than {bound >> 20} MiB of memory") as refused:
            load_file(shop, file, "events", tz="UTC")
        assert refused.value.code == "E_BOMB"


def test_a_row_longer_than_may_be_is_set_aside(shop: Workspace, tmp_path: Path) -> None:
    rows = [ORDERS[2], ["ann", "x" * 30_000, datetime(2024, 5, 1), 1, 1], ["bob", "tea", datetime(2024, 5, 1), 1, 1]]
    report = load_file(
        shop, write_workbook(tmp_path / "o.xlsx", {"Orders": rows * 1 + [rows[2]] * 30}), "events", tz="UTC"
    )
    assert report.accepted == 31 and report.codes == {"E_TOO_LONG": 1}
