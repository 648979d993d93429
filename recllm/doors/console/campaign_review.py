"""The last page of a campaign: what may be expected, what goes when, and how it leaves."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from recllm.base.files import safe_id
from recllm.base.stats.intervals import LEAST_COMPARED, expected_hits, smallest_difference
from recllm.doors.console.campaign_fields import CampaignStep
from recllm.doors.console.campaign_messages import TONES, MessageVerdict, message_lines
from recllm.doors.console.campaign_pages import (
    PageState,
    actor_name,
    campaign_values,
    excluded_table,
    page_path,
    refused_state,
)
from recllm.doors.console.pages import REFUSALS, PageRoute, TheForm, TheVisit, Visit, WordedError, slow
from recllm.doors.service.jobs import ENDED, Progress
from recllm.market.audiences.audience import aim
from recllm.market.campaigns.drafts import CampaignAct, history, note, open_by_id
from recllm.market.campaigns.export import export_campaign, reachable_people, written_lately
from recllm.market.campaigns.folder import ExportEntry, read_entries
from recllm.market.campaigns.open_campaign import OpenCampaign, late_departure
from recllm.market.sending.addresses import campaign_addresses
from recllm.market.sending.outbox import MessageState, Outbox
from recllm.market.sending.send import Server, is_set_up, send_campaign, send_test, servers_of
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/campaigns", route_class=PageRoute)

MAX_IDS_BYTES = 20_000_000
MANY_MESSAGES_FOR_AN_ORDER = 100
"""From this number of messages for one expected order on, a page asks to write to fewer people."""


def show_review(visit: Visit, campaign_id: str, state: PageState) -> Response:
    """What an export would do now."""
    values = campaign_values(visit, campaign_id, CampaignStep.REVIEW, state)
    values["acts"] = act_lines(history(visit.workspace, campaign_id))
    campaign: OpenCampaign | None = values["campaign"]
    if campaign is None:
        return visit.page("campaign_review.html.j2", section="campaigns", status=state.status, **values)
    plan, lines = campaign.plan, message_lines(visit, campaign)
    reached, held_out, dropped = reachable_people(campaign, campaign.states)
    channels = Counter(person.channel for person in reached)
    buyers = expected_hits([person.probability for person in plan.addressed])
    cost, addressed, held_out_count = campaign.file.limits.cost, len(plan.addressed), len(plan.held_out)
    minimum = max(LEAST_COMPARED, visit.figures.floor)
    values |= {
        "forecast": {"reached": len(reached), "held_out": len(held_out), "channels": channels},
        "dropped": excluded_table(visit, dropped) if dropped else None,
        "approved": [line for line in lines if line.verdict is MessageVerdict.APPROVED],
        "n_messages": len(lines),
        "tones": TONES,
        "people": visit.figures.people(addressed, plan.campaign_id, "addressed") or 0,
        "held_out": visit.figures.people(held_out_count, plan.campaign_id, "held out") or 0,
        "aim": aim(plan.converts),
        "buyers": buyers,
        "is_thin": buyers.value * MANY_MESSAGES_FOR_AN_ORDER < addressed,
        "smallest": smallest_difference(buyers.value / max(1, addressed), addressed, held_out_count, minimum),
        "least_compared": minimum,
        "window": campaign.window(),
        "outdated": outdated_words(visit, campaign),
        "lately": visit.figures.people(written_lately(campaign), plan.campaign_id, "contacted lately"),
        "cost": None if cost is None else cost * len(reached),
        "send": send_values(visit, campaign),
    }
    return visit.page("campaign_review.html.j2", section="campaigns", status=state.status, **values)


def outdated_words(visit: Visit, campaign: OpenCampaign) -> str:
    """Why the messages may be untrue when they leave; or ""."""
    leave, end = late_departure(campaign), visit.words.day(campaign.plan.known_until)
    return visit.say("campaigns.outdated", end=end, day=visit.words.day(leave)) if leave else ""


@router.post("/campaign/{campaign_id}/export")
@slow
def export(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """Write the lists of one campaign and hand them over as one archive; logged as sent. Nothing of it stays here."""
    visit.require(Scope.MARKETING, Scope.PEOPLE)
    content = form.file("ids", MAX_IDS_BYTES)

    try:
        if form.text("confirmed") != "yes":
            raise WordedError(visit.say("campaigns.confirm_first"))
        campaign, archive = open_by_id(visit.workspace, campaign_id), io.BytesIO()
        if words := outdated_words(visit, campaign):
            raise WordedError(words)
        ids = ids_by_pseudonym(visit, content)
        with tempfile.TemporaryDirectory() as folder:
            done = export_campaign(campaign, Path(folder), ids=ids, revision=form.text("revision"))
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
                for name in done.files:
                    files.write(name, Path(name).name)
        counts = {"reached": done.reached, "held_out": done.held_out}
        note(visit.workspace, campaign_id, CampaignAct.EXPORTED, by=actor_name(visit), **counts)
        visit.remember("export_campaign", subject=None, file=campaign_id, **counts)
    except REFUSALS as error:
        return show_review(visit, campaign_id, refused_state(visit, error))
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(safe_id(campaign_id, 'a campaign'))}.zip"}
    return Response(archive.getvalue(), media_type="application/zip", headers=headers)


def ids_by_pseudonym(visit: Visit, content: bytes) -> dict[str, str]:
    """Pseudonym -> the shop's own id, of a file with one id a line.
    Raises `UsageError` for another file."""
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


SEND_PATH = "/campaigns/send"
"""Of the form with the addresses, which may be larger than others."""
MAX_ADDRESS_BYTES = 200_000_000
PER_MINUTE = 600
"""Messages in a minute; the command line can set another pace."""
UNANSWERED: Mapping[str, MessageState] = {"left": MessageState.SENT, "again": MessageState.DEFERRED}


def send_values(visit: Visit, campaign: OpenCampaign) -> dict[str, Any]:
    outbox = Outbox(campaign.folder) if campaign.folder.outbox.exists() else None
    counts = {state.value: len(outbox.entries(state)) if outbox else 0 for state in MessageState}
    job = visit.state.sending.latest_job(visit.shop.name, campaign.plan.campaign_id)
    return {
        "job": job,
        "is_sending": job is not None and job.state not in ENDED,
        "counts": counts,
        "has_begun": any(entry.sends for entry in read_entries(campaign.folder.exports, ExportEntry)),
        "channels": list(filter(is_set_up, campaign.file.personal_channels)),
    }


@router.get("/campaign/{campaign_id}/sending")
def sending(visit: TheVisit, campaign_id: str) -> Response:
    if not visit.is_part:
        return visit.back(page_path(campaign_id, CampaignStep.REVIEW))
    campaign = open_by_id(visit.workspace, campaign_id, recheck=False)
    return visit.page("campaign_send.html.j2", campaign_id=campaign_id, send=send_values(visit, campaign))


@router.post("/campaign/{campaign_id}/test")
@slow
def test_message(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    visit.require(Scope.MARKETING, Scope.PEOPLE)
    try:
        campaign = open_by_id(visit.workspace, campaign_id)
        send_test(campaign, servers_here(visit, campaign), form.text("to"))
    except REFUSALS as error:
        return show_review(visit, campaign_id, refused_state(visit, error))
    return visit.back(page_path(campaign_id, CampaignStep.REVIEW), "test_sent")


@router.post(SEND_PATH.removeprefix("/campaigns"))
@slow
def send(visit: TheVisit, form: TheForm) -> Response:
    """Begin or go on with sending, in the background.
    The addresses are kept only as long as it runs."""
    visit.require(Scope.MARKETING, Scope.PEOPLE)
    campaign_id = form.text("campaign")
    upload, unanswered = form.get("addresses"), UNANSWERED.get(form.text("unanswered"))
    content = form.file("addresses", MAX_ADDRESS_BYTES)
    name = (upload.filename if isinstance(upload, UploadFile) else None) or ""
    try:
        campaign = open_by_id(visit.workspace, campaign_id)
        servers = servers_here(visit, campaign)
        if words := outdated_words(visit, campaign):
            raise WordedError(words)
        if form.text("confirmed") != "yes":
            raise WordedError(visit.say("campaigns.confirm_first"))
        if not content or len(content) > MAX_ADDRESS_BYTES:
            raise WordedError(visit.say("sending.no_file"))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"addresses.{'xlsx' if name.lower().endswith('.xlsx') else 'csv'}"
            file.write_bytes(content)
            addresses = campaign_addresses(campaign, servers, file)
    except REFUSALS as error:
        return show_review(visit, campaign_id, refused_state(visit, error))

    def work(tell: Progress) -> None:
        send_campaign(
            open_by_id(visit.workspace, campaign_id),
            servers,
            addresses,
            per_minute=PER_MINUTE,
            unanswered=unanswered,
            progress=lambda n, n_all: tell(f"{n} {n_all}"),
        )

    if visit.state.sending.submit_alone(visit.shop.name, campaign_id, work) is None:
        refusal = WordedError(visit.say("sending.is_running"))
        return show_review(visit, campaign_id, refused_state(visit, refusal))
    note(visit.workspace, campaign_id, CampaignAct.EXPORTED, by=actor_name(visit))
    visit.remember("send_campaign", subject=None, file=campaign_id)
    return visit.back(page_path(campaign_id, CampaignStep.REVIEW))


@router.post("/campaign/{campaign_id}/send/stop")
def stop(visit: TheVisit, campaign_id: str) -> Response:
    """End the sending after the messages that are leaving now."""
    visit.require(Scope.MARKETING)
    job = visit.state.sending.open_job(visit.shop.name, campaign_id)
    if job is not None:
        visit.state.sending.cancel(visit.shop.name, job.job_id)
    return visit.back(page_path(campaign_id, CampaignStep.REVIEW))


def servers_here(visit: Visit, campaign: OpenCampaign) -> dict[str, Server]:
    if not any(map(is_set_up, campaign.file.personal_channels)):
        raise WordedError(visit.say("sending.no_server"))
    return servers_of(campaign)
