"""Connections: how each one is set up, and what its errors mean to a person."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from recllm.errors import MissingExtraError, StoreError

CACHE_MIB = 64
"""Page cache of one connection. It bounds the memory of a load, and holds the key index of some two million events."""

_REMEDIES: dict[str, str] = {
    "SQLITE_BUSY": "is locked by another process; wait until that one is done, then try again",
    "SQLITE_LOCKED": "is locked by another process; wait until that one is done, then try again",
    "SQLITE_READONLY": "is read-only; make the file and its folder writable",
    "SQLITE_PERM": "is read-only; make the file and its folder writable",
    "SQLITE_FULL": "cannot grow: the disk is full; nothing of this change was kept, free some space and repeat it",
    "SQLITE_CORRUPT": "is damaged; put a backup in its place, or make a new workspace and load the files again",
    "SQLITE_NOTADB": "is not a store, or is damaged; put a backup in its place, or give another path",
    "SQLITE_CANTOPEN": "cannot be opened; check that the folder exists and may be written",
    "SQLITE_IOERR": "cannot be read or written: the disk reports an error; check the disk and its free space",
}


def open_engine(url: URL, *, busy_seconds: float) -> Engine:
    """An engine whose every connection is durable: on SQLite WAL, synchronous=FULL, a bounded wait and cache."""
    if url.get_backend_name() != "sqlite":
        try:
            return create_engine(url)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or url.drivername, "postgres") from error
    engine = create_engine(url, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def writing(engine: Engine, *, keep: bool = True) -> Iterator[Connection]:
    """One transaction that holds the write lock from its start; committed at the end, rolled back by any exception.

    Without `keep` it is always rolled back.
    """
    with engine.connect().execution_options(recllm_writes=True) as connection, connection.begin() as transaction:
        yield connection
        if not keep:
            transaction.rollback()


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns a database error into a `StoreError` of one line: what, where, what to do."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StoreError(f"the store {where} {_remedy(error)}") from error


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves: Python's driver would send it too late for DDL
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA cache_size=-{CACHE_MIB * 1024}")
    cursor.execute(f"PRAGMA journal_size_limit={CACHE_MIB * 1024 * 1024}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("recllm_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _remedy(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    name = getattr(cause, "sqlite_errorname", None) or ""
    for prefix, remedy in _REMEDIES.items():
        if name.startswith(prefix):
            return remedy
    first_line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    return f"refused the request: {first_line}"
