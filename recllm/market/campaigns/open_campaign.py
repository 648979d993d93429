"""A planned campaign laid open: its file, its plan, its items as they are now, and what was decided about its texts.

To open a campaign withdraws at once what no longer holds, before anybody can approve or export it.

What has been decided about each text is read from a log that only grows (G18):

    draft ──► approved ──► withdrawn (the price changed, the offer ended, the item is gone)
      │  ▲        │             │
      │  └── edited ◄───────────┘     a new wording, checked when it is entered; it waits for approval as a draft does
      └────► rejected
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from recllm.base.documents import plain
from recllm.base.errors import DataError, PolicyError, UsageError
from recllm.base.schema import Check, CopyVerdict
from recllm.market.adcopy.write import TEMPLATE, approvable
from recllm.market.campaigns.file import CampaignFile
from recllm.market.campaigns.folder import (
    CampaignFolder,
    CampaignPlan,
    CampaignText,
    Decision,
    TextFacts,
    TextStatus,
    append_decisions,
    read_entries,
    read_head,
    read_plan,
)
from recllm.market.campaigns.texts import GROUNDING, Catalogue, catalogue_at, check_notes, copy_request, facts_of
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import Workspace, log_end, present

CHECKER = "recllm"
"""Who withdraws texts."""
AUTO = "campaign (auto)"
"""Who approved a text that no person looked at."""
DATA_DAYS, PAST_DAYS = timedelta(days=7), timedelta(days=180)
"""Messages leave within the first after the last order that their plan knows.
A log that ended longer ago than the second is replayed."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SendWindow:
    """Messages may leave from `start` on, before `end`: aware times."""

    start: datetime
    end: datetime | None
    """None where nothing sets an end."""


def send_window(
    moment: datetime, quiet: tuple[time, time] | None, zone: str | None, offer_end: datetime | None
) -> SendWindow | None:
    """The first stretch from `moment` on in which messages may leave; None when the offer ends before it begins.
    quiet: two local times of the zone between which no message leaves. zone: IANA name; UTC when None."""
    if quiet is None:
        start, end = moment, None
    else:
        local = moment.astimezone(ZoneInfo(zone or "UTC"))
        local = next_time(local, quiet[1]) if is_quiet(local.time(), *quiet) else local
        start, end = local, next_time(local, quiet[0])
    if offer_end is not None:
        end = offer_end.astimezone(start.tzinfo) if end is None else min(end, offer_end.astimezone(start.tzinfo))
    return None if end is not None and end <= start else SendWindow(start, end)


def is_quiet(local: time, start: time, end: time) -> bool:
    """Whether a local time lies in the quiet hours, which may reach over midnight; their end does not."""
    return start <= local < end if start < end else local >= start or local < end


def next_time(local: datetime, hour: time) -> datetime:
    """The next time that clocks show `hour`, after `local`; one that clocks leap over is put right through UTC."""
    then = local.replace(hour=hour.hour, minute=hour.minute, second=0, microsecond=0, fold=0)
    if then <= local:
        then = then + timedelta(days=1)  # of the wall clock: the zone's offset may change meanwhile
    return then.astimezone(UTC).astimezone(local.tzinfo)


@dataclass(frozen=True, eq=False)
class OpenCampaign:
    workspace: Workspace
    file: CampaignFile
    folder: CampaignFolder
    plan: CampaignPlan
    catalogue: Catalogue
    moment: datetime
    """When texts would leave: the present, or the time to send if that is later."""

    @property
    def states(self) -> dict[str, Decision]:
        with self.folder.locked():
            return text_states(self)

    def window(self, moment: datetime | None = None) -> SendWindow | None:
        """When messages may leave, from the moment on; None where the offer ends before they may."""
        offer, limits = self.file.offer, self.file.limits
        zone = limits.timezone or self.workspace.settings.timezone
        return send_window(moment or self.moment, limits.quiet_hours, zone, offer.end if offer else None)

    def facts(self, text: CampaignText) -> TextFacts:
        return facts_of(self.catalogue.items.get(text.item_id), self.file)


def open_campaign(
    workspace: Workspace, file: CampaignFile, *, clock: datetime | None = None, recheck: bool = True
) -> OpenCampaign:
    """recheck: withdraw what no longer holds; a report only looks back and needs none.
    Raises `UsageError` where nothing was planned, or the file is another one than was planned."""
    folder = CampaignFolder.of(workspace.root, file.id)
    plan = read_plan(folder)
    if plan.digest != file.digest:
        raise UsageError(
            f"{file.source} was changed after {file.id!r} was planned; put it back, or plan again with --replace"
        )
    moment = max(utc(present(workspace, clock)), datetime.fromisoformat(plan.send))
    catalogue = catalogue_at(workspace, file, {t.item_id for t in plan.texts}, moment)
    campaign = OpenCampaign(workspace, file, folder, plan, catalogue, moment)
    if recheck:
        at = clock or datetime.now(UTC)
        log_decisions(campaign, (), lambda states: withdrawals_of(campaign, states, at), by=CHECKER)
    return campaign


