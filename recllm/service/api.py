"""The HTTP interface: recommendations, explanations, similar items, checked texts; events and items in.

    app = create_app([LiveShop(Workspace.open("shop"), "shop")], ServiceSettings())

A request belongs to one shop: that of its key, or where there are no keys the one that `X-Shop` names, which only a
service of several shops needs. An error is `{"error": {"type", "message", "request_id"}}`, never a stack trace.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

import recllm
from recllm.data.catalogue import allowed_items, known_rows
from recllm.data.dataset import utc
from recllm.documents import plain
from recllm.errors import DataError, GenerationError, NothingToDo, PolicyError, RecllmError, UnknownIdError, UsageError
from recllm.jobs.load import add_events, load_file, record_shown
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
    ItemsRequest,
    LoadAnswer,
    Locale,
    SimilarItems,
    SlateRequest,
    TextsRequest,
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


class Figures:
    """What Prometheus reads. No label holds an id of anybody."""

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
        self.slates = Counter("recllm_slates", "Slates by what they were made from", ["shop", "status"], **of_registry)
        self.events = Counter("recllm_events", "Events received", ["shop", "outcome"], **of_registry)
        self.waiting = Gauge("recllm_waiting_requests", "Requests without a worker", **of_registry)
        self.ready = Gauge("recllm_ready", "1 when the shop answers", ["shop"], **of_registry)
        self.swaps = Gauge("recllm_swaps", "Recommenders exchanged for a newer one", ["shop"], **of_registry)

    def text(self, service: Service) -> bytes:
        """All of it, in Prometheus's format."""
        self.waiting.set(service.capacity.n_waiting)
        for shop in service.shops.values():
            self.ready.labels(shop.name).set(shop.ready)
            self.swaps.labels(shop.name).set(shop.n_swaps)
        return generate_latest(self.registry)


@dataclass(frozen=True, eq=False)
class Service:
    """What the operations of one app share."""

    shops: dict[str, LiveShop]
    """By name."""
    settings: ServiceSettings
    capacity: Capacity
    rate: RateLimit
    figures: Figures
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


class Allowed:
    """A dependency: the caller, who may do what the scope says."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __call__(
        self,
        service: TheService,
        x_api_key: Annotated[str | None, Header(description="A key of the shop, see recllm keys.")] = None,
        x_shop: Annotated[str | None, Header(description="Name of the shop, where there are several.")] = None,
    ) -> Caller:
        shops = service.shops if x_shop is None else {n: s for n, s in service.shops.items() if n == x_shop}
        for shop in shops.values():
            if x_api_key is not None and (key := authenticate(shop.workspace, x_api_key)):
                service.rate.count(key.key_id)
                if not key.allows(self._scope):
                    raise HTTPException(HTTPStatus.FORBIDDEN, f"this key lacks the scope {self._scope}")
                return Caller(shop, key)
        service.rate.count("")  # all that have no valid key are one caller
        if x_api_key is not None or any(list_keys(shop.workspace) for shop in service.shops.values()):
            # a key of one shop with another one's name says no more than a wrong key
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "give a valid key of the shop in X-API-Key")
        if not shops:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"no such shop; X-Shop is one of {', '.join(service.shops)}")
        if len(shops) > 1:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"name the shop in X-Shop: {', '.join(service.shops)}")
        return Caller(next(iter(shops.values())), None)


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
    503: {"model": ErrorAnswer, "description": "Not ready, or no worker was free in time"},
}

router = APIRouter(responses=ERRORS)


def _answer(value: Any) -> JSONResponse:
    """A result in the fields of the command line's JSON."""
    return JSONResponse(plain(value))


@router.post("/v1/recommend", response_model=None, responses={200: {"model": Slate}}, tags=["recommend"])
async def recommend(body: SlateRequest, caller: MayAsk, service: TheService) -> Response:
    """The best items for a person now, or for an anonymous visitor by what is in the cart.

    `status` says what the slate was made from: personal, text_only, unknown_user, no_consent.
    """
    shop = caller.shop

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
    service.figures.slates.labels(shop.name, answer.status.value).inc()
    return _answer(answer)


@router.post("/v1/explain", response_model=None, responses={200: {"model": Explanation}}, tags=["recommend"])
async def explain(body: ExplanationRequest, caller: MayAsk, service: TheService) -> Response:
    """One item for one person: what each piece of evidence adds, and without what it would not be shown."""

    def explanation() -> Explanation:
        return caller.shop.recommender().explain(body.user_id, body.item_id, k=body.k)

    return _answer(await service.capacity.run(explanation))


