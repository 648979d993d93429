"""Connections to the database of a store: their set-up, transactions, and the remedies of their errors."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from recllm.base.errors import StoreError
from recllm.shop.store import postgres

CACHE_MIB = 64
"""Page cache of one connection. It bounds the memory of a load, and holds the key index of some two million events."""

_REMEDIES: dict[str | tuple[str, ...], str] = {
    ("SQLITE_BUSY", "SQLITE_LOCKED"): "is locked by another process; wait until that one is done, then try again",
    ("SQLITE_READONLY", "SQLITE_PERM"): "is read-only; make the file and its folder writable",
    "SQLITE_FULL": "cannot grow: the disk is full; nothing of this change was kept, free some space and repeat it",
    "SQLITE_CORRUPT": "is damaged; put a backup in its place, or make a new workspace and load the files again",
    "SQLITE_NOTADB": "is not a store, or is damaged; put a backup in its place, or give another path",
    "SQLITE_CANTOPEN": "cannot be opened; check that the folder exists and may be written",
    "SQLITE_IOERR": "cannot be read or written: the disk reports an error; check the disk and its free space",
    **postgres.REMEDIES,
}
"""Remedy, by the beginning of SQLite's name of an error, or of a SQLSTATE; {cause} is the database's message."""


def without_password(path_or_url: str | Path) -> str:
    """The path or URL without a password. Raises `StoreError` when it is neither."""
    url = store_url(path_or_url)
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    query = {name: value for name, value in url.query.items() if name not in ("password", "sslpassword")}
    return sa.URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query).render_as_string()


def store_url(path_or_url: str | Path) -> sa.URL:
    text = str(path_or_url)
    if "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        scheme = text.partition("://")[0]  # the rest may hold a password
        raise StoreError(
            f"'{scheme}://...' is not a file path nor a URL of sqlite or postgresql; e.g. shop/store.sqlite"
        )
    return url


def open_engine(url: sa.URL, busy_seconds: float) -> sa.Engine:
    """An engine whose every connection is durable: on SQLite WAL, synchronous=FULL, a bounded wait and cache."""
    if url.get_backend_name() == "postgresql":
        return postgres.open_engine(url, busy_seconds)
    engine = sa.create_engine(url, connect_args={"timeout": busy_seconds}, hide_parameters=True)
    sa.event.listen(engine, "connect", partial(prepare_connection, busy_seconds))
    sa.event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def writing(engine: sa.Engine, *, keep: bool = True) -> Iterator[sa.Connection]:
    """One transaction that holds the write lock from its start; committed at the end, rolled back by any exception.

    Without `keep` it is always rolled back.
    """
    with engine.connect().execution_options(recllm_writes=True) as connection, connection.begin() as transaction:
        yield connection
        if not keep:
            transaction.rollback()


@contextmanager
def explained(engine: sa.Engine, where: str) -> Iterator[None]:
    """Turns a database error into a `StoreError` of one line: what, where, what to do."""
    try:
        yield
    except UnicodeDecodeError as error:  # of SQLite's message about a damaged schema, which quotes it
        raise StoreError(f"the store {where} {_REMEDIES['SQLITE_CORRUPT']}") from error
    except (SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
        cause = getattr(error, "orig", None) or error
        name = getattr(cause, "sqlite_errorname", None) or postgres.state_of(error)
        if str(cause).startswith("Could not decode to UTF-8"):  # of the driver, which would quote the text
            name = "SQLITE_CORRUPT"
        first_line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        remedies = (remedy for prefix, remedy in _REMEDIES.items() if name.startswith(prefix))
        remedy = next(remedies, "refused the request: {cause}").replace("{cause}", first_line)
        raise StoreError(f"the store {where} {remedy}") from error


def prepare_connection(busy_seconds: float, connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves: Python's driver would send it too late for DDL
    cursor = connection.cursor()
    end = time.monotonic() + busy_seconds
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:  # SQLite does not wait here: others who begin at once do the same
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > end:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten
    cursor.execute(f"PRAGMA cache_size=-{CACHE_MIB * 1024}")
    cursor.execute("PRAGMA threads=2")  # for sorting: the indexes of a first load take a quarter less time
    cursor.execute(f"PRAGMA journal_size_limit={CACHE_MIB * 1024 * 1024}")
    cursor.close()


def watch_file(engine: sa.Engine, file: Path) -> None:
    """Refuses transactions while the file is gone, and on connections to another file than the present one.

    SQLite itself would continue in a deleted file: it acknowledges writes, which are lost at the end.
    """
    identity = file_identity(file)

    def check(*_: object) -> None:
        nonlocal identity
        identity_now = file_identity(file)
        if identity_now is None:
            raise StoreError(f"the store {file} is gone; put it back, or put a backup in its place")
        if identity_now != identity:
            identity = identity_now
            engine.dispose()  # the next transaction has connections to the new file
            raise StoreError(f"the store {file} was exchanged for another file; try again")

    sa.event.listen(engine, "do_connect", check)  # SQLite would make an empty file
    sa.event.listen(engine, "begin", check)


def file_identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("recllm_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
