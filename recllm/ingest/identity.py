"""Which event is which, so that a file sent twice counts once and two equal lines of one order count twice.

An event with an id of its own is that id. Any other is its content (person, product, kind, time, basket, price,
quantity and the rest) and the how-manieth of its kind it is in the file. Hashes are BLAKE2b, stable across versions.
The person enters as a pseudonym, so nobody can try out raw ids against the keys.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

CONTENT = (
    "user_id",
    "item_id",
    "event",
    "at",
    "basket_id",
    "price",
    "quantity",
    "value",
    "request_id",
    "position",
    "model_version",
)
KEY_BYTES = 16


class Occurrences:
    """Counts equal contents over all chunks of a file, in 12 bytes per distinct content."""

    def __init__(self) -> None:
        self._seen: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._count: NDArray[np.uint32] = np.empty(0, np.uint32)

    def number(self, content: NDArray[np.uint64]) -> NDArray[np.int64]:
        """For each entry how many equal ones came before it, in this call and in earlier ones; int64 (n,)."""
        values, inverse, count = np.unique(content, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        starts = np.cumsum(count) - count
        within = np.empty(len(content), np.int64)
        within[order] = np.arange(len(content)) - np.repeat(starts, count)
        before: NDArray[np.int64] = self._merge(values, count.astype(np.uint32))[inverse]
        return within + before

    def _merge(self, values: NDArray[np.uint64], count: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Take distinct, sorted values in; returns how often each was seen before."""
        at = np.searchsorted(self._seen, values)
        known = np.zeros(len(values), bool)
        inside = at < len(self._seen)
        known[inside] = self._seen[at[inside]] == values[inside]
        before = np.zeros(len(values), np.int64)
        before[known] = self._count[at[known]]
        self._count[at[known]] += count[known]
        self._seen = np.insert(self._seen, at[~known], values[~known])
        self._count = np.insert(self._count, at[~known], count[~known])
        return before


def identify(events: pl.DataFrame, event_id: pl.Series | None, occurrences: Occurrences) -> pl.DataFrame:
    """`events` with event_key (16 bytes) and payload_hash (int64). `event_id`, where not null, is the key."""
    keys = _digests(_content(events))
    payload = keys[:, 1].astype(np.int64)
    own = event_id.is_not_null().to_numpy() if event_id is not None else np.zeros(events.height, bool)
    number = np.zeros(events.height, np.int64)
    number[~own] = occurrences.number(keys[~own, 0])
    keys[:, 1] ^= number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # the n-th equal line is another event
    if own.any() and event_id is not None:
        keys[own] = _digests(("id\x1f" + event_id.filter(pl.Series(own))).to_list())
    raw = keys.tobytes()
    packed = [raw[i : i + KEY_BYTES] for i in range(0, len(raw), KEY_BYTES)]
    return events.with_columns(
        event_key=pl.Series(packed, dtype=pl.Binary), payload_hash=pl.Series(payload, dtype=pl.Int64)
    )


def _content(events: pl.DataFrame) -> list[str]:
    parts = [pl.col(c).cast(pl.String).fill_null("") if c in events.columns else pl.lit("") for c in CONTENT]
    return events.select(pl.concat_str(parts, separator="\x1f"))["user_id"].to_list()


def _digests(texts: list[str]) -> NDArray[np.uint64]:
    """Shape (n, 2): 128 bits of each text."""
    joined = b"".join(hashlib.blake2b(t.encode("utf-8"), digest_size=KEY_BYTES).digest() for t in texts)
    return np.frombuffer(joined, "<u8").reshape(-1, 2).copy()
