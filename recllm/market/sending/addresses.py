"""Addresses of customers from a file of the shop, at the time of sending. They are kept nowhere."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recllm.base.errors import IngestError, UsageError
from recllm.market.sending.mail import MAILBOX
from recllm.shop.ingest.column_names import columns_of, normal
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.read.source import probe
from recllm.shop.ingest.sources import recognise_file
from recllm.shop.workspace.workspace import Workspace

_ADDRESS_NAMES = {"email", "emailaddress", "mail", "emailadresse", "邮箱", "邮箱地址", "电子邮箱", "电子邮件"}


def read_addresses(workspace: Workspace, file: Path) -> dict[str, str]:
    """Pseudonym -> e-mail address, of a table with a customer's id and address in each row. Cells that are no address
    are left out; of several for one customer the last counts.

    The id is the column that the file's kind uses for customers, else one with a known name such as `user_id`; the
    address is in a column with a known name such as `email`, or the only one with addresses. Raises `UsageError` where
    one of the two is missing or not clear, `IngestError` for a file that cannot be read.
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
    if len(id_columns) != 1:
        listed = ", ".join(id_columns or records.columns)
        raise UsageError(
            f"{file}: call the column with the customers' ids user_id, and no other one; there are: {listed}"
        )
    cells = pl.concat([chunk.frame.select(pl.all().str.strip_chars()) for chunk in records.chunks()])
    counts = cells.select(pl.all().str.contains(MAILBOX).sum()).row(0, named=True)
    columns = [column for column, n in counts.items() if n]
    columns = [column for column in columns if normal(column) in _ADDRESS_NAMES] or columns
    if len(columns) != 1:
        listed = f"; these could be meant: {', '.join(columns)}" if columns else ""
        raise UsageError(
            f"{file}: call the column with the customers' e-mail addresses email, and no other one{listed}"
        )
    pairs = cells.select(pl.col(id_columns[0]).replace("", None).alias("user_id"), pl.col(columns[0]).alias("address"))
    pairs = pairs.filter(pl.col("user_id").is_not_null(), pl.col("address").str.contains(MAILBOX))
    return dict(zip(workspace.pseudonymiser().many(pairs["user_id"].to_list()), pairs["address"], strict=True))
