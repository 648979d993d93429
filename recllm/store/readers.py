"""From rows of the store to polars frames. Every reader works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
from sqlalchemy import ColumnElement, Connection, Select, func, select

from recllm.schema import ACTIONS
from recllm.schema import Table as TableName
from recllm.store import tables
from recllm.store.bulk import IN_KEYS, fetch

_EVENT_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "event_no": pl.Int64,
    "user_key": pl.Int64,
    "item_key": pl.Int64,
    "action": pl.UInt8,
    "at": pl.Int64,
    "quantity": pl.Float64,
    "price": pl.Float64,
    "basket_id": pl.String,
    "value": pl.Float64,
    "request_id": pl.String,
    "position": pl.Int32,
    "model_version": pl.String,
}

_ITEM_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "item_id": pl.String,
    "title": pl.String,
    "category": pl.String,
    "brand": pl.String,
    "description": pl.String,
    "price": pl.String,
    "currency": pl.String,
    "available": pl.Boolean,
    "attributes": pl.String,
    "pending": pl.Boolean,
}

Keys = tuple[ColumnElement[Any], Iterable[Any]]
"""A column and the values that it may have."""

EVENT_DETAILS = ("quantity", "price", "basket_id", "value", "request_id", "position", "model_version")
"""Columns of an event besides user_id, item_id, event and timestamp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """How far a store has been written: the number of the last event, and of the last load of each table."""

    event_no: int
    load_no: Mapping[TableName, int]


