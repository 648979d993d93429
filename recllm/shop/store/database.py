"""The store: opening, loading, reading, and what is kept besides the rows of loads."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from recllm.base.errors import StoreError
from recllm.base.schema import Table
from recllm.shop.store import messages as sent
from recllm.shop.store import postgres, sources, tables, writers
from recllm.shop.store.connections import explained, open_engine, store_url, watch_file, without_password, writing
from recllm.shop.store.readers import StoreReader
from recllm.shop.store.writers import Load

P = ParamSpec("P")
T = TypeVar("T")

_COPY_ROWS = 20_000


def _method(
    function: Callable[Concatenate[sa.Connection, P], T], *, writes: bool = False
) -> Callable[Concatenate[Store, P], T]:
    """A method of `Store` that calls the function in one transaction; what it writes is durable on return."""

    def method(store: Store, /, *args: P.args, **options: P.kwargs) -> T:
        with store._writing() if writes else store._reading() as connection:
            return function(connection, *args, **options)

    return method


class Store:
    """The place of all rows. Open it with `Store.open`.

    User ids are pseudonyms here. Everything that learns from people or speaks to them reads through `PolicyGate`.
    """

    def __init__(self, engine: sa.Engine, where: str, key_fingerprint: str | None = None) -> None:
        self._engine = engine
        self._where = where
        self._key_fingerprint = key_fingerprint

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

        With `create` a missing one is made. `busy_seconds` bounds the wait for another writer. `key_fingerprint` names
        the pseudonym key: a store of another key is refused. Raises `StoreError` for a store that is missing, newer
        than this program, locked, read-only, damaged or out of reach.
        """
        url = store_url(path_or_url)
        where = without_password(path_or_url)
        if url.get_backend_name() == "sqlite" and not url.query.get("uri"):
            path = Path(url.database or "")
            if not create and not path.is_file():
                raise StoreError(f"there is no store at {where}; make a workspace with: recllm init -w DIR")
            if create and not path.parent.is_dir():
                raise StoreError(f"the folder {path.parent} does not exist; create it first")
        engine = open_engine(url, busy_seconds)
        try:
            with explained(engine, where):
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
        if engine.dialect.name == "sqlite" and (file := Path(url.database or "")).is_file():
            watch_file(engine, file)
        return cls(engine, where, key_fingerprint)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with explained(self._engine, self._where), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _writing(self, *, keep: bool = True) -> Iterator[sa.Connection]:
        with explained(self._engine, self._where), writing(self._engine, keep=keep) as connection:
            yield connection

    @contextmanager
    def load(
        self, table: Table | str, *, load_id: str, source: str, sha256: str | None = None, dry_run: bool = False
    ) -> Iterator[Load]:
        """One transaction: what is written in the block is committed at its end, or not at all.

        With `dry_run` it is never committed, and the counts are the same.

        `load_id` is unique and safe in a path; `source` is the origin of the rows (a file name), `sha256` that of the
        input. Only one load runs at a time: a second one waits, then raises `StoreError`.
        """
        with self._writing(keep=not dry_run) as connection:
            if self._key_fingerprint not in (None, tables.key_fingerprint(connection) or self._key_fingerprint):
                raise StoreError(
                    f"the pseudonym key of the store {self._where} was exchanged; nothing was written, start this again"
                )
            load = Load(connection, Table(table), load_id=load_id, source=source, sha256=sha256)
            yield load
            load.close()

    @contextmanager
    def read(self) -> Iterator[StoreReader]:
        """One read transaction: all frames of the reader show the same moment."""
        with self._reading() as connection:
            yield StoreReader(connection)

    @property
    def is_file(self) -> bool:
        """Whether the store is a file of SQLite, and not a database of PostgreSQL."""
        return self._engine.dialect.name == "sqlite"

    def purge(self) -> dict[str, bool]:
        """Makes deleted rows unreadable in the files of the database: step -> whether it could be done.

        SQLite overwrites deleted rows (secure_delete); the file is then written again without its free pages, and the
        write-ahead log, which holds older pages, is emptied. PostgreSQL: see `postgres.purge`.
        """
        with explained(self._engine, self._where):
            if not self.is_file:
                return postgres.purge(self._engine, [table.name for table in tables.metadata.sorted_tables])
            with contextlib.closing(self._engine.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute("VACUUM")
                busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return {"vacuum": True, "log_emptied": not busy}

    def snapshot(self, path: Path) -> int:
        """Writes the store, as of one moment, to a new SQLite file and checks it; returns the number of people."""
        with explained(self._engine, self._where):
            if self.is_file:
                with contextlib.closing(self._engine.raw_connection()) as source:
                    target = sqlite3.connect(path)
                    with contextlib.closing(target):
                        source.driver_connection.backup(target, pages=4096)  # type: ignore[union-attr]
                        target.execute("PRAGMA journal_mode=DELETE")
            else:
                with (
                    contextlib.closing(Store.open(path, create=True)) as copy,
                    self._engine.connect() as connection,
                    connection.begin(),
                    writing(copy._engine) as target_connection,
                ):
                    copy_tables(connection, target_connection)
        with contextlib.closing(Store.open(path)) as copy, copy.read() as reader:
            with copy._engine.connect() as connection:
                problem = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
            if problem != "ok":
                raise StoreError(f"the copy of the store {self._where} is damaged: {problem}; nothing was backed up")
            return reader.counts()["users"]

    def take_over(self, path: Path) -> None:
        """Fills this empty store with the rows of a SQLite file; all or nothing.
        Raises `StoreError` if it has rows."""
        with (
            contextlib.closing(Store.open(path)) as source,
            source._engine.connect() as connection,
            explained(self._engine, self._where),
            writing(self._engine) as target,
        ):
            with_rows = (tables.users, tables.items, tables.loads)
            if any(target.scalar(sa.select(sa.func.count()).select_from(table)) for table in with_rows):
                raise StoreError(f"the store {self._where} has rows; give an empty one, e.g. another ?schema=NAME")
            copy_tables(connection, target)

    # --- people's rights ----------------------------------------------------------------------------------------------

    bury = _method(writers.bury, writes=True)
    count_old = _method(writers.count_old)

    def tombstones(self, user_ids: Iterable[str] | None = None) -> dict[str, datetime]:
        """Pseudonym -> when it was erased: all, or among these."""
        stone = tables.tombstones.c
        query = sa.select(stone.user_id, stone.at)
        queries = [query] if user_ids is None else [query.where(c) for c in tables.among(stone.user_id, user_ids)]
        with self._reading() as connection:
            return {user_id: tables.moment(at) for query in queries for user_id, at in connection.execute(query)}

    def lift_tombstone(self, user_id: str) -> bool:
        """Keeps what is sent about the person from now on; False where there was no tombstone."""
        of_person = tables.tombstones.c.user_id == user_id
        with self._writing() as connection:
            return connection.execute(sa.delete(tables.tombstones).where(of_person)).rowcount > 0

    def restrict(self, user_id: str, at: datetime | None) -> bool:
        """Uses the person's data for nothing from `at` on, or again as agreed where `at` is None.

        Returns whether that changed anything. Raises `UnknownIdError` for a stranger.
        """
        with self.load(Table.CONSENT, load_id=uuid.uuid4().hex, source="restriction") as load:
            return load.restrict(user_id, at)

    def restricted_since(self, user_ids: Iterable[str] | None = None) -> dict[str, datetime]:
        """Pseudonym -> since when, of the people who are restricted: all, or among these."""
        with self.read() as reader:
            return dict(reader.restrictions(user_ids).iter_rows())

    def delete_old(self, before: Mapping[str, datetime]) -> dict[str, int]:
        """Deletes what of `writers.AGES` is older than a time, by name, except rows of restricted people. Returns the
        rows of each table."""
        with self.load(Table.CONSENT, load_id=uuid.uuid4().hex, source="retention") as load:
            return load.delete_old(before)

    # --- audit log and keys -------------------------------------------------------------------------------------------

    def append_audit(self, entries: Sequence[str], hashed: Callable[[str, str], str]) -> tuple[int, str]:
        """Appends entries to the audit log; durable on return. Returns the number and hash of the last entry.

        hashed: (hash of the entry before, "" for none; entry) -> hash of the entry.
        """
        columns = tables.audit.c
        with self._writing() as connection:
            query = sa.select(columns.entry_no, columns.hash).order_by(columns.entry_no.desc()).limit(1)
            last = connection.execute(query).one_or_none()
            number, digest = (0, "") if last is None else (last.entry_no, last.hash)
            for entry in entries:
                number, digest = number + 1, hashed(digest, entry)
                connection.execute(sa.insert(tables.audit).values(entry_no=number, entry=entry, hash=digest))
            return number, digest

    def copy_audit(self, entries: Sequence[tuple[int, str, str]]) -> None:
        """Appends entries of another copy of this log as they are: number, entry and hash of each."""
        rows = [{"entry_no": number, "entry": entry, "hash": digest} for number, entry, digest in entries]
        if rows:
            with self._writing() as connection:
                connection.execute(sa.insert(tables.audit), rows)

    def audit_entries(
        self, after: int | None = None, containing: Sequence[str] | None = None
    ) -> list[tuple[int, str, str]]:
        """Number, entry and hash of the audit log's entries, the oldest first; after: from behind this number.
        containing: only entries with one of these texts."""
        columns = tables.audit.c
        query = sa.select(columns.entry_no, columns.entry, columns.hash)
        query = query if after is None else query.where(columns.entry_no > after)
        if containing is not None:
            holding = [columns.entry.contains(text, autoescape=True) for text in containing]
            query = query.where(sa.or_(sa.false(), *holding))
        with self._reading() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(columns.entry_no))]

    def rename_users(self, renamed: Callable[[str], str], key_fingerprint: str) -> int:
        """Gives every person, session and tombstone another pseudonym, and the store another key; all or nothing.
        Returns the number of replaced pseudonyms."""
        with self._writing() as connection:
            n_renamed = 0
            for column in (tables.users.c.user_id, tables.sessions.c.session_id, tables.tombstones.c.user_id):
                ids = connection.scalars(sa.select(column)).all()
                of_name = sa.update(column.table).where(column == sa.bindparam("old"))
                if ids:
                    names = [{"old": name, "new": renamed(name)} for name in ids]
                    connection.execute(of_name.values({column.name: sa.bindparam("new")}), names)
                n_renamed += len(ids)
            is_fingerprint = tables.meta.c.name == "key_fingerprint"
            connection.execute(sa.delete(tables.meta).where(is_fingerprint))
            connection.execute(sa.insert(tables.meta).values(name="key_fingerprint", value=key_fingerprint))
            return n_renamed

    key_fingerprint = _method(tables.key_fingerprint)

    def add_api_key(self, *, key_id: str, name: str, scopes: str, sha256: str, created_at: datetime) -> None:
        """Keeps a new key of the service, without its secret."""
        row = {"key_id": key_id, "name": name, "scopes": scopes, "sha256": sha256}
        with self._writing() as connection:
            connection.execute(sa.insert(tables.api_keys).values(row | {"created_at": tables.microseconds(created_at)}))

    def api_keys(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """The columns of `tables.api_keys` of every key, the oldest first, or of one key; times as datetimes."""
        columns = tables.api_keys.c
        query = sa.select(tables.api_keys).order_by(columns.created_at, columns.key_id)
        if key_id is not None:
            query = query.where(columns.key_id == key_id)
        with self._reading() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        times = ("created_at", "revoked_at")
        return [row | {name: None if row[name] is None else tables.moment(row[name]) for name in times} for row in rows]

    def revoke_api_key(self, key_id: str, at: datetime) -> bool:
        """Revokes a key that is not revoked yet; False for an unknown one."""
        columns = tables.api_keys.c
        with self._writing() as connection:
            exists = connection.scalar(sa.select(columns.key_id).where(columns.key_id == key_id)) is not None
            in_force = sa.update(tables.api_keys).where(columns.key_id == key_id, columns.revoked_at.is_(None))
            connection.execute(in_force.values(revoked_at=tables.microseconds(at)))
        return exists

    # --- messages of campaigns; see `store.messages` ------------------------------------------------------------------

    add_messages = _method(sent.add_messages, writes=True)
    messages = _method(sent.read_messages)
    messages_of = _method(sent.messages_of)
    sent_messages = _method(sent.sent_messages)
    known_message_events = _method(sent.known_events)
    add_message_events = _method(sent.add_events, writes=True)
    campaign_message_events = _method(sent.campaign_events)
    bounced_at = _method(sent.bounced_at)
    deliveries = _method(sources.deliveries)
    keep_delivery = _method(sources.keep_delivery, writes=True)
    read_mark = _method(sources.read_mark)
    keep_mark = _method(sources.keep_mark, writes=True)

    # --- experiments, explored slates, sizes of groups ----------------------------------------------------------------

    def experiments(self) -> list[tuple[str, str, int]]:
        """Name, document (JSON) and revision of every experiment, ordered by name."""
        columns = tables.experiments.c
        query = sa.select(columns.name, columns.document, columns.revision).order_by(columns.name)
        with self._reading() as connection:
            return [(row.name, row.document, row.revision) for row in connection.execute(query)]

    def save_experiment(self, name: str, document: str, revision: int) -> bool:
        """Saves an experiment read at `revision`, 0 for a new one, which grows by one. False, changing nothing, if it
        was changed since."""
        table = tables.experiments
        with self._writing() as connection:
            stored = connection.scalar(sa.select(table.c.revision).where(table.c.name == name)) or 0
            if stored != revision:
                return False
            row = {"name": name, "document": document, "revision": revision + 1}
            change = sa.update(table).where(table.c.name == name) if stored else sa.insert(table)
            connection.execute(change.values(row))
        return True

    def add_explored_slates(self, rankings: Mapping[str, Sequence[str]], at: datetime) -> None:
        """Keeps the candidates of exploring requests, best first; a known request stays."""
        rows = [
            {"request_id": request_id, "ranked": json.dumps(list(ranked)), "at": tables.microseconds(at)}
            for request_id, ranked in rankings.items()
        ]
        with self._writing() as connection:
            if rows:
                connection.execute(tables.insert_of(connection)(tables.explored_slates).on_conflict_do_nothing(), rows)

    def explored_slates(self, since: datetime) -> dict[str, list[str]]:
        """Candidates of the requests since a time, best first, by request."""
        columns = tables.explored_slates.c
        query = sa.select(columns.request_id, columns.ranked).where(columns.at >= tables.microseconds(since))
        with self._reading() as connection:
            return {row.request_id: json.loads(row.ranked) for row in connection.execute(query)}

    def keep_sizes(
        self,
        caller: str,
        costs: Mapping[bytes, float],
        sizes: Mapping[bytes, int | None],
        *,
        budget: float,
        at: datetime,
        answered_since: datetime,
        since: datetime,
    ) -> tuple[dict[bytes, int | None], datetime]:
        """The sizes answered to a caller since `answered_since`; for other questions those in `sizes`, in order, while
        the charges since `since` and their costs stay within the budget.

        costs, sizes: by digest of the question. Returns the sizes by digest, and the time of the oldest charge.
        """
        table = tables.group_sizes
        with self._writing() as connection:
            connection.execute(sa.delete(table).where(table.c.at < tables.microseconds(since)))
            rows = connection.execute(sa.select(table).where(table.c.caller == caller).order_by(table.c.at)).all()
            answers = {bytes(row.digest): row.people for row in rows if row.at >= tables.microseconds(answered_since)}
            paid_sizes = {digest: answers[digest] for digest in costs if digest in answers}
            spent = sum(row.cost for row in rows)
            charges = []
            for digest, cost in costs.items():
                if digest not in paid_sizes and spent + cost <= budget:
                    charge = {"caller": caller, "digest": digest, "at": tables.microseconds(at), "cost": cost}
                    charges.append(charge | {"people": sizes[digest]})
                    paid_sizes[digest], spent = sizes[digest], spent + cost
            if charges:
                connection.execute(sa.insert(table), charges)
        oldest = rows[0].at if rows else tables.microseconds(at)
        return paid_sizes, tables.moment(oldest)

    def close(self) -> None:
        self._engine.dispose()


def copy_tables(source: sa.Connection, target: sa.Connection) -> None:
    """Copies every row of every table; numbering continues behind the highest number."""
    for table in tables.metadata.sorted_tables:
        target.execute(sa.delete(table))
        cursor = source.execution_options(yield_per=_COPY_ROWS).execute(sa.select(table))
        for rows in cursor.mappings().partitions():
            target.execute(sa.insert(table), [dict(row) for row in rows])
        (key, *others) = table.primary_key.columns
        if target.dialect.name == "postgresql" and not others and key.autoincrement != False:  # noqa: E712
            postgres.go_on_numbering(target, table, key)
