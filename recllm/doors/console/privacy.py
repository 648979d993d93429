"""Privacy: what is held of people, models that have to go, and the audit log."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.doors.console.pages import ConsoleSection, PageRoute, TheVisit
from recllm.doors.console.tables import TableCell, TableRow
from recllm.doors.privacy.registry import REGISTRY
from recllm.recommend.recommender.registry import serving, taints
from recllm.shop.workspace.audit import read_audit, verify_audit
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/privacy", route_class=PageRoute)
SECTION = ConsoleSection("privacy", "/privacy", router)

ENTRIES = 20
"""Lines of the audit log on the page; its file has all."""


@router.get("")
def privacy_page(visit: TheVisit) -> Response:
    visit.require(Scope.PRIVACY)
    # the table of the guide with the counts of this shop
    stored: list[TableRow] = [
        (
            *(count.kind, count.entries),
            *(visit.say(f"privacy.{column}.{count.kind}") for column in ("where", "why")),
            visit.say("privacy.days", days=count.days)
            if count.days is not None
            else visit.say(f"privacy.until.{count.kind}"),
        )
        for record in REGISTRY.records
        for count in record.stored_counts(visit.workspace)
    ]
    now_serving, words = serving(visit.workspace.models_dir), {True: visit.say("privacy.it_does"), False: ""}
    tainted = [
        (version, taint.use_until[:10], TableCell(value=(serves := version == now_serving), text=words[serves]))
        for version, taint in sorted(taints(visit.workspace.models_dir).items())
    ]
    log = [(e.number, e.at, e.actor, e.action, e.subject or "") for e in reversed(read_audit(visit.workspace))]
    return visit.page(
        "privacy.html.j2",
        section="privacy",
        stored=visit.table("stored", stored),
        tainted=visit.table("tainted", tainted) if tainted else None,
        check=verify_audit(visit.workspace),
        log=visit.table("audit", log[:ENTRIES], all_rows=lambda: log) if log else None,
    )
