"""The HTTP interface: recommendations, explanations, similar items, checked texts; events and items in.

    app = create_app([LiveShop(Workspace.open("shop"), "shop")], ServiceSettings())

A request belongs to one shop: that of its key, or where there are no keys the one that `X-Shop` names, which only a
service of several shops needs. An error is `{"error": {"type", "message", "request_id"}}`, never a stack trace.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from http import HTTPStatus
from importlib.util import find_spec

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import recllm
from recllm.base.errors import RecllmError
from recllm.base.service_settings import ServiceSettings
from recllm.doors.service import api, marketing, message_links, pages, webhooks
from recllm.doors.service.agents import agent_server, mcp_app
from recllm.doors.service.callers import Capacity, RateLimit, RequestMiddleware, Service, ShopMetrics, answer_headers
from recllm.doors.service.jobs import Background
from recllm.doors.service.live import LiveShop, SlateProcesses
from recllm.doors.service.refusals import disk_refused, error_answer, refused

logger = logging.getLogger(__name__)

MARKETING_WAITING = 8
"""Questions about all users, and plans, that may wait for the one worker they have."""

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Host names of a service without keys: a page of another site, whose name leads here, is refused."""


def create_app(
    shops: Sequence[LiveShop],
    settings: ServiceSettings,
    *,
    slates: SlateProcesses | None = None,
    loopback_only: bool = True,
    https_only: bool = False,
) -> FastAPI:
    """The service of some shops, which it opens at its start and closes at its end.

    slates: the processes that follow these shops; None computes slates in this one. loopback_only: answer only where
    the Host header names this machine, as a service without keys has to. https_only: refuse requests by http.
    """
    capacity = Capacity(settings)
    service = Service(
        {shop.name: shop for shop in shops},
        settings,
        capacity,
        capacity if slates is None else Capacity(settings.model_copy(update={"workers": slates.n_processes})),
        slates or SlateProcesses({}, 0),
        Capacity(settings.model_copy(update={"workers": 1, "waiting": MARKETING_WAITING, "deadline_seconds": 120.0})),
        Background(MARKETING_WAITING),
        RateLimit(settings.requests_per_minute),
        RateLimit(pages.REQUESTS_PER_MINUTE),
        {name: ShopMetrics() for name in ("", *(shop.name for shop in shops))},
        is_private=loopback_only,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.background.start()
        for shop in shops:
            shop.start()
        async with agents.session_manager.run() if agents else nullcontext():
            yield
        service.background.close()
        service.slates.close()  # first: a shop's last update would wait for them
        for shop in shops:
            shop.close()

    app = FastAPI(
        title="recllm",
        version=recllm.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        description="Recommendations with true reasons, checked ad text, events and items.",
    )
    app.state.service = service
    for operations in (api, marketing, webhooks, message_links, pages):
        app.include_router(operations.router)
    agents = agent_server(app) if find_spec("mcp") else None
    if agents:
        app.mount("/mcp", mcp_app(agents), name="mcp")
    if loopback_only:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_HOSTS))
    app.add_middleware(RequestMiddleware, service=service, https_only=https_only)
    app.add_exception_handler(RecllmError, refused)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, refused)
    app.add_exception_handler(OSError, disk_refused)
    app.add_exception_handler(Exception, failed)
    return app


async def failed(request: Request, error: Exception) -> Response:
    """Answers 500 to what is a bug."""
    request_id = getattr(request.state, "request_id", "")
    logger.error("a request failed", exc_info=error, extra={"request_id": request_id})
    message = "something failed here; the log has more"
    # this answer passes no middleware
    headers = answer_headers(request.scope["scheme"])
    return error_answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message, headers)
