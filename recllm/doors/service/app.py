"""The HTTP interface: recommendations, explanations, similar items, checked texts; events and items in.

    app = create_app([LiveShop(Workspace.open("shop"), "shop")], ServiceSettings())

A request belongs to one shop: that of its key, or where there are no keys the one that `X-Shop` names, which only a
service of several shops needs. An error is `{"error": {"type", "message", "request_id"}}`, never a stack trace.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from errno import EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOSPC, EPERM, EROFS
from functools import partial
from http import HTTPStatus

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

import recllm
from recllm.base.errors import (
    ConflictError,
    DataError,
    GenerationError,
    NothingToDo,
    PolicyError,
    RecllmError,
    UnknownIdError,
    UsageError,
)
from recllm.base.settings import ServiceSettings
from recllm.doors.service import api, loop, marketing, people, webhooks
from recllm.doors.service.background import Background
from recllm.doors.service.callers import (
    Service,
    ShopMetrics,
    identify,
)
from recllm.doors.service.capacity import Capacity, OverloadError, RateLimit
from recllm.doors.service.live import LiveShop
from recllm.doors.service.outgoing import AnnouncementSender
from recllm.doors.service.refusals import REFUSALS, RefusalLog
from recllm.doors.service.slates import SlateProcesses

MARKETING_WAITING = 8
"""Questions about all users that may wait for the one worker they have, beside the answers for the shop's site, and
plans that may wait to be made."""

logger = logging.getLogger(__name__)

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names by which a service without keys may be called: a page of somebody else's, whose name leads here, may not."""

