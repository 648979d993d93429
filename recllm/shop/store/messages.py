"""Exported messages, the reports of the services that sent them, and announcements that wait to be sent, with as many
attempts as it takes.

A sender claims an announcement first: its next attempt moves past the end of this one. So one of several processes
sends, and if it dies another sends later, with the same id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from recllm.base.messages import (
    ARRIVED,
    Announcement,
    AnnouncementStatus,
    CampaignMessage,
    MessageEvent,
    MessageEventKind,
)
from recllm.shop.store import tables

LONGEST_WAIT = timedelta(days=30)
"""Attempts due after that time come from a clock that ran ahead."""


def queue_announcements(connection: sa.Connection, announcements: Sequence[Announcement]) -> None:
    """Keeps announcements, due at once."""
    rows = [
        {
            **{name: getattr(a, name) for name in ("announcement_id", "target", "type", "body", "attempts")},
            "status": a.status.value,
            "next_at": tables.microseconds(a.created_at),
            "created_at": tables.microseconds(a.created_at),
        }
        for a in announcements
    ]
    if rows:
        connection.execute(sa.insert(tables.outbox), rows)


def is_announcement_due(connection: sa.Connection, now: datetime) -> bool:
    """Whether there is anything to claim; needs no write lock."""
    return connection.scalar(sa.select(tables.outbox.c.announcement_id).where(_due(now)).limit(1)) is not None


def _due(now: datetime) -> sa.ColumnElement[bool]:
    o = tables.outbox.c
    is_time = sa.or_(o.next_at <= tables.microseconds(now), o.next_at > tables.microseconds(now + LONGEST_WAIT))
    return sa.and_(o.status == AnnouncementStatus.QUEUED.value, is_time)


def claim_announcements(
    connection: sa.Connection, now: datetime, *, lease: timedelta, limit: int
) -> list[Announcement]:
    """Due announcements, the oldest first, with this attempt counted; no other process gets them within `lease`."""
    o = tables.outbox.c
    due = sa.select(tables.outbox).where(_due(now)).order_by(o.created_at, o.announcement_id).limit(limit)
    claimed = []
    for row in connection.execute(due).mappings().all():
        attempt = {"attempts": row["attempts"] + 1, "next_at": tables.microseconds(now + lease)}
        of_this = o.announcement_id == row["announcement_id"]
        connection.execute(sa.update(tables.outbox).where(of_this).values(attempt))
        claimed.append(_announcement({**row, **attempt}))
    return claimed


def settle_announcement(
    connection: sa.Connection,
    announcement_id: str,
    status: AnnouncementStatus,
    outcome: str,
    *,
    next_at: datetime | None = None,
) -> None:
    """Records the outcome of an attempt. next_at: of the next one, where the status is queued."""
    values: dict[str, Any] = {"status": status.value, "outcome": outcome}
    if next_at is not None:
        values["next_at"] = tables.microseconds(next_at)
    statement = sa.update(tables.outbox).where(tables.outbox.c.announcement_id == announcement_id)
    connection.execute(statement.values(values))


def read_announcements(connection: sa.Connection) -> list[Announcement]:
    """All of them, the oldest first."""
    o = tables.outbox.c
    query = sa.select(tables.outbox).order_by(o.created_at, o.announcement_id)
    return [_announcement(row) for row in connection.execute(query).mappings()]


def _announcement(row: Mapping[Any, Any]) -> Announcement:
    status = AnnouncementStatus(row["status"])
    return Announcement(
        **{name: row[name] for name in ("announcement_id", "target", "type", "body", "attempts", "outcome")},
        status=status,
        created_at=tables.moment(row["created_at"]),
        next_at=tables.moment(row["next_at"]) if status is AnnouncementStatus.QUEUED else None,
    )


def add_messages(connection: sa.Connection, messages: Sequence[CampaignMessage]) -> None:
    """Keeps the messages that are not there yet. Those of people whom the store does not know are left out."""
    user = tables.users.c
    users = _keys(connection, user.user_id, user.user_key, (m.user_id for m in messages))
    rows = [
        {
            **{name: getattr(m, name) for name in _PLAIN_COLUMNS},
            "user_key": users[m.user_id],
            "exported_at": tables.microseconds(m.exported_at),
        }
        for m in messages
        if m.user_id in users
    ]
    if rows:
        statement = tables.insert_of(connection)(tables.messages)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["message_id"]), rows)


def read_messages(connection: sa.Connection, message_ids: Iterable[str]) -> dict[str, CampaignMessage]:
    """Message id -> message, of those that are there."""
    return {
        row["message_id"]: _message(row)
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
        pairs.append((_message(row), events))
    return pairs


def sent_messages(connection: sa.Connection) -> list[tuple[str, str, str, int]]:
    """(pseudonym, campaign, channel, epoch microseconds of the first export) of every message."""
    m, u = tables.messages.c, tables.users.c
    query = sa.select(u.user_id, m.campaign_id, m.channel, m.exported_at).join_from(
        tables.messages, tables.users, u.user_key == m.user_key
    )
    return [tuple(row) for row in connection.execute(query)]


def known_events(connection: sa.Connection, source: str, event_ids: Iterable[str]) -> set[str]:
    """Those of a provider's event ids that were counted already."""
    e = tables.message_events.c
    query = sa.select(e.event_id).where(e.source == source)
    return {name for some in tables.among(e.event_id, event_ids) for name in connection.scalars(query.where(some))}


