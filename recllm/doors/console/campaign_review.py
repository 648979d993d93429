"""The last page of a campaign: what may be expected, what goes when, and the lists that leave."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.base.files import safe_id
from recllm.base.stats.intervals import expected_hits, smallest_difference
from recllm.doors.console.audience_tables import excluded_table, left_out
from recllm.doors.console.campaign_fields import CampaignStep
from recllm.doors.console.campaign_messages import TONES, MessageVerdict, message_lines
from recllm.doors.console.campaign_pages import PageState, actor_name, campaign_values, refused_state
from recllm.doors.console.pages import (
    FormRefusal,
    PageRoute,
    TheForm,
    TheVisit,
    Visit,
    WordedError,
    file_of,
    slow,
    text_of,
)
from recllm.market.audiences.audience import aim
from recllm.market.campaigns.drafts import CampaignAct, history, note, open_by_id
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/campaigns", route_class=PageRoute)

MAX_IDS_BYTES = 20_000_000
MANY_MESSAGES_FOR_AN_ORDER = 100
"""From this number of messages for one expected order on, a page asks to write to fewer people."""


@router.get("/campaign/{campaign_id}/review")
def review_page(visit: TheVisit, campaign_id: str) -> Response:
    """What an export would do now."""
    return show_review(visit, campaign_id, PageState())


def show_review(visit: Visit, campaign_id: str, state: PageState, *, status: int = 200) -> Response:
    values = campaign_values(visit, campaign_id, CampaignStep.REVIEW, state)
    values["acts"] = act_lines(history(visit.workspace, campaign_id))
    if values["campaign"] is not None:
        values |= review_values(visit, values["campaign"])
    return visit.page("campaign_review.html.j2", section="campaigns", status=status, **values)


def review_values(visit: Visit, campaign: OpenCampaign) -> dict[str, Any]:
    from recllm.market.campaigns.export import export_forecast

    plan, forecast, lines = campaign.plan, export_forecast(campaign), message_lines(visit, campaign)
    buyers = expected_hits([person.probability for person in plan.addressed])
    cost, addressed = campaign.file.limits.cost, len(plan.addressed)
    return {
        "forecast": forecast,
        "dropped": excluded_table(visit, left_out(forecast.dropped)) if forecast.dropped else None,
        "approved": [line for line in lines if line.verdict is MessageVerdict.APPROVED],
        "n_messages": len(lines),
        "tones": TONES,
        "people": visit.figures.people(addressed, plan.campaign_id, "addressed") or 0,
        "held_out": visit.figures.people(len(plan.held_out), plan.campaign_id, "held out") or 0,
        "aim": aim(plan.converts),
        "buyers": buyers,
        "is_thin": buyers.value * MANY_MESSAGES_FOR_AN_ORDER < addressed,
        "smallest": smallest_difference(buyers.value / max(1, addressed), addressed, len(plan.held_out)),
        "window": campaign.window,
        "cost": None if cost is None else cost * forecast.reached,
    }


@router.post("/campaign/{campaign_id}/export")
@slow
def export(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """Write the lists of one campaign and hand them over as one archive; logged as sent. Nothing of it stays here."""
    visit.require(Scope.MARKETING)
    visit.require(Scope.PEOPLE)
    from recllm.market.campaigns.export import export_campaign

    content = file_of(form, "ids", MAX_IDS_BYTES)

    def written() -> bytes:
        if text_of(form, "confirmed") != "yes":
            raise WordedError(visit.say("campaigns.confirm_first"))
        campaign, ids, archive = open_by_id(visit.workspace, campaign_id), shops_ids(visit, content), io.BytesIO()
        with tempfile.TemporaryDirectory() as folder:
            done = export_campaign(campaign, Path(folder), ids=ids, revision=text_of(form, "revision"))
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
                for name in done.files:
                    files.write(name, Path(name).name)
        counts = {"reached": done.reached, "held_out": done.held_out}
        note(visit.workspace, campaign_id, CampaignAct.EXPORTED, by=actor_name(visit), at=datetime.now(UTC), **counts)
        visit.remember("export_campaign", subject=None, file=campaign_id, **counts)
        return archive.getvalue()

    archive = visit.attempt(written)
    if isinstance(archive, FormRefusal):
        return show_review(visit, campaign_id, refused_state(visit, archive, PageState()), status=archive.status)
    name = f"{safe_id(campaign_id, 'a campaign')}.zip"
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(archive, media_type="application/zip", headers=headers)


def shops_ids(visit: Visit, content: bytes) -> dict[str, str]:
    """Pseudonym -> the shop's own id, of a file with one id a line. Raises `UsageError` for another file."""
    if len(content) > MAX_IDS_BYTES:
        raise WordedError(visit.say("campaigns.file_too_large"))
    try:
        ids = [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise WordedError(visit.say("campaigns.ids_not_text")) from error
    return dict(zip(visit.workspace.pseudonymiser().many(ids), ids, strict=True))


def act_lines(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A campaign's history, newest first: what one person did to many texts at one time is one line.

    lines: oldest first, of `recllm.market.campaigns.drafts.history`.
    """
    columns = ("at", "by", "action", "why")
    acts: list[dict[str, Any]] = []
    for line in reversed(lines):
        act: dict[str, Any] = {name: line.get(name, "") for name in columns}
        text_ids = [line["text_id"]] if line.get("text_id") else []
        if acts and text_ids and acts[-1]["text_ids"] and all(acts[-1][name] == act[name] for name in columns):
            acts[-1]["text_ids"] += text_ids
            continue
        counts = {name: n for name, n in line.items() if name not in (*columns, "text_id")}
        acts.append(act | {"text_ids": text_ids, "counts": counts})
    return acts
