"""Privacy: what the shop holds of people, where, what for and how long; models that have to go; who did what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.campaigns.forget import campaign_folders
from recllm.console.pages import ConsoleSection, TheVisit, Visit
from recllm.console.tables import CellKind, ConsoleTable, TableCell, TableColumn, TableRow
from recllm.encoder.cache import QUERY_CACHE_FILE
from recllm.recommender.registry import Taint, serving, taints
from recllm.workspace.audit import AuditEntry, read_audit, verify_audit
from recllm.workspace.keys import Scope
from recllm.workspace.workspace import CERTIFICATES, UPLOADS

router = APIRouter(prefix="/privacy")
SECTION = ConsoleSection("privacy", "/privacy", router)

ENTRIES = 20
"""Lines of the audit log on the page; its file has all."""


@router.get("")
async def privacy_page(visit: TheVisit) -> Response:
    """Everything that a privacy officer asks first."""
    visit.require(Scope.PRIVACY)

    def values() -> dict[str, Any]:
        marked = taints(visit.workspace.models_dir)
        return {
            "stored": stored_table(visit),
            "tainted": tainted_table(visit, marked),
            "check": verify_audit(visit.workspace),
            "log": log_table(visit),
        }

    return visit.page("privacy.html.j2", section="privacy", **await visit.run(values))


def stored_table(visit: Visit) -> ConsoleTable:
    """What is held of people, and until when: the table of the guide with the counts of this shop."""
    workspace, limits = visit.workspace, visit.workspace.settings.retention
    root, store = workspace.root, workspace.store()
    with store.read() as reader:
        counts = reader.counts()
    kinds: tuple[tuple[str, int, int | None], ...] = (
        ("people", counts["users"], None),
        ("consent", counts["consent"], None),
        ("events", counts["events"], limits.events),
        ("messages", len(store.sent_messages()), limits.messages),
        ("quarantine", _count(workspace.quarantine_dir.glob("*.jsonl")), limits.quarantine),
        ("uploads", _count((root / UPLOADS).glob("*")), limits.uploads),
        ("campaigns", len(campaign_folders(root)), limits.campaigns),
        ("serving", _count((root / "serving").glob("*.safetensors")), None),
        ("vectors", _count((workspace.cache_dir / "vectors").glob(QUERY_CACHE_FILE)), None),
        ("fine_tuning", _count((workspace.cache_dir / "lora").glob("*")), limits.fine_tuning),
        ("tombstones", len(store.tombstones()), None),
        ("audit", len(store.audit_entries()), None),
        ("certificates", _count((root / CERTIFICATES).glob("*.json")), limits.certificates),
    )
    rows: list[TableRow] = [
        (
            TableCell(value=kind, text=visit.say(f"privacy.what.{kind}")),
            n,
            visit.say(f"privacy.where.{kind}"),
            visit.say(f"privacy.why.{kind}"),
            visit.say("privacy.days", days=days) if days is not None else visit.say(f"privacy.until.{kind}"),
        )
        for kind, n, days in kinds
    ]
    return ConsoleTable(
        name="stored",
        title=visit.say("privacy.stored"),
        columns=(
            TableColumn(name="what", label=visit.say("data.what")),
            TableColumn(name="entries", label=visit.say("privacy.entries"), kind=CellKind.NUMBER),
            TableColumn(name="where", label=visit.say("privacy.lies"), is_wide=True),
            TableColumn(name="why", label=visit.say("privacy.purpose")),
            TableColumn(name="how_long", label=visit.say("privacy.how_long")),
        ),
        rows=rows,
    )


def tainted_table(visit: Visit, marked: dict[str, Taint]) -> ConsoleTable | None:
    """Models that learned from people who were erased; None where there is none."""
    if not marked:
        return None
    now_serving = serving(visit.workspace.models_dir)

    def row(version: str, taint: Taint) -> TableRow:
        serves = version == now_serving
        cell = TableCell(value=serves, text=visit.say("privacy.it_does") if serves else "")
        return version, taint.use_until[:10], cell

    return ConsoleTable(
        name="tainted",
        title=visit.say("privacy.tainted"),
        columns=(
            TableColumn(name="version", label=visit.say("models.version")),
            TableColumn(name="use_until", label=visit.say("privacy.use_until")),
            TableColumn(name="serves", label=visit.say("models.serves")),
        ),
        rows=[row(version, taint) for version, taint in sorted(marked.items())],
    )


def log_table(visit: Visit) -> ConsoleTable | None:
    """The audit log, newest first; None while it is empty."""
    entries = list(reversed(read_audit(visit.workspace)))
    if not entries:
        return None

    def row(entry: AuditEntry) -> TableRow:
        action = TableCell(value=entry.action, text=visit.say(f"privacy.act.{entry.action}"))
        return entry.number, entry.at, entry.actor, action, entry.subject or ""

    return ConsoleTable(
        name="audit",
        title=visit.say("privacy.log"),
        columns=(
            TableColumn(name="entry", label=visit.say("privacy.entry"), kind=CellKind.NUMBER, is_wide=True),
            TableColumn(name="at", label=visit.say("data.when"), kind=CellKind.MOMENT),
            TableColumn(name="who", label=visit.say("privacy.who")),
            TableColumn(name="what", label=visit.say("data.what")),
            TableColumn(name="whose", label=visit.say("privacy.whose"), is_wide=True, scope=Scope.PRIVACY),
        ),
        rows=[row(entry) for entry in entries[:ENTRIES]],
        all_rows=lambda: map(row, entries),
    )


def _count(paths: Iterable[Path]) -> int:
    return sum(1 for _ in paths)
