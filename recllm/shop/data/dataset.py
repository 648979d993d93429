"""A frozen cut of a shop: users, items, and the events before a time.

Training, answers and evaluation work on a `Dataset`. Events are arrays in compressed-row form, one run per person,
oldest first. Cutting a dataset in time keeps the row numbers, so vectors computed once stay valid for every cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Array, Floats, Ints, Ints32, Mask, Rows
from recllm.base.errors import DataError, UsageError
from recllm.base.schema import ACTION_CODE, Action
from recllm.shop.data.people_sample import PeopleSample, sampled_rows

DAY = 86_400

EVENTS_OF_A_PART = 2_000_000
"""Events that are counted at a time, which keeps people whole: with all results some 700 MB."""

USER_COLUMN = "user_id"
OPEN_CART = -2
"""In `Events.basket`: the item is in the cart that the request names."""
ITEM_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "item_id": pl.String,
    "title": pl.String,
    "category": pl.List(pl.String),
    "brand": pl.String,
    "description": pl.String,
    "price": pl.Float64,
    "currency": pl.String,
    "available": pl.Boolean,
    "attributes": pl.String,
    "available_until": pl.Datetime("us", "UTC"),
    "stock_stated": pl.Boolean,
}
"""Columns of `Dataset.items`, null where missing; `attributes` is a JSON object of strings, from `available_until` on
an item is off sale; `stock_stated` where `available` is the shop's own word."""


def row_starts(lengths: Array | Sequence[int]) -> Ints:
    """Where each of n compressed rows of these lengths begins, and last where they end, (n + 1,)."""
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Events:
    """Events in compressed-row form: those of user u are rows indptr[u]:indptr[u + 1], ascending in time.

    item: int32 (n,), row of `Dataset.items`. at: int64 (n,), epoch seconds. action: uint8 (n,), `ACTION_CODE`.
    quantity: float32 (n,). price: float32 (n,), per unit, NaN where unknown. basket: int32 (n,), -1 where unknown;
    equal numbers of one person are one basket. indptr: int64 (n_users + 1,).
    """

    indptr: Ints
    item: Ints32
    at: Ints
    action: NDArray[np.uint8]
    quantity: Floats
    price: Floats
    basket: Ints32

    def __len__(self) -> int:
        return len(self.item)

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    def parts(self) -> Iterator[tuple[int, Events]]:
        """Row of the first user of each part, and the events of its users; one part where the log is short."""
        for first, end in person_ranges(self.indptr, EVENTS_OF_A_PART):
            start, stop = self.indptr[first], self.indptr[end]
            indptr = self.indptr[first : end + 1] - start
            yield first, Events(indptr, *(column[start:stop] for column in self.columns()))

    @property
    def user(self) -> Ints32:
        """Row of `Dataset.users` for each event, int32 (n,)."""
        return np.repeat(np.arange(len(self.indptr) - 1, dtype=np.int32), np.diff(self.indptr))

    def select(self, mask: Mask) -> Events:
        """The events where `mask`, shape (n,), is true; users keep their rows."""
        return Events(row_starts(mask)[self.indptr], *(column[mask] for column in self.columns()))

    def rows(self, users: Rows) -> Events:
        """The events of these users, one run each in the order given (a user may be repeated); an empty one for -1."""
        starts, ends = self.indptr[users], self.indptr[np.asarray(users) + 1]
        lengths = np.maximum(ends - starts, 0)  # of -1 the end is the first event
        indptr = row_starts(lengths)
        index = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - starts, lengths)
        return Events(indptr, *(column[index] for column in self.columns()))

    @classmethod
    def nothing(cls, n_users: int = 0) -> Events:
        columns: tuple[Array, ...] = tuple(np.zeros(0, dtype) for dtype in EVENT_DTYPES)
        return cls(np.zeros(n_users + 1, np.int64), *columns)

    @classmethod
    def of_rows(
        cls,
        n_users: int,
        user: Rows,
        item: Rows,
        at: Ints,
        action: NDArray[np.integer],
        quantity: NDArray[np.floating],
        price: NDArray[np.floating],
        basket_id: pl.Series | None,
    ) -> Events:
        """Events in any order, (n,) each; of one user, time and item they keep it. price: NaN where unknown.
        basket_id: null where unknown."""
        basket = np.full(len(user), -1)
        if basket_id is not None:
            basket = np.where(basket_id.is_null().to_numpy(), -1, basket_id.rank("dense").fill_null(0).to_numpy())
        order = np.lexsort((item, at, user))
        indptr = row_starts(np.bincount(user, minlength=n_users))
        columns = zip((item, at, action, quantity, price, basket), EVENT_DTYPES, strict=True)
        return cls(indptr, *(column.astype(dtype, copy=False)[order] for column, dtype in columns))

    @classmethod
    def concat(cls, parts: Sequence[Events]) -> Events:
        """The users of all parts one after another, each with the same events as before.

        Raises `UsageError` without a part: then the types of the columns are unknown.
        """
        if not parts:
            raise UsageError("there are no events to put together; give one part or several")
        lengths = np.concatenate([np.diff(events.indptr) for events in parts])
        columns = (np.concatenate(column) for column in zip(*(events.columns() for events in parts), strict=True))
        return cls(row_starts(lengths), *columns)

    def columns(self) -> tuple[Array, ...]:
        """Every array but `indptr`, in the order of the fields."""
        return tuple(getattr(self, name.name) for name in fields(self)[1:])

    def of(self, action: Action) -> Events:
        return self.select(self.action == ACTION_CODE[action])


