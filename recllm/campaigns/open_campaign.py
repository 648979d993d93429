"""A planned campaign laid open: its file, its plan, its items as they are now, and what was decided about its texts.

Whoever opens a campaign to decide or to export withdraws at once what no longer holds: a text whose item changed its
price or is gone, or whose offer ended, is `withdrawn` before anybody can approve or export it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from recllm.adcopy.write import TEMPLATE
from recllm.campaigns.decisions import States, TextState, decide, decisions_about, text_states
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.folder import (
    CampaignFolder,
    CampaignPlan,
    CampaignText,
    Decision,
    TextFacts,
    TextStatus,
    read_plan,
)
from recllm.campaigns.hours import SendWindow, send_window
from recllm.campaigns.texts import Catalogue, catalogue_now, check_notes, copy_request, facts_of, message
from recllm.data.dataset import utc
from recllm.documents import plain
from recllm.errors import UsageError
from recllm.workspace.workspace import Workspace, present

CHECKER = "recllm"
"""Who withdraws texts."""


@dataclass(frozen=True, eq=False)
class OpenCampaign:
    workspace: Workspace
    file: CampaignFile
    folder: CampaignFolder
    plan: CampaignPlan
    catalogue: Catalogue
    moment: datetime
    """When texts would leave, were they exported now: the present, or the time to send if that is later."""

    @property
    def states(self) -> dict[str, TextState]:
        with self.folder.locked():
            return text_states(self.folder, self.plan)

    @property
    def window(self) -> SendWindow | None:
        """When messages may leave; None where the offer ends before they may."""
        offer, zone = self.file.offer, self.workspace.settings.timezone
        return send_window(self.moment, self.file.limits.quiet_hours, zone, offer.end if offer else None)

    def facts(self, text: CampaignText) -> TextFacts:
        return facts_of(self.catalogue.items.get(text.item_id), self.file)


def open_campaign(
    workspace: Workspace, file: CampaignFile, *, clock: datetime | None = None, recheck: bool = True
) -> OpenCampaign:
    """recheck: withdraw what no longer holds; a report only looks back and needs none.

    Raises `UsageError` where nothing was planned, or the file is another one than was planned.
    """
    folder = CampaignFolder.of(workspace.root, file.id)
    plan = read_plan(folder)
    if plan.digest != file.digest:
        raise UsageError(
            f"{file.source} was changed after {file.id!r} was planned; put it back, or plan again with --replace"
        )
    moment = max(utc(present(workspace, clock)), datetime.fromisoformat(plan.send))
    catalogue = catalogue_now(workspace, file, {t.item_id for t in plan.texts})
    campaign = OpenCampaign(workspace, file, folder, plan, catalogue, moment)
    if recheck:
        at = clock or datetime.now(UTC)
        decide(folder, plan, (), lambda states: _withdrawals(campaign, states, at), by=CHECKER)
    return campaign


def _withdrawals(campaign: OpenCampaign, states: States, at: datetime) -> list[Decision]:
    """Of the texts that no longer hold."""
    end = campaign.file.offer.end if campaign.file.offer else None
    withdrawals = []
    for text in campaign.plan.texts:
        if states[text.id].status not in (TextStatus.DRAFT, TextStatus.APPROVED, TextStatus.EDITED):
            continue
        why = _changed(states[text.id].facts, campaign.facts(text))
        if not why and end is not None and end <= campaign.moment:
            why = f"the offer ended at {end.isoformat()}"
        if why:
            withdrawals += decisions_about(TextStatus.WITHDRAWN, [text.id], by=CHECKER, at=at, why=why)
    return withdrawals


def enter_edit(campaign: OpenCampaign, text_id: str, wording: str, *, by: str, at: datetime) -> TextState:
    """A person's own wording for a text, checked under the facts of now; it is logged even where it fails.

    Raises `UsageError` for an unknown text, or one about an item that is gone.
    """
    text = next((text for text in campaign.plan.texts if text.id == text_id), None)
    if text is None:
        raise UsageError(f"the campaign has no text {text_id!r}; see recllm campaign approve FILE")
    item = campaign.catalogue.items.get(text.item_id)
    if item is None or not item.available:
        raise UsageError(f"the item of {text_id} is no longer on offer; there is nothing to say about it")
    request = copy_request(campaign.file, campaign.catalogue, text, campaign.moment)
    failures, warnings = check_notes(wording, request, campaign.file, text.generator)
    (blank,) = decisions_about(TextStatus.EDITED, [text_id], by=by, at=at)
    edited = replace(blank, text=wording, failures=failures, warnings=warnings, facts=campaign.facts(text))
    decide(campaign.folder, campaign.plan, [text_id], lambda _: [edited], by=by)
    return campaign.states[text_id]


def _changed(was: TextFacts, now: TextFacts) -> str:
    """What changed, in words; empty when nothing did."""
    if not now.available:
        return "the item is no longer on offer"
    if was.price != now.price or was.currency != now.currency:
        before, after = (f"{f.price} {f.currency or ''}".strip() if f.price else "none" for f in (was, now))
        return f"the price changed from {before} to {after}"
    return "" if was.title == now.title else f"the item is now called {now.title!r}"


# --- as a document ---------------------------------------------------------------------------------------------------

SAMPLE = 12
"""People shown on a preview, spread over the list."""

OF_THE_PLAN = (
    *("campaign_id", "goal", "note", "as_of", "offer", "expected_conversions", "horizon_days", "window_days"),
    *("cost", "model_version", "excluded", "group", "notes"),
)

OF_A_PERSON = ("user_id", "probability", "item_id", "kind", "channel", "text_id")


def preview_document(campaign: OpenCampaign) -> dict[str, Any]:
    plan, quiet, window = campaign.plan, campaign.file.limits.quiet_hours, campaign.window
    texts, people = text_documents(campaign), plan.addressed
    sample = people[:: max(1, len(people) // SAMPLE)][:SAMPLE]
    items = [
        {
            "item_id": name,
            "title": item.title if (item := campaign.catalogue.items.get(name)) else "",
            "category": " > ".join(item.category) if item else "",
            "price": str(item.price) if item and item.price is not None else None,
            "currency": item.currency if item else None,
            "people": n,
        }
        for name, n in Counter(p.item_id for p in people).most_common()
    ]
    return {
        **{name: plain(getattr(plan, name)) for name in OF_THE_PLAN},
        "locale": campaign.workspace.settings.locale,
        "currency": campaign.workspace.settings.currency or "",
        "window": None if window is None else {"start": plain(window.start), "end": plain(window.end)},
        "quiet": f"{quiet.start:%H:%M} – {quiet.end:%H:%M}" if quiet else "",
        "size": len(people),
        "holdout": len(plan.held_out),
        "holdout_share": plan.holdout,
        "items": items,
        "divided": {
            way: dict(Counter(getattr(p, way) for p in people).most_common()) for way in ("channel", "kind", "locale")
        },
        "counts": dict(Counter(text["status"] for text in texts)),
        "texts": texts,
        "people": [{name: getattr(p, name) for name in OF_A_PERSON} for p in sample],
    }


def text_documents(campaign: OpenCampaign) -> list[dict[str, Any]]:
    """Every text with its state, the message that would leave, and what the checks say."""
    states, documents = campaign.states, []
    for text in campaign.plan.texts:
        state, item = states[text.id], campaign.catalogue.items.get(text.item_id)
        document = {
            "id": text.id,
            "status": state.status.value,
            "by": state.by,
            "at": state.at,
            "why": state.why,
            "item_id": text.item_id,
            "title": item.title if item else text.facts.title,
            "kind": text.kind,
            "channel": text.channel,
            "locale": text.locale,
            "variant": text.variant + 1,
            "people": text.people,
            "text": state.text,
            "message": message(campaign.file, state.text, text.channel, text.locale, text.generator),
            "meta": {"generated": text.generator != TEMPLATE, "generator": text.generator, "record": text.record},
            "verified": not state.failures,
            "failures": plain(state.failures),
            "warnings": plain(state.warnings),
        }
        documents.append(document)
    return documents