def withdrawals_of(campaign: OpenCampaign, states: States, at: datetime) -> list[Decision]:
    """Of the texts that no longer hold."""
    end = campaign.file.offer.end if campaign.file.offer else None
    withdrawals = []
    for text in campaign.plan.texts:
        if states[text.id].action not in (TextStatus.DRAFT, TextStatus.APPROVED, TextStatus.EDITED):
            continue
        why = change_in_words(states[text.id].facts or text.facts, campaign.facts(text))
        if not why and end is not None and end <= campaign.moment:
            why = f"the offer ended at {end.isoformat()}"
        if why:
            withdrawals += decisions_for(TextStatus.WITHDRAWN, [text.id], by=CHECKER, at=at, why=why)
    return withdrawals


def enter_edit(
    campaign: OpenCampaign, text_id: str, wording: str, *, by: str, at: datetime, revision: str | None = None
) -> Decision:
    """A person's own wording for a text, checked under the facts of now; it is logged even where it fails. revision and
    errors as in `decide`, and `UsageError` for an item that is gone."""
    text = next((text for text in campaign.plan.texts if text.id == text_id), None)
    if text is None:
        raise UsageError(f"the campaign has no text {text_id!r}; see recllm campaign approve FILE")
    item = campaign.catalogue.items.get(text.item_id)
    if item is None or not item.available:
        raise UsageError(f"the item of {text_id} is no longer on offer; there is nothing to say about it")
    request = copy_request(campaign.file, campaign.catalogue, text, campaign.moment)
    failures, warnings = check_notes(wording, request, campaign.file, text.generator)
    (blank,) = decisions_for(TextStatus.EDITED, [text_id], by=by, at=at)
    edited = replace(blank, text=wording, failures=failures, warnings=warnings, facts=campaign.facts(text))
    log_decisions(campaign, [text_id], lambda _: [edited], by=by, revision=revision)
    return campaign.states[text_id]


def change_in_words(was: TextFacts, now: TextFacts) -> str:
    """What changed, in words; empty when nothing did."""
    if not now.available:
        return "the item is no longer on offer"
    if was.price != now.price or was.currency != now.currency:
        before, after = (f"{f.price} {f.currency or ''}".strip() if f.price else "none" for f in (was, now))
        return f"the price changed from {before} to {after}"
    return "" if was.title == now.title else f"the item is now called {now.title!r}"


def late_departure(campaign: OpenCampaign, clock: datetime | None = None) -> datetime | None:
    """When messages would leave, where their plan knows too little by then; else None."""
    now = clock or datetime.now(UTC)
    leave = max(campaign.moment, now)
    is_past = now - utc(log_end(campaign.workspace, now) or 0) > PAST_DAYS
    is_late = leave - campaign.plan.known_until > DATA_DAYS
    return leave if is_late and not is_past else None


States = Mapping[str, Decision]
"""Text's id -> the last decision, with wording and findings; for a draft the plan's."""


def text_states(campaign: OpenCampaign) -> dict[str, Decision]:
    """Under the folder's lock. Raises `DataError` for a changed log, `UsageError` when there is another plan by now."""
    folder, plan = campaign.folder, campaign.plan
    if read_head(folder) != replace(plan, people=()):
        raise UsageError(f"{plan.campaign_id!r} was planned again meanwhile; look at its preview, then repeat this")
    states = {t.id: Decision(at="", by="", action=TextStatus.DRAFT, text_id=t.id, **wording_of(t)) for t in plan.texts}
    for decision in read_entries(folder.decisions, Decision):
        name = decision.text_id
        if name not in states:
            raise DataError(f"{folder.decisions}: decides about a text {name!r} that the plan does not have")
        is_edit = decision.action is TextStatus.EDITED
        states[name] = decision if is_edit else replace(decision, **wording_of(states[name]))
    return states


def wording_of(text: CampaignText | Decision) -> dict[str, Any]:
    """Wording, findings of the checks, and their facts."""
    return {name: getattr(text, name) for name in ("text", "failures", "warnings", "facts")}