def add_events(connection: sa.Connection, source: str, events: Sequence[MessageEvent], received_at: datetime) -> int:
    """Keeps new events of a provider and returns their number. Events of unknown messages are left out."""
    m = tables.messages.c
    numbers = _keys(connection, m.message_id, m.message_no, (event.message_id for event in events))
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
    statement = tables.insert_of(connection)(tables.message_events)
    statement = statement.on_conflict_do_nothing(index_elements=["source", "event_id"])
    # row by row: only so both drivers count what was inserted
    counting = {"preserve_rowcount": True}
    return sum(connection.execute(statement, row, execution_options=counting).rowcount for row in rows)


def campaign_events(connection: sa.Connection, campaign_id: str) -> set[tuple[str, str, MessageEventKind]]:
    """(pseudonym, channel, kind) of all events of a campaign's messages."""
    m, u, e = tables.messages.c, tables.users.c, tables.message_events.c
    query = (
        sa.select(u.user_id, m.channel, e.kind)
        .join_from(tables.message_events, tables.messages, e.message_no == m.message_no)
        .join(tables.users, u.user_key == m.user_key)
        .where(m.campaign_id == campaign_id)
        .distinct()
    )
    return {(user_id, channel, MessageEventKind(kind)) for user_id, channel, kind in connection.execute(query)}


def bounced_at(connection: sa.Connection, channel: str) -> dict[str, datetime]:
    """Pseudonym -> the last hard bounce on the channel, of people to whom nothing arrived there since; of one instant,
    the bounce counts."""
    m, u, e = tables.messages.c, tables.users.c, tables.message_events.c
    bounce = sa.func.max(sa.case((e.kind == MessageEventKind.BOUNCED.value, e.at)))
    arrival = sa.func.max(sa.case((e.kind.in_(sorted(kind.value for kind in ARRIVED)), e.at)))
    query = (
        sa.select(u.user_id, bounce)
        .join_from(tables.message_events, tables.messages, e.message_no == m.message_no)
        .join(tables.users, u.user_key == m.user_key)
        .where(m.channel == channel)
        .group_by(u.user_id)
        .having(bounce.is_not(None), sa.or_(arrival.is_(None), bounce >= arrival))
    )
    return {user_id: tables.moment(at) for user_id, at in connection.execute(query)}


_PLAIN_COLUMNS = ("message_id", "campaign_id", "channel", "text_id", "variant", "item_id", "request_id")


_MESSAGES = sa.select(tables.messages, tables.users.c.user_id).join_from(
    tables.messages, tables.users, tables.users.c.user_key == tables.messages.c.user_key
)


def _message(row: sa.RowMapping) -> CampaignMessage:
    fields = {name: row[name] for name in ("user_id", *_PLAIN_COLUMNS)}
    return CampaignMessage(**fields, exported_at=tables.moment(row["exported_at"]))


def _keys(
    connection: sa.Connection, name: sa.ColumnElement[str], key: sa.ColumnElement[int], names: Iterable[str]
) -> dict[str, int]:
    query = sa.select(name, key)
    return {row[0]: row[1] for some in tables.among(name, names) for row in connection.execute(query.where(some))}
