"""The HTTP interface: recommendations, explanations, similar items, checked texts; events and items in.

    app = create_app([LiveShop(Workspace.open("shop"), "shop")], ServiceSettings())

A request belongs to one shop: that of its key, or where there are no keys the one that `X-Shop` names, which only a
service of several shops needs. An error is `{"error": {"type", "message", "request_id"}}`, never a stack trace.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

import anyio
import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import APIKeyHeader
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

import recllm
from recllm.data.catalogue import allowed_items, known_rows
from recllm.data.dataset import utc
from recllm.documents import json_text, plain
from recllm.errors import (
    DataError,
    GenerationError,
    NothingToDo,
    PolicyError,
    RecllmError,
    StoreError,
    UnknownIdError,
    UsageError,
)
from recllm.jobs.load import add_consent, add_events, add_items, add_users, record_shown
from recllm.jobs.serve import person_profile
from recllm.recommender.explanation import Explanation
from recllm.schema import AdCopy, RecommendRequest, Slate
from recllm.service.capacity import Capacity, OverloadError, RateLimit
from recllm.service.live import LiveShop
from recllm.service.requests import (
    ConsentRequest,
    CopyTextRequest,
    ErrorAnswer,
    EventsAnswer,
    EventsRequest,
    ExplanationRequest,
    Id,
    ItemsRequest,
    LoadAnswer,
    Locale,
    SimilarItems,
    SlateRequest,
    TextsRequest,
    UserId,
    UsersRequest,
)
from recllm.settings import ServiceSettings
from recllm.text.items import item_names
from recllm.workspace.keys import ApiKey, Scope, authenticate, list_keys
from recllm.workspace.workspace import present

logger = logging.getLogger(__name__)

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names by which a service without keys may be called: a page of somebody else's, whose name leads here, may not."""

STATUS: Sequence[tuple[type[RecllmError], HTTPStatus]] = (
    (PolicyError, HTTPStatus.FORBIDDEN),
    (NothingToDo, HTTPStatus.NOT_FOUND),
    (UnknownIdError, HTTPStatus.NOT_FOUND),
    (UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (DataError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (GenerationError, HTTPStatus.BAD_GATEWAY),
    (RecllmError, HTTPStatus.SERVICE_UNAVAILABLE),
)
"""What a kind of error answers with, the first that fits: the store, the model and what is being opened may be back."""


class ShopMetrics:
    """What Prometheus reads of one shop. No label holds an id of anybody."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
    rate: RateLimit
    metrics: dict[str, ShopMetrics]
    """By the name of the shop; "" for requests that belong to none."""
    is_private: bool
    """Whether only this machine asks, which may know the shops by name without a key."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and of which shop."""

    shop: LiveShop
    key: ApiKey | None
    """None where the shop has no keys."""


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]


def _identify(service: Service, key_text: str | None, shop_name: str | None) -> Caller:
    """Who asks. Raises `HTTPException` for whoever has no valid key where one is needed, or names no shop."""
    named = {name: shop for name, shop in service.shops.items() if shop_name in (None, name)}
    is_open = True
    for shop in service.shops.values():
        try:
            if key_text is None:
                is_open = is_open and not list_keys(shop.workspace)
            elif shop.name in named and (key := authenticate(shop.workspace, key_text)):
                service.rate.count(key.key_id)
                return Caller(shop, key)
        except StoreError as error:  # one shop's trouble is no other's
            is_open = False
            logger.warning("keys cannot be read: %s", error, extra={"shop": shop.name})
    service.rate.count("")  # all that have no valid key are one caller
    if key_text is not None or not is_open:
        # a key of one shop with another one's name says no more than a wrong key
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "give a valid key of the shop in X-API-Key")
    if not named:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"no such shop; X-Shop is one of {', '.join(service.shops)}")
    if len(named) > 1:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"name the shop in X-Shop: {', '.join(service.shops)}")
    return Caller(next(iter(named.values())), None)


