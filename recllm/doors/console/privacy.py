"""Privacy: what the shop holds of people, where, what for and how long; models that have to go; who did what."""

from __future__ import annotations

import itertools

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.doors.console.pages import ConsoleSection, PageRoute, TheVisit, Visit
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.doors.privacy.registry import REGISTRY
from recllm.recommend.recommender.lineage import Taint
from recllm.recommend.recommender.registry import serving, taints
from recllm.shop.workspace.audit import AuditEntry, read_audit, verify_audit
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/privacy", route_class=PageRoute)
SECTION = ConsoleSection("privacy", "/privacy", router)

ENTRIES = 20
"""Lines of the audit log on the page; its file has all."""


@router.get("")
def privacy_page(visit: TheVisit) -> Response:
    """Everything that a privacy officer asks first."""
    visit.require(Scope.PRIVACY)
    marked = taints(visit.workspace.models_dir)
    return visit.page(
        "privacy.html.j2",
        section="privacy",
        stored=stored_table(visit),
        tainted=tainted_table(visit, marked),
        check=verify_audit(visit.workspace),
        log=log_table(visit),
    )


def stored_table(visit: Visit) -> ConsoleTable:
    """What is held of people, and until when: the table of the guide with the counts of this shop."""
    counts = itertools.chain.from_iterable(record.stored_counts(visit.workspace) for record in REGISTRY.records)
    rows: list[TableRow] = [
        (
            TableCell(value=count.kind, text=visit.say(f"privacy.what.{count.kind}")),
            count.entries,
            visit.say(f"privacy.where.{count.kind}"),
            visit.say(f"privacy.why.{count.kind}"),
            visit.say("privacy.days", days=count.days)
            if count.days is not None
            else visit.say(f"privacy.until.{count.kind}"),
        )
        for count in counts
    ]
    return visit.table("stored", rows)


def tainted_table(visit: Visit, marked: dict[str, Taint]) -> ConsoleTable | None:
    """Models that learned from people who were erased; None where there is none."""
    if not marked:
        return None
    now_serving = serving(visit.workspace.models_dir)

    def row(version: str, taint: Taint) -> TableRow:
        serves = version == now_serving
        cell = TableCell(value=serves, text=visit.say("privacy.it_does") if serves else "")
        return version, taint.use_until[:10], cell

    return visit.table("tainted", [row(version, taint) for version, taint in sorted(marked.items())])


def log_table(visit: Visit) -> ConsoleTable | None:
    """The audit log, newest first; None while it is empty."""
    entries = list(reversed(read_audit(visit.workspace)))
    if not entries:
        return None

    def row(entry: AuditEntry) -> TableRow:
        action = TableCell(value=entry.action, text=visit.say(f"privacy.act.{entry.action}"))
        return entry.number, entry.at, entry.actor, action, entry.subject or ""

    rows = [row(entry) for entry in entries]
    return visit.table("audit", rows[:ENTRIES], all_rows=lambda: rows)
