"""Operations for a shop's own site: recommend, explain, similar items, profiles, texts; events, items and people in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import generate_latest

import recllm
from recllm.base.documents import plain
from recllm.base.errors import UsageError
from recllm.base.policy import EARLIEST_YEAR
from recllm.base.schema import AdCopy, Slate
from recllm.base.settings import ServiceSettings
from recllm.doors.service.callers import (
    ERRORS,
    MayAsk,
    MayMarket,
    MayMeasure,
    MaySend,
    Service,
    TheService,
    document_answer,
    json_answer,
    require,
)
from recllm.doors.service.capacity import OverloadError
from recllm.doors.service.live import LiveShop
from recllm.doors.service.requests import (
    ConsentRequest,
    CopyTextRequest,
    EventsAnswer,
    EventsRequest,
    ExplanationRequest,
    Id,
    ItemsRequest,
    JsonRoute,
    LoadAnswer,
    ProfileRequest,
    SimilarItems,
    SlateRequest,
    TextsRequest,
    UsersRequest,
)
from recllm.market.jobs.load import add_consent, add_events, add_items, add_users
from recllm.recommend.recommender.explanation import Explanation
from recllm.recommend.recommender.person import person_profile
from recllm.recommend.recommender.similar import similar_items
from recllm.shop.workspace.audit import AuditAction
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import recording_time
from recllm.text.domains import domain_of

MAX_EVENTS = 1_000  # events, or items, in one request
CLOCK_SKEW_SECONDS = 300.0  # an event may be so far ahead of this machine's clock

router = APIRouter(responses=ERRORS, route_class=JsonRoute)

JSON_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": error["description"],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}},
    }
    for status, error in ERRORS.items()
}
"""`ERRORS` of an operation whose success is no JSON."""


@router.post("/v1/recommend", response_model=None, responses={200: {"model": Slate}}, tags=["recommend"])
async def recommend(body: SlateRequest, caller: MayAsk, service: TheService) -> Response:
    """The best items for a person now, or for an anonymous visitor by what is in the cart.

    `status` says what the slate was made from: personal, text_only, unknown_user, no_consent.
    """
    shop = caller.shop

    if body.record:
        require(caller, Scope.EVENTS)

    status, document = await service.slate_capacity.run(partial(service.slates.answer, shop, body))
    service.metrics[shop.name].slates.labels(status.value).inc()
    return document_answer(document)


@router.post("/v1/explain", response_model=None, responses={200: {"model": Explanation}}, tags=["recommend"])
async def explain(body: ExplanationRequest, caller: MayAsk, service: TheService) -> Response:
    """One item for one person: what each piece of evidence adds, and without what it would not be shown."""

    def explanation() -> Explanation:
        return caller.shop.recommender().explain(body.user_id, body.item_id, k=body.k)

    return json_answer(await service.capacity.run(explanation))


@router.get("/v1/items/{item_id:path}/similar", response_model=SimilarItems, tags=["recommend"])
async def similar(
    item_id: Id, caller: MayAsk, service: TheService, k: Annotated[int, Query(ge=1, le=100)] = 10
) -> Response:
    """Items on offer whose texts are nearest to an item's; cosine in [-1, 1]."""

    def nearest() -> dict[str, Any]:
        neighbours = similar_items(caller.shop.recommender(), item_id, k)
        listed = [{"item_id": near_id, "title": title, "cosine": value} for near_id, title, value in neighbours]
        return {"item_id": item_id, "items": listed}

    return json_answer(await service.capacity.run(nearest))


@router.post("/v1/events", response_model=EventsAnswer, tags=["events"])
async def events(body: EventsRequest, caller: MaySend, service: TheService) -> Response:
    """What people did. Durable when answered, and counts in the next slate.

    An event that is known already is a duplicate; one whose `event_id` is known with another content is a conflict and
    changes nothing; one that lies ahead of the clock or before 1990, or is of somebody who was
    erased, is rejected. The lists hold positions in the request, from 0.
    """
    shop, settings = caller.shop, service.settings
    if len(body.events) > MAX_EVENTS:
        raise UsageError(f"{len(body.events)} events; send at most {MAX_EVENTS:,} in one request")

    def write() -> dict[str, Any]:
        fits = _plausible(shop, settings, [event.timestamp for event in body.events])
        fit = [position for position, is_plausible in enumerate(fits) if is_plausible]
        rejected = [position for position, is_plausible in enumerate(fits) if not is_plausible]
        account: dict[str, Any] = {"accepted": 0, "duplicates": 0, "conflicts": [], "rejected": rejected}
        if fit:
            now = recording_time(shop.workspace)
            done = add_events(shop.workspace, [body.events[n].row(now) for n in fit], source="service")
            account |= {"accepted": done.accepted, "duplicates": done.duplicates}
            account["conflicts"] = [fit[n] for n in done.conflicts]
            account["rejected"] = sorted([*rejected, *(fit[n] for n in done.erased)])
        return account

    account = await service.capacity.run(write)
    for outcome in ("accepted", "duplicates"):
        service.metrics[shop.name].events.labels(outcome).inc(account[outcome])
    for outcome in ("conflicts", "rejected"):
        service.metrics[shop.name].events.labels(outcome).inc(len(account[outcome]))
    return json_answer(account)