class Allowed:
    """A dependency: the caller, whom `RequestMiddleware` identified, and who may do what the scope says."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __call__(
        self,
        request: Request,
        _key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))] = None,
        _shop: Annotated[str | None, Header(alias="X-Shop", description="The shop, where there are several.")] = None,
    ) -> Caller:
        caller: Caller = request.state.caller
        _require(caller, self._scope)
        return caller


def _require(caller: Caller, scope: Scope) -> None:
    if caller.key is not None and not caller.key.allows(scope):
        raise HTTPException(HTTPStatus.FORBIDDEN, f"this key lacks the scope {scope}")


MayAsk = Annotated[Caller, Depends(Allowed(Scope.RECOMMEND))]
MaySend = Annotated[Caller, Depends(Allowed(Scope.EVENTS))]
MayMarket = Annotated[Caller, Depends(Allowed(Scope.MARKETING))]
MayMeasure = Annotated[Caller, Depends(Allowed(Scope.METRICS))]

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Not readable as a request, or the shop is not named"},
    401: {"model": ErrorAnswer, "description": "No valid key of the shop"},
    403: {"model": ErrorAnswer, "description": "The key lacks the scope, or the person has not agreed"},
    404: {"model": ErrorAnswer, "description": "No such shop, item or person"},
    413: {"model": ErrorAnswer, "description": "Larger than `service.max_body_mib`"},
    422: {"model": ErrorAnswer, "description": "A field is wrong; the message names it"},
    429: {"model": ErrorAnswer, "description": "Too many requests; see Retry-After"},
    500: {"model": ErrorAnswer, "description": "Something failed here; the log has it under the request's id"},
    502: {"model": ErrorAnswer, "description": "The generator of texts failed"},
    503: {"model": ErrorAnswer, "description": "Not ready, or no worker was free in time"},
}

router = APIRouter(responses=ERRORS)


def _answer(value: Any) -> Response:
    """A result in the fields of the command line's JSON."""
    return Response(json_text(value).encode(errors="backslashreplace"), media_type="application/json")


@router.post("/v1/recommend", response_model=None, responses={200: {"model": Slate}}, tags=["recommend"])
async def recommend(body: SlateRequest, caller: MayAsk, service: TheService) -> Response:
    """The best items for a person now, or for an anonymous visitor by what is in the cart.

    `status` says what the slate was made from: personal, text_only, unknown_user, no_consent.
    """
    shop = caller.shop

    if body.record:
        _require(caller, Scope.EVENTS)

    def slate() -> Slate:
        recommender = shop.recommender()
        if body.user_id is None:
            recommender = recommender.for_nobody()
        request = RecommendRequest(
            users=(body.user_id or "",),
            k=body.k,
            basket=tuple(body.basket),
            where=body.where,
            allow=None if body.allow is None else tuple(body.allow),
            deny=tuple(body.exclude),
            repeats=body.repeats,
            explain=body.explain,
        )
        (answer,) = recommender.recommend(request)
        if body.record and body.user_id is not None:
            record_shown(shop.workspace, [answer])
        return answer

    answer = await service.capacity.run(slate)
    service.metrics[shop.name].slates.labels(answer.status.value).inc()
    return _answer(answer)


@router.post("/v1/explain", response_model=None, responses={200: {"model": Explanation}}, tags=["recommend"])
async def explain(body: ExplanationRequest, caller: MayAsk, service: TheService) -> Response:
    """One item for one person: what each piece of evidence adds, and without what it would not be shown."""

    def explanation() -> Explanation:
        return caller.shop.recommender().explain(body.user_id, body.item_id, k=body.k)

    return _answer(await service.capacity.run(explanation))


@router.get("/v1/items/{item_id:path}/similar", response_model=SimilarItems, tags=["recommend"])
async def similar(
    item_id: Id, caller: MayAsk, service: TheService, k: Annotated[int, Query(ge=1, le=100)] = 10
) -> Response:
    """Items on offer whose texts are nearest to an item's; cosine in [-1, 1]."""

    def nearest() -> dict[str, Any]:
        recommender = caller.shop.recommender()
        dataset, vectors = recommender.dataset, recommender.item_vectors
        row = int(known_rows(dataset, [item_id])[0])
        cosine = np.where(allowed_items(dataset), vectors @ vectors[row], -np.inf)
        cosine[row] = -np.inf
        best = np.argsort(-cosine, kind="stable")[:k]
        best = best[np.isfinite(cosine[best])]
        items = dataset.items[best.tolist()]
        columns = zip(items["item_id"], item_names(items, recommender.locale), cosine[best].tolist(), strict=True)
        listed = [{"item_id": near_id, "title": title, "cosine": value} for near_id, title, value in columns]
        return {"item_id": item_id, "items": listed}

    return _answer(await service.capacity.run(nearest))


