"""Exports: one file per channel, of customers who agree at this moment, with approved texts."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import StringIO
from pathlib import Path

import polars as pl

from recllm.base.documents import guarded, plain
from recllm.base.errors import NothingToDo, PolicyError
from recllm.base.files import sweep_drafts, write_whole
from recllm.base.messages import CampaignMessage
from recllm.base.schema import Action, Purpose
from recllm.market.adcopy.channels import CALL_TO_ACTION, channel_named
from recllm.market.adcopy.write import TEMPLATE
from recllm.market.audiences.audience import counts_in_words
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.audiences.exclusions import ExclusionReason
from recllm.market.audiences.selection import check_floor, globally_held_out
from recllm.market.campaigns.drafts import all_campaigns
from recllm.market.campaigns.folder import CampaignText, ExportEntry, PlannedPerson, TextStatus, append, read_entries
from recllm.market.campaigns.open_campaign import OpenCampaign, SendWindow, States, late_departure, text_states
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import FEEDBACK_SCHEMA
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, present

WITHDRAWN, SUPPRESSED, UNAPPROVED = "consent_withdrawn", "suppression_list", "text_not_approved"
BOUNCED, ORDERED, CONTACTED = "address_bounced", "ordered_since", "contacted_lately"
EMAIL = "email"
ERASED = "erased"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CampaignExport:
    """What one export wrote."""

    campaign_id: str
    reached: int
    """People in the files."""
    held_out: int
    dropped: Mapping[str, int]
    """As of `ExportEntry`."""
    files: tuple[str, ...]
    window: SendWindow
    people: tuple[str, ...]
    """Pseudonyms of those reached."""


def export_campaign(
    campaign: OpenCampaign,
    folder: Path | None,
    *,
    ids: Mapping[str, str] | None = None,
    clock: datetime | None = None,
    revision: str | None = None,
    addresses: Collection[str] = (),
) -> CampaignExport:
    """Writes ID-CHANNEL.csv files into `folder`, and logs whom they reach; who is held out is in none of them.

    folder: None for messages that `recllm.market.sending` sends to people with one of the `addresses`, by pseudonym.
    It records them when they have left. Their channel is in no file from then on, and a channel that was in a file is
    not sent from here. ids: pseudonym -> the shop's own id, where it is known. revision: what the caller saw, see
    `CampaignFolder.revision`. Raises `PolicyError` when no text is approved, or fewer people than the policy's floor
    are left, or it is too late for the plan (`late_departure`), `NothingToDo` with the counts for none, or when the
    offer is over, `ConflictError` for another revision.
    """
    plan = campaign.plan
    with campaign.folder.locked():  # no text is withdrawn between this look and the log of exports
        campaign.folder.check_revision(campaign.file.digest, revision)
        states = text_states(campaign)
        if not any(state.action is TextStatus.APPROVED for state in states.values()):
            raise PolicyError(f"no text of {plan.campaign_id!r} is approved; see recllm campaign approve FILE")
        window = campaign.window()
        if window is None:
            raise NothingToDo(
                f"the offer of {plan.campaign_id!r} ends before the quiet hours do; nothing can be sent in time"
            )
        if leave := late_departure(campaign, clock):
            raise PolicyError(
                f"{plan.campaign_id!r} knows orders until {plan.known_until:%Y-%m-%d}, and would leave on "
                f"{leave:%Y-%m-%d}: load newer orders, and plan it again with --replace"
            )
        entries = read_entries(campaign.folder.exports, ExportEntry)
        gone = {name for entry in entries if entry.sends is (folder is not None) for name in entry.reached}
        gone_channels = {p.channel for p in plan.people if p.user_id in gone}
        if folder is None:
            leaving = [p for p in plan.people if p.user_id in addresses]
            if in_files := sorted(gone_channels & {p.channel for p in leaving}):
                raise PolicyError(
                    f"messages of {plan.campaign_id!r} by {', '.join(in_files)} were exported to a file, and may have "
                    "been sent with it; plan another campaign"
                )
        else:
            leaving = [p for p in plan.people if p.channel not in gone_channels]
        reached, held_out, dropped = reachable_people(campaign, states, leaving)
        if not reached:
            counts = counts_in_words(dropped)
            raise NothingToDo(f"the campaign {plan.campaign_id!r} has no customers left to reach: {counts}")
        before = {name for entry in entries for name in entry.reached}
        group = {p.user_id for p in reached} | (set() if folder else before)  # sending goes on with the same group
        check_floor(len(group), FigureGate(campaign.workspace).floor)
        at = clock or datetime.now(UTC)
        messages = messages_of(campaign, reached, at)
        # before the files: a report may come as soon as a message can be sent
        campaign.workspace.store().add_messages(list(messages.values()))
        files = write_lists(campaign, folder, messages, states, window, ids or {}) if folder else []
        entry = {
            "at": at.isoformat(timespec="seconds"),
            "send_from": plain(window.start),
            "reached": [p.user_id for p in reached],
            "held": [p.user_id for p in held_out],
            "texts": {p.user_id: p.text_id for p in reached},
            "dropped": dropped,
            "sends": folder is None,
        }
        if folder:  # before the line that says they are recorded: a repeated export records them, and none twice
            record_shown(campaign, [p for p in reached if p.user_id not in before], messages, at)
        if folder or not before.issuperset(messages):
            append(campaign.folder.exports, [entry])
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


def reachable_people(
    campaign: OpenCampaign, states: States, people: Sequence[PlannedPerson] | None = None
) -> tuple[list[PlannedPerson], list[PlannedPerson], dict[str, int]]:
    """Whom an export made now would reach, who of those held out would be reached alike, so that both sides of the
    comparison lose the same kind of people, and reason -> how many others. people: all of the plan when None."""
    people = campaign.plan.people if people is None else people
    workspace, channels = campaign.workspace, campaign.file.personal_channels
    gate, names = workspace.gate(), [p.user_id for p in people]
    personal, stored = gate.permits_each(names, Purpose.PERSONALISATION), gate.knows_each(names)
    agreed = {c: gate.permits_each(names, CHANNEL_PURPOSE[c]) for c in channels}
    bounced = {c: undeliverable(workspace, c) for c in channels}
    never = set(workspace.pseudonymiser().many(campaign.file.limits.suppressed_ids()))
    contacted = contacted_lately(campaign, workspace.settings.occasions.contact_days)
    _, events = gate.histories(names, Purpose.PERSONALISATION, since=campaign.plan.known_until)
    ordered = set(events.filter(event=Action.PURCHASE)["user_id"])
    holdout = workspace.settings.experiments
    held_back = globally_held_out(names, holdout.holdout_share, holdout.holdout_salt)  # it may have grown
    ready = {name for name, state in states.items() if state.action is TextStatus.APPROVED}
    # a text that no one reads waits for no approval
    drafts = {name for name, s in states.items() if s.action is TextStatus.DRAFT and not s.failures}
    ready |= drafts.difference(text.id for text in campaign.plan.read_texts)
    reachable, dropped = list[PlannedPerson](), Counter[str]()
    for n, person in enumerate(people):
        reasons = {
            ERASED: not stored[n],
            WITHDRAWN: not (personal[n] and agreed[person.channel][n]),
            SUPPRESSED: person.user_id in never,
            ExclusionReason.HELD_OUT.value: held_back[n],
            BOUNCED: person.user_id in bounced[person.channel],
            ORDERED: person.user_id in ordered,
            CONTACTED: (person.user_id, person.channel) in contacted,
            UNAPPROVED: person.text_id not in ready,
        }
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        if reason is None:
            reachable.append(person)
        elif not person.held_out:
            dropped[reason] += 1
    reached, held_out = ([p for p in reachable if p.held_out is side] for side in (False, True))
    return reached, held_out, dict(dropped)


def contacted_lately(campaign: OpenCampaign, days: float) -> set[tuple[str, str]]:
    """Pseudonym and channel of messages of other campaigns that leave within `days` of this one's."""
    near_ids = {
        folder.path.name
        for folder in all_campaigns(campaign.workspace)
        for entry in read_entries(folder.exports, ExportEntry)
        if abs(datetime.fromisoformat(entry.send_from) - campaign.moment) < timedelta(days=days)
    }
    near_ids.discard(campaign.plan.campaign_id)
    sent = campaign.workspace.gate().messages(Purpose.PERSONALISATION)
    sent = sent.filter(pl.col("campaign_id").is_in(sorted(near_ids)))
    return set(sent.select("user_id", "channel").iter_rows())


