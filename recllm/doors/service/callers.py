"""Who asks the service, for which shop, and what all operations share: metrics, scopes, answers and errors."""

from __future__ import annotations

import inspect
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from errno import EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOSPC, EPERM, EROFS
from functools import partial, wraps
from http import HTTPStatus
from threading import Lock
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Depends, Header, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import APIKeyHeader
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from recllm.base.documents import json_text
from recllm.base.errors import (
    ConflictError,
    DataError,
    GenerationError,
    NothingToDo,
    PolicyError,
    RecllmError,
    StoreError,
    UnknownIdError,
    UsageError,
)
from recllm.base.service_settings import ServiceSettings
from recllm.doors.service.capacity import Background, Capacity, OverloadError, RateLimit
from recllm.doors.service.live import LiveShop
from recllm.doors.service.requests import ErrorAnswer
from recllm.doors.service.slates import SlateProcesses
from recllm.shop.workspace.audit import AuditAction, audit, audit_each
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.keys import ApiKey, Scope, authenticate, list_keys

logger = logging.getLogger(__name__)


class ShopMetrics:
    """What Prometheus reads of one shop. No label holds an id of a customer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory and processor of this process alone
        of_registry: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("recllm_requests", "Requests answered", ["operation", "status"], **of_registry)
        self.seconds = Histogram(
            "recllm_request_seconds",
            "Time from a request to its answer",
            ["operation"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            **of_registry,
        )
        self.slates = Counter("recllm_slates", "Slates by what they were made from", ["status"], **of_registry)
        self.events = Counter("recllm_events", "Events received", ["outcome"], **of_registry)
        self.message_events = Counter("recllm_message_events", "What providers reported", ["outcome"], **of_registry)
        self.waiting = Gauge("recllm_waiting_requests", "Requests of all shops without a worker", **of_registry)
        self.ready = Gauge("recllm_ready", "1 when the shop answers", **of_registry)
        self.swaps = Gauge("recllm_swaps", "Recommenders exchanged for a newer one", **of_registry)


@dataclass(frozen=True, eq=False)
class Service:
    """What the operations of one app share."""

    shops: dict[str, LiveShop]
    """By name."""
    settings: ServiceSettings
    capacity: Capacity
    slate_capacity: Capacity
    """For slates; the same one where they are computed in this process."""
    slates: SlateProcesses
    marketing: Capacity
    """For answers that take seconds, so that the shop's site does not wait for them."""
    background: Background
    rate: RateLimit
    metrics: dict[str, ShopMetrics]
    """By the name of the shop; "" for requests that belong to none."""
    is_private: bool
    """Whether only this machine asks, which may know the shops by name without a key."""
    body_limits: dict[str, int] = field(default_factory=dict)
    """Path -> bytes of a request's body, for paths that take more than `service.max_body_mib`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and of which shop."""

    shop: LiveShop
    key: ApiKey | None
    """None where the shop has no keys."""

    @property
    def name(self) -> str:
        """Who decides, for the history of what was done."""
        return "this machine" if self.key is None else self.key.name

    @property
    def actor(self) -> str:
        """Who asks, for the audit log."""
        return "service:this machine" if self.key is None else f"key:{self.key.key_id}"

    @property
    def figures(self) -> FigureGate:
        """What this caller may learn of groups of customers."""
        sees_people = self.may(Scope.PRIVACY) or self.may(Scope.PEOPLE)
        return FigureGate(self.shop.workspace, None if sees_people else self.actor)

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope; without keys every local caller has all."""
        return self.key is None or self.key.allows(scope)

    def audit_each(self, action: AuditAction, user_ids: Sequence[str], /, **details: Any) -> None:
        """Notes what was done to the data of each of these people."""
        names = self.shop.workspace.pseudonymiser().many(list(dict.fromkeys(user_ids)))
        audit_each(self.shop.workspace, self.actor, action, names, **details)

    def audit(self, action: AuditAction, /, *, subject: str | None = None, **details: Any) -> None:
        """Writes down what this caller did; see `recllm.shop.workspace.audit`."""
        audit(self.shop.workspace, self.actor, action, subject=subject, **details)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]


def identify(service: Service, key_text: str | None, shop_name: str | None) -> Caller:
    """The caller. Raises `HTTPException` without a valid key, and `StoreError` where keys cannot be read."""
    named = {name: shop for name, shop in service.shops.items() if shop_name in (None, name)}
    unreadable: StoreError | None = None
    is_open = True
    for shop in service.shops.values():
        try:
            if key_text is None:
                # a directory closes a shop as a key does
                is_open = is_open and shop.workspace.settings.oidc.issuer is None and not list_keys(shop.workspace)
            elif shop.name in named and (key := authenticate(shop.workspace, key_text)):
                service.rate.count(key.key_id)
                return Caller(shop, key)
        except StoreError as error:  # one shop's trouble is no other's
            if key_text is None or shop.name in named:
                unreadable = error
            logger.warning("keys cannot be read: %s", error, extra={"shop": shop.name})
    service.rate.count("")  # all without a valid key are one caller
    if unreadable is not None and (key_text is not None or is_open):
        raise unreadable
    if key_text is not None or not is_open:
        # a key of one shop with another one's name says no more than a wrong key
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "give a valid key of the shop in X-API-Key")
    if not named:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"no such shop; X-Shop is one of {', '.join(service.shops)}")
    if len(named) > 1:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"name the shop in X-Shop: {', '.join(service.shops)}")
    return Caller(next(iter(named.values())), None)


class Allowed:
    """A dependency: returns the caller if its key has this scope."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __call__(
        self,
        request: Request,
        _key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))] = None,
        _shop: Annotated[str | None, Header(alias="X-Shop", description="The shop, where there are several.")] = None,
    ) -> Caller:
        caller: Caller = request.state.caller
        require(caller, self._scope)
        return caller


