"""The messages of a campaign: a table, decisions, and one message as it will look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import Response
from markupsafe import Markup, escape
from pydantic import BaseModel, ConfigDict, Field

from recllm.base.errors import UnknownIdError
from recllm.doors.console.campaign_fields import CampaignStep
from recllm.doors.console.campaign_pages import (
    PageState,
    actor_name,
    campaign_values,
    excluded_table,
    named_products,
    page_path,
    refused_state,
)
from recllm.doors.console.pages import REFUSALS, ConsoleForm, PageRoute, TheForm, TheVisit, Visit, WordedError
from recllm.doors.service.jobs import ENDED, JobState
from recllm.market.adcopy.channels import channel_named
from recllm.market.campaigns.drafts import open_by_id
from recllm.market.campaigns.folder import CampaignText, CheckNote, Decision, TextStatus
from recllm.market.campaigns.open_campaign import OpenCampaign, decide, enter_edit
from recllm.market.campaigns.texts import GROUNDING, check_notes, copy_request
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/campaigns", route_class=PageRoute)

PAGE_MESSAGES = 25
DECIDER = "decider"
"""The last typed name of the person who decides, where sign-in is not needed; see `recllm.doors.console.memory`."""
NOTICES: Mapping[str, str] = {
    "approve": "text_approved",
    "approve_ready": "text_approved",
    "reject": "text_rejected",
    "edit": "text_edited",
    "undo": "text_undone",
    "undo_last": "text_undone",
}
"""What a button does -> its notice."""


class MessageVerdict(StrEnum):
    """Whether a message can go out."""

    LOOK = "look"
    """A person has to look at a word."""
    READY = "ready"
    BLOCKED = "blocked"
    APPROVED = "approved"
    REJECTED = "rejected"
    """Also one that is no longer true."""


TONES = {
    MessageVerdict.LOOK: "warn",
    MessageVerdict.READY: "good",
    MessageVerdict.BLOCKED: "bad",
    MessageVerdict.APPROVED: "accent",
    MessageVerdict.REJECTED: "",
}


class MessageSort(StrEnum):
    PEOPLE = "people"
    VERDICT = "verdict"
    PRODUCT = "product"


class MessageQuery(BaseModel):
    """Which messages the table shows, in the addresses of its forms too."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    show: MessageVerdict | None = None
    channel: Annotated[str, Field(max_length=40)] = ""
    sort: MessageSort = MessageSort.PEOPLE
    page: Annotated[int, Field(ge=1, le=100_000)] = 1
    m: Annotated[str, Field(max_length=40)] = ""
    """Id of the message that is open."""
    pick: Annotated[str, Field(max_length=10)] = ""
    """"ready" or "all": of those that are shown, which ones are ticked."""
    job: Annotated[str, Field(max_length=40)] = ""

    def address(self, **changes: object) -> str:
        """The query of a link with these changes; the page and the ticks begin again."""
        fields: dict[str, object] = {"show": self.show, "channel": self.channel, "sort": self.sort, **changes}
        return "?" + urlencode({name: value for name, value in fields.items() if value})


TheQuery = Annotated[MessageQuery, Query()]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageLine:
    """One message: the text for all customers of one product, reason, channel and language."""

    text: CampaignText
    state: Decision
    heading: str
    """Its first line."""
    product: str
    category: str
    people: int | None
    """None below the policy's floor."""

    @property
    def verdict(self) -> MessageVerdict:
        if self.state.action is TextStatus.APPROVED:
            return MessageVerdict.APPROVED
        if self.state.action in (TextStatus.REJECTED, TextStatus.WITHDRAWN):
            return MessageVerdict.REJECTED
        if self.state.failures:
            return MessageVerdict.BLOCKED
        return MessageVerdict.LOOK if self.state.warnings else MessageVerdict.READY


