"""From rows of the store to polars frames. Every reader works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

from recllm.base.schema import ACTION_CODE, ACTIONS, SESSION_PREFIX, Action
from recllm.base.schema import Table as TableName
from recllm.shop.store import tables

_TYPES: Mapping[type, type[pl.DataType]] = {
    sa.BigInteger: pl.Int64,
    sa.Integer: pl.Int32,
    sa.SmallInteger: pl.Int16,
    sa.Double: pl.Float64,
    sa.Boolean: pl.Boolean,
    sa.String: pl.String,
    sa.Text: pl.String,
}
_FETCH_ROWS = 500  # rows that stand in memory as Python objects at a time: so few never wake the garbage collector

Keys = tuple[sa.ColumnElement[Any], Iterable[Any] | None]
"""A column and the values that it may have; None for any."""
INSTANTS = ("at", "committed_at", "available_until")
"""Columns of epoch microseconds that frames give as times in UTC."""

EVENT_DETAILS = (
    *("quantity", "price", "basket_id", "value", "request_id", "position", "model_version", "propensity"),
    *tables.SHOWN_FOR,
)
"""Columns of an event besides user_id, item_id, event and timestamp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Position in a store: the number of the last event, and of the last load of each table."""

    event_no: int
    load_no: Mapping[TableName, int]


EventRow = tuple[str, int, int, float, float | None, str | None]
"""item_id, code of the action, epoch microseconds, quantity, price, basket_id of an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHistory:
    """Events and basics of one person."""

    is_known: bool
    """Whether the store has a row of them."""
    permitted: bool
    """The last decision for the purpose; without one, the caller's default."""
    basics: str = "{}"
    """A JSON object of strings."""
    events: Sequence[EventRow] = ()
    """In the order of writing; none without consent."""


_USER = (
    sa.select(tables.users.c.user_key, tables.users.c.basics, tables.restrictions.c.at)
    .join_from(
        tables.users, tables.restrictions, tables.restrictions.c.user_key == tables.users.c.user_key, isouter=True
    )
    .where(tables.users.c.user_id == sa.bindparam("user_id"))
)
_DECISION = (
    sa.select(tables.consent.c.granted)
    .where(
        tables.consent.c.user_key == sa.bindparam("user_key"),
        tables.consent.c.purpose == sa.bindparam("purpose"),
        sa.or_(~tables.consent.c.granted, tables.consent.c.at <= sa.bindparam("latest")),
    )
    .order_by(tables.consent.c.at.desc(), tables.consent.c.granted)
)
_HISTORY = (
    sa.select(tables.items.c.item_id, *(tables.events.c[n] for n in ("action", "at", "quantity", "price", "basket_id")))
    .join_from(tables.events, tables.items, tables.items.c.item_key == tables.events.c.item_key)
    .where(
        tables.events.c.user_key == sa.bindparam("user_key"),
        tables.events.c.at >= sa.bindparam("since"),
        tables.events.c.at < sa.bindparam("before"),
    )
    .order_by(tables.events.c.event_no)
)
_LAST_EVENT = sa.select(sa.func.max(tables.loads.c.last_at)).where(tables.loads.c.last_at <= sa.bindparam("latest"))
"""Asked at each answer of a service: made once, because to build a statement takes longer than to run it."""

_ALWAYS = 2**62
"""No event is further from 1970, in microseconds."""


