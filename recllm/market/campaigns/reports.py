"""Reports of mail and message services on messages, and their consequences.

Each event counts once, by the provider's id, in any order. Its time is the provider's, but never before the export of
the message nor ahead of the clock.

clicked                      also a click on the message's item, with the request id of its showing
unsubscribed, complained     withdraws the consent to the channel
bounced                      leaves the person out of the channel's exports until a message arrives, or the person
                             agrees to the channel again; consent stays
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from recllm.base.messages import CampaignMessage, MessageEvent, MessageEventKind
from recllm.base.schema import Action
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import add_consent, add_events
from recllm.shop.workspace.workspace import Workspace, present

logger = logging.getLogger(__name__)

WITHDRAWS = frozenset({MessageEventKind.UNSUBSCRIBED, MessageEventKind.COMPLAINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAccount:
    """Numbers of a provider's reported events."""

    accepted: int
    duplicates: int
    """Events that were counted before."""
    ignored: int
    """Events of another kind or form, or of messages that did not leave here."""


def record_reports(workspace: Workspace, source: str, reports: Sequence[MessageEvent]) -> ReportAccount:
    """Records reports of a provider with their consequences; durable and in force on return.

    source: the provider's name. The consequences are written first, and may be written twice: if the process dies in
    between, the provider sends the event again.
    """
    store, now = workspace.store(), datetime.now(UTC)
    messages = store.messages(report.message_id for report in reports)
    of_messages = {report.event_id: report for report in reversed(reports) if report.message_id in messages}
    duplicates = store.known_message_events(source, of_messages)
    new = [
        replace(report, at=min(max(report.at, messages[report.message_id].exported_at), now))
        for event_id, report in of_messages.items()
        if event_id not in duplicates
    ]
    withdrawals = [event for event in new if event.kind in WITHDRAWS]
    _withdraw(workspace, source, [(messages[event.message_id], event) for event in withdrawals], now)
    clicks = [event for event in new if event.kind is MessageEventKind.CLICKED]
    _record_clicks(workspace, source, [(messages[event.message_id], event) for event in clicks], now)
    accepted = store.add_message_events(source, new, now)
    ignored = sum(report.message_id not in messages for report in reports)
    logger.info("%d events of messages counted, %d ignored", accepted, ignored, extra={"source": source})
    return ReportAccount(accepted=accepted, duplicates=len(reports) - ignored - accepted, ignored=ignored)


def undeliverable(workspace: Workspace, channel: str) -> set[str]:
    """Pseudonyms of people whose address on the channel failed permanently, and who did not agree to it again since."""
    bounced = workspace.store().bounced_at(channel)
    with workspace.store().read() as reader:
        decisions = reader.consent(CHANNEL_PURPOSE[channel].value, bounced).filter("granted")
    agreed = dict(decisions.group_by("user_id").agg(pl.max("at")).iter_rows())
    return {user_id for user_id, at in bounced.items() if user_id not in agreed or agreed[user_id] <= at}


Consequences = Sequence[tuple[CampaignMessage, MessageEvent]]


def _withdraw(workspace: Workspace, source: str, events: Consequences, now: datetime) -> None:
    """A withdrawal in whole seconds is dated to the end of its second, after any consent within it."""
    refusals = []
    for message, event in events:
        at = event.at if event.at.microsecond else min(event.at + timedelta(microseconds=999_999), now)
        refusals.append((message.user_id, CHANNEL_PURPOSE[message.channel], False, at))
    if refusals:
        add_consent(workspace, refusals, source=f"webhook {source}", by_pseudonym=True)


def _record_clicks(workspace: Workspace, source: str, events: Consequences, now: datetime) -> None:
    """Clicks on the items of messages; in a replayed log at its end, like the exports."""
    latest = utc(present(workspace, now) - 1)
    rows = [
        {
            "event_id": f"webhook {source} {event.event_id}",
            "user_id": message.user_id,
            "item_id": message.item_id,
            "event": Action.CLICK.value,
            "timestamp": min(event.at, latest),
            "request_id": message.request_id,
        }
        for message, event in events
        if message.item_id is not None
    ]
    if rows:
        add_events(workspace, rows, source=f"webhook {source}", by_pseudonym=True)
