"""What the reports of each provider of messages say, and the events that they become."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recllm.base.errors import DataError
from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.shop.ingest.posted import document_of, moment_of, value_at
from recllm.shop.workspace.webhooks import SignedCall, WebhookScheme

MESSAGE_ID = "recllm_message_id"
"""The custom argument, or field of `data`, by which a message is recognised."""
MACHINE_OPENED = "sg_machine_open"
"""Of SendGrid: a mail program fetched the picture; a person may not have looked."""
_EVENT_ID = re.compile(r"[!-~]{1,200}")

Kind = MessageEventKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportForm:
    """Where a provider's report says what: keys joined by dots."""

    kind: str
    kinds: Mapping[str, Kind]
    """What stands there, after its last dot -> kind of event; others are ignored."""
    message_id: str
    at: tuple[str, ...]
    """Epoch seconds, or ISO 8601 with a zone; the first that is there."""
    event_id: str = ""
    """Without one the call's own id counts, or the report's hash."""
    soft: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Key -> values with which a bounce is not for good."""
    hard: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Key -> values with which alone it is."""
    only: Mapping[Kind, Mapping[str, object]] = field(default_factory=dict)
    """Kind -> what else has to stand in the report."""


ACTS = {"opened": Kind.OPENED, "clicked": Kind.CLICKED, "complained": Kind.COMPLAINED, "delivered": Kind.DELIVERED}
FORMS: Mapping[WebhookScheme, ReportForm] = {
    WebhookScheme.STANDARD: ReportForm(
        kind="type",
        kinds={kind.value: kind for kind in Kind},
        message_id=f"data.{MESSAGE_ID}",
        at=("timestamp",),
        soft={"data.permanent": (False,)},
    ),
    WebhookScheme.RESEND: ReportForm(
        kind="type",
        kinds=ACTS
        | {"sent": Kind.PROCESSED, "delivery_delayed": Kind.DEFERRED, "bounced": Kind.BOUNCED, "failed": Kind.DROPPED},
        message_id=f"data.tags.{MESSAGE_ID}",
        at=("created_at",),
        hard={"data.bounce.type": ("Permanent",)},
    ),
    WebhookScheme.SENDGRID: ReportForm(
        kind="event",
        kinds={
            "processed": Kind.PROCESSED,
            "deferred": Kind.DEFERRED,
            "dropped": Kind.DROPPED,
            "delivered": Kind.DELIVERED,
            "open": Kind.OPENED,
            "click": Kind.CLICKED,
            "bounce": Kind.BOUNCED,
            "unsubscribe": Kind.UNSUBSCRIBED,
            "group_unsubscribe": Kind.UNSUBSCRIBED,
            "spamreport": Kind.COMPLAINED,
        },
        message_id=MESSAGE_ID,
        at=("timestamp",),
        event_id="sg_event_id",
        soft={"type": ("blocked", "expired")},
    ),
    WebhookScheme.MAILGUN: ReportForm(
        kind="event-data.event",
        kinds=ACTS
        | {
            "accepted": Kind.PROCESSED,
            "failed": Kind.BOUNCED,
            "rejected": Kind.DROPPED,
            "unsubscribed": Kind.UNSUBSCRIBED,
        },
        message_id=f"event-data.user-variables.{MESSAGE_ID}",
        at=("event-data.timestamp",),
        event_id="event-data.id",
        hard={"event-data.severity": ("permanent",)},
    ),
    WebhookScheme.SES: ReportForm(
        kind="eventType",
        kinds={
            "Send": Kind.PROCESSED,
            "DeliveryDelay": Kind.DEFERRED,
            "Reject": Kind.DROPPED,
            "Delivery": Kind.DELIVERED,
            "Open": Kind.OPENED,
            "Click": Kind.CLICKED,
            "Bounce": Kind.BOUNCED,
            "Subscription": Kind.UNSUBSCRIBED,
            "Complaint": Kind.COMPLAINED,
        },
        message_id=f"mail.tags.{MESSAGE_ID}",
        at=(),
        hard={"bounce.bounceType": ("Permanent",)},
    ),
    WebhookScheme.POSTMARK: ReportForm(
        kind="RecordType",
        kinds={
            "Delivery": Kind.DELIVERED,
            "Bounce": Kind.BOUNCED,
            "SpamComplaint": Kind.COMPLAINED,
            "Open": Kind.OPENED,
            "Click": Kind.CLICKED,
            "SubscriptionChange": Kind.UNSUBSCRIBED,
        },
        message_id=f"Metadata.{MESSAGE_ID}",
        at=("DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt"),
        hard={"Type": ("HardBounce", "BadEmailAddress")},
        only={Kind.UNSUBSCRIBED: {"SuppressSending": True, "SuppressionReason": "ManualSuppression"}},
    ),
}


def message_events(scheme: WebhookScheme, body: bytes, call: SignedCall) -> tuple[list[MessageEvent], int]:
    """Events of a body, and the number of its other entries. Raises `DataError` for no JSON."""
    document = document_of(body)
    if scheme is WebhookScheme.SES:  # what SNS carries is a text; of a confirmed subscription, none of JSON
        try:
            document = document_of(document["Message"].encode())
        except (DataError, LookupError, TypeError, AttributeError):
            return [], 1
    entries = document if scheme is WebhookScheme.SENDGRID and isinstance(document, list) else [document]
    events = [event_of(entry, FORMS[scheme], call) for entry in entries]
    read = [event for event in events if event is not None]
    return read, len(events) - len(read)


def event_of(entry: Any, form: ReportForm, call: SignedCall) -> MessageEvent | None:
    """None for a report of another form, or that says nothing here."""
    word = value_at(entry, form.kind)
    kind = form.kinds.get(word.rpartition(".")[2]) if isinstance(word, str) else None
    if kind is None or value_at(entry, MACHINE_OPENED) is True:
        return None
    if any(value_at(entry, key) != value for key, value in form.only.get(kind, {}).items()):
        return None
    if kind is Kind.BOUNCED:
        is_soft = any(value_at(entry, key) in values for key, values in form.soft.items())
        is_hard = all(value_at(entry, key) in values for key, values in form.hard.items())
        kind = Kind.BOUNCED if is_hard and not is_soft else Kind.BLOCKED
    digest = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
    event_id = value_at(entry, form.event_id) if form.event_id else call.call_id or digest
    message_id = value_at(entry, form.message_id)
    if isinstance(message_id, list):  # a tag of SES has a list of values
        (message_id,) = message_id if len(message_id) == 1 else [None]
    if not all(isinstance(name, str) and _EVENT_ID.fullmatch(name) for name in (event_id, message_id)):
        return None
    times = (moment_of(value_at(entry, key)) for key in form.at)
    at = next((time for time in times if time is not None), call.sent_at)
    return MessageEvent(event_id=event_id, message_id=message_id, kind=kind, at=at)