def show_messages(
    visit: Visit,
    campaign_id: str,
    state: PageState,
    query: MessageQuery | None = None,
    *,
    wording: str | None = None,
) -> Response:
    """All messages of a campaign, and one of them as it will look. wording: of that one, typed and not saved."""
    query = query or MessageQuery()
    values = campaign_values(visit, campaign_id, CampaignStep.MESSAGES, state)
    campaign: OpenCampaign | None = values["campaign"]
    background = visit.state.service.background
    # the plan that is being made, else the one that the address names
    job = background.open_job(visit.shop.name, campaign_id)
    if job is None and query.job:
        with suppress(UnknownIdError):
            job = background.job(visit.shop.name, query.job)
    values |= {"query": query, "job": job, "tones": TONES, "verdicts": list(MessageVerdict)}
    unproven = [key.removeprefix("words.evidence.lowest_30d.") for key in job.keys] if job else []
    values |= {"finding": finding_text, "unproven": named_products(visit, unproven)}
    counts = job.left_out if job else {}
    people = {name: n and visit.figures.people(n, campaign_id, name) for name, n in counts.items()}
    values["reaches_none"] = excluded_table(visit, people) if people else None
    values |= {"is_running": job is not None and job.state not in ENDED, "decider": typed_name(visit), "lines": None}
    if job is not None and job.state is JobState.DONE:
        values["job"] = None
    if campaign is not None:
        values |= table_values(visit, campaign, query)
        line = next((line for line in values["all_lines"] if line.text.id == query.m), None)
        line = line or next(iter(values["lines"] or values["all_lines"]), None)
        values["opened"] = None if line is None else preview(visit, campaign, line, wording)
    return visit.page("campaign_messages.html.j2", section="campaigns", status=state.status, **values)


def table_values(visit: Visit, campaign: OpenCampaign, query: MessageQuery) -> dict[str, Any]:
    lines = message_lines(visit, campaign, query.sort)
    of_channel = [line for line in lines if query.channel in ("", line.text.channel)]
    matching = [line for line in of_channel if query.show in (None, line.verdict)]
    start = (query.page - 1) * PAGE_MESSAGES
    ready = [line for line in lines if line.verdict is MessageVerdict.READY]
    return {
        "all_lines": lines,
        "lines": matching[start : start + PAGE_MESSAGES],
        "n_lines": len(matching),
        "n_pages": -(-len(matching) // PAGE_MESSAGES),
        "counts": Counter(line.verdict for line in of_channel),
        "of_channels": Counter(line.text.channel for line in lines),
        "n_ready": len(ready),
        "n_approved": sum(line.verdict is MessageVerdict.APPROVED for line in lines),
    }


def message_lines(visit: Visit, campaign: OpenCampaign, sort: MessageSort = MessageSort.PEOPLE) -> list[MessageLine]:
    states, floor, order = campaign.states, visit.figures.floor, list(MessageVerdict)
    lines = []
    for text in campaign.plan.read_texts:
        item, words = campaign.catalogue.items.get(text.item_id), states[text.id].text
        lines.append(
            MessageLine(
                text=text,
                state=states[text.id],
                heading=next((line for line in words.splitlines() if line.strip()), ""),
                product=item.title if item else text.facts.title,
                category=" > ".join(item.category) if item else "",
                people=text.people if text.people >= floor or not text.people else None,
            )
        )

    def place(line: MessageLine) -> tuple[str, int]:
        if sort is MessageSort.PRODUCT:
            return f"{line.product.casefold()} {line.text.channel}", 0
        return str(order.index(line.verdict)) if sort is MessageSort.VERDICT else "", -line.text.people

    return sorted(lines, key=place)


def preview(
    visit: Visit,
    campaign: OpenCampaign,
    line: MessageLine,
    wording: str | None,
) -> dict[str, Any]:
    """A message as it would leave, with what the checks say of it. wording: typed, not saved; None for the saved one.

    parts: name of each part -> its words, in which what the checks mean is marked. editable: name and words of each
    part that a person may change, and whether it has several lines.
    """
    text, words, failures, warnings = line.text, line.state.text, line.state.failures, line.state.warnings
    if wording is not None:
        words = wording
        request = copy_request(campaign.file, campaign.catalogue, text, campaign.moment)
        failures, warnings = check_notes(wording, request, campaign.file, text.generator)
    marks = [(note.span, "bad") for note in failures] + [(note.span, "warn") for note in warnings]
    channel = channel_named(text.channel)
    finished, added = campaign.file.message(words, text.channel, text.locale, text.generator), ""
    if channel.slots[-1].lines:  # the law's part stands below the call to action, which ends the words
        finished, added = words, finished[len(words) :].strip()
    written = {slot.name: content for slot, content in channel.split(words)}
    return {
        "line": line,
        "parts": {name: marked(content, marks) for name, content in channel.parts(finished).items()},
        "added": added,
        "editable": [(slot.name, written.get(slot.name, ""), slot.lines) for slot in channel.slots],
        "failures": failures,
        "warnings": warnings,
        "is_typed": wording is not None,
    }


def marked(words: str, marks: Sequence[tuple[str, str]]) -> Markup:
    """Escaped words with each span marked by its tone; the longest of overlapping spans counts."""
    tones = {span.casefold(): tone for span, tone in reversed(marks) if span.strip()}
    if not tones:
        return escape(words)
    spans = sorted(tones, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, spans)) + ")", words, flags=re.IGNORECASE)
    return Markup("").join(
        Markup('<mark class="{}">{}</mark>').format(tones[piece.casefold()], piece)
        if piece.casefold() in tones
        else escape(piece)
        for piece in parts
    )


