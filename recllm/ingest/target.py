"""Where good rows go: a store, a store that forgets again (`validate`), or nowhere at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import polars as pl

from recllm.schema import Table
from recllm.store import Store, Written

_KEYS: Mapping[Table, tuple[str, ...]] = {
    Table.EVENTS: ("event_key",),
    Table.USERS: ("user_id",),
    Table.ITEMS: ("item_id",),
    Table.CONSENT: ("user_id", "purpose", "at", "granted"),
}


class Sink(Protocol):
    """What a load writes to."""

    def write(self, frame: pl.DataFrame, /) -> Written: ...

    def counts(self, numbers: Mapping[str, int], /) -> None: ...


class _ForgetError(Exception):
    """Leaves a store's load without its rows."""


@contextmanager
def open_sink(
    store: Store | None, table: Table, *, load_id: str, source: str, sha256: str, dry_run: bool
) -> Iterator[Sink]:
    """All or nothing, as the store's load is. With `dry_run` always nothing, with the same counts."""
    if store is None:
        yield Counting(table)
        return
    try:
        with store.load(table, load_id=load_id, source=source, sha256=sha256) as load:
            yield load
            if dry_run:
                raise _ForgetError
    except _ForgetError:
        return


class Counting:
    """Counts as an empty store would, and keeps only hashes."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._seen = pl.DataFrame(schema={"key": pl.UInt64, "content": pl.UInt64})

    def write(self, frame: pl.DataFrame) -> Written:
        rest = [c for c in frame.columns if c not in _KEYS[self._table]]
        hashes = frame.select(key=_hash(list(_KEYS[self._table])), content=_hash(rest or list(_KEYS[self._table])))
        if self._table is Table.EVENTS:
            hashes = hashes.with_columns(content=frame["payload_hash"].hash())
        rows = pl.concat(
            [self._seen.with_columns(row=pl.lit(-1)), hashes.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int32))]
        )
        if self._table is Table.EVENTS:
            held = pl.col("content").first().over("key")
            repeated = ~pl.col("key").is_first_distinct()
        else:
            held = pl.col("content").shift(1).over("key")
            repeated = held.is_not_null()
        rows = rows.with_columns(repeated=repeated, same=(pl.col("content") == held)).filter(pl.col("row") >= 0)
        duplicates = int((rows["repeated"] & rows["same"]).sum())
        conflicts: list[int] = []
        if self._table is Table.EVENTS:
            conflicts = rows.filter(pl.col("repeated") & ~pl.col("same"))["row"].to_list()
        self._remember(hashes)
        return Written(accepted=frame.height - duplicates - len(conflicts), duplicates=duplicates, conflicts=conflicts)

    def _remember(self, hashes: pl.DataFrame) -> None:
        rows = pl.concat([self._seen, hashes])
        self._seen = (
            rows.unique("key", keep="first") if self._table is Table.EVENTS else rows.unique("key", keep="last")
        )

    def counts(self, numbers: Mapping[str, int]) -> None:
        """Nothing is recorded."""


def _hash(columns: list[str]) -> pl.Expr:
    return pl.struct(columns).hash()
