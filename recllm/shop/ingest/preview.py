"""A file before it is loaded: its columns, its first rows, and the columns of its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recllm.base.schema import Table
from recllm.shop.ingest.column_names import (
    BASICS,
    FIELDS,
    REQUIRED,
    candidates,
    instead_of_times,
    is_required,
    is_special,
    named_so,
    normal,
)
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import BLOCK_BYTES, ColumnMap, IngestOptions
from recllm.shop.ingest.read.source import probe


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePreview:
    """The head of a file."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str | None], ...]
    """The first rows by column; None where empty."""
    likely_rows: int
    """Estimated rows of the file, by the length of the first ones."""

    def likely_table(self) -> Table:
        """The table whose required fields the columns fill best; of equal ones that with more fields. A file with both
        a person and an item is a log, even without a usual name for the time."""

        def filled(table: Table) -> tuple[bool, int, int]:
            fills = proposed_columns(self.columns, table)
            needed = [field for field in REQUIRED[table] if is_required(field, table, fills)]
            required = sum(fills[field] is not None for field in needed)
            return required == len(needed), required, sum(column is not None for column in fills.values())

        of_log = proposed_columns(self.columns, Table.EVENTS)
        if of_log["user_id"] is not None and of_log["item_id"] is not None:
            return Table.EVENTS
        return max((Table.CONSENT, Table.ITEMS, Table.USERS, Table.EVENTS), key=filled)


def preview_file(path: Path, options: IngestOptions | None = None, *, n_rows: int = 10) -> FilePreview:
    """The head of a file. Raises `IngestError` for one that cannot be read at all."""
    source = probe(path)
    reader = open_records(source, options or IngestOptions(), ColumnMap())
    rows: list[Mapping[str, str | None]] = []
    likely_rows = reader.n_rows or 0
    for chunk in reader.chunks():
        rows += chunk.frame.head(n_rows - len(rows)).to_dicts()
        likely_rows = likely_rows or round(chunk.n_records * max(1.0, path.stat().st_size / BLOCK_BYTES))
        if len(rows) >= n_rows:
            break
    return FilePreview(columns=reader.columns, rows=tuple(rows), likely_rows=likely_rows)


def proposed_columns(columns: Sequence[str], table: Table) -> dict[str, str | None]:
    """Field -> the column that a load takes for it without a map; None for none, or several."""
    by_normal = {normal(column): column for column in columns}
    proposed: dict[str, str | None] = {}
    for field in FIELDS[table]:
        aliases = named_so(field, by_normal)
        exact = by_normal.get(normal(field))
        proposed[field] = exact if exact is not None else aliases[0] if len(aliases) == 1 else None
    return instead_of_times(proposed) if table is Table.EVENTS else proposed


def basic_columns(columns: Sequence[str], fills: Mapping[str, str | None]) -> dict[str, bool]:
    """Column -> whether a load keeps it as a basic without a map, for the columns that fill no field and that the law
    does not protect specially."""
    names = frozenset().union(*(candidates(name) for name in BASICS))
    spare = (column for column in columns if column not in fills.values() and not is_special(column))
    return {column: normal(column) in names for column in spare}
