"""Parquet: every column as text, in slices, so that all formats go through the same parsers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from recllm.errors import IngestError
from recllm.ingest.read.records import RAW_BYTES, Chunk, RecordReader

SLICE_ROWS = 1 << 16
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError)


def open_parquet(path: Path) -> RecordReader:
    """Raises `IngestError` E_NOT_TEXT for a damaged file and E_NESTED for columns that are not plain values."""
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
    return RecordReader(columns=tuple(schema), chunks=lambda: _chunks(path, schema, n_rows), decimal=".")


def _damaged(path: Path, error: BaseException) -> IngestError:
    reason = str(error).strip().split("\n")[0][:200]
    return IngestError("E_NOT_TEXT", f"{path.name} cannot be read as Parquet, it may be cut off: {reason}")


def _chunks(path: Path, schema: dict[str, pl.DataType], n_rows: int) -> Iterator[Chunk]:
    table = pl.scan_parquet(path, glob=False).select(_as_text(name, dtype) for name, dtype in schema.items())
    for start in range(0, n_rows, SLICE_ROWS):
        try:
            frame = table.slice(start, SLICE_ROWS).collect()
        except _UNREADABLE as error:
            raise _damaged(path, error) from None
        yield Chunk(
            frame=frame,
            line_no=np.arange(start + 1, start + frame.height + 1, dtype=np.int64),
            byte_offset=np.full(frame.height, -1, np.int64),
            raw=partial(_raw, frame),
        )


def _raw(frame: pl.DataFrame, row: int) -> str:
    return json.dumps(frame.row(row, named=True), ensure_ascii=False)[:RAW_BYTES]


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        pattern = "%Y-%m-%d %H:%M:%S%.f" if dtype.time_zone is None else "%Y-%m-%dT%H:%M:%S%.f%:z"
        return column.dt.cast_time_unit("us").dt.to_string(pattern)
    if dtype == pl.Date:
        return column.dt.to_string("%Y-%m-%d")
    text = column.cast(pl.String)
    return pl.when(text != "").then(text).otherwise(None).alias(name)