def finding_text(visit: Visit, note: CheckNote, sender: str) -> str:
    """What a check says, in the visitor's language. sender: the name that the shop sends with."""
    if note.rule == GROUNDING:
        is_sender = note.span.casefold() in sender.casefold()
        return visit.say(f"campaigns.finding.{'sender' if is_sender else 'word'}", word=note.span)
    if "lowest_30d" in note.message:
        return visit.say("campaigns.finding.former_price")
    path = f"check.{note.rule}" if visit.words.has(f"check.{note.rule}") else "check.pack"
    return visit.say("campaigns.finding.rule", rule=visit.say(path, rule=note.rule)) + (
        f" “{note.span}”" if note.span else ""
    )


@router.post("/campaign/{campaign_id}/check")
def check(visit: TheVisit, form: TheForm, campaign_id: str, query: TheQuery) -> Response:
    """What the checks say of a wording; nothing is written."""
    visit.require(Scope.MARKETING)
    campaign = open_by_id(visit.workspace, campaign_id, recheck=False)
    _remember_name(visit, actor_name(visit, form))
    line = next((line for line in message_lines(visit, campaign) if line.text.id == query.m), None)
    if line is None or line.text.item_id not in campaign.catalogue.items:
        raise UnknownIdError("there is no such text, or its item is gone")
    wording = typed_wording(form, line.text.channel)
    if not visit.is_part:
        return show_messages(visit, campaign_id, PageState(), query, wording=wording)
    values: dict[str, Any] = {
        "opened": preview(visit, campaign, line, wording),
        "file": campaign.file,
        "finding": finding_text,
    }
    return visit.page("campaign_preview.html.j2", **values)


def typed_wording(form: ConsoleForm, channel: str) -> str:
    """The parts of a message as one text, a line for each."""
    names = [slot.name for slot in channel_named(channel).slots]
    parts = [form.text(f"part:{name}", 5_000).replace("\r\n", "\n").strip() for name in names]
    return "\n".join(filter(None, parts))


@router.post("/campaign/{campaign_id}/decide")
def decide_texts(visit: TheVisit, form: TheForm, campaign_id: str, query: TheQuery) -> Response:
    """Approve, change, reject or take back, by the name of the person who decides."""
    visit.require(Scope.MARKETING)
    act, by = form.text("act"), actor_name(visit, form)
    wording: str | None = None
    _remember_name(visit, by)
    try:
        campaign = open_by_id(visit.workspace, campaign_id)
        lines = {line.text.id: line for line in message_lines(visit, campaign)}
        text_ids = [query.m] if act in ("edit", "undo_last") else form.texts("text_id")
        if act == "approve_ready":
            text_ids = [name for name, line in lines.items() if line.verdict is MessageVerdict.READY]
        if act == "edit" and query.m in lines:
            wording = typed_wording(form, lines[query.m].text.channel)
        if not by:
            raise WordedError(visit.say("campaigns.no_name"))
        if not text_ids or act not in NOTICES or not set(text_ids) <= lines.keys():
            raise WordedError(visit.say("campaigns.no_text"))
        common: dict[str, Any] = {"by": by, "at": datetime.now(UTC), "revision": form.text("revision")}
        if act == "edit":
            if not wording:
                raise WordedError(visit.say("campaigns.no_wording"))
            enter_edit(campaign, text_ids[0], wording, **common)
        elif act == "reject":
            decide(campaign, TextStatus.REJECTED, text_ids, why=form.text("why"), **common)
        else:
            is_undo = act in ("undo", "undo_last")
            decide(campaign, TextStatus.DRAFT if is_undo else TextStatus.APPROVED, text_ids, **common)
    except REFUSALS as error:
        return show_messages(visit, campaign_id, refused_state(visit, error), query, wording=wording)
    fields = {name: str(value) for name, value in query.model_dump(exclude_defaults=True).items()}
    return visit.back(page_path(campaign_id, CampaignStep.MESSAGES, **fields), NOTICES[act])


def typed_name(visit: Visit) -> str | None:
    """The text of the name's field; None where the key has the name."""
    if visit.signed_in and visit.signed_in.name:
        return None
    return visit.state.typed.get(visit.browser, DECIDER) or ""


def _remember_name(visit: Visit, by: str) -> None:
    if by and typed_name(visit) is not None:
        visit.state.typed.put(by, visit.browser, DECIDER)
