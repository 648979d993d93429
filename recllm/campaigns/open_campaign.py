"""A planned campaign laid open: its file, its plan, its items as they are now, and what was decided about its texts.

Whoever opens a campaign to decide or to export withdraws at once what no longer holds: a text whose item changed its
price or is gone, or whose offer ended, is `withdrawn` before anybody can approve or export it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from recllm.campaigns.catalogue import Catalogue, catalogue_now, facts_of
from recllm.campaigns.decisions import State, Status, edit, states, withdraw
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.folder import CampaignFolder, read_plan
from recllm.campaigns.message import message, overlong
from recllm.campaigns.plan_types import Facts, Plan, Text
from recllm.campaigns.texts import doubts_of, judged
from recllm.data.dataset import utc
from recllm.errors import UsageError
from recllm.workspace.clock import present
from recllm.workspace.workspace import Workspace

STALE = (Status.DRAFT, Status.APPROVED, Status.EDITED)
"""What can still be withdrawn."""


@dataclass(frozen=True, eq=False)
class Desk:
    """moment: when texts would leave, were they exported now: the present, or the time to send if that is later."""

    workspace: Workspace
    file: CampaignFile
    folder: CampaignFolder
    plan: Plan
    catalogue: Catalogue
    moment: datetime

    @property
    def states(self) -> dict[str, State]:
        return states(self.folder, self.plan)

    def text(self, text_id: str) -> Text:
        """Raises `UsageError` for an unknown id."""
        for text in self.plan.texts:
            if text.id == text_id:
                return text
        raise UsageError(f"the campaign has no text {text_id!r}; see recllm campaign approve FILE")

    def facts(self, text: Text) -> Facts:
        return facts_of(self.catalogue.items.get(text.item_id), self.file)


def open_desk(workspace: Workspace, file: CampaignFile, *, clock: datetime | None = None, recheck: bool = True) -> Desk:
    """recheck: withdraw what no longer holds; a report only looks back and needs none.

    Raises `UsageError` where nothing was planned, or the file is another one than was planned.
    """
    folder = CampaignFolder.of(workspace.root, file.id)
    plan = read_plan(folder)
    if plan.digest != file.digest:
        raise UsageError(
            f"{file.source} was changed after {file.id!r} was planned; put it back, or plan again with --replace"
        )
    with workspace.store().read() as reader:
        last = reader.last_event()
    ended = int(last.timestamp()) + 1 if last else 0
    moment = max(utc(present(ended, clock)), datetime.fromisoformat(plan.send))
    catalogue = catalogue_now(workspace, file, {t.item_id for t in plan.texts})
    desk = Desk(workspace, file, folder, plan, catalogue, moment)
    if recheck:
        withdraw(folder, _stale(desk), at=clock or datetime.now(UTC))
    return desk


def enter_edit(desk: Desk, text_id: str, wording: str, *, by: str, at: datetime) -> State:
    """A person's own wording for a text, checked under the facts of now.

    Raises `UsageError` for an unknown text, or one about an item that is gone.
    """
    text = desk.text(text_id)
    item = desk.catalogue.items.get(text.item_id)
    if item is None or not item.available:
        raise UsageError(f"the item of {text_id} is no longer on offer; there is nothing to say about it")
    brands, moment = desk.catalogue.brands, desk.moment
    verdict = judged(desk.file, brands, wording, item, text.channel, text.locale, moment)
    failures, warnings = doubts_of(verdict)
    whole = message(desk.file, wording, channel=text.channel, locale=text.locale, generator=text.generator)
    edit(
        desk.folder,
        desk.plan,
        text_id,
        text=wording,
        failures=failures,
        warnings=(*warnings, *overlong(whole, text.channel)),
        facts=desk.facts(text),
        by=by,
        at=at,
    )
    return desk.states[text_id]


def _stale(desk: Desk) -> dict[str, str]:
    """text_id -> why it no longer holds."""
    offer, now = desk.file.offer, desk.states
    ended = offer is not None and offer.end is not None and offer.end <= desk.moment
    out = {}
    for text in desk.plan.texts:
        if now[text.id].status not in STALE:
            continue
        why = _changed(now[text.id].facts, desk.facts(text))
        if ended and not why:
            why = f"the offer ended at {offer.end.isoformat()}" if offer and offer.end else ""
        if why:
            out[text.id] = why
    return out


def _changed(was: Facts, now: Facts) -> str:
    """What changed, in words; empty when nothing did."""
    if not now.available:
        return "the item is no longer on offer"
    if was.price != now.price or was.currency != now.currency:
        return f"the price changed from {_price(was)} to {_price(now)}"
    return "" if was.title == now.title else f"the item is now called {now.title!r}"


def _price(facts: Facts) -> str:
    return "none" if facts.price is None else f"{facts.price} {facts.currency or ''}".strip()
