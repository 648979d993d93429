"""Every kind of input and what becomes of it; the same table is the document INPUTS.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dirty_inputs import CODES, INPUTS, Case, rendered
from store_view import refused_rows, view

import recllm.shop.ingest
from recllm.base.errors import IngestError
from recllm.base.policy import Policy
from recllm.base.schema import IngestReport
from recllm.shop.ingest.load import ingest_file, open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.read.source import probe
from recllm.shop.store.database import Store
from recllm.shop.workspace.privacy import Pseudonymiser

KEY = Pseudonymiser(b"0123456789abcdef")


@dataclass(frozen=True)
class Loaded:
    """What a load reported and left in the store."""

    report: IngestReport
    store: Store

    def items(self, column: str) -> list[Any]:
        return view(self.store).items()[column].to_list()

    def events(self, column: str) -> list[Any]:
        return sorted(view(self.store).events()[column].to_list())


def first_at(*moment: int) -> Callable[[Loaded], bool]:
    return lambda loaded: loaded.events("timestamp")[0] == datetime(*moment, tzinfo=UTC)  # type: ignore[misc]


def titled(title: str) -> Callable[[Loaded], bool]:
    return lambda loaded: title in loaded.items("title")


def holding(column: str, *values: object) -> Callable[[Loaded], bool]:
    return lambda loaded: set(values) <= set(loaded.events(column))


def is_of_2025(loaded: Loaded) -> bool:
    return loaded.events("timestamp")[0].year == 2025


def months(loaded: Loaded) -> set[int]:
    return {moment.month for moment in loaded.events("timestamp")}


CHECKS: dict[str, Callable[[Loaded], bool]] = {
    "GB18030 with a Chinese header": titled("夏季新款运动鞋3号"),
    "a few Latin-1 bytes, declared": holding("item_id", "café"),
    "semicolons and decimal commas": holding("price", 4.49),
    "a newline inside a quoted title": titled("Pan,\nred"),
    "a text whose last line has as many delimiters as a row": titled("Pot\nof tin, and, lead"),
    "unknown columns": lambda loaded: loaded.report.ignored_columns == ("store",),
    "leading zeros": holding("item_id", "00123"),
    "every id ends in .0": holding("item_id", "3"),
    "some ids end in .0": holding("item_id", "123.0"),
    "ids of 17 digits and more": holding("item_id", "90071992547409931234"),
    "items named NA, None and null": holding("item_id", "NA", "None", "null"),
    "a brand named NA": lambda loaded: "NA" in loaded.items("brand"),
    "ids that differ in case, space and width": lambda loaded: len(set(loaded.events("user_id"))) == 9,
    "unseen characters in a title": titled("Red pan"),
    "a negative quantity": lambda loaded: (
        loaded.events("event").count("return") == 1 and loaded.events("quantity")[0] == 1.0
    ),
    "$1,299.00": holding("price", 1299.0),
    "¥1.299,00 and ￥３００": holding("price", 1299.0, 300.0),
    "1 299 kr": holding("price", 1299.0),
    "1.299 throughout, declared": lambda loaded: loaded.events("price")[0] > 1000,
    "Excel serials, declared": first_at(2023, 6, 23, 12),
    "epoch seconds": is_of_2025,
    "epoch milliseconds": is_of_2025,
    "epoch microseconds": is_of_2025,
    "times without a zone, declared": first_at(2025, 1, 9, 16, 30),
    "several offsets": lambda loaded: [moment.hour for moment in loaded.events("timestamp")[:2]] == [10, 17],
    "an hour that summer time skips, one that comes twice": first_at(2024, 10, 27, 0, 30),
    "some day above 12": lambda loaded: months(loaded) == {4},
    "items that no catalogue knows": lambda loaded: loaded.items("pending") == [True] * 11,
    "HTML in a title": titled("<b>Pan</b> &amp; lid<script>x()</script>"),
    "emoji, joiners, combining marks": titled("Famille 👨‍👩‍👧 cafe\u0301"),
    "a cell that a spreadsheet would run": titled("=HYPERLINK(1)"),
    "a mail and a phone in descriptions": lambda loaded: dict(loaded.report.personal_data) == {"description": 2},
    "a phone in the answers of a person": lambda loaded: dict(loaded.report.personal_data) == {"city": 1},
    "a month by its English name, the day before or behind it": lambda loaded: (
        datetime(2025, 5, 1, 15, 15, tzinfo=UTC) in loaded.events("timestamp") and months(loaded) == {5}
    ),
    "a column order with times": lambda loaded: "basket_id" in view(loaded.store).events().columns,
}
"""What is in the store after some of the cases."""


@pytest.mark.parametrize("cases", [cases for _, cases in INPUTS], ids=[entry["name"] for entry, _ in INPUTS])
def test_input(cases: list[Case], tmp_path: Path) -> None:
    for number, case in enumerate(cases):
        (folder := tmp_path / str(number)).mkdir()
        store = Store.open(folder / "store.sqlite", create=True)
        assert_handled(case, folder, store)
        store.close()


def assert_handled(case: Case, folder: Path, store: Store) -> None:
    path = folder / case.file
    path.write_bytes(case.content())
    before = view(store).counts()

    def load() -> IngestReport:
        return ingest_file(
            path,
            case.table,
            store=store,
            pseudonymiser=KEY,
            policy=Policy(),
            options=case.ingest_options(),
            quarantine_dir=folder / "quarantine",
        )

    if case.fails:
        with pytest.raises(IngestError) as refusal:
            load()
        assert refusal.value.code == case.fails, case.name
        assert case.says in refusal.value.message, case.name
        assert view(store).counts() == before, case.name
        assert not list(folder.glob("quarantine/*")), case.name
        return
    report = load()
    assert report.read == report.accepted + report.duplicates + report.quarantined, case.name
    assert quarantined(report) == {int(no): code for no, code in case.quarantined.items()}, case.name
    assert (report.accepted, report.duplicates) == (case.accepted, case.duplicates), case.name
    assert dict(report.warnings) == expected_warnings(case, report.warnings), case.name
    assert CHECKS.get(case.name, lambda _: True)(Loaded(report, store)), case.name


def quarantined(report: IngestReport) -> dict[int, str]:
    rows = refused_rows(report)
    names = set(["file", "sha256", "line_no", "record_no", "column", "code", "message", "raw", "fields", "user"])
    assert all(names == set(row) for row in rows)
    return {row["line_no"]: row["code"] for row in rows}


def expected_warnings(case: Case, found: dict[str, int]) -> dict[str, int]:
    """The stated warnings, and those that a case may have besides for reasons of its own."""
    return {code: n for code, n in found.items() if code in {"W_EVENT_ALIAS"}} | dict(case.warns)


def test_every_kind_of_input_has_a_case_and_every_check_too() -> None:
    assert [entry["no"] for entry, _ in INPUTS] == list(range(1, 52))
    assert {case.name for _, cases in INPUTS for case in cases} >= CHECKS.keys()


def test_document_is_up_to_date() -> None:
    document = Path(recllm.shop.ingest.__file__).parent / "INPUTS.md"
    assert document.read_text("utf-8") == rendered(), "run: python tests/dirty_inputs.py"


def test_every_code_is_explained() -> None:
    source = "".join(p.read_text("utf-8") for p in Path(recllm.shop.ingest.__file__).parent.rglob("*.py"))
    used = set(re.findall(r'"([EW]_[A-Z_]+)"', source))
    assert used == {code for codes in CODES.values() for code in codes}


def test_a_carriage_return_within_a_quoted_cell_is_part_of_it(tmp_path: Path) -> None:
    """In the header, above it and in rows: no row is lost, and lines are counted as they are."""
    head, rows = b"user_id,item_id,timestamp,note\n", b"a,b,2025,x\nc,d,2026,y\n"
    cases: list[tuple[bytes, list[int], list[str]]] = [
        (head + b'"a\rb",i,2025,x\n' + rows, [2, 3, 4], []),
        (b'user_id,"item\rid",timestamp,note\n' + rows, [2, 3], []),
        (b'"Orders\rof\rMay",,,\n' + head + rows, [3, 4], []),
        (head + b'"x,1,2,3\rz\nfoo\rbar",1,2,3\n' + rows, [4, 5], ["E_QUOTE", "E_QUOTE"]),
        (head + b'"a\r\r\nb",i,2025,"\r"\n' + rows, [2, 4, 5], []),
    ]
    for content, lines, codes in cases:
        file = tmp_path / "log.csv"
        file.write_bytes(content)
        reader = open_records(probe(file), IngestOptions(), ColumnMap())
        chunks = list(reader.chunks())
        assert [number for chunk in chunks for number in chunk.line_no.tolist()] == lines, content
        assert [record.code for chunk in chunks for record in chunk.bad] == codes, content
        assert chunks[-1].frame.rows()[-2:] == [("a", "b", "2025", "x"), ("c", "d", "2026", "y")], content