def written_lately(campaign: OpenCampaign) -> int:
    """People of the plan with another message within its `frequency_days`."""
    lately = {user_id for user_id, _ in contacted_lately(campaign, campaign.file.limits.frequency_days)}
    return sum(person.user_id in lately for person in campaign.plan.addressed)


def undeliverable(workspace: Workspace, channel: str) -> set[str]:
    """Pseudonyms of people whose address on the channel failed permanently, and who did not agree to it again since."""
    store = workspace.store()
    bounced = store.bounced_at(channel)
    with store.read() as reader:
        decisions = reader.consent(CHANNEL_PURPOSE[channel].value, bounced).filter("granted")
    agreed = dict(decisions.group_by("user_id").agg(pl.max("at")).iter_rows())
    return {user_id for user_id, at in bounced.items() if user_id not in agreed or agreed[user_id] <= at}


def write_lists(
    campaign: OpenCampaign,
    folder: Path,
    messages: Mapping[str, CampaignMessage],
    states: States,
    window: SendWindow,
    ids: Mapping[str, str],
) -> list[Path]:
    """One CSV per channel that has rows: UTF-8, and no cell that a spreadsheet takes for a formula. For people begins
    each row with `user_id`, `request_id` and `recllm_message_id`, by which reports know it. messages: by pseudonym."""
    files, texts = [], {t.id: t for t in campaign.plan.texts}
    start, end = ("" if at is None else at.isoformat(timespec="seconds") for at in (window.start, window.end))

    def row(text: CampaignText) -> dict[str, str]:
        wording, channel = states[text.id].text, channel_named(text.channel)
        finished = campaign.file.message(wording, text.channel, text.locale, text.generator)
        # the call to action has a column of its own: the sending service makes a button of it
        call = channel.parts(wording).get(CALL_TO_ACTION, "")
        if call:
            finished = finished.replace(f"\n\n{call}", "", 1)
        return {
            "item_id": text.item_id,
            "text_id": text.id,
            "locale": text.locale,
            "generated": str(text.generator != TEMPLATE).lower(),
            "send_from": start,
            "send_until": end,
            **{slot.name: words for slot, words in channel.split(finished)},
            **({CALL_TO_ACTION: call} if channel.slots[-1].lines else {}),
        }

    folder.mkdir(parents=True, exist_ok=True)
    sweep_drafts(folder)  # of an export that was killed
    for channel in campaign.file.channels:
        if channel in campaign.file.public_channels:
            approved = [t for t in texts.values() if states[t.id].action is TextStatus.APPROVED]
            rows = [row(t) for t in approved if t.channel == channel]
        else:
            rows = [
                {
                    "user_id": ids.get(user_id, user_id),
                    "request_id": sent.request_id,
                    "recllm_message_id": sent.message_id,
                    **row(texts[sent.text_id]),
                }
                for user_id, sent in messages.items()
                if sent.channel == channel
            ]
        if rows:
            table = StringIO()
            writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: guarded(cell) for name, cell in cells.items()} for cells in rows)
            files.append(folder / f"{campaign.plan.campaign_id}-{channel}.csv")
            write_whole(files[-1], table.getvalue())
    return files


