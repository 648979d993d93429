"""Where the links of sent messages lead first: GET counts the click of the message once, and leads on to the link.

Programs that only look are led on and not counted: those that ask by HEAD, or say that they fetch ahead.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from recllm.base.errors import RecllmError
from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.doors.service.callers import Service, TheService
from recllm.doors.service.live import LiveShop
from recllm.market.sending.clicks import CLICK_PATH, is_prefetch, read_token
from recllm.market.sending.reports import CLICK_SOURCE, record_reports

logger = logging.getLogger(__name__)

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
