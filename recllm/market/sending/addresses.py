"""Addresses of customers from a file of the shop, at the time of sending. They are kept nowhere."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recllm.base.errors import IngestError, UsageError
from recllm.shop.ingest.column_names import columns_of, normal
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.read.source import probe
from recllm.shop.ingest.sources import recognise_file
from recllm.shop.workspace.workspace import Workspace

_MAILBOX = r"^[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{2,63}$"
"""An address as most servers take it: ASCII, no quotes, no control characters."""


def read_addresses(workspace: Workspace, file: Path) -> dict[str, str]:
    """Pseudonym -> e-mail address, of a table with a customer's id and address in each row. Cells that are no address
    are left out; of several for one customer the last counts.

    The id is the column that the file's kind uses for customers, else one with a known name such as `user_id`; the
    address is the column with the most addresses. Raises `UsageError` without one of the two, `IngestError` for a file
    that cannot be read.
    """
    options = IngestOptions()
    try:
        recognised = recognise_file(file, options)
        options = options.model_copy(update={"encoding": recognised.encoding})
        maps = recognised.source.maps
        id_names = next((m.columns["user_id"] for m in maps.values() if "user_id" in m.columns), ())
    except IngestError as error:
        if error.code != "E_SOURCE":
            raise
        id_names = ()
    records = open_records(probe(file), options, ColumnMap(doubled="first"))
    by_normal = {normal(column): column for column in records.columns}
    id_columns = [c for c in id_names if c in records.columns] or columns_of("user_id", by_normal)
    if not id_columns:
        listed = ", ".join(records.columns)
        raise UsageError(f"{file}: no column holds the customers' ids; call it user_id. Its columns: {listed}")
    cells = pl.concat([chunk.frame.select(pl.all().str.strip_chars()) for chunk in records.chunks()])
    counts = cells.select(pl.all().str.contains(_MAILBOX).sum()).row(0, named=True)
    column = max(counts, key=lambda name: counts[name] or 0)
    if not counts[column]:
        raise UsageError(f"{file}: no column holds e-mail addresses")
    user_id = pl.coalesce(pl.col(id_columns).replace("", None))
    pairs = cells.select(user_id.alias("user_id"), pl.col(column).alias("address"))
    pairs = pairs.filter(pl.col("user_id").is_not_null(), pl.col("address").str.contains(_MAILBOX))
    return dict(zip(workspace.pseudonymiser().many(pairs["user_id"].to_list()), pairs["address"], strict=True))
