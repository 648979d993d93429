"""What sending services, this one among them, report of messages: recorded once, with its consequences.

clicked                      also a click on the message's item, with the request id of its showing; of a link that
                             the service and a provider count, those of the first
unsubscribed, complained     withdraws the consent to the channel
bounced                      leaves the person out of the channel's exports until a message arrives, or the person
                             agrees to the channel again; consent stays
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from recllm.base.messages import CampaignMessage, MessageEvent, MessageEventKind
from recllm.base.schema import Action, Purpose
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import add_consent, add_events
from recllm.shop.workspace.workspace import Workspace, present

WITHDRAWS = frozenset({MessageEventKind.UNSUBSCRIBED, MessageEventKind.COMPLAINED})
CLICK_SOURCE = "link"
"""Of clicks that the service counts itself, once for each message, by the message's id, and only of customers who agree
to analytics."""

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
    messages = store.messages(r.message_id for r in reports)
    clicked = store.known_message_events(CLICK_SOURCE, messages)
    if source == CLICK_SOURCE:
        messages = to_analysed(workspace, messages)
        clicked = reported_clicks(store.messages_of, {m.user_id for m in messages.values()})
    of_messages = {r.event_id: r for r in reversed(reports) if r.message_id in messages}
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
            at = event.at if event.at.microsecond else min(event.at + timedelta(microseconds=999_999), now)
            refusals.append((message.user_id, CHANNEL_PURPOSE[message.channel], False, at))
        elif event.kind is MessageEventKind.CLICKED and message.item_id is not None and event.message_id not in clicked:
            of_message = {name: getattr(message, name) for name in ("user_id", "item_id", "request_id")}
            click = {"event": Action.CLICK.value, "timestamp": min(event.at, latest)}
            clicks.append({"event_id": f"webhook {source} {event.event_id}", **of_message, **click})
    of_source = f"webhook {source}"
    if refusals:
        add_consent(workspace, refusals, source=of_source, by_pseudonym=True)
    if clicks:
        add_events(workspace, clicks, source=of_source, by_pseudonym=True)
    accepted = store.add_message_events(source, new, now)
    ignored = sum(r.message_id not in messages for r in reports)
    logger.info("%d events of messages counted, %d ignored", accepted, ignored, extra={"source": source})
    return ReportAnswer(accepted=accepted, duplicates=len(reports) - ignored - accepted, ignored=ignored)


def to_analysed(workspace: Workspace, messages: Mapping[str, CampaignMessage]) -> dict[str, CampaignMessage]:
    """Those to customers who agree to analytics."""
    agreed = workspace.gate().permits_each([m.user_id for m in messages.values()], Purpose.ANALYTICS)
    return {name: messages[name] for name, is_counted in zip(messages, agreed, strict=True) if is_counted}


def reported_clicks(
    messages_of: Callable[[str], list[tuple[CampaignMessage, list[MessageEvent]]]], people: Iterable[str]
) -> set[str]:
    """Ids of messages to these people of which a click is known."""
    return {
        message.message_id
        for user_id in people
        for message, events in messages_of(user_id)
        if any(event.kind is MessageEventKind.CLICKED for event in events)
    }