def _plausible(shop: LiveShop, settings: ServiceSettings, times: Sequence[datetime | None]) -> list[bool]:
    """Which times may be taken: none ahead of the clock, where a decision of tomorrow would hold against one of today,
    and none before `EARLIEST_YEAR`. A time that is left out may."""
    earliest = datetime(EARLIEST_YEAR, 1, 2, tzinfo=UTC)  # also where the zone is ahead
    latest = datetime.now(UTC) + timedelta(seconds=CLOCK_SKEW_SECONDS)
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
    times = [decision.timestamp for decision in body.consent]
    for position, is_plausible in enumerate(_plausible(caller.shop, service.settings, times)):
        if not is_plausible:
            raise UsageError(
                f"consent.{position}.timestamp lies ahead of the clock, or before the policy's earliest_year"
            )

    def write() -> Any:
        decisions = [(row.user_id, row.purpose, row.granted, row.timestamp) for row in body.consent]
        done = add_consent(caller.shop.workspace, decisions, source="service")
        if done.accepted:
            caller.audit_each(AuditAction.CONSENT_CHANGED, [row.user_id for row in body.consent])
        return done

    return await _written(service, len(body.consent), write)


async def _written(service: Service, n_rows: int, write: Callable[[], Any]) -> Response:
    """The account of rows that `write` writes. Raises `UsageError` for too many."""
    if n_rows > MAX_EVENTS:
        raise UsageError(f"{n_rows} rows; send at most {MAX_EVENTS:,} in one request")
    done = await service.capacity.run(write)
    return json_answer({"accepted": done.accepted, "duplicates": done.duplicates, "erased": len(done.erased)})


@router.post("/v1/users/profile", response_model=None, tags=["recommend"])
async def profile(body: ProfileRequest, caller: MayAsk, service: TheService) -> Response:
    """What is known of a person: User = (I, B, H), as figures and as the texts that models read."""

    def known() -> dict[str, Any]:
        workspace = caller.shop.workspace
        person, texts = person_profile(workspace, body.user_id, body.locale or workspace.settings.locale)
        caller.audit_each(AuditAction.PERSON_SHOWN, [body.user_id])
        return {**plain(person), "user_id": body.user_id, "texts": plain(texts)}

    return json_answer(await service.capacity.run(known))


@router.post("/v1/copy", response_model=None, responses={200: {"model": AdCopy}}, tags=["marketing"])
async def copy(body: CopyTextRequest, caller: MayMarket, service: TheService) -> Response:
    """A checked ad text for a person: for an item, or for the best one for them. Needs the scope `people` too: it says
    what suits one customer, and why."""
    require(caller, Scope.PEOPLE)
    from recllm.market.adcopy.ads import write_ads

    def text() -> AdCopy:
        shop = caller.shop
        (written,) = write_ads(
            shop.workspace,
            shop.recommender(),
            [body.user_id],
            item_id=body.item_id,
            intent=body.intent,
            objective=body.objective,
            channel=body.channel,
            locale=body.locale,
            effect=shop.effect(),
        )
        return written

    return json_answer(await service.capacity.run(text))


@router.post("/v1/copy/check", response_model=None, tags=["marketing"])
async def check(body: TextsRequest, caller: MayMarket, service: TheService) -> Response:
    """What the guarantees, rule packs and the shop's approved vocabulary say of ad texts that anyone wrote: a verdict
    for each (pass, person or blocked), why, and the words that nothing grounds."""
    from recllm.market.adcopy.submissions import judge, reviews_document, submission_of
    from recllm.market.adcopy.vocabulary import approved_words, vocabulary_file

    def reviews() -> dict[str, Any]:
        # looked at between two texts: the lengths of a text and its item are bounded, so one takes 50 ms or so at most
        deadline = time.monotonic() + service.settings.deadline_seconds
        now = body.at or datetime.now(UTC)
        workspace = caller.shop.workspace
        vocabulary, domain = approved_words(vocabulary_file(workspace.root)), domain_of(workspace.locale())
        submissions = [submission_of(line, now=now, vocabulary=vocabulary, domain=domain) for line in body.texts]
        answers = []
        for submission in submissions:
            if time.monotonic() > deadline:
                raise OverloadError("the texts take too long; send fewer at once", status=503, retry_seconds=1)
            answers.append((submission.id, judge(submission)))
        return reviews_document(answers)

    return json_answer(await service.capacity.run(reviews))


@router.get("/livez", tags=["service"])
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok", "version": recllm.__version__}


@router.get("/readyz", tags=["service"], responses={503: {"description": "A shop is being opened"}})
async def readyz(service: TheService) -> Response:
    """Whether every shop answers. To this machine alone: which does not, and why; `problem` also says why a newer model
    is not served, `search_vectors` whether the encoder of queries is loaded (most bring torch), `slate_processes` how
    many of `service.processes` compute slates; until they do, this process does."""
    shops = {
        shop.name: {
            "ready": shop.ready,
            "model_version": shop.version,
            "problem": shop.problem,
            "search_vectors": shop.finder.vectors.value,
        }
        for shop in service.shops.values()
    }
    ready = all(shop.ready for shop in service.shops.values())
    document: dict[str, Any] = {"ready": ready}
    if service.is_private:
        document |= {"shops": shops, "slate_processes": service.slates.n_ready}
    return JSONResponse(document, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/metrics", tags=["service"], response_class=PlainTextResponse, responses=JSON_ERRORS)
def metrics(caller: MayMeasure, service: TheService) -> Response:
    """Metrics of the caller's shop, in the text format of Prometheus."""
    figures = service.metrics[caller.shop.name]
    queues = {id(queue): queue for queue in (service.capacity, service.slate_capacity)}.values()
    figures.waiting.set(sum(queue.n_waiting for queue in queues))
    figures.ready.set(caller.shop.ready)
    figures.swaps.set(caller.shop.n_swaps)
    return Response(generate_latest(figures.registry), media_type="text/plain")