def require(caller: Caller, scope: Scope) -> None:
    if not caller.may(scope):
        raise HTTPException(HTTPStatus.FORBIDDEN, f"this key lacks the scope {scope}")


MayAsk = Annotated[Caller, Depends(Allowed(Scope.RECOMMEND))]
MaySend = Annotated[Caller, Depends(Allowed(Scope.EVENTS))]
MayMarket = Annotated[Caller, Depends(Allowed(Scope.MARKETING))]
MayErase = Annotated[Caller, Depends(Allowed(Scope.PRIVACY))]
MayMeasure = Annotated[Caller, Depends(Allowed(Scope.METRICS))]


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Not readable as a request, or the shop is not named"},
    401: {"model": ErrorAnswer, "description": "No valid key of the shop"},
    403: {"model": ErrorAnswer, "description": "The key lacks the scope, or the person has not agreed"},
    404: {"model": ErrorAnswer, "description": "No such shop, item or person"},
    409: {"model": ErrorAnswer, "description": "Changed by another caller since, or its place is taken"},
    413: {"model": ErrorAnswer, "description": "Larger than `service.max_body_mib`"},
    422: {"model": ErrorAnswer, "description": "A field is wrong; the message names it"},
    429: {"model": ErrorAnswer, "description": "Too many requests; see Retry-After"},
    500: {"model": ErrorAnswer, "description": "Something failed here; the log has it under the request's id"},
    502: {"model": ErrorAnswer, "description": "The generator of texts failed"},
    503: {"model": ErrorAnswer, "description": "Not ready, or no worker was free in time"},
}


Operation = Callable[..., Any]


def answered(*, marketing: bool = False, status: int = 200) -> Callable[[Operation], Operation]:
    """Makes an operation of a function that a worker runs; its result is answered as JSON."""

    def decorated(function: Operation) -> Operation:
        signature = inspect.signature(function, eval_str=True)
        has_service = "service" in signature.parameters
        parameters = list(signature.parameters.values())
        if not has_service:
            parameters.append(inspect.Parameter("service", inspect.Parameter.KEYWORD_ONLY, annotation=TheService))

        @wraps(function)
        async def operation(*, service: Service, **values: Any) -> Response:
            values |= {"service": service} if has_service else {}
            answer = await (service.marketing if marketing else service.capacity).run(partial(function, **values))
            response = answer if isinstance(answer, Response) else document_answer(json_text(answer))
            response.status_code = status
            return response

        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        operation.__signature__ = signature.replace(parameters=keyword_only, return_annotation=Response)  # type: ignore[attr-defined]
        return operation

    return decorated


def document_answer(document: str) -> Response:
    """A result that is JSON already."""
    return Response(document.encode(errors="backslashreplace"), media_type="application/json")


# --- refusals -----------------------------------------------------------------------------------------------------

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
"""Status of a kind of error, the first that fits: the store, the model and what is being opened may be back."""

MAX_FAULTS = 20
"""Faults of a request that one message names."""
MAX_NAME = 80
"""Signs of a field's name in a message; a caller may have chosen it."""

ANSWER_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cache-Control": "no-store",
}
"""Of every answer without headers of its own: a browser that is led to it renders nothing."""
HTTPS_ONLY = "max-age=31536000; includeSubDomains"
"""A year."""
ANYHOW = ("/livez", "/readyz")
"""Paths for the operator, which are answered by http in any case."""

DISK_REFUSALS = frozenset((EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOSPC, EPERM, EROFS))
"""Errors of this machine that may be over later, such as a full disk; any other `OSError` is a bug."""

CANNOT_ANSWER = "the shop cannot answer now; the log says why"


class RequestMiddleware:
    """Around every request: the caller is known before a byte of the body is read; size and time are measured."""

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
                await (await refused(Request(scope), error))(scope, receive, counted_send)
                return
            if scope["path"].startswith(("/v1/", "/metrics")):
                asking = partial(identify, self._service, headers.get("x-api-key"), headers.get("x-shop"))
                try:
                    caller = await anyio.to_thread.run_sync(asking)
                except (HTTPException, RecllmError) as error:
                    await (await refused(Request(scope), error))(scope, receive, counted_send)
                    return
                state["caller"], state["actor"], shop_name = caller, caller.actor, caller.shop.name
            await self._app(scope, bounded_receive, counted_send)
        finally:
            operation = getattr(scope.get("route"), "name", "unknown")
            shop_name = shop_name or state.get("shop_name", "")
            if status in REFUSALS:
                actor, key_text = state.get("actor", UNKNOWN), headers.get("x-api-key")
                self._refusals.add(actor, shop_name, operation, status, state["request_id"], key_text)
            figures = self._service.metrics[shop_name]
            figures.requests.labels(operation, status).inc()
            figures.seconds.labels(operation).observe(time.perf_counter() - began)