EVENT_DTYPES = (np.int32, np.int64, np.uint8, np.float32, np.float32, np.int32)
"""Of the columns of `Events`, in the order of the fields."""


def person_ranges(indptr: Ints, n_events: int) -> Iterator[tuple[int, int]]:
    """Rows of users, first and end, of parts of about `n_events` events of whole people."""
    first, n_users = 0, len(indptr) - 1
    while first < n_users:
        end = int(np.searchsorted(indptr, indptr[first] + n_events, side="right")) - 1
        end = n_users if indptr[-1] - indptr[first] <= n_events else min(max(end, first + 1), n_users)
        yield first, end
        first = end


class ItemLookup:
    """Rows of a table of items by ids, and the items on offer."""

    def __init__(self, items: pl.DataFrame) -> None:
        self.items = items

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.items["item_id"])}

    @cached_property
    def available(self) -> Mask:
        """Which items are not off sale, (n_items,)."""
        return self.items["available"].to_numpy()

    @cached_property
    def _until(self) -> Ints:
        until = self.items["available_until"].dt.epoch("us")
        return until.fill_null(np.iinfo(np.int64).max).to_numpy()

    def on_offer(self, as_of: int) -> Mask:
        return np.asarray(self.available & (self._until > as_of * 1_000_000))

    def rows(self, item_ids: Iterable[str]) -> Ints:
        """(n,), -1 for an unknown id. Those of a column are joined, others looked up one by one."""
        if isinstance(item_ids, pl.Series):
            return rows_of_ids(self.items["item_id"], item_ids)
        row_of = self._row_of
        return np.array([row_of.get(item_id, -1) for item_id in item_ids], np.int64)


