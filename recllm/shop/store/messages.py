"""Exported messages, and the reports of the services that sent them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import polars as pl
import sqlalchemy as sa

from recllm.base.messages import ARRIVED, CampaignMessage, MessageEvent, MessageEventKind
from recllm.shop.store import tables
from recllm.shop.store.statements import insert_new, lookup


def add_messages(connection: sa.Connection, messages: Sequence[CampaignMessage]) -> None:
    """Keeps the messages that are not there yet.
    Those of people whom the store does not know are left out."""
    user = tables.users.c
    names = pl.Series([m.user_id for m in messages], dtype=pl.String).unique()
    users = dict(lookup(connection, user.user_id, user.user_key, names).iter_rows())
    rows = [
        {
            **{name: getattr(m, name) for name in _PLAIN_COLUMNS},
            "user_key": users[m.user_id],
            "exported_at": tables.microseconds(m.exported_at),
        }
        for m in messages
        if m.user_id in users
    ]
    insert_new(connection, tables.messages, pl.DataFrame(rows, infer_schema_length=None), key=["message_id"])


def read_messages(connection: sa.Connection, message_ids: Iterable[str]) -> dict[str, CampaignMessage]:
    """Message id -> message, of those that are there."""
    return {
        row["message_id"]: message_of_row(row)
        for some in tables.among(tables.messages.c.message_id, message_ids)
        for row in connection.execute(_MESSAGES.where(some)).mappings()
    }


def messages_of(connection: sa.Connection, user_id: str) -> list[tuple[CampaignMessage, list[MessageEvent]]]:
    """A person's messages in order, with the events of each."""
    m, e = tables.messages.c, tables.message_events.c
    pairs = []
    query = _MESSAGES.where(tables.users.c.user_id == user_id).order_by(m.message_no)
    for row in connection.execute(query).mappings().all():
        of_this = sa.select(e.event_id, e.kind, e.at).where(e.message_no == row["message_no"]).order_by(e.at, e.kind)
        events = [
            MessageEvent(
                event_id=event_id, message_id=row["message_id"], kind=MessageEventKind(kind), at=tables.moment(at)
            )
            for event_id, kind, at in connection.execute(of_this)
        ]
        pairs.append((message_of_row(row), events))
    return pairs


def sent_messages(connection: sa.Connection) -> list[tuple[str, str, str, int]]:
    """(pseudonym, campaign, channel, epoch microseconds of the first export) of every message."""
    m = tables.messages.c
    query = tables.of_users(tables.messages, m.campaign_id, m.channel, m.exported_at)
    return [tuple(row) for row in connection.execute(query)]


def known_events(connection: sa.Connection, source: str, event_ids: Iterable[str]) -> set[str]:
    """Those of a provider's event ids that were counted already."""
    e = tables.message_events.c
    query = sa.select(e.event_id).where(e.source == source)
    return {name for some in tables.among(e.event_id, event_ids) for name in connection.scalars(query.where(some))}


def add_events(connection: sa.Connection, source: str, events: Sequence[MessageEvent], received_at: datetime) -> int:
    """Keeps new events of a provider and returns their number.
    Events of unknown messages are left out."""
    m = tables.messages.c
    ids = pl.Series([event.message_id for event in events], dtype=pl.String).unique()
    numbers = dict(lookup(connection, m.message_id, m.message_no, ids).iter_rows())
    rows = [
        {
            "source": source,
            "event_id": event.event_id,
            "message_no": numbers[event.message_id],
            "kind": event.kind.value,
            "at": tables.microseconds(event.at),
            "received_at": tables.microseconds(received_at),
        }
        for event in events
        if event.message_id in numbers
    ]
    return insert_new(connection, tables.message_events, pl.DataFrame(rows), key=["source", "event_id"])


def campaign_events(connection: sa.Connection, campaign_id: str) -> set[tuple[str, str, MessageEventKind]]:
    """(pseudonym, channel, kind) of all events of a campaign's messages."""
    m, e = tables.messages.c, tables.message_events.c
    query = tables.of_users(tables.messages, m.channel, e.kind).join(
        tables.message_events, e.message_no == m.message_no
    )
    query = query.where(m.campaign_id == campaign_id).distinct()
    return {(user_id, channel, MessageEventKind(kind)) for user_id, channel, kind in connection.execute(query)}


def bounced_at(connection: sa.Connection, channel: str) -> dict[str, datetime]:
    """Pseudonym -> the last hard bounce on the channel, of people to whom nothing arrived there since; of one instant,
    the bounce counts."""
    m, u, e = tables.messages.c, tables.users.c, tables.message_events.c
    bounce = sa.func.max(sa.case((e.kind == MessageEventKind.BOUNCED.value, e.at)))
    arrival = sa.func.max(sa.case((e.kind.in_(sorted(kind.value for kind in ARRIVED)), e.at)))
    query = (
        tables.of_users(tables.messages, bounce)
        .join(tables.message_events, e.message_no == m.message_no)
        .where(m.channel == channel)
        .group_by(u.user_id)
        .having(bounce.is_not(None), sa.or_(arrival.is_(None), bounce >= arrival))
    )
    return {user_id: tables.moment(at) for user_id, at in connection.execute(query)}


_PLAIN_COLUMNS = ("message_id", "campaign_id", "channel", "text_id", "variant", "item_id", "request_id")


_MESSAGES = tables.of_users(tables.messages, tables.messages)


def message_of_row(row: sa.RowMapping) -> CampaignMessage:
    fields = {name: row[name] for name in ("user_id", *_PLAIN_COLUMNS)}
    return CampaignMessage(**fields, exported_at=tables.moment(row["exported_at"]))