class StoreReader:
    """One consistent view of the store: all frames belong to the same moment.
    Get one from `Store.read`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def events(
        self,
        details: tuple[str, ...] = EVENT_DETAILS,
        *,
        since: datetime | None = None,
        user_ids: Iterable[str] | None = None,
        after_event: int = 0,
    ) -> pl.DataFrame:
        """user_id, item_id, event, timestamp (UTC, microseconds) and `details`, from `since` on.

        The order is that of writing. Fewer details are faster: reading takes about a microsecond per value.
        `user_ids`: only the events of these people, read by key: the time does not depend on the other events.
        after_event: only what was written after the event of that number, see `marks`.
        """
        u, i, e = tables.users.c, tables.items.c, tables.events.c
        names = ("event_no", "user_key", "item_key", "action", "at", *details)
        query = sa.select(*(e[n] for n in names)).where(e.event_no > after_event).order_by(e.event_no)
        if since is not None:
            query = query.where(e.at >= tables.microseconds(since))
        user_names, item_names = sa.select(u.user_key, u.user_id), sa.select(i.item_key, i.item_id)
        if user_ids is None:
            users, items, frame = self._frame(user_names), self._frame(item_names), self._frame(query)
        else:
            users = self._frame(user_names, (u.user_id, user_ids))
            frame = self._frame(query, (e.user_key, users["user_key"])).sort("event_no")
            items = self._frame(item_names, (i.item_key, frame["item_key"]))
        return (
            frame.join(users, on="user_key", how="left", maintain_order="left")
            .join(items, on="item_key", how="left", maintain_order="left")
            .select(
                "user_id",
                "item_id",
                pl.col("action").replace_strict(dict(enumerate(ACTIONS)), return_dtype=pl.String).alias("event"),
                pl.col("at").alias("timestamp"),
                *details,
            )
        )

    def events_by_user(
        self,
        user_ids: pl.Series,
        item_ids: pl.Series,
        *,
        since: datetime | None = None,
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """The events of these users, all different, some users at a time: how many, and their events.

        Columns: user (row among the users of this time), item (row of `item_ids`), action (its code), at (epoch
        microseconds), quantity, price, basket_id; of each user in the order of writing. since: leaves out what was
        before. They come from the index of the events by user alone, which lies in that order.
        """
        u, i, e = tables.users.c, tables.items.c, tables.events.c
        items = self._frame(sa.select(i.item_key, i.item_id))
        items = items.join(item_ids.alias("item_id").to_frame().with_row_index("item"), on="item_id")
        columns = [e[name] for name in ("user_key", "item_key", "action", "at", "quantity", "price", "basket_id")]
        query = sa.select(*columns).order_by(e.user_key, e.event_no)
        if since is not None:
            query = query.where(e.at >= tables.microseconds(since))
        for start in range(0, len(user_ids), tables.IN_KEYS):
            some_ids = user_ids[start : start + tables.IN_KEYS].alias("user_id")
            users = self._frame(sa.select(u.user_key, u.user_id), (u.user_id, some_ids))
            users = users.join(some_ids.to_frame().with_row_index("user"), on="user_id")
            frame = self._frame(query, (e.user_key, users["user_key"]))
            frame = frame.join(users, on="user_key", how="left", maintain_order="left")
            frame = frame.join(items, on="item_key", how="left", maintain_order="left")
            at = pl.col("at").dt.epoch("us")
            yield len(some_ids), frame.select("user", "item", "action", at, "quantity", "price", "basket_id")

    def history(
        self,
        user_id: str,
        purpose: str,
        *,
        without_decision: bool,
        since: datetime | None = None,
        before: datetime | None = None,
        granted_until: datetime | None = None,
    ) -> StoredHistory:
        """One person's, with since <= time of an event < before, if they agreed to the purpose. granted_until: as in
        `consent`."""
        user = self._connection.execute(_USER, {"user_id": user_id}).first()
        if user is None:
            return StoredHistory(is_known=False, permitted=without_decision)
        user_key, basics, restricted_at = user
        latest = _ALWAYS if granted_until is None else tables.microseconds(granted_until)
        decided = self._connection.scalar(_DECISION, {"user_key": user_key, "purpose": purpose, "latest": latest})
        if restricted_at is not None or not (without_decision if decided is None else decided):
            return StoredHistory(is_known=True, permitted=False)
        limits = {
            "since": -_ALWAYS if since is None else tables.microseconds(since),
            "before": _ALWAYS if before is None else tables.microseconds(before),
        }
        events: list[Any] = [tuple(row) for row in self._connection.execute(_HISTORY, {"user_key": user_key, **limits})]
        return StoredHistory(is_known=True, permitted=True, basics=basics, events=events)

    def users(self, user_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """user_id and basics (a JSON object of strings), ordered by id: all people, or the known ones of these."""
        u = tables.users.c
        return self._frame(sa.select(u.user_id, u.basics), (u.user_id, user_ids)).sort("user_id")

    def items(self, item_ids: Iterable[str] | None = None, *, after_load: int | None = None) -> pl.DataFrame:
        """The whole catalogue, or the known ones of these items, ordered by id.

        after_load: only items that a later load of items changed, see `marks`.

        Columns: item_id, title, category (list), brand, description, price (decimal text), currency, available,
        attributes (a JSON object), pending (only seen in events so far, or taken off the catalogue), available_until
        (UTC, or null), stock_stated (null for no).
        """
        item = tables.items.c
        query = sa.select(*(column for column in item if column.name not in ("item_key", "load_no")))
        if after_load is not None:
            query = query.where(item.load_no > after_load)
        frame = self._frame(query, (item.item_id, item_ids)).sort("item_id")
        return frame.with_columns(pl.col("category").str.json_decode(pl.List(pl.String)))

    def item_states(self) -> pl.DataFrame:
        """item_id, at (UTC), price (decimal text), currency, available: past prices and availability, in the order of
        time. at: of the load of items."""
        state, item = tables.item_states.c, tables.items.c
        query = sa.select(item.item_id, state.at, state.price, state.currency, state.available)
        query = query.join_from(tables.item_states, tables.items, state.item_key == item.item_key)
        return self._frame(query.order_by(state.load_no, item.item_id))

    def brands(self) -> list[str]:
        """Every brand of the catalogue, once each, in order."""
        brand = tables.items.c.brand
        return self._frame(sa.select(brand).where(brand.is_not(None)).distinct().order_by(brand))["brand"].to_list()

    def consent(
        self,
        purpose: str | None = None,
        user_ids: Iterable[str] | None = None,
        *,
        granted_until: datetime | None = None,
    ) -> pl.DataFrame:
        """user_id, purpose, granted, at (UTC): every decision, or those for one purpose, or of these people.

        Each person's are in the order of time; of one instant, the refusal is last. granted_until: leaves out grants
        dated later; refusals count whatever their date.
        """
        c, u = tables.consent.c, tables.users.c
        query = tables.of_users(tables.consent, c.purpose, c.granted, c.at)
        if purpose is not None:
            query = query.where(c.purpose == purpose)
        if granted_until is not None:
            query = query.where(sa.or_(~c.granted, c.at <= tables.microseconds(granted_until)))
        return self._frame(query.order_by(c.at, c.granted.desc(), u.user_id), (u.user_id, user_ids))

    def restrictions(self, user_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """user_id and at (UTC) of the people whose data may be used for nothing: all, or among these."""
        query = tables.of_users(tables.restrictions, tables.restrictions.c.at)
        return self._frame(query, (tables.users.c.user_id, user_ids))

    def first_loaded(self, user_ids: Iterable[str]) -> dict[str, tuple[int, datetime]]:
        """Pseudonym -> number and time of the load with the person's first event, which may be deleted by age."""
        u, load, names = tables.users.c, tables.loads.c, list(user_ids)
        first: dict[str, tuple[int, datetime]] = {}
        for table in (tables.events, tables.first_loads):
            first_of_all = sa.func.min(load.load_no), sa.func.min(load.committed_at).label("committed_at")
            query = tables.of_users(table, *first_of_all).join(tables.loads, load.load_no == table.c.load_no)
            query = query.group_by(u.user_id)
            for user_id, number, at in self._frame(query, (u.user_id, names)).iter_rows():
                first[user_id] = min(first.get(user_id, (number, at)), (number, at))
        return first

    def joined_sessions(self, session_ids: Iterable[str] | None = None, user_id: str | None = None) -> dict[str, str]:
        """Session -> person, of the sessions that were joined to one: all, these, or those of a person."""
        session = tables.sessions.c.session_id
        query = tables.of_users(tables.sessions, session)
        if user_id is not None:
            query = query.where(tables.users.c.user_id == user_id)
        return {name: person for person, name in self._frame(query, (session, session_ids)).iter_rows()}

    def marks(self) -> Marks:
        """The present position; what is written later has higher numbers."""
        loads, events = tables.loads.c, tables.events.c
        newest = sa.select(loads.table_name, sa.func.max(loads.load_no)).group_by(loads.table_name)
        return Marks(
            event_no=int(self._connection.scalar(sa.select(sa.func.max(events.event_no))) or 0),
            load_no={TableName(name): int(number) for name, number in self._connection.execute(newest)},
        )

    def loads(self, limit: int | None, *, without_sources: Iterable[str] = ()) -> pl.DataFrame:
        """The latest loads, or all (limit None), newest first: load_id, table_name, source, counts (a JSON object of
        numbers), committed_at (UTC). without_sources: leaves out loads of these sources."""
        loads = tables.loads.c
        query = sa.select(loads.load_id, loads.table_name, loads.source, loads.counts, loads.committed_at)
        query = query.where(loads.source.not_in(list(without_sources))).order_by(loads.load_no.desc()).limit(limit)
        return self._frame(query)

    def last_event(self, until: datetime | None = None) -> datetime | None:
        """When the latest event happened (UTC, whole seconds); None without events. until: of the loads that hold no
        later one, if there is any."""
        latest = _ALWAYS if until is None else tables.microseconds(until)
        last = self._connection.scalar(_LAST_EVENT, {"latest": latest})
        if last is None and until is not None:
            return self.last_event()
        return None if last is None else datetime.fromtimestamp(last // 1_000_000, UTC)

    def step_seconds(self) -> int | None:
        """What a step counts in a log that knows only the order of each person's events, see `recllm.shop.data.order`;
        None where the log has times, or nothing."""
        meta = tables.meta.c
        seconds = self._connection.scalar(sa.select(meta.value).where(meta.name == "order_step_seconds"))
        return None if seconds is None else int(seconds)

    def first_shown(self) -> datetime | None:
        """When an item was first shown (UTC, whole seconds); None for never."""
        event = tables.events.c
        first = self._connection.scalar(
            sa.select(sa.func.min(event.at)).where(event.action == ACTION_CODE[Action.SHOWN])
        )
        return None if first is None else datetime.fromtimestamp(int(first) // 1_000_000, UTC)

    def n_available_items(self) -> int:
        """Items of the catalogue that are for sale, whatever their last day."""
        item = tables.items.c
        query = sa.select(sa.func.count()).select_from(tables.items).where(item.available, ~item.pending)
        return int(self._connection.scalar(query) or 0)

    def counts(self) -> dict[str, int]:
        """Rows of each table, without sessions among the users, and `pending_items`: products that are only known from
        events."""
        all_tables = (tables.items, tables.events, tables.consent, tables.loads)
        queries = {table.name: sa.select(sa.func.count()).select_from(table) for table in all_tables}
        queries["pending_items"] = queries["items"].where(tables.items.c.pending)
        counts = {name: int(self._connection.scalar(query) or 0) for name, query in queries.items()}
        return counts | {"users": self.n_customers()}

    def n_customers(self) -> int:
        """Rows of the users without sessions."""
        is_session = tables.users.c.user_id.startswith(SESSION_PREFIX, autoescape=True)
        query = sa.select(sa.func.count()).select_from(tables.users).where(~is_session)
        return int(self._connection.scalar(query) or 0)

    def _frame(self, query: sa.Select[*tuple[Any, ...]], keys: Keys | None = None) -> pl.DataFrame:
        """The rows of a query. `keys`: only those whose column has one of these values; then the query's order holds
        among the rows of one value."""
        queries, by_key = [query], False
        column, values = keys or (None, None)
        if column is not None and values is not None:
            queries, by_key = [query.where(condition) for condition in tables.among(column, values)], True
        types = {column.name: _TYPES[type(column.type)] for column in query.selected_columns}
        parts = [pl.DataFrame(schema=types)]
        for some_rows in queries:
            with closing(self._cursor(some_rows, by_key=by_key)) as cursor:
                while rows := cursor.fetchmany(_FETCH_ROWS):
                    # column by column: a third of the time of taking the rows one by one
                    columns = zip(types.items(), zip(*rows, strict=True), strict=True)
                    parts.append(pl.DataFrame([series_of(name, dtype, values) for (name, dtype), values in columns]))
        times: dict[Any, pl.DataType] = {name: pl.Datetime("us", "UTC") for name in INSTANTS if name in types}
        return pl.concat(parts, rechunk=True).cast(times)

    def _cursor(self, query: sa.Select[*tuple[Any, ...]], *, by_key: bool) -> Any:
        """The driver's own cursor and tuples: handling each row by itself would take longer than the database does."""
        dialect = self._connection.dialect
        if by_key or dialect.name != "postgresql":
            return self._connection.execute(query).cursor
        # a cursor with a name stays on the server: any other brings all rows into memory before the first one is read
        compiled = query.compile(dialect=dialect)
        return self._connection.connection.cursor("rows").execute(str(compiled), compiled.params)


def series_of(name: str, dtype: type[pl.DataType], values: tuple[Any, ...]) -> pl.Series:
    if dtype == pl.Boolean:  # 0 and 1 on SQLite
        return pl.Series(name, values, dtype=pl.Int8, strict=False).cast(pl.Boolean)
    return pl.Series(name, values, dtype=dtype)