@dataclass(frozen=True, eq=False)
class Dataset:
    """`users` (user_id and one text column per basic), `items` (`ITEM_SCHEMA`) and `events` before `as_of`.

    `as_of` is epoch seconds. Item rows stand in the order of a hash of the id, so that neither the reading order nor
    the id's own order can reach a model or break a tie.
    """

    users: pl.DataFrame
    items: pl.DataFrame
    events: Events
    as_of: int
    item_index: ItemLookup = field(default=None, repr=False)  # type: ignore[assignment]
    """Of `items`; later cuts keep it."""
    step_seconds: int | None = None
    """Length of a step in a log without times, see `recllm.shop.data.order`; None where it has times."""
    sample: PeopleSample | None = None
    """The sample that these people are; None for all people."""

    def __post_init__(self) -> None:
        if self.item_index is None or self.item_index.items is not self.items:
            object.__setattr__(self, "item_index", ItemLookup(self.items))

    @property
    def n_users(self) -> int:
        return self.users.height

    @property
    def n_items(self) -> int:
        return self.items.height

    @classmethod
    def construct(
        cls,
        events: pl.DataFrame,
        users: pl.DataFrame | None = None,
        items: pl.DataFrame | None = None,
        *,
        as_of: int | datetime | None = None,
    ) -> Dataset:
        """A dataset of tables.

        events: columns user_id, item_id, timestamp (aware datetime, or epoch seconds) and, where known, event (default
        "purchase"), quantity (1), price (null), basket_id (null). users: user_id and basics. items: `ITEM_SCHEMA`,
        missing columns allowed. People and items that only occur in events get a bare row. `as_of` defaults to one
        second after the last event. Raises `DataError` for a missing column, an id that is repeated, empty or no text,
        an empty or naive time, and a number that is not finite (a NaN price is unknown); `UsageError` for a naive
        `as_of`.
        """
        if isinstance(as_of, datetime) and as_of.utcoffset() is None:
            raise UsageError(f"as_of: {as_of} has no time zone; give it one, e.g. as_of.replace(tzinfo=timezone.utc)")
        _require(events, ("user_id", "item_id", "timestamp"), "events")
        events = events.with_columns(_ids(events, key, "events") for key in (USER_COLUMN, "item_id"))
        at = epoch_seconds(events["timestamp"])
        users = with_bare_rows(users, "users", events[USER_COLUMN])
        items = conformed_items(with_bare_rows(items, "items", events["item_id"]))
        items = items[hash_order(items["item_id"])]
        index = ItemLookup(items)
        user, item = rows_of_ids(users["user_id"], events["user_id"]), index.rows(events["item_id"])
        packed = _pack(events, at, user, item, users.height)
        if as_of is None:
            limit = int(at.max()) + 1 if len(at) else 0
        else:
            limit = int(as_of.timestamp()) if isinstance(as_of, datetime) else int(as_of)
        return cls(users, items, packed, limit, index).before(limit)

    def before(self, as_of: int) -> Dataset:
        """The same people and items, with only the events strictly before `as_of` (epoch seconds)."""
        late = self.events.at >= as_of
        return replace(self, events=self.events.select(~late) if late.any() else self.events, as_of=int(as_of))

    def sampled(self, limit: int) -> Dataset:
        """At most `limit` of the people, with all of their events; see `recllm.shop.data.people_sample`."""
        rows = sampled_rows(self.users[USER_COLUMN].to_list(), limit)
        if len(rows) == self.n_users:
            return self
        of_people = self.n_users if self.sample is None else self.sample.of_people
        sample = PeopleSample(people=len(rows), of_people=of_people)
        return replace(self, users=self.users[rows.tolist()], events=self.events.rows(rows), sample=sample)

    def between(self, start: int, end: int, action: Action = Action.PURCHASE) -> Events:
        e = self.events
        return e.select((e.at >= start) & (e.at < end) & (e.action == ACTION_CODE[action]))

    @classmethod
    def of_catalogue(cls, items: pl.DataFrame, as_of: int) -> Dataset:
        """Items in the order of their rows, without people. items: `ITEM_SCHEMA`."""
        return cls(pl.DataFrame(schema={USER_COLUMN: pl.String}), items, Events.nothing(), as_of)

    def pack(self, events: pl.DataFrame, user_ids: Sequence[str]) -> Events:
        """Events of a table as for `construct`, on this dataset's items: one run for each of `user_ids`.

        Those of other users, of unknown items, and from `as_of` on are left out.
        """
        at = epoch_seconds(events["timestamp"])
        user = rows_of_ids(pl.Series(user_ids, dtype=pl.String), events[USER_COLUMN])
        item = self.item_rows(events["item_id"])
        used = (user >= 0) & (item >= 0) & (at < self.as_of)
        return _pack(events.filter(used), at[used], user[used], item[used], len(user_ids))

    def pack_rows(self, runs: Sequence[Sequence[tuple[str, int, int, float, float | None, str | None]]]) -> Events:
        """`pack` for the rows of a few users, one run for each. A row holds item_id, code of the action, epoch
        microseconds, quantity, price and basket_id; the last two may be None."""
        rows = [row for run in runs for row in run]
        if not rows:
            return Events.nothing(len(runs))
        ids, actions, times, quantities, prices, baskets = zip(*rows, strict=True)
        item, at = self.item_index.rows(ids), np.array(times, np.int64) // 1_000_000
        used = (item >= 0) & (at < self.as_of)
        user = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
        action, quantity = np.array(actions)[used], np.array(quantities, np.float32)[used]
        price = np.array(prices, np.float32)[used]  # None becomes NaN
        basket_id = pl.Series(baskets, dtype=pl.String).filter(pl.Series(used))
        return Events.of_rows(len(runs), user[used], item[used], at[used], action, quantity, price, basket_id)

    def with_items(self, keep: Mask) -> Dataset:
        """Only these items, shape (n_items,), and the events on them."""
        keep = np.asarray(keep, dtype=bool)
        number = np.cumsum(keep, dtype=np.int32) - 1
        e = self.events.select(keep[self.events.item])
        return replace(self, items=self.items.filter(pl.Series(keep)), events=replace(e, item=number[e.item]))

    def user_rows(self, user_ids: Iterable[str]) -> Ints:
        """Row of each id, -1 where unknown."""
        return rows_of_ids(self.users["user_id"], user_ids)

    def item_ids(self, rows: Rows | list[int]) -> list[str]:
        """The id of each row of `items`."""
        return self.items["item_id"].gather(rows).to_list()

    def item_rows(self, item_ids: Iterable[str]) -> Ints:
        """Row of each id, -1 where unknown."""
        return self.item_index.rows(item_ids)

    def data_hash(self) -> str:
        """SHA-256 over ids, texts and events, 16 hex digits: equal data, equal hash.

        It does not depend on the reading order, versions of libraries, `as_of` and the numbers of baskets. Names and
        texts are hashed as JSON, figures as little-endian arrays.
        """
        by_id = self.users[USER_COLUMN].arg_sort().to_numpy()
        digest = hashlib.sha256()
        for frame in (self.users[by_id.tolist()], self.items):
            for name in sorted(frame.columns):
                if name == "stock_stated" or (name == "available_until" and frame[name].null_count() == frame.height):
                    continue  # as before these columns were added
                digest.update(json.dumps([name, frame[name].to_list()], default=str).encode())
        e, row_of_user = self.events, np.argsort(by_id)
        lines = pl.DataFrame(
            {"user": row_of_user[e.user], "at": e.at, "item": e.item, "action": e.action, "quantity": e.quantity,
             "price": e.price, "basket": e.basket}
        ).sort(pl.all())  # fmt: skip
        for name in lines.columns[:-1]:
            array = lines[name].to_numpy()
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        basket, user = lines["basket"].to_numpy(), lines["user"].to_numpy()
        _, first_line, inverse = np.unique(user * 2**32 + basket, return_index=True, return_inverse=True)
        digest.update(np.where(basket < 0, -1, first_line[inverse]).astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def hash_order(item_ids: Iterable[str]) -> Ints:
    """The order of items in a `Dataset`, by a hash of their ids; positions, (n,)."""
    return np.argsort(
        [hashlib.blake2b(item_id.encode(), digest_size=8).digest() for item_id in item_ids], kind="stable"
    )


def _require(frame: pl.DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise DataError(f"{name}: missing column {', '.join(missing)}; found {', '.join(frame.columns)}")


def _filled(column: pl.Series, name: str) -> pl.Series:
    """The column, or a `DataError` that names its first empty row."""
    if column.null_count():
        row = int(column.is_null().arg_max() or 0)
        raise DataError(f"{name}: empty in {column.null_count()} rows, first in row {row}; fill it or leave them out")
    return column


def _ids(frame: pl.DataFrame, key: str, table: str) -> pl.Series:
    column = frame[key]
    if not isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum) and frame.height:
        raise DataError(f"{table}.{key}: {column.dtype} instead of text; convert it: pl.col({key!r}).cast(pl.String)")
    return _filled(column.cast(pl.String), f"{table}.{key}")


def epoch_seconds(column: pl.Series) -> Ints:
    _filled(column, "events.timestamp")
    if isinstance(column.dtype, pl.Datetime):
        if column.dtype.time_zone is None:
            raise DataError("events.timestamp: naive times; give each time a zone, e.g. dt.replace_time_zone('UTC')")
        return column.dt.epoch("s").to_numpy().astype(np.int64)
    if column.dtype.is_integer():
        return column.to_numpy().astype(np.int64)
    raise DataError(f"events.timestamp: {column.dtype} is neither an aware datetime nor integer epoch seconds")


def with_bare_rows(frame: pl.DataFrame | None, table: str, in_events: pl.Series) -> pl.DataFrame:
    """The table, and a bare row for each id that only occurs in events."""
    key, in_events = in_events.name, in_events.unique()
    if frame is None:
        return pl.DataFrame({key: in_events.sort()})
    _require(frame, (key,), table)
    frame = frame.with_columns(_ids(frame, key, table))
    if frame[key].n_unique() != frame.height:
        raise DataError(f"{key} repeats in its table: {frame.filter(frame[key].is_duplicated())[key][0]!r}")
    bare = in_events.filter(~in_events.is_in(frame[key].implode())).sort()
    return pl.concat([frame, pl.DataFrame({key: bare})], how="diagonal")


def conformed_items(items: pl.DataFrame) -> pl.DataFrame:
    columns = []
    for name, dtype in ITEM_SCHEMA.items():
        if name not in items.columns:
            columns.append(pl.lit(None, dtype=dtype).alias(name))
        elif isinstance(dtype, pl.List) and items[name].dtype == pl.String:
            columns.append(pl.col(name).str.split(" > "))
        else:
            columns.append(pl.col(name).cast(dtype))
    if "price" in items.columns:
        items = items.with_columns(finite_numbers(items["price"], "items.price", pl.Float64()).fill_nan(None))
    return items.select(columns).with_columns(pl.col("available").fill_null(True))


def _pack(events: pl.DataFrame, at: Ints, user: Ints, item: Ints, n_users: int) -> Events:
    n = events.height
    action = np.full(n, ACTION_CODE[Action.PURCHASE], np.uint8)
    if "event" in events.columns:
        code = {a.value: c for a, c in ACTION_CODE.items()}
        unknown = set(events["event"].unique()) - set(code)
        if unknown:
            raise DataError(f"events.event: unknown action {sorted(map(str, unknown))}; known: {', '.join(code)}")
        action = events["event"].replace_strict(code, return_dtype=pl.UInt8).to_numpy()
    quantity, price = np.ones(n, np.float32), np.full(n, np.nan, np.float32)
    if "quantity" in events.columns:
        numbers = finite_numbers(events["quantity"], "events.quantity", pl.Float32(), nan=False)
        quantity = numbers.fill_null(1.0).to_numpy()
    if "price" in events.columns:
        price = finite_numbers(events["price"], "events.price", pl.Float32()).fill_null(np.nan).to_numpy()
    basket_id = events["basket_id"] if "basket_id" in events.columns else None
    return Events.of_rows(n_users, user, item, at, action, quantity, price, basket_id)


def finite_numbers(column: pl.Series, name: str, dtype: pl.DataType, *, nan: bool = True) -> pl.Series:
    """The column as floats; nulls stay, and with `nan` NaN too. `DataError` for what is not a finite number."""
    numbers = column.cast(dtype, strict=False)
    wrong = (numbers.is_null() & column.is_not_null()) | numbers.is_infinite() | (numbers.is_nan() & (not nan))
    if wrong.fill_null(False).any():
        row = int(wrong.fill_null(False).arg_max() or 0)
        raise DataError(f"{name}: {column[row]!r} in row {row} is not a finite number; correct it or leave it empty")
    return numbers


def rows_of_ids(ids: pl.Series, sought: Iterable[Any]) -> Ints:
    """Row of each of the sought in a column of distinct ids or numbers, -1 where it is not."""
    left = pl.DataFrame({"id": pl.Series(sought, dtype=ids.dtype)})
    right = pl.DataFrame({"id": ids, "row": np.arange(len(ids), dtype=np.int64)})
    return left.join(right, on="id", how="left", maintain_order="left")["row"].fill_null(-1).to_numpy()
