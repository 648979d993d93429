"""Deletion by age, by the settings' `retention` and the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from recllm.base.errors import UsageError
from recllm.doors.privacy.erasure import finish_erasures
from recllm.doors.privacy.registry import REGISTRY
from recllm.shop.workspace.audit import AuditAction, audit
from recllm.shop.workspace.personal_records import RecordRegistry, Removed
from recllm.shop.workspace.workspace import Workspace

QUIET_DAYS = 90
"""Days without a load after which the clock is doubted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionReport:
    rows: Mapping[str, int]
    """Table of the store -> rows."""
    files: Mapping[str, int]
    """Kind -> files, or lines about people of campaigns."""
    finished_erasures: int
    """Of stopped processes."""
    dry_run: bool
    unread: tuple[str, ...] = ()
    """Files that could not be read."""


def apply_retention(
    workspace: Workspace,
    *,
    actor: str,
    now: datetime | None = None,
    dry_run: bool = False,
    trust_clock: bool = False,
    registry: RecordRegistry = REGISTRY,
) -> RetentionReport:
    """Deletes what is older than the settings' `retention` allows, and finishes interrupted erasures.

    The clock is that of this machine, also for a log of the past. Rows of restricted people stay. dry_run: only counts.
    Raises `UsageError` where the clock is more than `QUIET_DAYS` after the newest load, as a clock that jumped ahead
    would delete everything, unless `trust_clock` says that the clock is right.
    """
    clock = now or datetime.now(UTC)
    with workspace.store().read() as reader:
        newest = reader.loads(1)["committed_at"]
    if len(newest) and clock - newest[0] > timedelta(days=QUIET_DAYS) and not (trust_clock or dry_run):
        raise UsageError(
            f"the clock says {clock:%Y-%m-%d}, and nothing was loaded since {newest[0]:%Y-%m-%d}; if the clock is "
            "right, say --trust-clock"
        )
    erasures = [] if dry_run else finish_erasures(workspace, actor=actor, registry=registry)
    removed = Removed(unread=tuple(name for certificate in erasures for name in certificate.unread))
    for record in (*registry.records, *registry.impersonal):
        removed = removed.plus(record.retain(workspace, clock, dry_run=dry_run))
    rows, files = removed.rows, removed.files
    if not dry_run:
        if any(rows.values()):
            workspace.store().purge()
        if any(rows.values()) or any(files.values()):
            audit(workspace, actor, AuditAction.RETENTION_APPLIED, rows=rows, files=files)
    return RetentionReport(
        rows=rows,
        files=files,
        finished_erasures=sum(not certificate.unread for certificate in erasures),
        dry_run=dry_run,
        unread=tuple(dict.fromkeys(removed.unread)),
    )
