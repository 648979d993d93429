"""Many rows at once: statements that SQLAlchemy compiles once and the driver fills with plain tuples, which is faster
than its own rows and parameters; many rows go to PostgreSQL through `postgres.stage`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import sqlalchemy as sa

from recllm.base.errors import DataError
from recllm.shop.store import postgres, tables

Columns = Mapping[str, pl.DataType | type[pl.DataType]]

_RING_LIMIT = 1_000_000  # ids remembered during a load, about 100 MB


class KeyRing:
    """Integer keys of the ids that a load meets: the first columns of `table`.
    An unknown id gets a row of `bare`."""

    def __init__(self, connection: sa.Connection, table: sa.Table, bare: Mapping[str, object]) -> None:
        self._connection, self._table, self._bare = connection, table, bare
        self._key, self._id = table.c.keys()[:2]
        self._keys = pl.DataFrame(schema={self._id: pl.String, self._key: pl.Int64})
        self._new = pl.DataFrame(schema={self._id: pl.String})

    def keys(self, ids: pl.Series) -> pl.Series:
        self._new = self._new.clear()
        distinct = ids.unique().to_frame(self._id)
        missing = distinct.join(self._keys, on=self._id, how="anti")
        if self._keys.height + missing.height > _RING_LIMIT:
            self._keys, missing = self._keys.clear(), distinct
        if missing.height:
            missing = missing.sort(self._id)
            stored = self._find(missing[self._id])
            self._new = missing.join(stored, on=self._id, how="anti", maintain_order="left")
            self._keys = pl.concat([self._keys, stored])
        if self._new.height:
            bare = self._new.with_columns(pl.lit(value).alias(name) for name, value in self._bare.items())
            insert_new(self._connection, self._table, bare, key=[self._id])
            self._keys = pl.concat([self._keys, self._find(self._new[self._id])])
        return ids.to_frame(self._id).join(self._keys, on=self._id, how="left", maintain_order="left")[self._key]

    def take_back(self, used: pl.Series) -> None:
        """Removes the rows that the last call of `keys` made for ids that are not `used` after all."""
        unused = self._new.join(used.to_frame(self._id), on=self._id, how="anti")
        for some_rows in tables.among(self._table.c[self._id], unused[self._id]):
            self._connection.execute(sa.delete(self._table).where(some_rows))
        self._keys = self._keys.join(unused, on=self._id, how="anti")

    def _find(self, ids: pl.Series) -> pl.DataFrame:
        return lookup(self._connection, self._table.c[self._id], self._table.c[self._key], ids)


def conform(frame: pl.DataFrame, columns: Columns, name: str) -> pl.DataFrame:
    """The frame with exactly `columns`, optional ones filled with nulls. `DataError` for a missing or wrong one."""
    picked = []
    for label, dtype in columns.items():
        column = label.removesuffix("?")
        if column not in frame.columns:
            if column == label:
                raise DataError(f"{name}: missing column {column}; found {', '.join(frame.columns)}")
            picked.append(pl.lit(None, dtype=dtype).alias(column))
        elif frame[column].dtype not in (dtype, pl.Null):
            raise DataError(f"{name}.{column}: {frame[column].dtype} instead of {dtype}")
        elif column == label and frame[column].null_count():
            raise DataError(f"{name}.{column}: empty in {frame[column].null_count()} rows; it is required")
        else:
            picked.append(pl.col(column).cast(dtype))
    return frame.select(picked)


def insert_new(connection: sa.Connection, table: sa.Table, frame: pl.DataFrame, *, key: list[str]) -> int:
    """Inserts the rows whose `key` columns are new, all of them without a key. Returns their number.

    Columns that are null in every row are left out of the statement, which makes a purchase log a third faster.
    """
    frame = frame.select(c for c in frame.columns if frame[c].null_count() < frame.height)
    statement = _insert(connection, table, frame)
    if key:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    return _execute_many(connection, statement, frame)


def upsert(
    connection: sa.Connection, table: sa.Table, frame: pl.DataFrame, *, key: str, stamp: str | None = None
) -> int:
    """Inserts or replaces rows by `key`, in order. Returns the number of new or changed rows.

    stamp: a column that is written with a changed row and is no change by itself.
    """
    others = [c for c in frame.columns if c not in (key, stamp)]
    differs = pl.any_horizontal(pl.col(c).ne_missing(pl.col(c).shift().over(key)) for c in others)
    # of several rows with one key each different one is a change, and the last one stays
    changes = frame.filter(pl.col(key).is_first_distinct() | differs)
    first = changes.unique(key, keep="first", maintain_order=True)
    last = changes.filter(~pl.col(key).is_unique()).unique(key, keep="last", maintain_order=True)
    accepted = changes.height - first.height
    for rows in (first, last):
        statement = _insert(connection, table, rows)
        new = statement.excluded
        new_content = sa.or_(*(table.c[c].is_distinct_from(new[c]) for c in others))
        values = {c: new[c] for c in frame.columns if c != key}
        statement = statement.on_conflict_do_update(index_elements=[key], set_=values, where=new_content)
        accepted += _execute_many(connection, statement, rows) * (rows is first)
    return accepted


def lookup(
    connection: sa.Connection, key: sa.ColumnElement[Any], value: sa.ColumnElement[int], keys: pl.Series
) -> pl.DataFrame:
    """The columns `key` and `value` (Int64) of the rows whose key is among `keys`, which are all different."""
    schema: dict[str, Any] = {str(key.key): keys.dtype, str(value.key): pl.Int64}
    conditions: Iterable[Any] = tables.among(key, keys)
    if connection.dialect.name == "postgresql" and len(keys) >= postgres.MIN_COPY_ROWS:
        conditions = [key.in_(postgres.stage(connection, key.table, keys.to_frame(str(key.key))))]
    queries = (sa.select(key, value).where(condition) for condition in conditions)
    rows = [tuple(row) for query in queries for row in connection.execute(query)]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _insert(connection: sa.Connection, table: sa.Table, frame: pl.DataFrame) -> Any:
    """An insertion of the frame's rows for `_execute_many`, of the dialect at hand."""
    insertion = tables.insert_of(connection)(table)
    if connection.dialect.name != "postgresql" or frame.height < postgres.MIN_COPY_ROWS:
        return insertion
    return insertion.from_select(frame.columns, postgres.stage(connection, table, frame))


def _execute_many(connection: sa.Connection, statement: sa.Insert, frame: pl.DataFrame) -> int:
    if frame.is_empty():
        return 0
    if statement.select is not None:
        return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount
    compiled = statement.compile(dialect=connection.dialect, column_keys=frame.columns)
    names = compiled.positiontup
    rows: Any = frame.to_dicts() if names is None else list(zip(*(frame[n].to_list() for n in names), strict=True))
    return connection.exec_driver_sql(str(compiled), rows).rowcount
