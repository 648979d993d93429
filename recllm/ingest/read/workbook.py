"""Workbooks (.xlsx): one sheet, every cell as text; dates as ISO 8601, whatever number stands for them.

A sheet has at most 1,048,576 rows and is read whole. What is packed is bounded by the size of the file, as of other
packed files. Formulas are not computed: a cell has the value that was saved with it. Numbers have 15 digits there, so
an id that is longer is right only where the cell is text.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from recllm.errors import IngestError
from recllm.ingest.column_names import known_count
from recllm.ingest.read.records import MAX_COLUMNS, RAW_BYTES, BadRecord, Chunk, RecordReader, numbered
from recllm.ingest.read.source import HEADER_ROWS, RATIO_FLOOR
from recllm.policy import Policy

CHUNK_ROWS = 1 << 16


def sheet_names(path: Path, policy: Policy) -> list[str]:
    """Sheets that hold anything, in their order. Raises `IngestError` for no workbook, or one that unpacks to much."""
    import fastexcel

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        limit = min(max(RATIO_FLOOR, policy.max_gzip_ratio * path.stat().st_size), policy.max_file_bytes)
        if unpacked > limit:
            raise IngestError(
                "E_BOMB", f"{path.name} unpacks to more than {limit:,} bytes; write it as CSV, or split it"
            )
        workbook = fastexcel.read_excel(path)
        names = workbook.sheet_names
        return [name for name in names if workbook.load_sheet(name, header_row=None, n_rows=1, dtypes="string").height]
    except (zipfile.BadZipFile, OSError, fastexcel.FastExcelError) as error:
        raise _damaged(path, error) from None


def open_workbook(path: Path, sheet: str | None, policy: Policy, *, keeps_first: bool = False) -> RecordReader:
    """sheet: its name; None where only one holds anything. With `keeps_first` further columns of one name are numbered,
    "name (2)", and counted. Raises `IngestError` E_SHEET where it is not clear which."""
    import fastexcel

    names = sheet_names(path, policy)
    if not names:
        raise IngestError("E_EMPTY", f"{path.name} has no cell with anything in it")
    if (sheet is None and len(names) > 1) or (sheet is not None and sheet not in names):
        why = "has several sheets" if sheet is None else f"has no sheet {sheet!r} with anything in it"
        raise IngestError("E_SHEET", f"{path.name} {why}: say --sheet NAME, one of {', '.join(names)}")
    try:
        cells = fastexcel.read_excel(path).load_sheet(sheet or names[0], header_row=None, dtypes="string").to_polars()
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError) as error:
        raise _damaged(path, error) from None
    top = [[(cell or "").strip() for cell in row] for row in cells.head(HEADER_ROWS).rows()]
    header_row = max(range(len(top)), key=lambda row: (known_count(top[row]), len([c for c in top[row] if c]), -row))
    header = top[header_row]
    n_columns = max((n for n, name in enumerate(header, 1) if name), default=0)
    if not 0 < n_columns <= MAX_COLUMNS:
        raise IngestError("E_HEADER", f"{path.name}: no row of the first {HEADER_ROWS} is a header of columns")
    columns = tuple(name or f"column {number}" for number, name in enumerate(header[:n_columns], 1))
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled and not keeps_first:
        raise IngestError("E_DUP_COLUMN", f"{path.name}: the column {doubled[0]!r} stands there twice; remove one")
    columns = numbered(columns)
    rows = cells[:, :n_columns].slice(header_row + 1).rename(dict(zip(cells.columns, columns, strict=False)))
    first_row = header_row + 2
    return RecordReader(
        columns=columns,
        chunks=lambda: _chunks(rows, first_row, policy),
        decimal=".",
        header_records=header_row + 1,
        warnings={"W_DUP_COLUMN": len(doubled)} if doubled else {},
    )


def _damaged(path: Path, error: BaseException) -> IngestError:
    reason = str(error).strip().split("\n")[0][:200]
    return IngestError("E_NOT_TEXT", f"{path.name} cannot be read as a workbook, it may be cut off: {reason}")


def _chunks(rows: pl.DataFrame, first_row: int, policy: Policy) -> Iterator[Chunk]:
    for start in range(0, rows.height, CHUNK_ROWS):
        frame = rows.slice(start, CHUNK_ROWS)
        line_no = np.arange(first_row + start, first_row + start + frame.height, dtype=np.int64)
        frame = frame.with_columns(pl.when(pl.all().str.strip_chars() != "").then(pl.all()))
        sizes = frame.select(pl.all().str.len_bytes().fill_null(0))
        is_blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
        is_long = (sizes.max_horizontal().to_numpy() > policy.max_cell_bytes) | (
            sizes.sum_horizontal().to_numpy() > policy.max_row_bytes
        )
        good = ~is_blank & ~is_long
        message = f"a cell is longer than {policy.max_cell_bytes:,} bytes, or the row than {policy.max_row_bytes:,}"
        good_rows = frame.filter(pl.Series(good))
        yield Chunk(
            frame=good_rows,
            line_no=line_no[good],
            byte_offset=np.full(good_rows.height, -1, np.int64),
            raw=partial(_raw, good_rows),
            bad=tuple(
                BadRecord(int(line_no[row]), None, None, "E_TOO_LONG", message, _raw(frame, row))
                for row in np.flatnonzero(is_long).tolist()
            ),
            blank_lines=int(is_blank.sum()),
        )


def _raw(frame: pl.DataFrame, row: int) -> str:
    cells = {name: cell and cell[:RAW_BYTES] for name, cell in frame.row(row, named=True).items()}
    return json.dumps(cells, ensure_ascii=False)[:RAW_BYTES]
