"""The store itself: opening, loading, reading; how a connection is set up, and what its errors mean to a person."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, make_url, select, update
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from recllm.errors import StoreError
from recllm.schema import Table
from recllm.store import postgres, tables
from recllm.store.readers import StoreReader
from recllm.store.writers import Load

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
"""What to do, by the beginning of SQLite's name of an error, or of a SQLSTATE; {cause} is what the database said."""


class Store:
    """The one place that keeps rows. Open it with `Store.open`.

    User ids are pseudonyms here. Whatever learns from people or speaks to them reads through `privacy.PolicyGate`.
    """

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self._where = where

    def __repr__(self) -> str:
        return f"Store({self._where})"

    @classmethod
    def open(
        cls,
        path_or_url: str | Path,
        *,
        create: bool = False,
        busy_seconds: float = 5.0,
        key_fingerprint: str | None = None,
    ) -> Store:
        """Opens a store given a file path or the URL of a PostgreSQL database; an older one is migrated first.

        With `create` a missing one is made. `busy_seconds` bounds the wait for another writer. `key_fingerprint` tells
        the pseudonym key: a store made for one is refused to another. Raises `StoreError` when there is no store, when
        it is newer than this program, locked, read-only, damaged or out of reach.
        """
        url = _url(path_or_url)
        where = without_password(path_or_url)
        if url.get_backend_name() == "sqlite" and not url.query.get("uri"):
            path = Path(url.database or "")
            if not create and not path.is_file():
                raise StoreError(f"there is no store at {where}; make a workspace with: recllm init -w DIR")
            if create and not path.parent.is_dir():
                raise StoreError(f"the folder {path.parent} does not exist; create it first")
        engine = _open_engine(url, busy_seconds)
        try:
            with _explained(engine, where):
                with engine.connect() as connection, connection.begin():
                    version = tables.version(connection)
                if version is None and not create:
                    raise StoreError(
                        f"there is no store at {where}: the database has no tables; make one with: recllm init -w DIR"
                    )
                if version != tables.SCHEMA_VERSION:
                    with writing(engine) as connection:
                        tables.migrate(connection, key_fingerprint)
                with engine.connect() as connection, connection.begin():
                    if key_fingerprint not in (None, tables.key_fingerprint(connection) or key_fingerprint):
                        mix = f"the store {where} belongs to another workspace, with another pseudonym key; give each a"
                        raise StoreError(f"{mix} store of its own (in PostgreSQL another schema: ?schema=NAME)")
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, where)

    @contextmanager
    def load(
        self, table: Table | str, *, load_id: str, source: str, sha256: str | None = None, dry_run: bool = False
    ) -> Iterator[Load]:
        """One transaction: what is written in the block is committed at its end, or not at all.

        With `dry_run` it is never committed, and the counts are the same.

        `load_id` is unique and safe in a path; `source` says where the rows come from (a file name), `sha256` is
        that of the input. Only one load runs at a time: a second one waits, then raises `StoreError`.
        """
        with _explained(self._engine, self._where), writing(self._engine, keep=not dry_run) as connection:
            load = Load(connection, Table(table), load_id=load_id, source=source, sha256=sha256)
            yield load
            load.close()

    @contextmanager
    def read(self) -> Iterator[StoreReader]:
        """One read transaction: all frames of the reader show the same moment, whatever is being loaded."""
        with _explained(self._engine, self._where), self._engine.connect() as connection, connection.begin():
            yield StoreReader(connection)

    def items(self, item_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """The catalogue, which holds nothing about people: see `StoreReader.items`."""
        with self.read() as reader:
            return reader.items(item_ids)

    def add_api_key(self, *, key_id: str, name: str, scopes: str, sha256: str, created_at: datetime) -> None:
        """Keeps a new key of the service: all of it but its secret."""
        row = {"key_id": key_id, "name": name, "scopes": scopes, "sha256": sha256}
        with _explained(self._engine, self._where), writing(self._engine) as connection:
            connection.execute(insert(tables.api_keys).values(row | {"created_at": _microseconds(created_at)}))

    def api_keys(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """The columns of `tables.api_keys` of every key, the oldest first, or of one key; times as datetimes."""
        columns = tables.api_keys.c
        query = select(tables.api_keys).order_by(columns.created_at, columns.key_id)
        if key_id is not None:
            query = query.where(columns.key_id == key_id)
        with _explained(self._engine, self._where), self._engine.connect() as connection, connection.begin():
            rows = [dict(row) for row in connection.execute(query).mappings()]
        for row in rows:
            for name in ("created_at", "revoked_at"):
                row[name] = None if row[name] is None else datetime.fromtimestamp(row[name] // 1_000_000, UTC)
        return rows

    def revoke_api_key(self, key_id: str, at: datetime) -> bool:
        """Revokes a key that is not revoked yet; False for an unknown one."""
        columns = tables.api_keys.c
        with _explained(self._engine, self._where), writing(self._engine) as connection:
            exists = connection.scalar(select(columns.key_id).where(columns.key_id == key_id)) is not None
            in_force = update(tables.api_keys).where(columns.key_id == key_id, columns.revoked_at.is_(None))
            connection.execute(in_force.values(revoked_at=_microseconds(at)))
        return exists

    def close(self) -> None:
        """Closes every connection. The store may be used again afterwards."""
        self._engine.dispose()


def _microseconds(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000


def without_password(path_or_url: str | Path) -> str:
    """The path or URL without a password. Raises `StoreError` when it is neither."""
    url = _url(path_or_url)
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    query = {name: value for name, value in url.query.items() if name not in ("password", "sslpassword")}
    return URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query).render_as_string()


def _url(path_or_url: str | Path) -> URL:
    text = str(path_or_url)
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        scheme = text.partition("://")[0]  # the rest may hold a password
        raise StoreError(
            f"'{scheme}://...' is not a file path nor a URL of sqlite or postgresql; e.g. shop/store.sqlite"
        )
    return url


def _open_engine(url: URL, busy_seconds: float) -> Engine:
    """An engine whose every connection is durable: on SQLite WAL, synchronous=FULL, a bounded wait and cache."""
    if url.get_backend_name() == "postgresql":
        return postgres.open_engine(url, busy_seconds)
    engine = create_engine(url, connect_args={"timeout": busy_seconds}, hide_parameters=True)
    event.listen(engine, "connect", partial(_prepare, busy_seconds))
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
def _explained(engine: Engine, where: str) -> Iterator[None]:
    """Turns a database error into a `StoreError` of one line: what, where, what to do."""
    try:
        yield
    except (SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
        cause = getattr(error, "orig", None) or error
        name = getattr(cause, "sqlite_errorname", None) or postgres.state_of(error)
        first_line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        remedies = (remedy for prefix, remedy in _REMEDIES.items() if name.startswith(prefix))
        remedy = next(remedies, "refused the request: {cause}").replace("{cause}", first_line)
        raise StoreError(f"the store {where} {remedy}") from error


def _prepare(busy_seconds: float, connection: Any, _record: object) -> None:
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
    cursor.execute(f"PRAGMA cache_size=-{CACHE_MIB * 1024}")
    cursor.execute(f"PRAGMA journal_size_limit={CACHE_MIB * 1024 * 1024}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("recllm_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
