"""What sending services, this one among them, report of messages: recorded once, with its consequences.

clicked                      also a click on the message's item, with the request id of its showing
unsubscribed, complained     withdraws the consent to the channel
bounced                      leaves the person out of the channel's exports until a message arrives, or the person
                             agrees to the channel again; consent stays
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.base.schema import Action
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import add_consent, add_events
from recllm.shop.workspace.workspace import Workspace, present

WITHDRAWS = frozenset({MessageEventKind.UNSUBSCRIBED, MessageEventKind.COMPLAINED})

logger = logging.getLogger(__name__)


class ReportAnswer(BaseModel):
    """Account of a webhook: accepted + duplicates + ignored are its events."""

    accepted: int
    duplicates: int
    """Events that were counted before."""
    ignored: int
    """Events of another kind or form, or of messages that did not leave here."""


def record_reports(workspace: Workspace, source: str, reports: Sequence[MessageEvent]) -> ReportAnswer:
    """Records reports of a provider with their consequences; durable and in force on return.

    source: the provider's name. The consequences are written first, and may be written twice: if the process dies in
    between, the provider sends the event again.
    """
    store, now = workspace.store(), datetime.now(UTC)
    latest = utc(present(workspace, now) - 1)  # in a replayed log at its end, like the exports
    messages = store.messages(report.message_id for report in reports)
    of_messages = {report.event_id: report for report in reversed(reports) if report.message_id in messages}
    duplicates = store.known_message_events(source, of_messages)
    new = [
        replace(report, at=min(max(report.at, messages[report.message_id].exported_at), now))
        for event_id, report in of_messages.items()
        if event_id not in duplicates
    ]
    refusals, clicks = [], []
    for event in new:
        message = messages[event.message_id]
        if event.kind in WITHDRAWS:
            # one in whole seconds is dated to the end of its second, after any consent within it
            at = event.at
            if not at.microsecond:
                at = min(at + timedelta(microseconds=999_999), now)
            refusals.append((message.user_id, CHANNEL_PURPOSE[message.channel], False, at))
        elif event.kind is MessageEventKind.CLICKED and message.item_id is not None:
            of_message = {name: getattr(message, name) for name in ("user_id", "item_id", "request_id")}
            click = {"event": Action.CLICK.value, "timestamp": min(event.at, latest)}
            clicks.append({"event_id": f"webhook {source} {event.event_id}", **of_message, **click})
    of_source = f"webhook {source}"
    if refusals:
        add_consent(workspace, refusals, source=of_source, by_pseudonym=True)
    if clicks:
        add_events(workspace, clicks, source=of_source, by_pseudonym=True)
    accepted = store.add_message_events(source, new, now)
    ignored = sum(report.message_id not in messages for report in reports)
    logger.info("%d events of messages counted, %d ignored", accepted, ignored, extra={"source": source})
    return ReportAnswer(accepted=accepted, duplicates=len(reports) - ignored - accepted, ignored=ignored)
