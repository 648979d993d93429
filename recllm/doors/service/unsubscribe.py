"""The page behind a mail's link to unsubscribe: GET asks, POST acts at once, as one click does (RFC 8058).

The address holds the message's id, which the workspace's key made and which cannot be guessed. There is no key, cookie
or script, and the page names no one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache, partial
from http import HTTPStatus
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, Template

from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.base.words.sentences import language_of, section
from recllm.doors.service.callers import TheService
from recllm.market.sending.mail import UNSUBSCRIBE_PATH
from recllm.market.sending.reports import record_reports

SOURCE = "unsubscribe"
router = APIRouter()


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