@router.get("/v1/items/{item_id:path}/similar", response_model=SimilarItems, tags=["recommend"])
async def similar(
    item_id: str, caller: MayAsk, service: TheService, k: Annotated[int, Query(ge=1, le=100)] = 10
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
    changes nothing; one that lies in the future is rejected. The lists hold positions in the request, from 0.
    """
    shop, settings = caller.shop, service.settings
    if len(body.events) > settings.max_events:
        raise UsageError(f"{len(body.events)} events; service.max_events allows {settings.max_events} in one request")

    def write() -> dict[str, Any]:
        now = utc(present(shop.workspace))
        latest = max(now, datetime.now(UTC)) + timedelta(seconds=settings.clock_skew_seconds)
        accepted_rows = [n for n, e in enumerate(body.events) if e.timestamp is None or e.timestamp <= latest]
        rejected = sorted(set(range(len(body.events))) - set(accepted_rows))
        if not accepted_rows:
            return {"accepted": 0, "duplicates": 0, "conflicts": [], "rejected": rejected}
        done = add_events(shop.workspace, [body.events[n].row(now) for n in accepted_rows], source="service")
        conflicts = [accepted_rows[n] for n in done.conflicts]
        return {
            "accepted": done.accepted,
            "duplicates": done.duplicates,
            "conflicts": conflicts,
            "rejected": rejected,
        }

    account = await service.capacity.run(write)
    for outcome in ("accepted", "duplicates"):
        service.figures.events.labels(shop.name, outcome).inc(account[outcome])
    for outcome in ("conflicts", "rejected"):
        service.figures.events.labels(shop.name, outcome).inc(len(account[outcome]))
    return _answer(account)


@router.post("/v1/items", response_model=LoadAnswer, tags=["events"])
async def items(body: ItemsRequest, caller: MaySend, service: TheService) -> Response:
    """New or changed items, through the checks of a catalogue file: all or none of the request.

    Facts, price and offer count at once; a new item can be recommended within seconds.
    """
    return await _load(caller, service, "items", [item.model_dump_json(exclude_unset=True) for item in body.items])


@router.post("/v1/users", response_model=LoadAnswer, tags=["events"])
async def users(body: UsersRequest, caller: MaySend, service: TheService) -> Response:
    """What people told of themselves; it counts in the next answer."""
    rows = [{**person.basics, "user_id": person.user_id} for person in body.users]
    return await _load(caller, service, "users", [json.dumps(row) for row in rows])


@router.post("/v1/consent", response_model=LoadAnswer, tags=["events"])
async def consent(body: ConsentRequest, caller: MaySend, service: TheService) -> Response:
    """What people agreed to or withdrew; it counts in the next answer, for whatever is asked."""
    now = datetime.now(UTC)
    decisions = (row if row.timestamp else row.model_copy(update={"timestamp": now}) for row in body.consent)
    return await _load(caller, service, "consent", [decision.model_dump_json() for decision in decisions])


async def _load(caller: Caller, service: Service, table: str, lines: Sequence[str]) -> Response:
    """Rows through the checks of a file of that table; refused ones are not kept, since the caller has them."""
    if len(lines) > service.settings.max_events:
        raise UsageError(f"{len(lines)} rows; service.max_events allows {service.settings.max_events} in one request")

    def write() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{table}.jsonl"
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            report = load_file(caller.shop.workspace, file, table, quarantine=False)
        return {name: getattr(report, name) for name in LoadAnswer.model_fields}

    return _answer(await service.capacity.run(write))


@router.get("/v1/users/{user_id:path}/profile", response_model=None, tags=["recommend"])
async def profile(user_id: str, caller: MayAsk, service: TheService, locale: Locale = None) -> Response:
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
    """Figures of the service for Prometheus."""
    return Response(service.figures.text(service), media_type="text/plain")


class Envelope:
    """Around every request: its size is bounded, its time is counted, and what nobody foresaw becomes a plain 500."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._max_bytes = int(service.settings.max_body_mib * 2**20)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size = time.perf_counter(), 500, 0
        scope.setdefault("state", {})["request_id"] = uuid.uuid4().hex

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
            await self._app(scope, bounded_receive, counted_send)
        finally:
            route = scope.get("route")
            operation = getattr(route, "name", "unknown")
            self._service.figures.requests.labels(operation, status).inc()
            self._service.figures.seconds.labels(operation).observe(time.perf_counter() - began)


def create_app(shops: Sequence[LiveShop], settings: ServiceSettings, *, loopback_only: bool = True) -> FastAPI:
    """The service of some shops, which it opens at its start and closes at its end.

    loopback_only: answer only where the Host header names this machine, as a service without keys has to.
    """
    service = Service(
        {shop.name: shop for shop in shops},
        settings,
        Capacity(settings),
        RateLimit(settings.requests_per_minute),
        Figures(),
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
    app.add_middleware(Envelope, service=service)
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
        return _error(request, status, type(error).__name__, str(error))
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
