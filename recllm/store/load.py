"""One load: everything that is written in one transaction, and its line in the table of loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl
from sqlalchemy import Connection, func, insert, select, update

from recllm.errors import StoreError
from recllm.files import safe_id
from recllm.schema import Table
from recllm.store import tables
from recllm.store.writers import KeyRing, WriteResult, write_consent, write_events, write_items, write_users


class Load:
    """An open load. Get one from `Store.load`; it is committed or rolled back as a whole by that block."""

    def __init__(self, connection: Connection, table: Table, *, load_id: str, source: str, sha256: str | None) -> None:
        self._connection = connection
        self._table = table
        self._users = KeyRing(tables.users, "user_id", "user_key", {"basics": "{}"})
        self._items = KeyRing(tables.items, "item_id", "item_key", {"available": True, "pending": True})
        self._counts = {"accepted": 0, "duplicates": 0, "conflicts": 0}
        self._load_no = self._open_record(load_id, source, sha256)
        self._last_event_no = connection.scalar(select(func.max(tables.events.c.event_no))) or 0
        self._builds_index = table is Table.EVENTS and not self._last_event_no
        if self._builds_index:  # for a first load, one sort at its end is faster than an insertion for each event
            tables.events_by_user.drop(connection)

    def _open_record(self, load_id: str, source: str, sha256: str | None) -> int:
        record, connection = tables.loads, self._connection
        safe_id(load_id, "load id")
        if connection.scalar(select(record.c.load_no).where(record.c.load_id == load_id)) is not None:
            raise StoreError(f"the load id {load_id!r} is taken by an earlier load; give each load its own id")
        new = insert(record).values(
            load_id=load_id,
            table_name=str(self._table),
            source=source,
            sha256=sha256,
            counts="{}",
            committed_at=_now(),
        )
        return int(connection.execute(new.returning(record.c.load_no)).scalar_one())

    def write(self, frame: pl.DataFrame) -> WriteResult:
        """Writes one frame of the load's table; see `writers` for the columns of each table.

        Raises `DataError` for a missing column or a wrong type, `StoreError` when the database fails.
        """
        match self._table:
            case Table.EVENTS:
                result = write_events(self._connection, frame, users=self._users, items=self._items, load=self._load_no)
            case Table.USERS:
                result = write_users(self._connection, frame)
            case Table.ITEMS:
                result = write_items(self._connection, frame)
            case Table.CONSENT:
                result = write_consent(self._connection, frame, users=self._users)
        self._counts["accepted"] += result.accepted
        self._counts["duplicates"] += result.duplicates
        self._counts["conflicts"] += len(result.conflicts)
        return result

    def counts(self, numbers: Mapping[str, int]) -> None:
        """Adds the caller's own numbers (rows read, quarantined, ...) to the record of the load."""
        self._counts.update(numbers)

    def close(self) -> None:
        """Completes the record; the block around the load calls it before the commit."""
        if self._builds_index:
            tables.events_by_user.create(self._connection)
        record, event = tables.loads, tables.events.c
        last_at = self._connection.scalar(select(func.max(event.at)).where(event.event_no > self._last_event_no))
        values = {"counts": json.dumps(self._counts, sort_keys=True), "committed_at": _now(), "last_at": last_at}
        self._connection.execute(update(record).where(record.c.load_no == self._load_no).values(values))


def _now() -> int:
    return int(datetime.now(UTC).timestamp() * 1_000_000)
