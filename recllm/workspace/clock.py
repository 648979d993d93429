"""The present of a workspace: one for whatever plans, decides, exports, recommends, predicts or records.

It is the clock of a live shop. A log that ended more than `REPLAY_DAYS` ago is being replayed: its end is the present
then, so that "16 days ago" is said of the log and not of the calendar. The log is everybody's, whoever consented to
what: two parts of the program that read different people still live at the same time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recllm.data.dataset import utc
from recllm.workspace.workspace import Workspace

REPLAY_DAYS = 14


def log_end(workspace: Workspace) -> int | None:
    """The second after the last event of anybody, in epoch seconds; None for an empty log."""
    with workspace.store().read() as reader:
        last = reader.last_event()
    return None if last is None else int(last.timestamp()) + 1


def present(workspace: Workspace, now: datetime | None = None) -> int:
    """The present in epoch seconds. now: an aware time instead of the clock of this machine."""
    clock, end = now or datetime.now(UTC), log_end(workspace)
    if end is None:
        return int(clock.timestamp())
    replayed = clock - utc(end) > timedelta(days=REPLAY_DAYS)
    return end if replayed else max(end, int(clock.timestamp()))
