"""The store itself: opening, loading, reading."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from recllm.errors import StoreError
from recllm.schema import Table
from recllm.store import migrations
from recllm.store.engine import explained, open_engine, writing
from recllm.store.load import Load
from recllm.store.readers import StoreReader
from recllm.store.tables import SCHEMA_VERSION
from recllm.store.writers import WriteResult


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
    def open(cls, path_or_url: str | Path, *, create: bool = False, busy_seconds: float = 5.0) -> Store:
        """Opens a store given a file path or an SQLAlchemy URL; an older one is migrated first.

        With `create` a missing one is made. `busy_seconds` bounds the wait for another writer. Raises `StoreError`
        when there is no store, when it is newer than this program, locked, read-only or damaged.
        """
        url = _url(path_or_url)
        where = url.render_as_string(hide_password=True) if url.host else str(url.database)
        _check_file(url, where, create)
        engine = open_engine(url, busy_seconds=busy_seconds)
        try:
            with explained(where):
                with engine.connect() as connection, connection.begin():
                    version = migrations.version(connection)
                if version is None and not create:
                    raise StoreError(
                        f"there is no store at {where}: the database has no tables; make one with: recllm init -w DIR"
                    )
                if version != SCHEMA_VERSION:
                    with writing(engine) as connection:
                        migrations.migrate(connection)
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
        with explained(self._where), writing(self._engine, keep=not dry_run) as connection:
            load = Load(connection, Table(table), load_id=load_id, source=source, sha256=sha256)
            yield load
            load.close()

    def append_events(self, frame: pl.DataFrame, *, source: str) -> WriteResult:
        """A small load of events of its own, e.g. the `shown` events of one slate. Durable when it returns."""
        with self.load(Table.EVENTS, load_id=uuid.uuid4().hex, source=source) as load:
            return load.write(frame)

    @contextmanager
    def read(self) -> Iterator[StoreReader]:
        """One read transaction: all frames of the reader show the same moment, whatever is being loaded."""
        with explained(self._where), self._engine.connect() as connection, connection.begin():
            yield StoreReader(connection)

    def items(self, item_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """The catalogue, which holds nothing about people: see `StoreReader.items`."""
        with self.read() as reader:
            return reader.items(item_ids)

    def close(self) -> None:
        """Closes every connection. The store may be used again afterwards."""
        self._engine.dispose()


def _url(path_or_url: str | Path) -> URL:
    text = str(path_or_url)
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"{text!r} is not a file path nor a URL of sqlite or postgresql; e.g. shop/store.sqlite")
    return url


def _check_file(url: URL, where: str, create: bool) -> None:
    if url.get_backend_name() != "sqlite" or url.query.get("uri"):
        return
    path = Path(url.database or "")
    if not create and not path.is_file():
        raise StoreError(f"there is no store at {where}; make a workspace with: recllm init -w DIR")
    if create and not path.parent.is_dir():
        raise StoreError(f"the folder {path.parent} does not exist; create it first")
