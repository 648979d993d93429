"""Forty-four kinds of input and what becomes of them; the same table is the document INPUTS.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dirty_inputs import ALSO, CASES, TABLE, Case, rendered
from ingest_codes import FILE_CODES, ROW_CODES, WARNINGS
from store_view import view

import recllm.shop.ingest
from recllm.base.errors import IngestError
from recllm.base.policy import Policy
from recllm.shop.ingest.load import ingest_file, open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.read.source import probe
from recllm.shop.store.database import Store
from recllm.shop.workspace.privacy import Pseudonymiser

KEY = Pseudonymiser(b"0123456789abcdef")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store.sqlite", create=True)
    yield opened
    opened.close()


@pytest.mark.parametrize("case", [*CASES, *ALSO], ids=lambda c: f"{c.no:02} {c.name}")
def test_input(case: Case, tmp_path: Path, store: Store) -> None:
    path = tmp_path / case.file
    path.write_bytes(case.data)
    before = view(store).counts()

    def load():
        return ingest_file(
            path,
            case.table,
            store=store,
            pseudonymiser=KEY,
            policy=Policy(),
            options=case.ingest_options(),
            quarantine_dir=tmp_path / "quarantine",
        )

    if case.fails:
        with pytest.raises(IngestError) as refusal:
            load()
        assert refusal.value.code == case.fails
        assert case.says in refusal.value.message
        assert view(store).counts() == before
        assert not list((tmp_path / "quarantine").glob("*")) if (tmp_path / "quarantine").exists() else True
        return
    report = load()
    assert report.read == report.accepted + report.duplicates + report.quarantined
    assert quarantined(report.quarantine_file) == dict(case.quarantined)
    assert report.accepted == case.accepted
    assert report.duplicates == case.duplicates
    assert dict(report.warnings) == expected_warnings(case, report.warnings)
    if case.check:
        assert case.check(report, store)


def quarantined(file: str | None) -> dict[int, str]:
    if file is None:
        return {}
    rows = [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]
    names = {
        "file",
        "sha256",
        "line_no",
        "record_no",
        "byte_offset",
        "column",
        "code",
        "message",
        "raw",
        "fields",
        "user",
    }
    assert all(names == set(row) for row in rows)
    return {row["line_no"]: row["code"] for row in rows}


def expected_warnings(case: Case, found: dict[str, int]) -> dict[str, int]:
    """The stated warnings, and those that a case may have besides for reasons of its own."""
    return {code: n for code, n in found.items() if code in {"W_EVENT_ALIAS"}} | dict(case.warns)


def test_every_number_has_a_row_and_a_case() -> None:
    assert [no for no, _, _ in TABLE] == list(range(1, 52))
    assert {case.no for case in CASES} == set(range(1, 45))


def test_document_is_up_to_date() -> None:
    document = Path(recllm.shop.ingest.__file__).parent / "INPUTS.md"
    assert document.read_text("utf-8") == rendered(), "run: python tests/dirty_inputs.py"


def test_every_code_is_explained() -> None:
    source = "".join(p.read_text("utf-8") for p in Path(recllm.shop.ingest.__file__).parent.rglob("*.py"))
    used = set(re.findall(r'"([EW]_[A-Z_]+)"', source))
    assert used == set(FILE_CODES) | set(ROW_CODES) | set(WARNINGS)


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
