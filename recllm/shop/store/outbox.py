"""Announcements that wait to be sent, with as many attempts as it takes.

A sender claims an announcement first: its next attempt moves past the end of this one. So one of several processes
sends, and if it dies another sends later, with the same id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from recllm.base.messages import Announcement, AnnouncementStatus
from recllm.shop.store import tables

LONGEST_WAIT = timedelta(days=30)
"""Attempts due after that time come from a clock that ran ahead."""


def queue(connection: sa.Connection, announcements: Sequence[Announcement]) -> None:
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


def is_due(connection: sa.Connection, now: datetime) -> bool:
    """Whether there is anything to claim; needs no write lock."""
    return connection.scalar(sa.select(tables.outbox.c.announcement_id).where(_due(now)).limit(1)) is not None


def _due(now: datetime) -> sa.ColumnElement[bool]:
    o = tables.outbox.c
    is_time = sa.or_(o.next_at <= tables.microseconds(now), o.next_at > tables.microseconds(now + LONGEST_WAIT))
    return sa.and_(o.status == AnnouncementStatus.QUEUED.value, is_time)


def claim(connection: sa.Connection, now: datetime, *, lease: timedelta, limit: int) -> list[Announcement]:
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


def settle(
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


def announcements(connection: sa.Connection) -> list[Announcement]:
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
