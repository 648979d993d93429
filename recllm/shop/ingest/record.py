"""Events with keys, so that a file sent twice counts once, and two equal lines of an order twice.

The key of an event is that of its id, or else made of its content and its number among the equal ones of the file.
Hashes are BLAKE2b. The person enters as a pseudonym, so that raw ids cannot be tried out against the keys.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Ints
from recllm.base.errors import DataError
from recllm.base.schema import Action, Table
from recllm.shop.store.database import Store
from recllm.shop.store.readers import EVENT_DETAILS
from recllm.shop.store.writers import COLUMNS, WriteResult

KEY_BYTES = 16

EVENT_TYPES: Mapping[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("event_id", "session_id"), pl.String),
    "timestamp": pl.Datetime("us", "UTC"),
    "is_timed": pl.Boolean,
    **{name.removesuffix("?"): dtype for name, dtype in COLUMNS[Table.EVENTS].items()},
}
"""Of the columns of events to record, and of those that the store makes of them."""
# the order decides the keys of stored events: never change it
_CONTENT = (
    "user_id", "item_id", "event", "at", "basket_id", "price", "quantity", "value", "request_id", "position",
    "model_version",
)  # fmt: skip


def record_events(events: pl.DataFrame, store: Store, *, source: str) -> WriteResult:
    """Appends events of the program itself, durable on return; the same events again are duplicates.

    events: of `EVENT_TYPES`: user_id (pseudonyms), item_id, event (value of an `Action`), timestamp (aware), and where
    known others, quantity being 1 where null. is_timed: False where the time was filled in; an event with an id is then
    the same at any time. Raises `DataError` for a missing column, an empty id, an unknown event or a naive time.
    """
    for name in ("user_id", "item_id", "event", "timestamp"):
        if name not in events.columns or events[name].null_count():
            raise DataError(f"events to record: {name} is missing or empty; found {', '.join(events.columns)}")
    dtype = events["timestamp"].dtype
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise DataError(f"events to record: timestamp is {dtype}; give aware datetimes")
    unknown = sorted(set(events["event"].unique()) - set(Action))
    if unknown:
        raise DataError(f"events to record: unknown event {unknown[0]!r}; known: {', '.join(Action)}")
    optional = [pl.col(name).cast(EVENT_TYPES[name]) for name in ("event_id", *EVENT_DETAILS) if name in events.columns]
    at = pl.col("timestamp").dt.convert_time_zone("UTC").dt.epoch("us").alias("at")
    rows = events.select("user_id", "item_id", "event", *optional, at)
    quantity = pl.col("quantity").fill_null(1.0) if "quantity" in rows.columns else pl.lit(1.0)
    if "is_timed" in events.columns:
        rows = rows.with_columns(events["is_timed"])
    with store.load(Table.EVENTS, load_id=uuid.uuid4().hex, source=source) as load:
        return load.write(with_event_keys(rows.with_columns(quantity=quantity), Occurrences()))


def record_rows(rows: pl.DataFrame, table: Table, store: Store, *, source: str) -> WriteResult:
    """Writes users, items or decisions of the program itself, in the columns of `COLUMNS`; durable on return."""
    with store.load(table, load_id=uuid.uuid4().hex, source=source) as load:
        return load.write(rows)


class Occurrences:
    """Counts equal contents over all chunks of a file, in 12 bytes per distinct content: in sorted runs, each several
    times as long as the next, so that merging moves a content only a few times."""

    _GROWTH = 4

    def __init__(self) -> None:
        self._runs: list[tuple[NDArray[np.uint64], NDArray[np.uint32]]] = []
        """Contents, ascending, and how often each occurred."""

    def number(self, contents: NDArray[np.uint64]) -> Ints:
        """For each entry the number of equal ones before, in all calls; int64 (n,)."""
        if not len(contents):
            return np.zeros(0, np.int64)
        values, inverse, counts = np.unique(contents, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        within = np.empty(len(contents), np.int64)
        within[order] = np.arange(len(contents)) - np.repeat(np.cumsum(counts) - counts, counts)
        before, counts, runs = np.zeros(len(values), np.int64), counts.astype(np.uint32), self._runs
        for run, times in runs:
            at = np.minimum(np.searchsorted(run, values), len(run) - 1)
            occurs = run[at] == values
            before[occurs] = times[at[occurs]]
            times[at[occurs]] += counts[occurs]
        if (new := before == 0).any():
            runs.append((values[new], counts[new]))
        while len(runs) > 1 and len(runs[-2][0]) < self._GROWTH * len(runs[-1][0]):
            (earlier, times), (later, times_of_later) = runs[-2:]
            at = np.searchsorted(earlier, later)
            runs[-2:] = [(np.insert(earlier, at, later), np.insert(times, at, times_of_later))]
        return within + before[inverse]


def with_event_keys(events: pl.DataFrame, occurrences: Occurrences) -> pl.DataFrame:
    """`events` with event_key (16 bytes) and payload_hash (int64).
    Its event_id, where there is one, is the key."""
    texts = {c: pl.col(c).cast(pl.String).fill_null("") if c in events.columns else pl.lit("") for c in _CONTENT}
    if "is_timed" in events.columns:
        texts["at"] = pl.when(pl.col("is_timed") | pl.col("event_id").is_null()).then(texts["at"]).otherwise(pl.lit(""))
    parts = list(texts.values())
    keys = text_digests(events.select(pl.concat_str(parts, separator="\x1f")).to_series())
    payload_hash = keys[:, 1].astype(np.int64)
    ids = events["event_id"] if "event_id" in events.columns else pl.Series([None], dtype=pl.String)
    has_id = np.broadcast_to(ids.is_not_null().to_numpy(), events.height)
    number = np.zeros(events.height, np.int64)
    number[~has_id] = occurrences.number(keys[~has_id, 0])
    keys[:, 1] ^= number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # the n-th equal line is another event
    keys[has_id] = text_digests("id\x1f" + ids.drop_nulls())
    key_bytes = keys.tobytes()
    event_keys = [key_bytes[i : i + KEY_BYTES] for i in range(0, len(key_bytes), KEY_BYTES)]
    return events.drop("event_id", "is_timed", strict=False).with_columns(
        event_key=pl.Series(event_keys, dtype=pl.Binary), payload_hash=pl.Series(payload_hash, dtype=pl.Int64)
    )


def text_digests(texts: pl.Series) -> NDArray[np.uint64]:
    """Shape (n, 2): 128 bits of each text."""
    joined = b"".join(hashlib.blake2b(t.encode("utf-8"), digest_size=KEY_BYTES).digest() for t in texts)
    return np.frombuffer(joined, "<u8").reshape(-1, 2).copy()