def decide(
    campaign: OpenCampaign,
    action: TextStatus,
    text_ids: Sequence[str],
    *,
    by: str,
    at: datetime,
    why: str = "",
    revision: str | None = None,
) -> None:
    """A person approves these texts, rejects them, or makes drafts of them again, which undoes the last decision about
    each and puts a change of its words back. All or none.

    revision: what the person saw; see `CampaignFolder.revision`. Raises `PolicyError` for approval of a text that fails
    a check or was rejected or withdrawn, `UsageError` for an unknown one or an empty name, `ConflictError` for another
    revision.
    """
    of_plan = {text.id: text for text in campaign.plan.texts}

    def decisions(states: States) -> list[Decision]:
        decided = decisions_for(action, text_ids, by=by, at=at, why=why)
        for n, name in enumerate(text_ids):
            state = states[name]
            if action is TextStatus.APPROVED:
                if state.action in (TextStatus.REJECTED, TextStatus.WITHDRAWN):
                    raise PolicyError(f"{name} was {state.action} ({state.why or 'no reason given'}); edit it first")
                if faults := faults_of(state, by):
                    raise PolicyError(f"{name} cannot be approved: it {faults[0]}; edit it, or reject it")
            elif action is TextStatus.DRAFT and state.action is TextStatus.EDITED:
                entries = read_entries(campaign.folder.decisions, Decision)
                edits = [entry for entry in entries if entry.text_id == name and entry.action is TextStatus.EDITED]
                before = edits[-2] if len(edits) > 1 else of_plan[name]
                decided[n] = replace(decided[n], action=TextStatus.EDITED, **wording_of(before))
        return decided

    log_decisions(campaign, text_ids, decisions, by=by, revision=revision)


def auto_approvals(plan: CampaignPlan, *, at: datetime) -> list[Decision]:
    """What a campaign that says `auto` approves: texts with the verdict `pass`."""
    text_ids = [text.id for text in plan.texts if not faults_of(text, None)]
    return decisions_for(TextStatus.APPROVED, text_ids, by=AUTO, at=at)


def log_decisions(
    campaign: OpenCampaign,
    text_ids: Sequence[str],
    new_decisions: Callable[[States], Sequence[Decision]],
    *,
    by: str,
    revision: str | None = None,
) -> None:
    """Logs what `new_decisions` makes of the states as they are under the lock.
    Raises `UsageError` for an unknown one of `text_ids` or an empty name, `ConflictError` for another revision."""
    if not by.strip():
        raise UsageError("say who decides: --by NAME")
    with campaign.folder.locked():
        campaign.folder.check_revision(campaign.file.digest, revision)
        states = text_states(campaign)
        if missing := next((name for name in text_ids if name not in states), None):
            raise UsageError(f"the campaign has no text {missing!r}; see recllm campaign approve FILE")
        new = new_decisions(states)
        append_decisions(campaign.folder.decisions, new)
    for action, n in Counter(decision.action for decision in new).items():
        _logger.info("%d texts %s", n, action)


def decisions_for(
    action: TextStatus, text_ids: Sequence[str], *, by: str, at: datetime, why: str = ""
) -> list[Decision]:
    moment = at.isoformat(timespec="seconds")
    return [Decision(at=moment, by=by.strip(), action=action, text_id=name, why=why) for name in text_ids]


def faults_of(text: CampaignText | Decision, by: str | None) -> list[str]:
    """Why a text cannot be approved. by: a person; None for the campaign itself, which says `auto`."""
    checks = [Check(guarantee=n.rule, passed=False, message=n.message, span=n.span) for n in text.failures]
    return [fault.message for fault in approvable(checks, warnings=len(text.warnings), by=by, auto=by is None)]


SAMPLE = 12
"""People shown on a preview, spread over the list."""
OF_THE_PLAN = (
    *("campaign_id", "goal", "note", "as_of", "offer", "expected_conversions", "converts", "horizon_days"),
    *("window_days", "cost", "model_version", "excluded", "group", "notes"),
)
OF_A_PERSON = ("user_id", "probability", "item_id", "kind", "channel", "text_id")


def preview_document(campaign: OpenCampaign) -> dict[str, Any]:
    plan, quiet = campaign.plan, campaign.file.limits.quiet_hours
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
        "window": plain(campaign.window()),
        "quiet": "{:%H:%M} – {:%H:%M}".format(*quiet) if quiet else "",
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
        verdict = CopyVerdict.PERSON if state.warnings else CopyVerdict.PASS
        if state.failures:
            verdict = CopyVerdict.BLOCKED
        document = {
            "id": text.id,
            "status": state.action.value,
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
            "message": campaign.file.message(state.text, text.channel, text.locale, text.generator),
            "meta": {"generated": text.generator != TEMPLATE, "generator": text.generator},
            "verdict": verdict.value,
            "verified": verdict is CopyVerdict.PASS,
            "failures": plain(state.failures),
            "warnings": plain(state.warnings),
            "ungrounded": [note.span for note in state.warnings if note.rule == GROUNDING],
        }
        documents.append(document)
    return documents
