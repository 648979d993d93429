"""Who asks the service, and what all operations share."""

from __future__ import annotations

import inspect
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Depends, Header, Request, Security
from fastapi.responses import Response
from fastapi.security import APIKeyHeader
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from recllm.base.documents import json_text
from recllm.base.errors import RecllmError, StoreError
from recllm.base.service_settings import ServiceSettings
from recllm.doors.service.jobs import Background
from recllm.doors.service.live import LiveShop, SlateProcesses
from recllm.doors.service.refusals import REFUSALS, UNKNOWN, OverloadError, RefusalLog, refused
from recllm.doors.service.requests import ErrorAnswer
from recllm.shop.workspace.audit import AuditAction, audit, audit_each
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.keys import ApiKey, Scope, authenticate, is_unlocked

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Capacity:
    """Workers that compute answers, and the queue before them; for one event loop."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._workers = CapacityLimiter(settings.workers)
        self.n_waiting = 0
        """Requests that have no worker yet."""

    async def run(self, answer: Callable[[], T]) -> T:
        """The answer, computed in a thread.
        Raises `OverloadError` when too many wait, or it waited too long."""
        settings = self._settings
        if self.n_waiting >= settings.waiting and self._workers.available_tokens <= 0:
            raise OverloadError("too many requests are waiting; try again in a second", retry_seconds=1)
        self.n_waiting += 1
        try:
            with anyio.fail_after(settings.deadline_seconds):
                await self._workers.acquire_on_behalf_of(answer)
        except TimeoutError:
            raise OverloadError(
                f"no worker was free within {settings.deadline_seconds:g} s; try again later",
                status=503,
                retry_seconds=max(1, round(settings.deadline_seconds)),
            ) from None
        finally:
            self.n_waiting -= 1
        try:
            return await anyio.to_thread.run_sync(answer)
        finally:
            self._workers.release_on_behalf_of(answer)


class RateLimit:
    """A limit of requests a minute for each caller, over a moving window."""

    def __init__(self, requests_per_minute: int | None) -> None:
        self._limit = None
        if requests_per_minute is not None:
            from limits import RateLimitItemPerMinute
            from limits.storage import MemoryStorage
            from limits.strategies import SlidingWindowCounterRateLimiter

            self._limit = RateLimitItemPerMinute(requests_per_minute)
            self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, caller: str) -> None:
        """One more request of a caller. Raises `OverloadError` when it is one too many."""
        if self._limit is not None and not self._limiter.hit(self._limit, caller):
            raise OverloadError(
                f"more than {self._limit.amount} requests in a minute; wait, or raise service.requests_per_minute"
            )


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
    page_rate: RateLimit
    """Of each address from which pages ask."""
    metrics: dict[str, ShopMetrics]
    """By the name of the shop; "" for requests that belong to none."""
    is_private: bool
    """Whether only this machine asks, which may know the shops by name without a key."""
    body_limits: dict[str, int] = field(default_factory=dict)
    """Path -> bytes of a request's body, for paths that take more than `service.max_body_mib`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, of which service and shop."""

    service: Service
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


def identify(service: Service, key_text: str | None, shop_name: str | None, is_page: bool) -> Caller:
    """The caller. Raises `HTTPException` without a valid key, and `StoreError` where keys cannot be read."""
    named = {name: shop for name, shop in service.shops.items() if shop_name in (None, name)}
    unreadable: StoreError | None = None
    is_open = True
    for shop in service.shops.values():
        try:
            if key_text is None:
                is_open = is_open and is_unlocked(shop.workspace)
            elif shop.name in named and (key := authenticate(shop.workspace, key_text)):
                if not is_page:  # of a page each visitor's address is counted
                    service.rate.count(key.key_id)
                return Caller(service, shop, key)
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
    return Caller(service, next(iter(named.values())), None)


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


DESCRIPTIONS = {
    400: "Not readable as a request, or the shop is not named",
    401: "No valid key of the shop",
    403: "The key lacks the scope, or the person has not agreed",
    404: "No such shop, item or person",
    409: "Changed by another caller since, or its place is taken",
    413: "Larger than `service.max_body_mib`",
    422: "A field is wrong; the message names it",
    429: "Too many requests; see Retry-After",
    500: "Something failed here; the log has it under the request's id",
    502: "The generator of texts failed",
    503: "Not ready, or no worker was free in time",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description} for status, description in DESCRIPTIONS.items()
}


Operation = TypeVar("Operation", bound=Callable[..., Any])


def operation(
    router: APIRouter, verb: str, path: str, tag: str, *, answer: Any = None, marketing: bool = False, status: int = 200
) -> Callable[[Operation], Operation]:
    """Makes an operation of a function that a worker runs; its result is answered as JSON. answer: its type.

    marketing: a worker of those that answer questions about all people. status: of its success.
    """

    def decorated(function: Operation) -> Operation:
        @wraps(function)
        async def run(*, caller: Caller, **values: Any) -> Response:
            workers = caller.service.marketing if marketing else caller.service.capacity
            result = await workers.run(partial(function, caller=caller, **values))
            response = result if isinstance(result, Response) else document_answer(json_text(result))
            response.status_code = status
            return response

        run.__signature__ = inspect.signature(function, eval_str=True).replace(return_annotation=Response)  # type: ignore[attr-defined]
        responses: dict[int | str, Any] = {} if answer is None else {status: {"model": answer}}
        how: dict[str, Any] = {"response_model": None, "status_code": status, "responses": responses, "tags": [tag]}
        router.add_api_route(path, run, methods=[verb], **how)
        return function

    return decorated


def document_answer(document: str) -> Response:
    """A result that is JSON already."""
    return Response(document.encode(errors="backslashreplace"), media_type="application/json")


ANSWER_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cache-Control": "no-store",
}
"""Of every answer without headers of its own: a browser that is led to it renders nothing."""
HTTPS_ONLY = "max-age=31536000; includeSubDomains"
"""A year."""
PAGE_PATH = "/v1/page/"
ANYHOW = ("/livez", "/readyz")
"""Paths for the operator, which are answered by http in any case."""


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
            is_page = scope["path"].startswith(PAGE_PATH)  # its preflight bears no key
            if scope["path"].startswith(("/v1/", "/metrics")) and not (is_page and scope["method"] == "OPTIONS"):
                asking = partial(identify, self._service, headers.get("x-api-key"), headers.get("x-shop"), is_page)
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
