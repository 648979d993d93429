"""A planned campaign laid open: its file, its plan, its items as they are now, and what was decided about its texts.

Whoever opens a campaign to decide or to export withdraws at once what no longer holds: a text whose item changed its
price or is gone, or whose offer ended, is `withdrawn` before anybody can approve or export it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from recllm.campaigns import decisions
from recllm.campaigns.catalogue import Catalogue, catalogue_now, facts_of
from recllm.campaigns.decisions import TextState, text_states
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.folder import CampaignFolder, read_plan
from recllm.campaigns.hours import SendWindow, send_window
from recllm.campaigns.plan_types import CampaignPlan, CampaignText, TextFacts, TextStatus
from recllm.campaigns.texts import check_notes, judged
from recllm.data.dataset import utc
from recllm.errors import UsageError
from recllm.workspace.workspace import Workspace, present

OPEN = (TextStatus.DRAFT, TextStatus.APPROVED, TextStatus.EDITED)
"""What can still be withdrawn."""


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
        return text_states(self.folder, self.plan)

    @property
    def window(self) -> SendWindow | None:
        """When messages may leave; None where the offer ends before they may."""
        offer, zone = self.file.offer, self.workspace.settings.timezone
        return send_window(self.moment, self.file.limits.quiet_hours, zone, offer.end if offer else None)

    def text(self, text_id: str) -> CampaignText:
        """Raises `UsageError` for an unknown id."""
        for text in self.plan.texts:
            if text.id == text_id:
                return text
        raise UsageError(f"the campaign has no text {text_id!r}; see recllm campaign approve FILE")

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
        decisions.withdraw(folder, plan, lambda states: _stale(campaign, states), at=at)
    return campaign


def enter_edit(campaign: OpenCampaign, text_id: str, wording: str, *, by: str, at: datetime) -> TextState:
    """A person's own wording for a text, checked under the facts of now.

    Raises `UsageError` for an unknown text, or one about an item that is gone.
    """
    text = campaign.text(text_id)
    item = campaign.catalogue.items.get(text.item_id)
    if item is None or not item.available:
        raise UsageError(f"the item of {text_id} is no longer on offer; there is nothing to say about it")
    file, moment = campaign.file, campaign.moment
    verdict = judged(file, campaign.catalogue.brands, wording, item, text.channel, text.locale, moment)
    failures, warnings = check_notes(
        file, verdict, wording, channel=text.channel, locale=text.locale, generator=text.generator
    )
    decisions.edit(
        campaign.folder,
        campaign.plan,
        text_id,
        text=wording,
        failures=failures,
        warnings=warnings,
        facts=campaign.facts(text),
        by=by,
        at=at,
    )
    return campaign.states[text_id]


def _stale(campaign: OpenCampaign, states: Mapping[str, TextState]) -> dict[str, str]:
    """text_id -> why it no longer holds."""
    offer_end = campaign.file.offer.end if campaign.file.offer else None
    ended = offer_end is not None and offer_end <= campaign.moment
    whys = {}
    for text in campaign.plan.texts:
        if states[text.id].status not in OPEN:
            continue
        why = _changed(states[text.id].facts, campaign.facts(text))
        if ended and not why:
            why = f"the offer ended at {offer_end.isoformat() if offer_end else ''}"
        if why:
            whys[text.id] = why
    return whys


def _changed(was: TextFacts, now: TextFacts) -> str:
    """What changed, in words; empty when nothing did."""
    if not now.available:
        return "the item is no longer on offer"
    if was.price != now.price or was.currency != now.currency:
        before, after = (f"{f.price} {f.currency or ''}".strip() if f.price else "none" for f in (was, now))
        return f"the price changed from {before} to {after}"
    return "" if was.title == now.title else f"the item is now called {now.title!r}"
