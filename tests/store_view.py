"""A store for tests: small frames to write, and everything that it holds, each read in a transaction of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import Row, select, text

from recllm.base.messages import CampaignMessage
from recllm.base.schema import IngestReport
from recllm.shop.ingest.workspace_load import add_events
from recllm.shop.store import tables
from recllm.shop.store.database import Store
from recllm.shop.workspace.workspace import Workspace, recording_time


def refused_rows(report: IngestReport) -> list[dict[str, Any]]:
    """What the quarantine file of a load holds."""
    file = report.quarantine_file
    return [] if file is None else [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


class StoreView:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The method of `StoreReader` with this name."""

        def read(*args: Any, **kwargs: Any) -> Any:
            with self._store.read() as reader:
                return getattr(reader, name)(*args, **kwargs)

        return read

    def loads(self) -> list[Row[Any]]:
        """The rows of the table of loads, oldest first."""
        with self._store._engine.connect() as connection:
            return list(connection.execute(select(tables.loads).order_by(tables.loads.c.load_no)))


def view(store: Store) -> StoreView:
    return StoreView(store)


def events(
    keys: list[int], payloads: list[int] | None = None, *, user: str = "u1", item: str = "", **columns: object
) -> pl.DataFrame:
    """Events named by small numbers; number k happens k seconds after 1970 with item i<k>."""
    n = len(keys)
    frame = pl.DataFrame(
        {
            "event_key": pl.Series([k.to_bytes(16, "big") for k in keys], dtype=pl.Binary),
            "payload_hash": pl.Series(payloads or [0] * n, dtype=pl.Int64),
            "user_id": pl.Series([user] * n, dtype=pl.String),
            "item_id": pl.Series([item or f"i{k}" for k in keys], dtype=pl.String),
            "event": pl.Series(["purchase"] * n, dtype=pl.String),
            "at": pl.Series([k * 1_000_000 for k in keys], dtype=pl.Int64),
            "quantity": pl.Series([1.0] * n, dtype=pl.Float64),
        }
    )
    return frame.with_columns(pl.Series(name, values) for name, values in columns.items())


def items(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"item_id": [r[0] for r in rows], "title": [r[1] for r in rows], "available": [True] * len(rows)}
    )


def put(store: Store, table: str, frame: pl.DataFrame, load_id: str = "load"):
    with store.load(table, load_id=load_id, source="test") as load:
        return load.write(frame)


def campaign_message(
    number: int, user: str = "u1", channel: str = "email", item_id: str | None = "i1", **changes: Any
) -> CampaignMessage:
    """One of the campaign `spring`, which left on the day when 1.7 billion seconds had passed since 1970."""
    values = {"campaign_id": "spring", "text_id": "t1", "variant": 1, "request_id": f"r{number}"}
    left = {"message_id": f"m{number}", "exported_at": datetime.fromtimestamp(1_700_000_000, UTC)}
    return CampaignMessage(user_id=user, channel=channel, item_id=item_id, **values | left | changes)


def dump(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but the record of loads."""
    with store._engine.connect() as connection:
        return {
            t: sorted(map(tuple, connection.execute(text(f"SELECT * FROM {t}"))), key=repr)  # noqa: S608
            for t in ("users", "items", "events", "consent")
        }


def add_feedback(workspace: Workspace, user_id: str, item_id: str, event: str, **values: Any) -> Any:
    """One event of a customer, now unless `values` hold a timestamp."""
    row = {"user_id": user_id, "item_id": item_id, "event": event, "timestamp": recording_time(workspace)}
    return add_events(workspace, [row | values], source="test")
