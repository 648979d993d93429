"""How long what is about people is kept: by the rules of the settings' `retention` and the clock."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recllm.campaigns.forget import campaign_folders, forget_people
from recllm.errors import UsageError
from recllm.privacy.erasure import finish_erasures
from recllm.recommender.registry import remove_tainted
from recllm.workspace.audit import AuditAction, audit
from recllm.workspace.workspace import CERTIFICATES, UPLOADS, Workspace

QUIET_DAYS = 90
"""A shop that loads nothing for so long is rarer than a clock that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionReport:
    """What is, or was, over its time."""

    rows: Mapping[str, int]
    """Table of the store -> rows."""
    files: Mapping[str, int]
    """Kind -> files, or lines about people of campaigns."""
    finished_erasures: int
    """Erasures that a stopped process had left."""
    dry_run: bool


def apply_retention(
    workspace: Workspace,
    *,
    actor: str,
    now: datetime | None = None,
    dry_run: bool = False,
    trust_clock: bool = False,
) -> RetentionReport:
    """Deletes what is older than the settings' `retention` allows, and ends what was left half done.

    The clock is that of this machine, also for a log of the past. Of people who are restricted no row goes: their data
    are to be kept. dry_run: nothing is deleted, and what would go is counted. Raises `UsageError` where the clock is
    more than `QUIET_DAYS` after the newest load, as a clock that jumped ahead would delete everything, unless
    `trust_clock` says that the shop was quiet for so long.
    """
    limits, clock = workspace.settings.retention, now or datetime.now(UTC)
    with workspace.store().read() as reader:
        newest = reader.loads(1)["committed_at"]
    if len(newest) and clock - newest[0] > timedelta(days=QUIET_DAYS) and not (trust_clock or dry_run):
        raise UsageError(
            f"the clock says {clock:%Y-%m-%d}, and nothing was loaded since {newest[0]:%Y-%m-%d}; if the clock is "
            "right, say --trust-clock"
        )
    finished = [] if dry_run else finish_erasures(workspace, actor=actor)
    rows: dict[str, int] = {}
    ages = {name: getattr(limits, name) for name in ("events", "messages", "explored_slates", "announcements")}
    if before := {name: clock - timedelta(days=days) for name, days in ages.items() if days is not None}:
        store = workspace.store()
        rows = store.count_old(before) if dry_run else store.delete_old(before)

    root = workspace.root
    kinds: dict[str, tuple[int | None, Iterable[Path]]] = {
        "quarantine": (limits.quarantine, workspace.quarantine_dir.glob("*.jsonl")),
        "copies": (limits.copies, (root / "copies").glob("*.json")),
        "uploads": (limits.uploads, (root / UPLOADS).glob("*")),
        "fine_tuning": (limits.fine_tuning, (workspace.cache_dir / "lora").glob("*")),
        "certificates": (limits.certificates, (root / CERTIFICATES).glob("*.json")),
    }
    files = {}
    for kind, (days, paths) in kinds.items():
        outdated = [path for path in paths if days is not None and _age(path, clock) > timedelta(days=days)]
        files[kind] = len(outdated)
        for path in () if dry_run else outdated:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    files["campaign_people"] = _old_campaigns(workspace, limits.campaigns, clock, dry_run=dry_run)
    if not dry_run:
        files["tainted_models"] = len(remove_tainted(workspace.models_dir, ended_by=clock))
        if any(rows.values()):
            workspace.store().purge()
        if any(rows.values()) or any(files.values()):
            audit(workspace, actor, AuditAction.RETENTION_APPLIED, rows=rows, files=files)
    return RetentionReport(rows=rows, files=files, finished_erasures=len(finished), dry_run=dry_run)


def _old_campaigns(workspace: Workspace, days: int | None, clock: datetime, *, dry_run: bool) -> int:
    """Takes the people out of campaigns that were planned and exported long ago; returns how many lines that are."""
    n_lines = 0
    for folder in campaign_folders(workspace.root) if days is not None else ():
        newest = max(path.stat().st_mtime for path in (folder.plan, folder.exports) if path.exists())
        if clock - datetime.fromtimestamp(newest, UTC) <= timedelta(days=days or 0) or not folder.people.exists():
            continue
        if dry_run:
            n_lines += folder.people.read_bytes().count(b"\n")
        else:
            removed = forget_people(workspace.root, None, folder)
            n_lines += removed.people + removed.exports
    return n_lines


def _age(path: Path, clock: datetime) -> timedelta:
    return clock - datetime.fromtimestamp(path.stat().st_mtime, UTC)
