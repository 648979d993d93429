"""What leaves: one file per channel, of people who agree at this moment, with texts that somebody approved."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from io import StringIO
from pathlib import Path

import polars as pl

from recllm.adcopy.channels import channel_named
from recllm.adcopy.write import TEMPLATE
from recllm.audiences.assignment import check_floor
from recllm.audiences.audience import TEXT_ITEM
from recllm.campaigns.folder import CampaignText, ExportEntry, PlannedPerson, TextStatus, append, read_entries
from recllm.campaigns.hours import SendWindow
from recllm.campaigns.open_campaign import OpenCampaign, States, text_states
from recllm.campaigns.texts import message
from recllm.data.dataset import utc
from recllm.documents import guarded, plain
from recllm.errors import NothingToDo, PolicyError
from recllm.files import write_whole
from recllm.jobs.feedback import FEEDBACK_SCHEMA
from recllm.jobs.serve import CHANNEL_PURPOSE
from recllm.schema import Action, Purpose
from recllm.workspace.workspace import present

WITHDRAWN, SUPPRESSED, UNAPPROVED = "consent_withdrawn", "suppression_list", "text_not_approved"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CampaignExport:
    """What one export wrote."""

    campaign_id: str
    reached: int
    """People in the files."""
    held_out: int
    dropped: Mapping[str, int]
    """Reason -> people of the plan who are not in the files."""
    files: tuple[str, ...]
    window: SendWindow
    people: tuple[str, ...]
    """Pseudonyms of those reached."""


def export_campaign(
    campaign: OpenCampaign, folder: Path, *, ids: Mapping[str, str] | None = None, clock: datetime | None = None
) -> CampaignExport:
    """Writes ID-CHANNEL.csv files into `folder`, and logs whom they reach; who is held out is in none of them.

    ids: pseudonym -> the shop's own id, where it is known. Raises `PolicyError` when no text is approved, or fewer
    people than the policy's floor are left, `NothingToDo` with the counts when nobody is, or the offer is over.
    """
    plan = campaign.plan
    with campaign.folder.locked():  # nobody withdraws a text between this look and the log of what left
        states = text_states(campaign)
        if not any(state.action is TextStatus.APPROVED for state in states.values()):
            raise PolicyError(f"no text of {plan.campaign_id!r} is approved; see recllm campaign approve FILE")
        window = campaign.window
        if window is None:
            raise NothingToDo(
                f"the offer of {plan.campaign_id!r} ends before the quiet hours do; nothing can be sent in time"
            )
        reached, dropped = _reachable(campaign, plan.addressed, states)
        held_out, _ = _reachable(campaign, plan.held_out, states)
        if not reached:
            counts = ", ".join(f"{reason} {n:,}" for reason, n in dropped.items())
            raise NothingToDo(f"nobody of {plan.campaign_id!r} is left to reach: {counts}")
        check_floor(len(reached), campaign.workspace.policy.group_floor)
        before = {name for entry in read_entries(campaign.folder.exports, ExportEntry) for name in entry.reached}
        folder.mkdir(parents=True, exist_ok=True)
        files = _write_files(campaign, folder, reached, states, window, ids or {})
        at = clock or datetime.now(UTC)
        entry = {
            "at": at.isoformat(timespec="seconds"),
            "send_from": plain(window.start),
            "reached": [p.user_id for p in reached],
            "held": [p.user_id for p in held_out],
            "texts": {p.user_id: p.text_id for p in reached},
            "dropped": dropped,
        }
        append(campaign.folder.exports, [entry])
    _record_shown(campaign, [p for p in reached if p.user_id not in before], at)
    _logger.info("exported %d people, %d held out, %d dropped", len(reached), len(held_out), sum(dropped.values()))
    return CampaignExport(
        campaign_id=plan.campaign_id,
        reached=len(reached),
        held_out=len(held_out),
        dropped=dropped,
        files=tuple(str(file) for file in files),
        window=window,
        people=tuple(p.user_id for p in reached),
    )


def _reachable(
    campaign: OpenCampaign, people: Sequence[PlannedPerson], states: States
) -> tuple[list[PlannedPerson], dict[str, int]]:
    """Who may be reached at this moment, and how many may not for which reason. The same is asked of those held out, so
    that both sides of the comparison lose the same kind of people."""
    workspace = campaign.workspace
    gate, names = workspace.gate(), [p.user_id for p in people]
    personal = gate.permits_each(names, Purpose.PERSONALISATION)
    channel = {c: gate.permits_each(names, CHANNEL_PURPOSE[c]) for c in campaign.file.personal_channels}
    never = set(workspace.pseudonymiser().many(campaign.file.limits.suppressed_ids()))
    reachable, dropped = [], Counter[str]()
    for n, person in enumerate(people):
        if not (personal[n] and channel[person.channel][n]):
            dropped[WITHDRAWN] += 1
        elif person.user_id in never:
            dropped[SUPPRESSED] += 1
        elif states[person.text_id].action is not TextStatus.APPROVED:
            dropped[UNAPPROVED] += 1
        else:
            reachable.append(person)
    return reachable, dict(dropped)


def _write_files(
    campaign: OpenCampaign,
    folder: Path,
    reached: Sequence[PlannedPerson],
    states: States,
    window: SendWindow,
    ids: Mapping[str, str],
) -> list[Path]:
    """One CSV per channel that has rows: UTF-8, and no cell that a spreadsheet takes for a formula. For people begins
    each row with `user_id` and `request_id`, which a click can carry."""
    files, texts = [], {t.id: t for t in campaign.plan.texts}
    start, end = ("" if at is None else at.isoformat(timespec="seconds") for at in (window.start, window.end))

    def row(text: CampaignText) -> dict[str, str]:
        """Whose words they are, when they may leave, and the channel's parts with what the law adds."""
        finished = message(campaign.file, states[text.id].text, text.channel, text.locale, text.generator)
        return {
            "item_id": text.item_id,
            "text_id": text.id,
            "locale": text.locale,
            "generated": str(text.generator != TEMPLATE).lower(),
            "send_from": start,
            "send_until": end,
            **{slot.name: words for slot, words in channel_named(text.channel).split(finished)},
        }

    for channel in campaign.file.channels:
        if channel in campaign.file.public_channels:
            approved = [t for t in texts.values() if states[t.id].action is TextStatus.APPROVED]
            rows = [row(t) for t in approved if t.channel == channel]
        else:
            rows = [
                {"user_id": ids.get(p.user_id, p.user_id), "request_id": _request_id(campaign, p)}
                | row(texts[p.text_id])
                for p in reached
                if p.channel == channel
            ]
        if rows:
            table = StringIO()
            writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: guarded(cell) for name, cell in cells.items()} for cells in rows)
            files.append(folder / f"{campaign.plan.campaign_id}-{channel}.csv")
            write_whole(files[-1], table.getvalue())
    return files


def _request_id(campaign: OpenCampaign, person: PlannedPerson) -> str:
    return sha256(f"{campaign.plan.campaign_id}\0{person.user_id}".encode()).hexdigest()[:16]


def _record_shown(campaign: OpenCampaign, people: Sequence[PlannedPerson], clock: datetime) -> None:
    """What people were sent counts as shown, for frequency caps and feedback: at the last second before the present, so
    that the end of a log that is replayed stays where it is."""
    from recllm.ingest.record import record_events

    workspace = campaign.workspace
    at = utc(present(workspace, clock) - 1)
    counted_in = workspace.gate().permits_each([p.user_id for p in people], Purpose.ANALYTICS)
    rows = [
        (p.user_id, p.item_id, Action.SHOWN.value, at, _request_id(campaign, p), 1, campaign.plan.model_version)
        for p, agreed in zip(people, counted_in, strict=True)
        if agreed and p.item_id in campaign.catalogue.items and p.item_id != TEXT_ITEM
    ]
    if rows:
        frame = pl.DataFrame(rows, schema=FEEDBACK_SCHEMA, orient="row")
        record_events(frame, workspace.store(), source=f"campaign {campaign.plan.campaign_id}")
