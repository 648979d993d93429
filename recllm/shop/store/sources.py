"""How far a query was read, and what a shop system posted."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import sqlalchemy as sa

from recllm.shop.store import tables

NO_MESSAGE = 0
"""Number of the message of a delivery."""
DOCUMENT, STATE = "document", "state"
"""Kinds: a document, and the newest state of a product."""
REPEATED = timedelta(days=7)
"""For longer no shop system repeats a document."""


def read_mark(connection: sa.Connection, source: str) -> str | None:
    """The mark of a source; None before its first load."""
    meta = tables.meta.c
    return connection.scalar(sa.select(meta.value).where(meta.name == source))


def keep_mark(connection: sa.Connection, source: str, mark: str) -> None:
    """Replaces the mark of a source; a backup has it with its rows."""
    meta = tables.meta
    connection.execute(sa.delete(meta).where(meta.c.name == source))
    connection.execute(sa.insert(meta).values(name=source, value=mark))


def deliveries(connection: sa.Connection, source: str, names: Collection[str]) -> dict[str, datetime]:
    """The times of those documents and states that are kept."""
    event = tables.message_events.c
    query = sa.select(event.event_id, event.at).where(event.source == source)
    rows = connection.execute(query.where(event.event_id.in_(names)))
    return {name: tables.moment(at) for name, at in rows}


def keep_delivery(connection: sa.Connection, source: str, kind: str, name: str, at: datetime) -> None:
    """Keeps a document or state in place of an earlier one; forgets old documents."""
    table, event, now = tables.message_events, tables.message_events.c, tables.now()
    oldest = now - REPEATED // timedelta(microseconds=1)
    is_old = sa.and_(event.kind == DOCUMENT, event.received_at < oldest)
    is_same = sa.and_(event.source == source, event.event_id == name)
    connection.execute(sa.delete(table).where(event.message_no == NO_MESSAGE, is_old | is_same))
    row = {"source": source, "event_id": name, "message_no": NO_MESSAGE, "kind": kind}
    row |= {"at": tables.microseconds(at), "received_at": now}
    connection.execute(sa.insert(table).values(row))
