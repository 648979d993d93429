"""What every reader of files gives: whole columns of text, and where each row stands in its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

MAX_COLUMNS = 1000
MAX_RECORD_LINES = 1000
RAW_BYTES = 2048
"""A record is shown in the quarantine up to this length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """A record that cannot be used, and why."""

    line_no: int
    """Line on which it begins, from 1; a header is line 1. In Parquet the number of the row."""
    byte_offset: int | None
    """In the text as stored, after decompression; None in Parquet."""
    code: str
    message: str
    raw: str
    column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some consecutive records of a file: `frame` and arrays with one entry per row of it, and the bad ones."""

    frame: pl.DataFrame
    """One text column per header name, null where empty."""
    line_no: NDArray[np.int64]
    byte_offset: NDArray[np.int64]
    """-1 where there is none."""
    raw: Callable[[int], str]
    """The text of one row, at most `RAW_BYTES`."""
    bad: tuple[BadRecord, ...] = ()
    blank_lines: int = 0

    @property
    def n_records(self) -> int:
        return self.frame.height + len(self.bad)

    def bad_row(self, row: int, column: str | None, code: str, message: str) -> BadRecord:
        """The record of a row of `frame` that turned out to be bad."""
        offset = int(self.byte_offset[row])
        return BadRecord(
            line_no=int(self.line_no[row]),
            byte_offset=None if offset < 0 else offset,
            code=code,
            message=message,
            raw=self.raw(row),
            column=column,
        )

    def positions(self, line_no: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which record of the chunk begins on each of these lines, from 0; each is the first line of a record."""
        first_lines = np.sort([*self.line_no, *(record.line_no for record in self.bad)])
        return np.searchsorted(first_lines, line_no)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReader:
    """A file whose encoding and columns are settled. `chunks()` starts from the top each time."""

    columns: tuple[str, ...]
    chunks: Callable[[], Iterator[Chunk]]
    warnings: Mapping[str, int] = field(default_factory=dict)
    decimal: str | None = None
    """The decimal separator where the format fixes it (Parquet, JSON)."""
    header_records: int = 0
    """Records before the first row: they count in the numbers of the quarantine."""


def shorten(raw: bytes) -> str:
    """The first `RAW_BYTES` as text; bytes that are not UTF-8 show as \\x.. escapes."""
    return raw[:RAW_BYTES].rstrip(b"\r\n").decode("utf-8", errors="backslashreplace")
