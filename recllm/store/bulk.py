"""Many rows at once, as fast as the driver takes them. All SQL that differs between databases is here.

A statement is built and compiled by SQLAlchemy for the database at hand, and then the driver takes and gives plain
tuples: handling each row and each parameter by itself would take longer than the database does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

_FETCH_ROWS = 500  # rows that stand in memory as Python objects at a time: so few never wake the garbage collector
IN_KEYS = 1_000
"""Keys of one IN list: a statement has a limited number of parameters."""


def insert_new(connection: Connection, table: Table, frame: pl.DataFrame, *, key: list[str]) -> int:
    """Inserts the rows whose `key` columns are not there yet. Returns how many that were.

    Columns that are null in every row are left out of the statement, which makes a purchase log a third faster.
    """
    frame = frame.select(c for c in frame.columns if frame[c].null_count() < frame.height)
    return _execute_many(connection, _insert(connection, table).on_conflict_do_nothing(index_elements=key), frame)


def upsert(connection: Connection, table: Table, frame: pl.DataFrame, *, key: str) -> int:
    """Inserts or replaces rows by `key`. Returns how many rows were new or said something new, in the order given."""
    statement = _insert(connection, table)
    new = statement.excluded
    others = [c for c in frame.columns if c != key]
    changed = or_(*(table.c[c].is_distinct_from(new[c]) for c in others))
    statement = statement.on_conflict_do_update(index_elements=[key], set_={c: new[c] for c in others}, where=changed)
    return _execute_many(connection, statement, frame)


def fetch(connection: Connection, query: Select[*tuple[Any, ...]]) -> Iterator[Sequence[Any]]:
    """The rows of a query as the driver gives them, in pieces; booleans may come as 0 and 1."""
    cursor = connection.execute(query).cursor
    while cursor is not None and (rows := cursor.fetchmany(_FETCH_ROWS)):
        yield rows


def lookup(connection: Connection, key: ColumnElement[Any], value: ColumnElement[int], keys: pl.Series) -> pl.DataFrame:
    """`key` and `value` (Int64) of the rows whose key is among `keys`, in columns of these names."""
    width = min(len(keys), IN_KEYS)
    names = [f"k{n}" for n in range(width)]
    query = select(key, value).where(key.in_([bindparam(name, type_=key.type) for name in names]))
    statement = str(query.compile(dialect=connection.dialect))
    rows: list[Any] = []
    for start in range(0, len(keys), IN_KEYS):
        chunk = keys[start : start + IN_KEYS].to_list()
        chunk += chunk[:1] * (width - len(chunk))  # the last list is as long as the others: one statement for all
        parameters = tuple(chunk) if connection.dialect.positional else dict(zip(names, chunk, strict=True))
        cursor = connection.exec_driver_sql(statement, parameters).cursor
        rows += cursor.fetchall() if cursor is not None else ()
    return pl.DataFrame(rows, schema={"key": keys.dtype, "value": pl.Int64}, orient="row")


def delete_rows(connection: Connection, table: Table, key: ColumnElement[Any], keys: pl.Series) -> None:
    """Deletes the rows whose key is among `keys`."""
    for start in range(0, len(keys), IN_KEYS):
        connection.execute(delete(table).where(key.in_(keys[start : start + IN_KEYS].to_list())))


def _insert(connection: Connection, table: Table) -> Any:
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def _execute_many(connection: Connection, statement: Insert, frame: pl.DataFrame) -> int:
    if frame.is_empty():
        return 0
    compiled = statement.compile(dialect=connection.dialect, column_keys=frame.columns)
    rows: list[Any]
    if compiled.positional:
        names = [str(name) for name in compiled.positiontup or ()]
        rows = list(zip(*(frame[name].to_list() for name in names), strict=True))
    else:
        rows = frame.to_dicts()
    return connection.exec_driver_sql(str(compiled), rows).rowcount
