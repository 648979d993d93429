"""Workbooks (.xlsx): one sheet, every cell as text, dates as ISO 8601.

A sheet is read whole, in a process of its own with a bound of memory. Formulas are not computed: a cell has the value
saved with it. Numbers have 15 digits there: a longer id is right only where the cell is text.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import psutil

from recllm.base.errors import IngestError
from recllm.shop.ingest.column_names import known_count
from recllm.shop.ingest.read import workbook_child
from recllm.shop.ingest.read.records import MAX_COLUMNS, Chunk, RecordReader, chunk_of_table, unique_columns
from recllm.shop.ingest.read.source import HEADER_ROWS, MAX_CELL_BYTES, MAX_ROW_BYTES, unpacked_limit

CHUNK_ROWS = 1 << 16
MAX_BYTES = 2 << 30
"""Memory for one workbook; a full sheet of twenty columns fits."""


def open_workbook(path: Path, sheet: str | None, *, keeps_first: bool = False) -> RecordReader:
    """sheet: its name; None where only one holds anything. keeps_first: as in `open_delimited`. Raises `IngestError`
    E_SHEET where it is not clear which, E_BOMB for one that unpacks to much, and E_NOT_TEXT for none."""
    check_unpacked_size(path)
    names, stream = read_apart(path, sheet)
    if not names:
        raise IngestError("E_EMPTY", f"{path.name} has no cell with anything in it")
    if not stream:
        why = "has several sheets" if sheet is None else f"has no sheet {sheet!r} with anything in it"
        raise IngestError("E_SHEET", f"{path.name} {why}: say --read sheet=NAME, one of {', '.join(names)}")
    cells = pl.read_ipc_stream(stream)
    top = [[(cell or "").strip() for cell in row] for row in cells.head(HEADER_ROWS).rows()]
    header_row = max(range(len(top)), key=lambda row: (known_count(top[row]), len([c for c in top[row] if c]), -row))
    header = top[header_row]
    n_columns = max((n for n, name in enumerate(header, 1) if name), default=0)
    if not 0 < n_columns <= MAX_COLUMNS:
        raise IngestError("E_HEADER", f"{path.name}: no row of the first {HEADER_ROWS} is a header of columns")
    columns = tuple(name or f"column {number}" for number, name in enumerate(header[:n_columns], 1))
    columns, warnings = unique_columns(columns, path.name, keeps_first=keeps_first)
    rows = cells[:, :n_columns].slice(header_row + 1).rename(dict(zip(cells.columns, columns, strict=False)))
    first_row = header_row + 2
    return RecordReader(
        columns=columns,
        chunks=lambda: _chunks(rows, first_row),
        decimal=".",
        n_rows=rows.height,
        header_records=header_row + 1,
        warnings=warnings,
    )


def check_unpacked_size(path: Path) -> None:
    """Counts what is unpacked: the sizes that the file itself states are not believed."""
    limit, unpacked = unpacked_limit(path), 0
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                member.file_size = sys.maxsize
                with archive.open(member) as stream:
                    while piece := stream.read(1 << 20):
                        unpacked += len(piece)
                        if unpacked > limit:
                            raise _too_much(path, f"unpacks to more than {limit:,} bytes")
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error) as error:
        raise _damaged(path, str(error)) from None


def read_apart(path: Path, sheet: str | None) -> tuple[list[str], bytes]:
    """(the sheets that hold anything, the cells of the chosen one), in a child's memory."""
    max_bytes = min(MAX_BYTES, psutil.virtual_memory().total // 2)
    arguments = [sys.executable, "-P", workbook_child.__file__, str(path), sheet or "", str(max_bytes)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
    child = subprocess.run(arguments, capture_output=True, env=environment, check=False)  # noqa: S603
    reason = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    if child.returncode < 0 or reason == "MemoryError":
        raise _too_much(path, f"needs more than {max_bytes >> 20:,} MiB of memory to be read")
    if child.returncode:
        raise _damaged(path, reason)
    names, _, cells = child.stdout.partition(b"\n")
    return json.loads(names), cells


def _damaged(path: Path, reason: str) -> IngestError:
    return IngestError("E_NOT_TEXT", f"{path.name} cannot be read as a workbook, it may be cut off: {reason[:200]}")


def _too_much(path: Path, why: str) -> IngestError:
    return IngestError("E_BOMB", f"{path.name} {why}; write it as CSV, or split it")


def _chunks(rows: pl.DataFrame, first_row: int) -> Iterator[Chunk]:
    for start in range(0, rows.height, CHUNK_ROWS):
        frame = rows.slice(start, CHUNK_ROWS)
        line_no = np.arange(first_row + start, first_row + start + frame.height, dtype=np.int64)
        frame = frame.with_columns(pl.when(pl.all().str.strip_chars() != "").then(pl.all()))
        sizes = frame.select(pl.all().str.len_bytes().fill_null(0))
        is_blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
        is_long = (sizes.max_horizontal().to_numpy() > MAX_CELL_BYTES) | (
            sizes.sum_horizontal().to_numpy() > MAX_ROW_BYTES
        )
        good = ~is_blank & ~is_long
        rows_good = frame.filter(pl.Series(good))
        yield chunk_of_table(frame, rows_good, line_no, good, is_long, blank_lines=int(is_blank.sum()))