@router.post("/v1/events", response_model=EventsAnswer, tags=["events"])
async def events(body: EventsRequest, caller: MaySend, service: TheService) -> Response:
    """What people did. Durable when answered, and counts in the next slate.

    An event that is known already is a duplicate; one whose `event_id` is known with another content is a conflict and
    changes nothing; one that lies ahead of the clock or before the policy's `earliest_year` is rejected. The lists hold
    positions in the request, from 0.
    """
    shop, settings = caller.shop, service.settings
    if len(body.events) > settings.max_events:
        raise UsageError(f"{len(body.events)} events; service.max_events allows {settings.max_events} in one request")

    def write() -> dict[str, Any]:
        fits = _plausible(shop, settings, [event.timestamp for event in body.events])
        fit = [position for position, is_plausible in enumerate(fits) if is_plausible]
        rejected = [position for position, is_plausible in enumerate(fits) if not is_plausible]
        account: dict[str, Any] = {"accepted": 0, "duplicates": 0, "conflicts": [], "rejected": rejected}
        if fit:
            now = utc(present(shop.workspace))
            done = add_events(shop.workspace, [body.events[n].row(now) for n in fit], source="service")
            account |= {"accepted": done.accepted, "duplicates": done.duplicates}
            account["conflicts"] = [fit[n] for n in done.conflicts]
        return account

    account = await service.capacity.run(write)
    for outcome in ("accepted", "duplicates"):
        service.metrics[shop.name].events.labels(outcome).inc(account[outcome])
    for outcome in ("conflicts", "rejected"):
        service.metrics[shop.name].events.labels(outcome).inc(len(account[outcome]))
    return _answer(account)


def _plausible(shop: LiveShop, settings: ServiceSettings, times: Sequence[datetime | None]) -> list[bool]:
    """Which times may be taken: none ahead of the clock, where a decision of tomorrow would hold against one of today,
    and none before the policy's `earliest_year`. A time that is left out may."""
    earliest = datetime(shop.workspace.policy.earliest_year, 1, 2, tzinfo=UTC)  # also where the zone is ahead
    latest = datetime.now(UTC) + timedelta(seconds=settings.clock_skew_seconds)
    return [at is None or (at.year > 1 and earliest <= at <= latest) for at in times]


@router.post("/v1/items", response_model=LoadAnswer, tags=["events"])
async def items(body: ItemsRequest, caller: MaySend, service: TheService) -> Response:
    """New or changed items: all of the request or none. What is answered is in force: the next slate knows it."""

    def write() -> Any:
        done = add_items(caller.shop.workspace, [item.item() for item in body.items], source="service")
        caller.shop.update()
        return done

    return await _written(service, len(body.items), write)


@router.post("/v1/users", response_model=LoadAnswer, tags=["events"])
async def users(body: UsersRequest, caller: MaySend, service: TheService) -> Response:
    """What people told of themselves; it counts in the next answer."""

    def write() -> Any:
        basics = {person.user_id: person.basics for person in body.users}
        return add_users(caller.shop.workspace, basics, source="service")

    return await _written(service, len(body.users), write)


@router.post("/v1/consent", response_model=LoadAnswer, tags=["events"])
async def consent(body: ConsentRequest, caller: MaySend, service: TheService) -> Response:
    """What people agreed to or withdrew; it counts in the next answer, for whatever is asked."""
    now, times = datetime.now(UTC), [decision.timestamp for decision in body.consent]
    for position, is_plausible in enumerate(_plausible(caller.shop, service.settings, times)):
        if not is_plausible:
            raise UsageError(
                f"consent.{position}.timestamp lies ahead of the clock, or before the policy's earliest_year"
            )

    def write() -> Any:
        decisions = [(row.user_id, row.purpose, row.granted, row.timestamp or now) for row in body.consent]
        return add_consent(caller.shop.workspace, decisions, source="service")

    return await _written(service, len(body.consent), write)


async def _written(service: Service, n_rows: int, write: Callable[[], Any]) -> Response:
    """The account of rows that `write` writes. Raises `UsageError` for too many."""
    if n_rows > service.settings.max_events:
        raise UsageError(f"{n_rows} rows; service.max_events allows {service.settings.max_events} in one request")
    done = await service.capacity.run(write)
    return _answer({"accepted": done.accepted, "duplicates": done.duplicates})


@router.get("/v1/users/{user_id:path}/profile", response_model=None, tags=["recommend"])
async def profile(user_id: UserId, caller: MayAsk, service: TheService, locale: Locale = None) -> Response:
    """What is known of a person: User = (I, B, H), as figures and as the texts that models read."""

    def known() -> dict[str, Any]:
        workspace = caller.shop.workspace
        person, texts = person_profile(workspace, user_id, locale or workspace.settings.locale)
        return {**plain(person), "user_id": user_id, "texts": plain(texts)}

    return _answer(await service.capacity.run(known))


