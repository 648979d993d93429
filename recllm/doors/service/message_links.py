"""Where the links of sent messages lead: to the link that was meant, by way of a count, and to the page to unsubscribe.

GET counts the click of a message once, and leads on. Programs that only look are led on and not counted: those that ask
by HEAD, or say that they fetch ahead.

Unsubscribing: GET asks, POST acts at once, as one click does (RFC 8058). The address holds the message's id, which the
workspace's key made and which cannot be guessed. There is no key, cookie or script, and the page names no one.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import cache, partial
from http import HTTPStatus
from importlib.resources import files

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, Template
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from recllm.base.errors import RecllmError
from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.base.words.sentences import language_of, section
from recllm.doors.service.callers import Service, TheService
from recllm.doors.service.live import LiveShop
from recllm.market.sending.clicks import CLICK_PATH, is_prefetch, read_token
from recllm.market.sending.mail import UNSUBSCRIBE_PATH
from recllm.market.sending.reports import CLICK_SOURCE, record_reports

logger = logging.getLogger(__name__)

SOURCE = "unsubscribe"
router = APIRouter()


@router.api_route(CLICK_PATH + "/{shop_name}/{click}", methods=["GET", "HEAD"], include_in_schema=False)
async def follow(shop_name: str, click: str, request: Request, service: TheService) -> RedirectResponse:
    """Leads to the link that the address was made for, and to no other."""
    shop = service.shops.get(shop_name)
    content = None if shop is None else await anyio.to_thread.run_sync(read_token, shop.workspace, click)
    if shop is None or content is None:
        service.rate.count(CLICK_SOURCE)  # all of made-up links together; a real one always works
        raise HTTPException(HTTPStatus.NOT_FOUND, "this link was not made here")
    message_id, link = content
    is_counted = request.method == "GET" and not is_prefetch(request.headers)
    counting = BackgroundTask(count_click, service, shop, message_id) if is_counted else None
    return RedirectResponse(link, HTTPStatus.FOUND, {"Referrer-Policy": "no-referrer"}, counting)


async def count_click(service: Service, shop: LiveShop, message_id: str) -> None:
    """After the answer: the customer is in the shop, whether the click can be counted or not."""
    now, kind = datetime.now(UTC), MessageEventKind.CLICKED
    event = MessageEvent(event_id=message_id, message_id=message_id, kind=kind, at=now)
    try:
        await service.capacity.run(partial(record_reports, shop.workspace, CLICK_SOURCE, [event]))
    except RecllmError as error:
        logger.warning("a click was not counted: %s", error, extra={"shop": shop.name})


@router.api_route(UNSUBSCRIBE_PATH + "/{shop_name}/{message_id}", methods=["GET", "POST"], include_in_schema=False)
async def unsubscribe(shop_name: str, message_id: str, request: Request, service: TheService) -> HTMLResponse:
    """Withdraws the consent to the message's channel on POST."""
    shop, state = service.shops.get(shop_name), "ask"
    if request.method == "POST":
        now, accepted = datetime.now(UTC), 0
        if shop is not None:
            # with the time in its id, the same link counts once more after a new agreement
            event_id = f"{message_id} {now.timestamp():.0f}"
            kind = MessageEventKind.UNSUBSCRIBED
            event = MessageEvent(event_id=event_id, message_id=message_id, kind=kind, at=now)
            report = await service.capacity.run(partial(record_reports, shop.workspace, SOURCE, [event]))
            accepted = report.accepted + report.duplicates
        state = "done" if accepted else "unknown"
        if not accepted:
            service.rate.count(SOURCE)  # all of made-up links together; a real one always works
    locale = request.headers.get("accept-language", "en")
    page = _template().render(state=state, language=language_of(locale), labels=section("messages.unsubscribe", locale))
    status = HTTPStatus.NOT_FOUND if state == "unknown" else HTTPStatus.OK
    return HTMLResponse(page, status, {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})


POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"


@cache
def _template() -> Template:
    page = (files("recllm.doors.service") / "unsubscribe.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True).from_string(page)