class StoreReader:
    """One consistent view of the store: all frames belong to the same moment. Get one from `Store.read`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def events(
        self,
        details: tuple[str, ...] = EVENT_DETAILS,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
        user_ids: Iterable[str] | None = None,
        after_event: int = 0,
    ) -> pl.DataFrame:
        """user_id, item_id, event, timestamp (UTC, microseconds) and `details`, with since <= timestamp < before.

        The order is that of writing. Fewer details are faster: reading takes about a microsecond per value.
        `user_ids`: only the events of these people, read by key: the time does not depend on the other events.
        after_event: only what was written after the event of that number, see `marks`.
        """
        u, i, e = tables.users.c, tables.items.c, tables.events.c
        names = ["event_no", "user_key", "item_key", "action", "at", *details]
        query = select(*(e[n] for n in names)).where(e.event_no > after_event, *_between(since, before))
        query = query.order_by(e.event_no)
        types = {n: _EVENT_TYPES[n] for n in names}
        if user_ids is None:
            users, items = self._ids(u.user_key, u.user_id), self._ids(i.item_key, i.item_id)
            frame = self._frame(query, types)
        else:
            users = self._ids(u.user_key, u.user_id, keys=(u.user_id, user_ids))
            frame = self._frame(query, types, keys=(e.user_key, users["user_key"])).sort("event_no")
            items = self._ids(i.item_key, i.item_id, keys=(i.item_key, frame["item_key"]))
        return (
            frame.join(users, on="user_key", how="left", maintain_order="left")
            .join(items, on="item_key", how="left", maintain_order="left")
            .select(
                "user_id",
                "item_id",
                pl.col("action").replace_strict(dict(enumerate(ACTIONS)), return_dtype=pl.String).alias("event"),
                pl.col("at").cast(pl.Datetime("us", "UTC")).alias("timestamp"),
                *details,
            )
        )

    def users(self, user_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """user_id and basics (a JSON object of strings), ordered by id: of everybody, or of these who are known."""
        u = tables.users.c
        keys = None if user_ids is None else (u.user_id, user_ids)
        frame = self._frame(select(u.user_id, u.basics), {"user_id": pl.String, "basics": pl.String}, keys=keys)
        return frame.sort("user_id")

    def items(self, item_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """The whole catalogue, or these items as far as they are known, ordered by id.

        Columns: item_id, title, category (list), brand, description, price (decimal text), currency, available,
        attributes (a JSON object), pending (only seen in events so far).
        """
        columns = tables.items.c
        keys = None if item_ids is None else (columns.item_id, item_ids)
        frame = self._frame(select(*(columns[name] for name in _ITEM_TYPES)), _ITEM_TYPES, keys=keys)
        return frame.sort("item_id").with_columns(pl.col("category").str.json_decode(pl.List(pl.String)))

    def consent(self, purpose: str | None = None, user_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """user_id, purpose, granted, at (UTC): every decision, or those for one purpose, or of these people.

        Each person's stand oldest first; of one instant, the refusal last.
        """
        c, u = tables.consent.c, tables.users.c
        query = select(u.user_id, c.purpose, c.granted, c.at).join_from(
            tables.consent, tables.users, u.user_key == c.user_key
        )
        if purpose is not None:
            query = query.where(c.purpose == purpose)
        types = {"user_id": pl.String, "purpose": pl.String, "granted": pl.Boolean, "at": pl.Int64}
        keys = None if user_ids is None else (u.user_id, user_ids)
        frame = self._frame(query.order_by(c.at, c.granted.desc(), u.user_id), types, keys=keys)
        return frame.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    def marks(self) -> Marks:
        """How far the store has been written; what is written later has higher numbers."""
        loads, events = tables.loads.c, tables.events.c
        newest = select(loads.table_name, func.max(loads.load_no)).group_by(loads.table_name)
        return Marks(
            event_no=int(self._connection.scalar(select(func.max(events.event_no))) or 0),
            load_no={TableName(name): int(number) for name, number in self._connection.execute(newest)},
        )

    def last_event(self) -> datetime | None:
        """When the latest event happened (UTC, whole seconds); None without events."""
        last = self._connection.scalar(select(func.max(tables.loads.c.last_at)))
        return None if last is None else datetime.fromtimestamp(last // 1_000_000, UTC)

    def counts(self) -> dict[str, int]:
        """Rows of each table, and `pending_items`: products that are only known from events."""
        all_tables = (tables.users, tables.items, tables.events, tables.consent, tables.loads)
        queries = {table.name: select(func.count()).select_from(table) for table in all_tables}
        queries["pending_items"] = queries["items"].where(tables.items.c.pending)
        return {name: int(self._connection.scalar(query) or 0) for name, query in queries.items()}

    def _ids(self, key: ColumnElement[int], name: ColumnElement[str], *, keys: Keys | None = None) -> pl.DataFrame:
        return self._frame(select(key, name), {str(key.key): pl.Int64, str(name.key): pl.String}, keys=keys)

    def _frame(
        self, query: Select[*tuple[Any, ...]], types: dict[str, Any], *, keys: Keys | None = None
    ) -> pl.DataFrame:
        """The rows of a query. `keys`: only those whose column has one of these values; then the query's order holds
        among the rows of one value."""
        parts = [pl.DataFrame(schema=types)]
        for part in [query] if keys is None else _by_key(query, *keys):
            for rows in fetch(self._connection, part):
                # column by column: a third of the time of taking the rows one by one
                columns = zip(types.items(), zip(*rows, strict=True), strict=True)
                parts.append(pl.DataFrame([_series(name, dtype, values) for (name, dtype), values in columns]))
        return pl.concat(parts, rechunk=True)


def _by_key(
    query: Select[*tuple[Any, ...]], column: ColumnElement[Any], values: Iterable[Any]
) -> Iterator[Select[*tuple[Any, ...]]]:
    """The query for each list of the distinct values."""
    distinct = sorted(set(values))
    for start in range(0, len(distinct), IN_KEYS):
        yield query.where(column.in_(distinct[start : start + IN_KEYS]))


def _series(name: str, dtype: Any, values: tuple[Any, ...]) -> pl.Series:
    if dtype == pl.Boolean:  # 0 and 1 on SQLite
        return pl.Series(name, values, dtype=pl.Int8, strict=False).cast(pl.Boolean)
    return pl.Series(name, values, dtype=dtype)


def _between(since: datetime | None, before: datetime | None) -> list[ColumnElement[bool]]:
    at = tables.events.c.at
    limits = []
    if since is not None:
        limits.append(at >= round(since.timestamp() * 1_000_000))
    if before is not None:
        limits.append(at < round(before.timestamp() * 1_000_000))
    return limits
