"""One load: everything that is written in one transaction, and its line in the table of loads.

The columns listed here are the contract. A column marked "?" may be missing or hold nulls. User ids are pseudonyms.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

from recllm.base.errors import ConflictError, DataError, PolicyError, StoreError, UnknownIdError
from recllm.base.files import safe_id
from recllm.base.schema import ACTION_CODE, SESSION_PREFIX, Action, Table
from recllm.shop.store import tables
from recllm.shop.store.readers import StoreReader
from recllm.shop.store.statements import Columns, KeyRing, conform, insert_new, lookup, upsert

COLUMNS: Mapping[Table, Columns] = {
    Table.EVENTS: {
        "event_key": pl.Binary,  # 16 bytes: the same event always has the same key
        "payload_hash": pl.Int64,  # hash of the content; equal key and other hash is a conflict
        "user_id": pl.String,
        "item_id": pl.String,
        "event": pl.String,  # value of an Action
        "at": pl.Int64,  # epoch microseconds, UTC
        "quantity": pl.Float64,
        "tz_offset_minutes?": pl.Int16,
        "price?": pl.Float64,
        "basket_id?": pl.String,
        "value?": pl.Float64,
        "request_id?": pl.String,
        "position?": pl.Int32,
        "model_version?": pl.String,
        "propensity?": pl.Float64,
        **{f"{name}?": pl.String for name in tables.SHOWN_FOR},
    },
    Table.USERS: {"user_id": pl.String, "basics": pl.String},  # basics: a JSON object of strings
    Table.ITEMS: {
        "item_id": pl.String,
        "title": pl.String,
        "available": pl.Boolean,
        "category?": pl.String,  # a JSON list, widest name first
        "brand?": pl.String,
        "description?": pl.String,
        "price?": pl.String,  # decimal text
        "currency?": pl.String,
        "attributes?": pl.String,  # a JSON object of strings
        "available_until?": pl.Int64,  # epoch microseconds, UTC
        "stock_stated?": pl.Boolean,
    },
    # a decision without a time, or with one ahead of the clock, is dated by the clock
    Table.CONSENT: {"user_id": pl.String, "purpose": pl.String, "granted": pl.Boolean, "at?": pl.Int64},
}

AGES: Mapping[str, tuple[sa.Column[Any], ...]] = {
    "events": (tables.events.c.at,),
    "messages": (tables.message_events.c.at, tables.messages.c.exported_at),
    "explored_slates": (tables.explored_slates.c.at,),
}
"""What is deleted by age, in this order, and its columns of time."""

_DECISION = ["user_key", "purpose", "at", "granted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """Account of one frame: accepted + duplicates + len(conflicts) + len(erased) == its height.

    conflicts: row positions in the frame whose key is known with other content; the known content stays.
    erased: row positions of people who were erased: nothing of such a row is kept.
    """

    accepted: int
    duplicates: int
    conflicts: list[int] = field(default_factory=list)
    erased: list[int] = field(default_factory=list)


class Load:
    """An open load. Get one from `Store.load`; it is committed or rolled back as a whole by that block."""

    def __init__(
        self, connection: sa.Connection, table: Table, *, load_id: str, source: str, sha256: str | None
    ) -> None:
        self._connection = connection
        self._table = table
        self._users = KeyRing(connection, tables.users, {"basics": "{}"})
        self._items = KeyRing(connection, tables.items, {"available": True, "pending": True})
        self._counts = {"accepted": 0, "duplicates": 0, "conflicts": 0}
        tombstone = tables.tombstones.c.user_id
        self._anybody_erased = connection.scalar(sa.select(tombstone).limit(1)) is not None
        record = tables.loads
        safe_id(load_id, "load id")
        self._began = tables.now()
        if connection.scalar(sa.select(record.c.load_no).where(record.c.load_id == load_id)) is not None:
            raise StoreError(f"the load id {load_id!r} is taken by an earlier load; give each load its own id")
        named = {"load_id": load_id, "table_name": str(table), "source": source, "sha256": sha256}
        new = sa.insert(record).values(named | {"counts": "{}", "committed_at": tables.now()})
        self._load_no = int(connection.execute(new.returning(record.c.load_no)).scalar_one())
        self._last_event_no = self._newest_event_no()
        # for a first load, one sort at its end is faster than an insertion for each event; a server would block readers
        # until then
        is_first = table is Table.EVENTS and not self._last_event_no and connection.dialect.name == "sqlite"
        self._dropped: list[sa.Index] = []
        indexes = sa.inspect(connection).get_indexes("events") if is_first else []
        self._may_drop_key = any(index["name"] == tables.events_by_key.name for index in indexes)
        if is_first:
            self._drop(tables.events_by_user)

    def _drop(self, index: sa.Index) -> None:
        index.drop(self._connection)
        self._dropped.append(index)

    def write(self, frame: pl.DataFrame, *, table: Table | None = None, are_distinct: bool = False) -> WriteResult:
        """Writes one frame of the load's table, or of another one, with the columns of `COLUMNS`.

        Events: the first of several equal keys counts; unknown items become pending. Users and items are inserted or
        replaced: the same content again is a duplicate, and an item is no longer pending. Consent: decisions are
        appended, none is dated ahead of this machine's clock. Rows of erased people are left out. are_distinct: no two
        events of the whole load have one key, so that a first load need not look.

        Raises `DataError` for a missing column or a wrong type, `StoreError` when the database fails.
        """
        connection, table = self._connection, table or self._table
        frame = conform(frame, COLUMNS[table], str(table))
        conflicts: list[int] = []
        is_erased = (
            self._is_erased(frame["user_id"])
            if "user_id" in frame.columns
            else pl.repeat(False, frame.height, eager=True)
        )
        rows_kept, frame = (~is_erased).arg_true(), frame.filter(~is_erased)
        match table:
            case Table.EVENTS:
                if are_distinct and self._may_drop_key:
                    self._drop(tables.events_by_key)
                elif not are_distinct and tables.events_by_key in self._dropped:
                    self._dropped.remove(tables.events_by_key)
                    tables.events_by_key.create(connection)
                self._may_drop_key = False
                accepted, conflicts = self._write_events(frame, are_distinct=are_distinct)
            case Table.USERS:
                accepted = upsert(connection, tables.users, frame, key="user_id")
            case Table.ITEMS:
                stamped = frame.with_columns(pending=pl.lit(False), load_no=pl.lit(self._load_no))
                accepted = upsert(connection, tables.items, stamped, key="item_id", stamp="load_no")
            case Table.CONSENT:
                keys = self._users.keys(frame["user_id"])
                at = pl.min_horizontal("at", self._began)
                rows = frame.drop("user_id").with_columns(user_key=keys, at=at)
                self._end_grants_ahead(rows.filter(~pl.col("granted")))
                accepted = insert_new(connection, tables.consent, rows, key=_DECISION)
        duplicates = frame.height - accepted - len(conflicts)
        self._counts["accepted"] += accepted
        self._counts["duplicates"] += duplicates
        self._counts["conflicts"] += len(conflicts)
        return WriteResult(
            accepted=accepted,
            duplicates=duplicates,
            conflicts=rows_kept[conflicts].to_list(),
            erased=is_erased.arg_true().to_list(),
        )

    def _end_grants_ahead(self, refusals: pl.DataFrame) -> None:
        """Dates grants ahead of the clock, which was set back or let an older version write them, before the refusals
        that follow them."""
        c = tables.consent.c
        decided = lookup(self._connection, c.user_key, c.at, refusals["user_key"].unique())
        late = refusals.join(decided.filter(pl.col("at") > self._began), on="user_key", how="semi")
        for key, purpose, at in late.select("user_key", "purpose", "at").iter_rows():
            ahead = sa.and_(c.user_key == key, c.purpose == purpose, c.granted, c.at > self._began)
            moved = sa.select(c.user_key, c.purpose, at + self._began - c.at, c.granted).where(ahead)
            copied = tables.insert_of(self._connection)(tables.consent).from_select(_DECISION, moved)
            self._connection.execute(copied.on_conflict_do_nothing())  # a grant of that very time says the same
            self._connection.execute(sa.delete(tables.consent).where(ahead))

    def _is_erased(self, user_ids: pl.Series) -> pl.Series:
        """Boolean, (n,): whether each id is that of an erased person."""
        if not self._anybody_erased:
            return pl.repeat(False, len(user_ids), eager=True)
        stone = tables.tombstones.c
        return user_ids.is_in(lookup(self._connection, stone.user_id, stone.at, user_ids.unique())["user_id"].implode())

    def has_times(self) -> bool:
        """False of a log, loaded by an earlier version, that knows only an order."""
        return StoreReader(self._connection).step_seconds() is None

    # --- what is taken away or moved ---------------------------------------------------------------------------------

    def erase_users(self, user_ids: Sequence[str]) -> dict[str, int]:
        """Deletes every row of people. Returns the rows of each table.

        For a load of consent: services look for erased people when its number changes.
        """
        event, user = tables.events.c, tables.users.c
        rows: dict[str, int] = {}

        def delete(table: sa.Table, condition: sa.ColumnElement[bool]) -> None:
            n_deleted = self._connection.execute(sa.delete(table).where(condition)).rowcount
            rows[table.name] = rows.get(table.name, 0) + n_deleted

        for some_people in tables.among(user.user_id, user_ids):
            keys = self._connection.scalars(sa.select(user.user_key).where(some_people)).all()
            was_shown = sa.and_(event.user_key.in_(keys), event.action == ACTION_CODE[Action.SHOWN])
            requests = sa.select(event.request_id).where(was_shown)
            sent = sa.select(tables.messages.c.message_no).where(tables.messages.c.user_key.in_(keys))
            item = tables.items.c
            theirs = sa.select(event.item_key).where(event.user_key.in_(keys))
            pending_keys = self._connection.scalars(
                sa.select(item.item_key).where(item.pending, item.item_key.in_(theirs))
            ).all()
            delete(tables.explored_slates, tables.explored_slates.c.request_id.in_(requests))
            delete(tables.message_events, tables.message_events.c.message_no.in_(sent))
            of_people = (tables.messages, tables.events, tables.first_loads, tables.consent, tables.sessions)
            for table in (*of_people, tables.restrictions, tables.users):
                delete(table, table.c.user_key.in_(keys))
            if pending_keys:  # products that only these people's events knew
                named = sa.select(event.item_key).where(event.item_key == item.item_key)
                delete(tables.items, sa.and_(item.item_key.in_(pending_keys), item.pending, ~named.exists()))
        return rows

    def restrict(self, user_id: str, at: datetime | None) -> bool:
        """See `Store.restrict`. For a load of consent."""
        user = tables.users.c
        key = self._connection.scalar(sa.select(user.user_key).where(user.user_id == user_id))
        if key is None:
            raise UnknownIdError("unknown user; check the id")
        if at is None:
            lifted = sa.delete(tables.restrictions).where(tables.restrictions.c.user_key == key)
            return self._connection.execute(lifted).rowcount > 0
        row = pl.DataFrame({"user_key": [key], "at": [tables.microseconds(at)]})
        return insert_new(self._connection, tables.restrictions, row, key=["user_key"]) > 0

    def delete_old(self, before: Mapping[str, datetime]) -> dict[str, int]:
        """Deletes the rows of `AGES` that are older than a time, except those of restricted people. Of people whose
        events go, the load of the first one is remembered. For a load of consent."""
        event, first = tables.events.c, tables.first_loads.c
        conditions = list(outdated_rows(before))
        for table, condition in conditions:
            if table is not tables.events:
                continue
            of_person = sa.select(event.user_key, sa.func.min(event.load_no)).where(condition).group_by(event.user_key)
            is_new = event.user_key.not_in(sa.select(first.user_key))
            self._connection.execute(
                sa.insert(tables.first_loads).from_select(["user_key", "load_no"], of_person.where(is_new))
            )
            earlier = sa.select(sa.func.min(event.load_no)).where(event.user_key == first.user_key, condition)
            number = earlier.scalar_subquery()
            self._connection.execute(sa.update(tables.first_loads).where(number < first.load_no).values(load_no=number))
        rows: dict[str, int] = {}
        for table, condition in conditions:
            n_deleted = self._connection.execute(sa.delete(table).where(condition)).rowcount
            rows[table.name] = rows.get(table.name, 0) + n_deleted
        return rows

    def join_session(self, session_id: str, user_id: str) -> int:
        """Makes the present and later events of a session those of a person. Returns the number of moved events.

        They get new numbers, so that readers that continue from a number find them. A second call moves later events;
        raises `ConflictError` for a session of another person. For a load of events.
        """
        connection, session, user, event = self._connection, tables.sessions.c, tables.users.c, tables.events.c
        if self._is_erased(pl.Series([session_id, user_id])).any():
            raise PolicyError("the person was erased; nothing was joined")
        person = int(self._users.keys(pl.Series([user_id]))[0])
        joined = connection.scalar(sa.select(session.user_key).where(session.session_id == session_id))
        if joined not in (None, person):
            raise ConflictError("the session was joined to another person; its events stay theirs")
        if joined is None:
            row = {"session_id": session_id, "user_key": person, "joined_at": tables.now()}
            connection.execute(sa.insert(tables.sessions).values(row))
        key = connection.scalar(sa.select(user.user_key).where(user.user_id == session_id))
        if key is None:
            return 0
        rows = connection.execute(sa.select(tables.events).where(event.user_key == key).order_by(event.event_no))
        moved = [dict(row) | {"user_key": person} for row in rows.mappings()]
        for row in moved:  # the key is unique, and the new row is written before the old one goes
            old = sa.update(tables.events).where(event.event_no == row.pop("event_no"))
            connection.execute(old.values(event_key=secrets.token_bytes(16)))
        if moved:
            connection.execute(sa.insert(tables.events), moved)
        first = tables.first_loads
        if (number := connection.scalar(sa.select(first.c.load_no).where(first.c.user_key == key))) is not None:
            insert_new(connection, first, pl.DataFrame({"user_key": [person], "load_no": [number]}), key=["user_key"])
            is_later = sa.and_(first.c.user_key == person, first.c.load_no > number)
            connection.execute(sa.update(first).where(is_later).values(load_no=number))
        for table in (tables.events, first, tables.consent, tables.users):
            connection.execute(sa.delete(table).where(table.c.user_key == key))
        return len(moved)

    def remove_item(self, item_id: str) -> None:
        """Takes an item off the catalogue; its id stays for events. For a load of items.

        Raises `UnknownIdError` for one that the catalogue does not have.
        """
        item = tables.items.c
        nothing = {column.name: None for column in item if column.nullable}
        gone = sa.update(tables.items).where(item.item_id == item_id, ~item.pending)
        changed = {"available": False, "pending": True, "load_no": self._load_no}
        if not self._connection.execute(gone.values(nothing | changed)).rowcount:
            raise UnknownIdError(f"no item {item_id!r} in the catalogue")

    def counts(self, numbers: Mapping[str, int]) -> None:
        """Adds the caller's own numbers (rows read, quarantined, ...) to the record of the load."""
        self._counts.update(numbers)

    def close(self) -> None:
        """Completes the record; the block around the load calls it before the commit."""
        for index in self._dropped:
            index.create(self._connection)
        if self._table is Table.ITEMS:
            tables.record_item_states(self._connection, self._load_no)
        record, event = tables.loads, tables.events.c
        counts = json.dumps(self._counts, sort_keys=True)
        added = sa.select(sa.func.max(event.at)).where(event.event_no > self._last_event_no)
        values = {"counts": counts, "committed_at": tables.now(), "last_at": added.scalar_subquery()}
        self._connection.execute(sa.update(record).where(record.c.load_no == self._load_no).values(values))

    def _write_events(self, frame: pl.DataFrame, *, are_distinct: bool) -> tuple[int, list[int]]:
        """(events accepted, conflicts of `WriteResult`)."""
        if frame.is_empty():
            return 0, []
        connection, event = self._connection, tables.events.c
        key = [] if tables.events_by_key in self._dropped else ["event_key"]
        first = frame if are_distinct else frame.unique("event_key", keep="first")
        if not are_distinct or self._last_event_no:  # neighbouring rows touch the same pages of the key's index
            first = first.sort("event_key")
        first = self._of_people(first)
        last_no = self._newest_event_no()
        codes = {action.value: code for action, code in ACTION_CODE.items()}
        unknown = sorted(set(first["event"].unique()) - set(codes))
        if unknown:
            raise DataError(f"events.event: unknown action {unknown[0]!r}; known: {', '.join(codes)}")
        rows = first.drop("user_id", "item_id", "event").with_columns(
            user_key=self._users.keys(first["user_id"]),
            item_key=self._items.keys(first["item_id"]),
            action=first["event"].replace_strict(codes, return_dtype=pl.Int16),
            load_no=pl.lit(self._load_no),
        )
        accepted = insert_new(connection, tables.events, rows, key=key)
        if accepted == frame.height:
            return accepted, []
        new_keys = connection.scalars(sa.select(event.event_key).where(event.event_no > last_no)).all()
        new = first.join(pl.DataFrame({"event_key": pl.Series(new_keys, dtype=pl.Binary)}), on="event_key", how="semi")
        # a conflict is a row whose content differs from what the store now has under its key
        earlier = frame.select(pl.col("event_key").unique()).join(new, on="event_key", how="anti")["event_key"].sort()
        stored = lookup(connection, event.event_key, event.payload_hash, earlier)
        stored = pl.concat([new.select("event_key", "payload_hash"), stored])
        stored = stored.rename({"payload_hash": "stored_hash"})
        contents = (
            frame.select("event_key", "payload_hash").with_row_index("row").join(stored, on="event_key", how="left")
        )
        conflicts = contents.filter(pl.col("payload_hash") != pl.col("stored_hash"))["row"].sort().to_list()
        self._users.take_back(new["user_id"])
        self._items.take_back(new["item_id"])
        return accepted, conflicts

    def _of_people(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Events of sessions that were joined to a person become that person's."""
        ids = frame["user_id"].filter(frame["user_id"].str.starts_with(SESSION_PREFIX))
        query = tables.of_users(tables.sessions, tables.sessions.c.session_id)
        person: dict[str, str] = {}
        for some_sessions in tables.among(tables.sessions.c.session_id, ids):
            rows = self._connection.execute(query.where(some_sessions))
            person |= {session_id: user_id for user_id, session_id in rows}
        return frame.with_columns(pl.col("user_id").replace(person)) if person else frame

    def _newest_event_no(self) -> int:
        return self._connection.scalar(sa.select(sa.func.max(tables.events.c.event_no))) or 0


def count_old(connection: sa.Connection, before: Mapping[str, datetime]) -> dict[str, int]:
    """How many rows `Load.delete_old` would delete."""
    rows: dict[str, int] = {}
    for table, condition in outdated_rows(before):
        n_rows = connection.scalar(sa.select(sa.func.count()).select_from(table).where(condition)) or 0
        rows[table.name] = rows.get(table.name, 0) + n_rows
    return rows


def outdated_rows(before: Mapping[str, datetime]) -> Iterator[tuple[sa.Table, sa.ColumnElement[bool]]]:
    """Table, and which of its rows are too old, in the order of deleting; none of people who are restricted."""
    message, restricted = tables.messages.c, sa.select(tables.restrictions.c.user_key)
    for name, time in before.items():
        for age in AGES[name]:
            at = tables.microseconds(time)
            table, condition = age.table, age < at
            if "user_key" in table.c:
                condition = sa.and_(condition, table.c.user_key.not_in(restricted))
            if table is tables.message_events:
                gone = sa.select(message.message_no).where(
                    message.exported_at < at, message.user_key.not_in(restricted)
                )
                condition = tables.message_events.c.message_no.in_(gone)
            assert isinstance(table, sa.Table)  # noqa: S101 - of a column of `AGES`
            yield table, condition


def bury(connection: sa.Connection, user_ids: Sequence[str], time: datetime) -> list[str]:
    """Puts tombstones for people and for the sessions that were joined to them, and restricts the people: nothing that
    is sent later about one of them is kept.

    An earlier tombstone keeps its time. Returns all ids that have one now.
    """
    user, session, at = tables.users.c, tables.sessions.c, tables.microseconds(time)
    everyone = list(dict.fromkeys(user_ids))
    joined = tables.of_users(tables.sessions, session.session_id).with_only_columns(session.session_id)
    for some_people in tables.among(user.user_id, user_ids):
        everyone += connection.scalars(joined.where(some_people)).all()
        keys = connection.scalars(sa.select(user.user_key).where(some_people)).all()
        restricted = pl.DataFrame({"user_key": keys}, schema={"user_key": pl.Int64}).with_columns(at=pl.lit(at))
        insert_new(connection, tables.restrictions, restricted, key=["user_key"])
    stones = pl.DataFrame({"user_id": everyone}, schema={"user_id": pl.String}).with_columns(at=pl.lit(at))
    insert_new(connection, tables.tombstones, stones, key=["user_id"])
    return everyone
