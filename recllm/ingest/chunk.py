"""What every reader produces: whole columns of text, and where each row stands in its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

RAW_BYTES = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record begins. Both numbers count from 1; the header is line 1 and record 1."""

    line_no: int
    record_no: int
    byte_offset: int | None
    """In the text as stored (after decompression); None in Parquet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A record that never became a row of columns."""

    place: Place
    code: str
    message: str
    raw: str
    column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """`frame`: one text column per header name, null where empty. The arrays have one entry per row of `frame`."""

    frame: pl.DataFrame
    line_no: NDArray[np.int64]
    record_no: NDArray[np.int64]
    byte_offset: NDArray[np.int64]
    """-1 where there is none."""
    raw: Callable[[int], str]
    """The text of one row, at most `RAW_BYTES`."""
    broken: tuple[Broken, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    """Warnings that arose while this chunk was read."""

    @property
    def n_records(self) -> int:
        return self.frame.height + len(self.broken)

    def place(self, row: int) -> Place:
        offset = int(self.byte_offset[row])
        return Place(
            line_no=int(self.line_no[row]),
            record_no=int(self.record_no[row]),
            byte_offset=None if offset < 0 else offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A file that passed the file stage. `chunks()` starts from the top each time."""

    columns: tuple[str, ...]
    chunks: Callable[[], Iterator[Chunk]]
    warnings: Mapping[str, int] = field(default_factory=dict)
    decimal: str | None = None
    """The decimal separator where the format fixes it (Parquet, JSON)."""


def shorten(raw: bytes) -> str:
    """The first `RAW_BYTES` as text; bytes that are not UTF-8 show as \\x.. escapes."""
    return raw[:RAW_BYTES].rstrip(b"\r\n").decode("utf-8", errors="backslashreplace")
