"""Events that the product itself makes: what was shown, and feedback taken one at a time."""

from __future__ import annotations

import polars as pl

from recllm.ingest.identity import Occurrences, identify
from recllm.store.database import Store
from recllm.store.writers import Written


def record_events(frame: pl.DataFrame, store: Store, *, source: str) -> Written:
    """Append events in one durable transaction; the same events twice change nothing.

    frame: user_id (pseudonyms), item_id, event, timestamp (aware), and optionally quantity, price, value, request_id,
    position and model_version. `source` says where they come from.
    """
    rows = frame.with_columns(at=pl.col("timestamp").dt.cast_time_unit("us").dt.epoch("us")).drop("timestamp")
    if "quantity" not in rows.columns:
        rows = rows.with_columns(quantity=pl.lit(1.0))
    return store.append_events(identify(rows, None, Occurrences()), source=source)
