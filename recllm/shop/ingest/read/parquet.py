"""Parquet: every column as text, in slices, for the parsers of all formats.

A few bytes can stand for any number of rows and long texts: what the file unpacks to is bounded by its size,
and a row whose text is too long is set aside before it is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from recllm.base.errors import IngestError
from recllm.shop.ingest.read.records import Chunk, RecordReader, chunk_of_table
from recllm.shop.ingest.read.source import MAX_CELL_BYTES, MAX_ROW_BYTES, unpacked_limit

SLICE_ROWS = 1 << 16
FIRST_ROWS = 1 << 10
SLICE_BYTES = 32 << 20
"""Text of a slice at most, where no single row has more."""
NUMBER_BYTES = 32
"""What a number or a time counts for; as text it has less."""
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError)


def open_parquet(path: Path) -> RecordReader:
    """Raises `IngestError` E_NOT_TEXT for a damaged file, E_NESTED for nested columns."""
    try:
        table = pl.scan_parquet(path, glob=False)
        schema = dict(table.collect_schema())
        n_rows = int(table.select(pl.len()).collect().item())
    except _UNREADABLE as error:
        raise _damaged(path, error) from None
    nested = [name for name, dtype in schema.items() if dtype.is_nested() or dtype in (pl.Binary, pl.Object)]
    if nested:
        raise IngestError(
            "E_NESTED",
            f"{path.name}: {', '.join(nested)} holds lists, structs or bytes; write plain values, e.g. a category as "
            "'Home > Kitchen' and attributes as a JSON text",
        )
    if not schema:
        raise IngestError("E_EMPTY", f"{path.name} has no columns")
    return RecordReader(columns=tuple(schema), chunks=lambda: _chunks(path, schema, n_rows), decimal=".", n_rows=n_rows)


def _damaged(path: Path, error: BaseException) -> IngestError:
    reason = str(error).strip().split("\n")[0][:200]
    return IngestError("E_NOT_TEXT", f"{path.name} cannot be read as Parquet, it may be cut off: {reason}")


def _chunks(path: Path, schema: dict[str, pl.DataType], n_rows: int) -> Iterator[Chunk]:
    """Raises `IngestError` E_BOMB for more text than there may be, each cell counted as a byte more."""
    limit, total = unpacked_limit(path), n_rows * len(schema)
    start, stop = 0, min(n_rows, FIRST_ROWS)  # few at first: by them most of what is too large is known
    table = pl.scan_parquet(path, glob=False)
    as_text = [as_text_column(name, dtype) for name, dtype in schema.items()]
    while start < n_rows:
        if total > limit:
            raise _too_much(path, limit)
        try:
            frame = table.slice(start, stop - start).collect()
        except _UNREADABLE as error:
            raise _damaged(path, error) from None
        # equal texts are still one here; as columns of text each would be a copy
        sizes = pl.DataFrame({column.name: text_bytes(column) for column in frame}).fill_null(0)
        row_bytes = sizes.sum_horizontal().to_numpy().astype(np.int64)
        total += int(row_bytes.sum())
        if total > limit:
            raise _too_much(path, limit)
        long_cell = sizes.max_horizontal().to_numpy() > MAX_CELL_BYTES
        fits = ~long_cell & (row_bytes <= MAX_ROW_BYTES)
        line_no = np.arange(start + 1, start + frame.height + 1, dtype=np.int64)
        fitting_bytes = np.where(fits, row_bytes, 0)
        slice_no = (np.cumsum(fitting_bytes) - fitting_bytes) // SLICE_BYTES
        for number in range(int(slice_no.max(initial=-1)) + 1):
            inside = slice_no == number
            try:
                rows = frame.filter(pl.Series(inside & fits)).select(as_text)
            except _UNREADABLE as error:
                raise _damaged(path, error) from None
            yield chunk_of_table(frame, rows, line_no, inside & fits, inside & ~fits)
        start, stop = stop, min(n_rows, stop + SLICE_ROWS)


def _too_much(path: Path, limit: int) -> IngestError:
    return IngestError(
        "E_BOMB",
        f"{path.name} holds more than {limit:,} bytes of text, too many for its size; write it as CSV, or split it",
    )


def text_bytes(column: pl.Series) -> pl.Series:
    """Length of each cell as text; of numbers and times more than any has."""
    if column.dtype == pl.String:
        return column.str.len_bytes()
    if column.dtype in (pl.Categorical, pl.Enum):
        names = column.unique().drop_nulls()
        sizes = names.cast(pl.String).str.len_bytes()
        return column.to_physical().replace_strict(names.to_physical(), sizes, default=None, return_dtype=pl.UInt32)
    return pl.repeat(NUMBER_BYTES, len(column), dtype=pl.UInt32, eager=True)


def as_text_column(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        pattern = "%Y-%m-%d %H:%M:%S%.f" if dtype.time_zone is None else "%Y-%m-%dT%H:%M:%S%.f%:z"
        return column.dt.cast_time_unit("us").dt.to_string(pattern)
    if dtype == pl.Date:
        return column.dt.to_string("%Y-%m-%d")
    text = column.cast(pl.String)
    return pl.when(text != "").then(text).otherwise(None).alias(name)
