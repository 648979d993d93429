"""Events that the program itself makes or is told of one at a time: what was shown, clicked, bought, dismissed."""

from __future__ import annotations

import polars as pl

from recllm.errors import DataError
from recllm.ingest.identity import Occurrences, identify
from recllm.schema import Action
from recllm.store.database import Store
from recllm.store.writers import Written

_OPTIONAL: dict[str, pl.DataType | type[pl.DataType]] = {
    "quantity": pl.Float64,
    "price": pl.Float64,
    "basket_id": pl.String,
    "value": pl.Float64,
    "request_id": pl.String,
    "position": pl.Int32,
    "model_version": pl.String,
}


def record_events(events: pl.DataFrame, store: Store, *, source: str) -> Written:
    """Append events, durable on return; the same events again are duplicates.

    events: user_id (pseudonyms), item_id, event (value of an `Action`), timestamp (aware datetime), and where known
    event_id, quantity (1 where null), price, basket_id, value, request_id, position, model_version. Raises
    `DataError` for a missing column, an empty id, an unknown event or a naive time.
    """
    _check(events)
    event_id = events["event_id"] if "event_id" in events.columns else None
    at = events["timestamp"].dt.convert_time_zone("UTC").dt.epoch("us")
    optional = [pl.col(n).cast(t) for n, t in _OPTIONAL.items() if n in events.columns]
    rows = events.select("user_id", "item_id", "event", *optional).with_columns(at=at)
    quantity = pl.col("quantity").fill_null(1.0) if "quantity" in rows.columns else pl.lit(1.0)
    rows = rows.with_columns(quantity=quantity)
    return store.append_events(identify(rows, event_id, Occurrences()), source=source)


def _check(events: pl.DataFrame) -> None:
    for name in ("user_id", "item_id", "event", "timestamp"):
        if name not in events.columns:
            raise DataError(f"events to record need a column {name}; found {', '.join(events.columns)}")
        if events[name].null_count():
            raise DataError(f"events to record: {name} is empty in {events[name].null_count()} rows")
    dtype = events["timestamp"].dtype
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise DataError(f"events to record: timestamp is {dtype}; give aware datetimes")
    unknown = sorted(set(events["event"].unique()) - set(Action))
    if unknown:
        raise DataError(f"events to record: unknown event {unknown[0]!r}; known: {', '.join(Action)}")