STATUS: Sequence[tuple[type[RecllmError], HTTPStatus]] = (
    (PolicyError, HTTPStatus.FORBIDDEN),
    (NothingToDo, HTTPStatus.NOT_FOUND),
    (UnknownIdError, HTTPStatus.NOT_FOUND),
    (ConflictError, HTTPStatus.CONFLICT),
    (UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (DataError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (GenerationError, HTTPStatus.BAD_GATEWAY),
    (RecllmError, HTTPStatus.SERVICE_UNAVAILABLE),
)
"""What a kind of error answers with, the first that fits: the store, the model and what is being opened may be back."""


MAX_FAULTS = 20
"""Of a request, told in one message."""
MAX_NAME = 80
"""Signs of a field's name in a message; a caller may have chosen it."""

ANSWER_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cache-Control": "no-store",
}
"""Of every answer that says nothing else, as the console's pages do: a browser that is led to it renders nothing."""
HTTPS_ONLY = "max-age=31536000; includeSubDomains"
"""A year."""
ANYHOW = ("/livez", "/readyz")
"""What whoever runs the service may ask by http in any case."""

DISK_REFUSALS = frozenset((EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOSPC, EPERM, EROFS))
"""Errors of this machine that may be over later, such as a full disk; any other `OSError` is a bug."""

CANNOT_ANSWER = "the shop cannot answer now; the log says why"


class RequestMiddleware:
    """Around every request: who asks is known before a byte of the body is read; size and time are measured."""

    def __init__(self, app: ASGIApp, service: Service, https_only: bool) -> None:
        self._app = app
        self._service = service
        self._https_only = https_only
        self._refusals = RefusalLog()
        self._max_bytes = int(service.settings.max_body_mib * 2**20)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size, shop_name = time.perf_counter(), 500, 0, ""
        state = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in answer_headers(scope["scheme"]).items():
                    headers.setdefault(name, value)
            await send(message)

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._service.body_limits.get(scope["path"], self._max_bytes):
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is larger than is taken")
            return message

        headers = Headers(scope=scope)
        try:
            if self._https_only and scope["scheme"] != "https" and scope["path"] not in ANYHOW:
                error = HTTPException(HTTPStatus.FORBIDDEN, "this service is asked by https alone")
                await (await _refused(Request(scope), error))(scope, receive, counted_send)
                return
            if scope["path"].startswith(("/v1/", "/metrics")):
                asking = partial(identify, self._service, headers.get("x-api-key"), headers.get("x-shop"))
                try:
                    caller = await anyio.to_thread.run_sync(asking)
                except (HTTPException, RecllmError) as error:
                    await (await _refused(Request(scope), error))(scope, receive, counted_send)
                    return
                state["caller"], state["actor"], shop_name = caller, caller.actor, caller.shop.name
            await self._app(scope, bounded_receive, counted_send)
        finally:
            operation = getattr(scope.get("route"), "name", "unknown")
            shop_name = shop_name or state.get("shop_name", "")
            if status in REFUSALS:
                actor, key_text = state.get("actor", "nobody"), headers.get("x-api-key")
                self._refusals.add(actor, shop_name, operation, status, state["request_id"], key_text)
            figures = self._service.metrics[shop_name]
            figures.requests.labels(operation, status).inc()
            figures.seconds.labels(operation).observe(time.perf_counter() - began)


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
    the Host header names this machine, as a service without keys has to. https_only: refuse who came by http.
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
        {name: ShopMetrics() for name in ("", *(shop.name for shop in shops))},
        is_private=loopback_only,
    )

    senders = [AnnouncementSender(shop) for shop in shops]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.background.start()
        for shop, sender in zip(shops, senders, strict=True):
            shop.start()
            sender.start()
        yield
        service.background.close()
        service.slates.close()  # first: a shop's last update would wait for them
        for shop, sender in zip(shops, senders, strict=True):
            sender.close()
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
    for operations in (api, loop, marketing, people, webhooks):
        app.include_router(operations.router)
    if loopback_only:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_HOSTS))
    app.add_middleware(RequestMiddleware, service=service, https_only=https_only)  # around the other, to tell of it
    app.add_exception_handler(RecllmError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(OSError, _disk_refused)
    app.add_exception_handler(Exception, _failed)
    return app


def answer_headers(scheme: str) -> dict[str, str]:
    """What every answer bears. scheme: by which the caller came, to this service or to a proxy that it trusts."""
    return {**ANSWER_HEADERS, **({"Strict-Transport-Security": HTTPS_ONLY} if scheme == "https" else {})}


def _error(request: Request, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    request_id = getattr(request.state, "request_id", "")
    body = {"error": {"type": kind, "message": message, "request_id": request_id}}
    return JSONResponse(body, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    """What was wrong with a request, or stands in its way, in one line."""
    if isinstance(error, OverloadError):
        return _error(request, error.status, "overload", str(error), {"Retry-After": str(error.retry_seconds)})
    if isinstance(error, RecllmError):
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return _error(request, status, type(error).__name__, str(error))
        # what stands in the way here may name files of this machine
        logger.warning("refused: %s", error, extra={"request_id": request.state.request_id})
        return _error(request, status, type(error).__name__, CANNOT_ANSWER)
    if isinstance(error, RequestValidationError):
        # what was sent is not repeated: it may hold somebody's id
        faults = error.errors()
        messages = [
            f"{'.'.join(str(part)[:MAX_NAME] for part in fault['loc'][1:])}: {fault['msg']}"
            for fault in faults[:MAX_FAULTS]
        ]
        if len(faults) > MAX_FAULTS:
            messages.append(f"and {len(faults) - MAX_FAULTS} more")
        return _error(request, HTTPStatus.UNPROCESSABLE_ENTITY, "validation", "; ".join(messages))
    assert isinstance(error, HTTPException)  # noqa: S101 - the handlers are registered for these four alone
    return _error(request, error.status_code, "http", str(error.detail), dict(error.headers or {}))


async def _disk_refused(request: Request, error: Exception) -> Response:
    """Answers 503 to what this machine may allow later."""
    if not isinstance(error, OSError) or error.errno not in DISK_REFUSALS:
        raise error
    logger.error("this machine refused what a request needs", exc_info=error)
    return _error(request, HTTPStatus.SERVICE_UNAVAILABLE, "StoreError", CANNOT_ANSWER)


async def _failed(request: Request, error: Exception) -> Response:
    request_id = getattr(request.state, "request_id", "")
    logger.error("a request failed", exc_info=error, extra={"request_id": request_id})
    message = "something failed here; the log has more"
    # this answer passes no middleware
    headers = answer_headers(request.scope["scheme"])
    return _error(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message, headers)
