"""From a frame of good rows to rows of the store, table by table. The columns listed here are the contract.

A column marked "?" may be missing or hold nulls. User ids arrive as pseudonyms: nothing below knows another kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl
from sqlalchemy import Connection, Table, func, select

from recllm.errors import DataError
from recllm.schema import ACTION_CODE
from recllm.store import tables
from recllm.store.bulk import delete_rows, insert_new, lookup, upsert

Columns = Mapping[str, pl.DataType | type[pl.DataType]]

EVENT_COLUMNS: Columns = {
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
}
USER_COLUMNS: Columns = {"user_id": pl.String, "basics": pl.String}  # basics: a JSON object of strings
ITEM_COLUMNS: Columns = {
    "item_id": pl.String,
    "title": pl.String,
    "available": pl.Boolean,
    "category?": pl.String,  # a JSON list, widest name first
    "brand?": pl.String,
    "description?": pl.String,
    "price?": pl.String,  # decimal text
    "currency?": pl.String,
    "attributes?": pl.String,  # a JSON object of strings
}
CONSENT_COLUMNS: Columns = {"user_id": pl.String, "purpose": pl.String, "granted": pl.Boolean, "at": pl.Int64}

_RING_LIMIT = 1_000_000  # ids remembered during a load, about 100 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """Account of one frame: accepted + duplicates + len(conflicts) == its height.

    conflicts: row positions in the frame whose key is known with other content; the known content stays.
    """

    accepted: int
    duplicates: int
    conflicts: list[int] = field(default_factory=list)


class KeyRing:
    """Integer keys of the ids that a load meets. An unknown id gets a row made of `bare`."""

    def __init__(self, table: Table, id_column: str, key_column: str, bare: Mapping[str, object]) -> None:
        self._table, self._id, self._key, self._bare = table, id_column, key_column, bare
        self._keys = pl.DataFrame(schema={id_column: pl.String, key_column: pl.Int64})
        self._new = pl.DataFrame(schema={id_column: pl.String})

    def keys(self, connection: Connection, ids: pl.Series) -> pl.Series:
        """The key of each id, in the same order."""
        self._new = self._new.clear()
        distinct = ids.unique().to_frame(self._id)
        missing = distinct.join(self._keys, on=self._id, how="anti")
        if self._keys.height + missing.height > _RING_LIMIT:
            self._keys, missing = self._keys.clear(), distinct
        if missing.height:
            missing = missing.sort(self._id)
            stored = self._find(connection, missing[self._id])
            self._new = missing.join(stored, on=self._id, how="anti", maintain_order="left")
            self._keys = pl.concat([self._keys, stored])
        if self._new.height:
            bare = self._new.with_columns(pl.lit(value).alias(name) for name, value in self._bare.items())
            insert_new(connection, self._table, bare, key=[self._id])
            self._keys = pl.concat([self._keys, self._find(connection, self._new[self._id])])
        return ids.to_frame(self._id).join(self._keys, on=self._id, how="left", maintain_order="left")[self._key]

    def take_back(self, connection: Connection, used: pl.Series) -> None:
        """Removes the rows that the last call of `keys` made for ids that are not `used` after all."""
        unused = self._new.join(used.to_frame(self._id), on=self._id, how="anti")
        if unused.height:
            delete_rows(connection, self._table, self._table.c[self._id], unused[self._id])
            self._keys = self._keys.join(unused, on=self._id, how="anti")

    def _find(self, connection: Connection, ids: pl.Series) -> pl.DataFrame:
        columns = self._table.c[self._id], self._table.c[self._key]
        return lookup(connection, columns[0], columns[1], ids).rename({"key": self._id, "value": self._key})


def write_events(
    connection: Connection, frame: pl.DataFrame, *, users: KeyRing, items: KeyRing, load: int
) -> WriteResult:
    """Appends events (`EVENT_COLUMNS`). The first of several equal keys counts; unknown items become pending."""
    frame = conform(frame, EVENT_COLUMNS, "events")
    if frame.is_empty():
        return WriteResult(accepted=0, duplicates=0)
    # in the order of the key, neighbouring rows touch the same pages of the key's index
    first = frame.unique("event_key", keep="first").sort("event_key")
    last_no = connection.scalar(select(func.max(tables.events.c.event_no))) or 0
    codes = {action.value: code for action, code in ACTION_CODE.items()}
    unknown = sorted(set(first["event"].unique()) - set(codes))
    if unknown:
        raise DataError(f"events.event: unknown action {unknown[0]!r}; known: {', '.join(codes)}")
    rows = first.drop("user_id", "item_id", "event").with_columns(
        user_key=users.keys(connection, first["user_id"]),
        item_key=items.keys(connection, first["item_id"]),
        action=first["event"].replace_strict(codes, return_dtype=pl.Int16),
        load_no=pl.lit(load),
    )
    accepted = insert_new(connection, tables.events, rows, key=["event_key"])
    if accepted == frame.height:
        return WriteResult(accepted=accepted, duplicates=0)
    new_keys = connection.scalars(select(tables.events.c.event_key).where(tables.events.c.event_no > last_no)).all()
    new = first.join(pl.DataFrame({"event_key": pl.Series(new_keys, dtype=pl.Binary)}), on="event_key", how="semi")
    conflicts = _conflicts(connection, frame, new)
    users.take_back(connection, new["user_id"])
    items.take_back(connection, new["item_id"])
    return WriteResult(accepted=accepted, duplicates=frame.height - accepted - len(conflicts), conflicts=conflicts)


def write_users(connection: Connection, frame: pl.DataFrame) -> WriteResult:
    """Inserts or replaces people (`USER_COLUMNS`). The same content again is a duplicate."""
    frame = conform(frame, USER_COLUMNS, "users")
    accepted = upsert(connection, tables.users, frame, key="user_id")
    return WriteResult(accepted=accepted, duplicates=frame.height - accepted)


def write_items(connection: Connection, frame: pl.DataFrame) -> WriteResult:
    """Inserts or replaces products (`ITEM_COLUMNS`). A product that was pending is so no longer."""
    frame = conform(frame, ITEM_COLUMNS, "items").with_columns(pending=pl.lit(False))
    accepted = upsert(connection, tables.items, frame, key="item_id")
    return WriteResult(accepted=accepted, duplicates=frame.height - accepted)


def write_consent(connection: Connection, frame: pl.DataFrame, *, users: KeyRing) -> WriteResult:
    """Appends decisions (`CONSENT_COLUMNS`); nothing is replaced, the latest one counts when read."""
    frame = conform(frame, CONSENT_COLUMNS, "consent")
    keys = users.keys(connection, frame["user_id"])
    rows = frame.drop("user_id").with_columns(user_key=keys)
    accepted = insert_new(connection, tables.consent, rows, key=["user_key", "purpose", "at", "granted"])
    return WriteResult(accepted=accepted, duplicates=frame.height - accepted)


def conform(frame: pl.DataFrame, columns: Columns, name: str) -> pl.DataFrame:
    """The frame with exactly `columns`, optional ones filled with nulls. `DataError` for a missing or wrong one."""
    picked = []
    for label, dtype in columns.items():
        column = label.removesuffix("?")
        if column not in frame.columns:
            if column == label:
                raise DataError(f"{name}: missing column {column}; found {', '.join(frame.columns)}")
            picked.append(pl.lit(None, dtype=dtype).alias(column))
        elif frame[column].dtype not in (dtype, pl.Null):
            raise DataError(f"{name}.{column}: {frame[column].dtype} instead of {dtype}")
        elif column == label and frame[column].null_count():
            raise DataError(f"{name}.{column}: empty in {frame[column].null_count()} rows; it is required")
        else:
            picked.append(pl.col(column).cast(dtype))
    return frame.select(picked)


def _conflicts(connection: Connection, frame: pl.DataFrame, new: pl.DataFrame) -> list[int]:
    """Rows of `frame` whose content differs from what the store now has under their key; `new` came from it."""
    earlier = frame.select(pl.col("event_key").unique()).join(new, on="event_key", how="anti")["event_key"].sort()
    stored = lookup(connection, tables.events.c.event_key, tables.events.c.payload_hash, earlier)
    stored = stored.rename({"key": "event_key", "value": "stored_hash"})
    stored = pl.concat([new.select("event_key", stored_hash="payload_hash"), stored])
    rows = frame.select("event_key", "payload_hash").with_row_index("row").join(stored, on="event_key", how="left")
    return rows.filter(pl.col("payload_hash") != pl.col("stored_hash"))["row"].sort().to_list()
