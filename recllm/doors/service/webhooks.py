"""What mail and message services report at POST /webhooks/SHOP/NAME: delivered, opened, clicked, bounced, unsubscribed.

The signature is the proof, and it is checked before anything is parsed. A message is recognised by the id that its
export gave it, `recllm_message_id`, never by an address. What is of another form is counted as ignored and answered
with success: a provider would send the same again and again.

An event's time is the provider's, but never before the export of the message nor ahead of the clock.
`recllm.market.sending.reports` says what follows from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from recllm.base.documents import json_text
from recllm.base.errors import DataError
from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.doors.service.callers import ERRORS, TheService, document_answer
from recllm.doors.service.live import LiveShop
from recllm.market.sending.reports import ReportAnswer, record_reports
from recllm.shop.ingest.deliveries import take_delivery
from recllm.shop.ingest.posted import document_of, moment_of, value_at
from recllm.shop.workspace.webhooks import SignedCall, WebhookScheme, WebhookSource, read_webhooks, verify

TOLERANCE_SECONDS = 300.0  # a signed request may be so old, or so far ahead of this machine's clock

logger = logging.getLogger(__name__)

router = APIRouter(responses={status: ERRORS[status] for status in (413, 422, 429, 500, 503)})

MESSAGE_ID = "recllm_message_id"
"""The custom argument, or field of `data`, by which a message is recognised."""

EXAMPLE: Mapping[str, Any] = {
    "type": "message.delivered",
    "timestamp": "2026-03-01T09:00:00Z",
    "data": {MESSAGE_ID: "m1_ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
}

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
NOTHING: Mapping[str, int] = dict.fromkeys(ReportAnswer.model_fields, 0)
MACHINE_OPENED = "sg_machine_open"
"""Of SendGrid: a mail program fetched the picture; a person may not have looked."""


@router.post(
    "/webhooks/{shop_name}/{source_name}",
    response_model=ReportAnswer,
    responses={401: {**ERRORS[401], "description": "No valid signature of a provider of the shop, or not of now"}},
    tags=["webhooks"],
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One event of the provider, or a list of SendGrid's.",
            "content": {"application/json": {"schema": {}, "example": EXAMPLE}},
        }
    },
)
async def receive(shop_name: str, source_name: str, request: Request, service: TheService) -> Response:
    """Takes reports on messages, or changes in a shop, signed by their sender. No API key is needed.

    Each event counts once by its id, in whatever order. An unsubscription and a complaint withdraw consent to the
    message's channel at once.
    """
    body = await request.body()
    if re.fullmatch(rb"webhook_id=[0-9]{1,20}", body):  # WooCommerce tries an address, unsigned
        service.rate.count("")
        return document_answer(json_text(NOTHING))

    def proof() -> tuple[LiveShop, WebhookSource, SignedCall]:
        shop = service.shops.get(shop_name)
        source = read_webhooks(shop.workspace).sources.get(source_name) if shop else None
        if shop is not None and source is not None:
            tolerance = timedelta(seconds=TOLERANCE_SECONDS)
            call = verify(source, request.headers, body, now=datetime.now(UTC), tolerance=tolerance)
            if call is not None:
                service.rate.count(f"webhook {shop.name} {source.name}")
                return shop, source, call
        service.rate.count("")  # as all callers without a valid key
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "no valid signature of now")

    # in no worker: callers without a signature take none
    shop, source, call = await anyio.to_thread.run_sync(proof)
    request.state.shop_name = shop.name

    def account() -> ReportAnswer:
        if source.scheme not in FORMS:
            outcome = take_delivery(shop.workspace, source, body)
            return ReportAnswer.model_validate({**NOTHING, outcome: 1})
        reports, n_ignored = message_events(source.scheme, body, call)
        done = record_reports(shop.workspace, source.name, reports)
        return done.model_copy(update={"ignored": done.ignored + n_ignored})

    done = await service.capacity.run(account)
    for outcome in ("accepted", "duplicates", "ignored"):
        service.metrics[shop.name].message_events.labels(outcome).inc(getattr(done, outcome))
    return document_answer(json_text(done))


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
