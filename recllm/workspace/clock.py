"""The present of a workspace.

A live shop's clock. When the log ended more than `REPLAY_DAYS` ago it is being replayed, and its end counts as the
present, so that "16 days ago" is said of the log and not of the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recllm.data.dataset import utc
from recllm.workspace.workspace import Workspace

REPLAY_DAYS = 14


def present(log_end: int, now: datetime | None = None) -> int:
    """The present in epoch seconds, for a log whose last event lies just before `log_end`; see the module."""
    clock = now or datetime.now(UTC)
    replayed = clock - utc(log_end) > timedelta(days=REPLAY_DAYS)
    return log_end if replayed else max(log_end, int(clock.timestamp()))


def log_end(workspace: Workspace) -> int:
    """One second after the last event of the store, in epoch seconds; the clock's time without events."""
    with workspace.store().read() as reader:
        last = reader.last_event()
    return int((last or datetime.now(UTC)).timestamp()) + (last is not None)