def messages_of(campaign: OpenCampaign, people: Sequence[PlannedPerson], at: datetime) -> dict[str, CampaignMessage]:
    """Pseudonym -> message. Its id is the same at each export, and cannot be guessed without the workspace's key."""
    plan, hashed = campaign.plan, campaign.workspace.pseudonymiser("message")
    return {
        p.user_id: CampaignMessage(
            message_id=f"m1_{hashed.one(chr(0).join((plan.campaign_id, p.user_id, p.text_id))).partition('_')[2]}",
            user_id=p.user_id,
            campaign_id=plan.campaign_id,
            channel=p.channel,
            text_id=p.text_id,
            variant=p.variant,
            item_id=p.item_id if p.item_id in campaign.catalogue.items else None,
            request_id=sha256(f"{plan.campaign_id}\0{p.user_id}".encode()).hexdigest()[:16],
            exported_at=at,
        )
        for p in people
    }


def record_shown(
    campaign: OpenCampaign, people: Sequence[PlannedPerson], messages: Mapping[str, CampaignMessage], clock: datetime
) -> None:
    """What people were sent counts as shown, for frequency caps and feedback: at the last second before the present, so
    that the end of a log that is replayed stays where it is. Each message once, however often it is recorded."""
    from recllm.shop.ingest.record import record_events

    workspace = campaign.workspace
    at = utc(present(workspace, clock) - 1)
    counted_in = workspace.gate().permits_each([p.user_id for p in people], Purpose.ANALYTICS)
    rows = [
        {
            "event_id": f"message {messages[p.user_id].message_id}",
            "user_id": p.user_id,
            "item_id": p.item_id,
            "event": Action.SHOWN.value,
            "timestamp": at,
            "is_timed": False,
            "request_id": messages[p.user_id].request_id,
            "position": 1,
            "model_version": campaign.plan.model_version,
            "campaign_id": campaign.plan.campaign_id,
            "template": p.text_id,
            "propensity": p.propensity,
        }
        for p, agreed in zip(people, counted_in, strict=True)
        if agreed and p.item_id in campaign.catalogue.items
    ]
    if rows:
        frame = pl.DataFrame(rows, schema={**FEEDBACK_SCHEMA, "event_id": pl.String, "is_timed": pl.Boolean})
        record_events(frame, workspace.store(), source=f"campaign {campaign.plan.campaign_id}")
