"""What mail and message services tell of messages, and what follows from it.

Everything is counted once by the provider's own id of an event, in whatever order it comes. The time of an event is the
provider's, but never before the message was exported nor ahead of the clock.

clicked                      also a click on the message's item, with the request id of its showing
unsubscribed, complained     consent to the channel is withdrawn; what the person agreed to before that does not count
bounced                      the person is left out of the channel's exports until something arrives there, or until
                             they agree to the channel anew; consent is as it was
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from recllm.base.schema import Action, CampaignMessage, MessageEvent, MessageEventKind, Table
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.jobs.load import EVENT_SCHEMA
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import Workspace, present

logger = logging.getLogger(__name__)

WITHDRAWS = frozenset({MessageEventKind.UNSUBSCRIBED, MessageEventKind.COMPLAINED})
"""What ends the consent to a channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAccount:
    """Account of what a provider reported: accepted + duplicates + ignored."""

    accepted: int
    duplicates: int
    """Events that were counted before."""
    ignored: int
    """Events of another kind or form, or of messages that did not leave here."""


def record_reports(workspace: Workspace, source: str, reports: Sequence[MessageEvent]) -> ReportAccount:
    """Counts what a provider tells of messages, with all that follows; durable and in force on return.

    source: the provider's name. The consequences are written first, and each of them is harmless when written twice: a
    process that dies in between leaves the event uncounted, and the provider sends it again.
    """
    store, now = workspace.store(), datetime.now(UTC)
    messages = store.messages(report.message_id for report in reports)
    of_messages = {report.event_id: report for report in reversed(reports) if report.message_id in messages}
    duplicates = store.known_message_events(source, of_messages)
    new = [
        replace(report, at=_plausible(report.at, messages[report.message_id], now))
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
    """Pseudonyms of people whose address on the channel failed for good, and who did not agree to it anew since."""
    bounced = workspace.store().bounced_at(channel)
    with workspace.store().read() as reader:
        decisions = reader.consent(CHANNEL_PURPOSE[channel].value, bounced).filter("granted")
    agreed = dict(decisions.group_by("user_id").agg(pl.max("at")).iter_rows())
    return {user_id for user_id, at in bounced.items() if user_id not in agreed or agreed[user_id] <= at}


def _plausible(at: datetime, message: CampaignMessage, now: datetime) -> datetime:
    return min(max(at, message.exported_at), now)


Consequences = Sequence[tuple[CampaignMessage, MessageEvent]]


def _withdraw(workspace: Workspace, source: str, events: Consequences, now: datetime) -> None:
    """Where a provider knows whole seconds alone, the withdrawal is at the end of its second: what somebody agreed to
    within it does not outlive it."""
    from recllm.shop.ingest.record import record_rows

    rows = []
    for message, event in events:
        at = event.at if event.at.microsecond else min(event.at + timedelta(microseconds=999_999), now)
        purpose = CHANNEL_PURPOSE[message.channel].value
        rows.append((message.user_id, purpose, False, round(at.timestamp() * 1_000_000)))
    if rows:
        schema = {"user_id": pl.String, "purpose": pl.String, "granted": pl.Boolean, "at": pl.Int64}
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        record_rows(frame, Table.CONSENT, workspace.store(), source=f"webhook {source}")


def _record_clicks(workspace: Workspace, source: str, events: Consequences, now: datetime) -> None:
    """Clicks on items, as far as messages are about one. Where a log is replayed they happen at its end, as what was
    exported was shown then."""
    from recllm.shop.ingest.record import record_events

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
        frame = pl.DataFrame(rows, schema={name: EVENT_SCHEMA[name] for name in rows[0]})
        record_events(frame, workspace.store(), source=f"webhook {source}")