@router.post("/v1/copy", response_model=None, responses={200: {"model": AdCopy}}, tags=["marketing"])
async def copy(body: CopyTextRequest, caller: MayMarket, service: TheService) -> Response:
    """A checked ad text for a person: for an item, or for the best one for them."""
    from recllm.jobs.ad_copy import write_ads

    def text() -> AdCopy:
        shop = caller.shop
        (written,) = write_ads(
            shop.workspace,
            [body.user_id],
            item_id=body.item_id,
            channel=body.channel,
            locale=body.locale,
            recommender=shop.recommender(),
        )
        return written

    return _answer(await service.capacity.run(text))


@router.post("/v1/copy/check", response_model=None, tags=["marketing"])
async def check(body: TextsRequest, caller: MayMarket, service: TheService) -> Response:
    """What the guarantees and rule packs say of ad texts that anyone wrote."""
    from recllm.adcopy.submissions import judge, reviews_document, submission_of

    def reviews() -> dict[str, Any]:
        now = body.at or datetime.now(UTC)
        submissions = [submission_of(line, now=now) for line in body.texts]
        return reviews_document([(submission.id, judge(submission)) for submission in submissions])

    return _answer(await service.capacity.run(reviews))


@router.get("/livez", tags=["service"])
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok", "version": recllm.__version__}


@router.get("/readyz", tags=["service"], responses={503: {"description": "A shop is being opened"}})
async def readyz(service: TheService) -> Response:
    """Whether every shop answers. To this machine alone: which does not, and why; `problem` also says why a newer model
    is not served."""
    shops = {
        shop.name: {"ready": shop.ready, "model_version": shop.version, "problem": shop.problem}
        for shop in service.shops.values()
    }
    ready = all(shop.ready for shop in service.shops.values())
    document = {"ready": ready, "shops": shops} if service.is_private else {"ready": ready}
    return JSONResponse(document, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/metrics", tags=["service"], response_class=PlainTextResponse)
def metrics(caller: MayMeasure, service: TheService) -> Response:
    """ShopMetrics of the caller's shop for Prometheus."""
    figures = service.metrics[caller.shop.name]
    figures.waiting.set(service.capacity.n_waiting)
    figures.ready.set(caller.shop.ready)
    figures.swaps.set(caller.shop.n_swaps)
    return Response(generate_latest(figures.registry), media_type="text/plain")


class RequestMiddleware:
    """Around every request: who asks is known before a byte of the body is read; size and time are measured."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
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
            await send(message)

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is larger than is taken")
            return message

        try:
            if scope["path"].startswith(("/v1/", "/metrics")):
                headers = Headers(scope=scope)
                identify = partial(_identify, self._service, headers.get("x-api-key"), headers.get("x-shop"))
                try:
                    caller = await anyio.to_thread.run_sync(identify)
                except (HTTPException, OverloadError) as error:
                    await (await _refused(Request(scope), error))(scope, receive, counted_send)
                    return
                state["caller"], shop_name = caller, caller.shop.name
            await self._app(scope, bounded_receive, counted_send)
        finally:
            operation = getattr(scope.get("route"), "name", "unknown")
            figures = self._service.metrics[shop_name]
            figures.requests.labels(operation, status).inc()
            figures.seconds.labels(operation).observe(time.perf_counter() - began)


def create_app(shops: Sequence[LiveShop], settings: ServiceSettings, *, loopback_only: bool = True) -> FastAPI:
    """The service of some shops, which it opens at its start and closes at its end.

    loopback_only: answer only where the Host header names this machine, as a service without keys has to.
    """
    service = Service(
        {shop.name: shop for shop in shops},
        settings,
        Capacity(settings),
        RateLimit(settings.requests_per_minute),
        {name: ShopMetrics() for name in ("", *(shop.name for shop in shops))},
        is_private=loopback_only,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for shop in shops:
            shop.start()
        yield
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
    app.include_router(router)
    app.add_middleware(RequestMiddleware, service=service)
    if loopback_only:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_HOSTS))
    app.add_exception_handler(RecllmError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(Exception, _failed)
    return app


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
        return _error(request, status, type(error).__name__, "the shop cannot answer now; the log says why")
    if isinstance(error, RequestValidationError):
        # what was sent is not repeated: it may hold somebody's id
        faults = (f"{'.'.join(str(part) for part in fault['loc'][1:])}: {fault['msg']}" for fault in error.errors())
        return _error(request, HTTPStatus.UNPROCESSABLE_ENTITY, "validation", "; ".join(faults))
    assert isinstance(error, HTTPException)  # noqa: S101 - the handlers are registered for these four alone
    return _error(request, error.status_code, "http", str(error.detail), dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    request_id = getattr(request.state, "request_id", "")
    logger.error("a request failed", exc_info=error, extra={"request_id": request_id})
    return _error(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "something failed here; the log has more")
