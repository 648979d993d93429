"""What mail and message services report at POST /webhooks/SHOP/NAME: delivered, opened, clicked, bounced, unsubscribed.

The signature is the proof, and it is checked before anything is parsed. A message is recognised by the id that its
export gave it, `recllm_message_id`, never by an address. What is of another form is counted as ignored and answered
with success: a provider would send the same again and again.

An event's time is the provider's, but never before the export of the message nor ahead of the clock.

clicked                      also a click on the message's item, with the request id of its showing
unsubscribed, complained     withdraws the consent to the channel
bounced                      leaves the person out of the channel's exports until a message arrives, or the person
                             agrees to the channel again; consent stays
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from recllm.base.documents import json_text
from recllm.base.errors import DataError
from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.base.schema import Action
from recllm.doors.service.callers import ERRORS, TheService, document_answer
from recllm.doors.service.live import LiveShop
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import add_consent, add_events
from recllm.shop.workspace.webhooks import SignedCall, WebhookScheme, WebhookSource, read_webhooks, verify
from recllm.shop.workspace.workspace import Workspace, present

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
_MAX_SECONDS = 2**33
"""Of a time in epoch seconds: the year 2242."""

SENDGRID_KINDS: Mapping[str, MessageEventKind] = {
    "processed": MessageEventKind.PROCESSED,
    "deferred": MessageEventKind.DEFERRED,
    "dropped": MessageEventKind.DROPPED,
    "delivered": MessageEventKind.DELIVERED,
    "open": MessageEventKind.OPENED,
    "click": MessageEventKind.CLICKED,
    "bounce": MessageEventKind.BOUNCED,
    "unsubscribe": MessageEventKind.UNSUBSCRIBED,
    "group_unsubscribe": MessageEventKind.UNSUBSCRIBED,
    "spamreport": MessageEventKind.COMPLAINED,
}
SENDGRID_SOFT_BOUNCES = ("blocked", "expired")
WITHDRAWS = frozenset({MessageEventKind.UNSUBSCRIBED, MessageEventKind.COMPLAINED})


class ReportAnswer(BaseModel):
    """Account of a webhook: accepted + duplicates + ignored are its events."""

    accepted: int
    duplicates: int
    """Events that were counted before."""
    ignored: int
    """Events of another kind or form, or of messages that did not leave here."""


@router.post(
    "/webhooks/{shop_name}/{source_name}",
    response_model=ReportAnswer,
    responses={401: {**ERRORS[401], "description": "No valid signature of a provider of the shop, or not of now"}},
    tags=["webhooks"],
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One event of Standard Webhooks, or a list of SendGrid's.",
            "content": {"application/json": {"schema": {}, "example": EXAMPLE}},
        }
    },
)
async def receive(shop_name: str, source_name: str, request: Request, service: TheService) -> Response:
    """Takes reports on messages, signed by Standard Webhooks or as SendGrid signs. No API key is needed.

    Each event counts once by its id, in whatever order. An unsubscription and a complaint withdraw consent to the
    message's channel at once.
    """
    body = await request.body()

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
        reports, n_ignored = message_events(source.scheme, body, call)
        done = record_reports(shop.workspace, source.name, reports)
        return done.model_copy(update={"ignored": done.ignored + n_ignored})

    done = await service.capacity.run(account)
    for outcome in ("accepted", "duplicates", "ignored"):
        service.metrics[shop.name].message_events.labels(outcome).inc(getattr(done, outcome))
    return document_answer(json_text(done))


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


def message_events(scheme: WebhookScheme, body: bytes, call: SignedCall) -> tuple[list[MessageEvent], int]:
    """Events of a body, and the number of its other entries. Raises `DataError` for no JSON."""
    try:
        # a bad letter or endless number in an unused field must not spoil a whole batch
        document = json.loads(body.decode(errors="replace"), parse_int=_integer)
    except (ValueError, RecursionError):
        raise DataError("the body is not JSON") from None
    if scheme is WebhookScheme.SENDGRID:
        entries = document if isinstance(document, list) else [document]
        events = [_sendgrid_event(entry, call) for entry in entries]
    else:
        events = [_standard_event(document, call)]
    read = [event for event in events if event is not None]
    return read, len(events) - len(read)


def _sendgrid_event(entry: Any, call: SignedCall) -> MessageEvent | None:
    if not isinstance(entry, dict):
        return None
    kind = SENDGRID_KINDS.get(_text(entry, "event"))
    if kind is MessageEventKind.BOUNCED and _text(entry, "type") in SENDGRID_SOFT_BOUNCES:
        kind = MessageEventKind.BLOCKED
    if kind is MessageEventKind.OPENED and entry.get("sg_machine_open") is True:
        return None  # a mail program fetched the picture; a person may not have looked
    seconds = entry.get("timestamp")
    at = call.sent_at
    if isinstance(seconds, int) and not isinstance(seconds, bool) and 0 < seconds < _MAX_SECONDS:
        at = datetime.fromtimestamp(seconds, UTC)
    return _event(_text(entry, "sg_event_id"), _text(entry, MESSAGE_ID), kind, at)


def _standard_event(document: Any, call: SignedCall) -> MessageEvent | None:
    """`{"type": "message.delivered", "timestamp": ..., "data": {"recllm_message_id": ...}}`; one call is one event."""
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict):
        return None
    name = _text(document, "type").rpartition(".")[2]
    kind = MessageEventKind(name) if name in set(MessageEventKind) else None
    if kind is MessageEventKind.BOUNCED and data.get("permanent") is False:
        kind = MessageEventKind.BLOCKED
    return _event(call.call_id or "", _text(data, MESSAGE_ID), kind, _moment(document.get("timestamp")) or call.sent_at)


def _event(event_id: str, message_id: str, kind: MessageEventKind | None, at: datetime) -> MessageEvent | None:
    if kind is None or not _EVENT_ID.fullmatch(event_id) or not _EVENT_ID.fullmatch(message_id):
        return None
    return MessageEvent(event_id=event_id, message_id=message_id, kind=kind, at=at)


def _integer(digits: str) -> int | None:
    """None for more digits than a time in any unit has; Python takes long for very many."""
    return int(digits) if len(digits) <= 20 else None


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""


def _moment(value: Any) -> datetime | None:
    """An ISO 8601 time with its zone; None for anything else."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) and len(value) < 64 else None
        return None if at is None or at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
