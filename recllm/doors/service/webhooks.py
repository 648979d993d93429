"""What mail and message services report at POST /webhooks/SHOP/NAME: delivered, opened, clicked, bounced, unsubscribed.

The signature is the proof, and it is checked before anything is parsed. A message is recognised by the id that its
export gave it, `recllm_message_id`, never by an address. What is of another form is counted as ignored and answered
with success: a provider would send the same again and again.

An event's time is the provider's, but never before the export of the message nor ahead of the clock.
`recllm.market.sending.reports` says what follows from it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from recllm.base.documents import json_text
from recllm.doors.service.callers import ERRORS, TheService, document_answer
from recllm.doors.service.live import LiveShop
from recllm.doors.service.report_forms import FORMS, MESSAGE_ID, message_events
from recllm.market.sending.reports import ReportAnswer, record_reports
from recllm.shop.ingest.deliveries import take_delivery
from recllm.shop.workspace.webhooks import SignedCall, WebhookSource, read_webhooks, verify

TOLERANCE_SECONDS = 300.0  # a signed request may be so old, or so far ahead of this machine's clock

logger = logging.getLogger(__name__)

router = APIRouter(responses={status: ERRORS[status] for status in (413, 422, 429, 500, 503)})

EXAMPLE: Mapping[str, Any] = {
    "type": "message.delivered",
    "timestamp": "2026-03-01T09:00:00Z",
    "data": {MESSAGE_ID: "m1_ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
}

NOTHING: Mapping[str, int] = dict.fromkeys(ReportAnswer.model_fields, 0)


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