def answer_headers(scheme: str) -> dict[str, str]:
    """What every answer bears. scheme: by which the caller came, to this service or to a proxy that it trusts."""
    return {**ANSWER_HEADERS, **({"Strict-Transport-Security": HTTPS_ONLY} if scheme == "https" else {})}


def _error(request: Request, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    request_id = getattr(request.state, "request_id", "")
    body = {"error": {"type": kind, "message": message, "request_id": request_id}}
    return JSONResponse(body, status, headers)


async def refused(request: Request, error: Exception) -> Response:
    """The reason of a refusal, in one line."""
    if isinstance(error, OverloadError):
        return _error(request, error.status, "overload", str(error), {"Retry-After": str(error.retry_seconds)})
    if isinstance(error, RecllmError):
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return _error(request, status, type(error).__name__, str(error))
        # the message may name files of this machine
        logger.warning("refused: %s", error, extra={"request_id": request.state.request_id})
        return _error(request, status, type(error).__name__, CANNOT_ANSWER)
    if isinstance(error, RequestValidationError):
        # what was sent is not repeated: it may hold a customer's id
        faults = error.errors()
        messages = [
            f"{'.'.join(str(step)[:MAX_NAME] for step in fault['loc'][1:])}: {fault['msg']}"
            for fault in faults[:MAX_FAULTS]
        ]
        if len(faults) > MAX_FAULTS:
            messages.append(f"and {len(faults) - MAX_FAULTS} more")
        return _error(request, HTTPStatus.UNPROCESSABLE_ENTITY, "validation", "; ".join(messages))
    assert isinstance(error, HTTPException)  # noqa: S101 - the handlers are registered for these four alone
    return _error(request, error.status_code, "http", str(error.detail), dict(error.headers or {}))


async def disk_refused(request: Request, error: Exception) -> Response:
    """Answers 503 to what this machine may allow later."""
    if not isinstance(error, OSError) or error.errno not in DISK_REFUSALS:
        raise error
    logger.error("this machine refused what a request needs", exc_info=error)
    return _error(request, HTTPStatus.SERVICE_UNAVAILABLE, "StoreError", CANNOT_ANSWER)


async def failed(request: Request, error: Exception) -> Response:
    request_id = getattr(request.state, "request_id", "")
    logger.error("a request failed", exc_info=error, extra={"request_id": request_id})
    message = "something failed here; the log has more"
    # this answer passes no middleware
    headers = answer_headers(request.scope["scheme"])
    return _error(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message, headers)


# --- the log of refusals ----------------------------------------------------------------------------------------------

REFUSALS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""What a check or a limit answers with."""
SECONDS = 60.0
"""Between two lines of one kind."""
UNKNOWN = "nobody"
"""Name of an unknown caller in the log."""
MAX_KINDS = 1_000
"""Kinds whose last line is remembered; beyond them no new kind is logged until some are over."""

_KEY_ID = re.compile(r"rk_([0-9a-f]{12})_")


class RefusalLog:
    """Logs each kind of refusal (caller, operation, status) at once, and then once a minute at most.

    A line's `unlogged` says how many of its kind there were since the last one. The metrics count all of them.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str, int], tuple[float, int]] = {}
        """Kind -> when its last line was written, and the refusals since."""
        self._lock = Lock()

    def add(self, actor: str, shop: str, operation: str, status: int, request_id: str, key_text: str | None) -> None:
        """One more refusal. actor: "key:ID", "service:this machine", "console:this machine", "session:ID" for a person
        of the company's directory, or `UNKNOWN`. key_text: sent as a key; the log has only the id in it."""
        kind, now = (actor, shop, operation, status), time.monotonic()
        with self._lock:
            at, unlogged = self._lines.get(kind, (now - SECONDS, 0))
            if now - at < SECONDS:
                self._lines[kind] = (at, unlogged + 1)
                return
            if len(self._lines) >= MAX_KINDS:
                self._lines = {kind: line for kind, line in self._lines.items() if now - line[0] < SECONDS}
                if len(self._lines) >= MAX_KINDS:
                    return
            self._lines[kind] = (now, 0)
        fields: dict[str, object] = {"actor": actor, "operation": operation, "status": status, "request_id": request_id}
        if shop:
            fields["shop"] = shop
        if actor == UNKNOWN and (claim := _KEY_ID.match(key_text or "")):
            fields["claimed_key"] = claim[1]
        if unlogged:
            fields["unlogged"] = unlogged
        logger.warning("refused", extra=fields)
