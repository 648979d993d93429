"""Operations for a shop's own site, and a person's rights."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from prometheus_client import generate_latest

import recllm
from recllm.base.documents import plain
from recllm.base.errors import NothingToDo, UnknownIdError, UsageError
from recllm.base.policy import EARLIEST_YEAR
from recllm.base.questions import ReportBy
from recllm.base.schema import AdCopy, Purpose, Slate, Table
from recllm.doors.privacy.certificate import ErasureCertificate
from recllm.doors.privacy.erasure import erase_people
from recllm.doors.privacy.registry import export_person, restrict_person
from recllm.doors.service.callers import (
    ERRORS,
    MayAsk,
    MayErase,
    MayMarket,
    MayMeasure,
    MaySend,
    TheService,
    document_answer,
    operation,
    require,
)
from recllm.doors.service.marketing_requests import RestrictionRequest, SessionJoinRequest
from recllm.doors.service.refusals import OverloadError
from recllm.doors.service.requests import (
    ConsentRequest,
    CopyTextRequest,
    EventsAnswer,
    EventsRequest,
    ExperimentRequest,
    ExplanationRequest,
    Id,
    ItemsRequest,
    JsonRoute,
    LoadAnswer,
    PersonRequest,
    ProfileRequest,
    SimilarItems,
    SlateRequest,
    StopRequest,
    TextsRequest,
    UsersRequest,
)
from recllm.market.adcopy.ads import write_ads
from recllm.market.adcopy.request import voice_of
from recllm.market.adcopy.submissions import judge, reviews_document, submission_of
from recllm.market.experiments.effect import Treatment
from recllm.market.experiments.feedback import WINDOWS, ShownOutcome, feedback_report, reported_outcomes
from recllm.market.experiments.slates import (
    ExperimentOutcome,
    experiment_outcome,
    find_experiment,
    list_experiments,
    reported_experiment,
    start_experiment,
    stop_experiment,
)
from recllm.market.occasions.calendar import countries_of
from recllm.recommend.recommender.explanation import Explanation
from recllm.recommend.recommender.people import person_profile
from recllm.recommend.recommender.search import similar_items
from recllm.shop.ingest.sessions import session_pseudonyms
from recllm.shop.ingest.workspace_load import add_consent, add_events, add_items, add_users
from recllm.shop.workspace.audit import AuditAction, AuditCheck, AuditEntry, read_audit, verify_audit
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import Workspace, recording_time
from recllm.text.domains import domain_of

CLOCK_SKEW_SECONDS = 300.0  # an event may be so far ahead of this machine's clock

router = APIRouter(responses=ERRORS, route_class=JsonRoute)

PLAIN_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


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


@operation(router, "POST", "/v1/explain", "recommend", answer=Explanation)
def explain(body: ExplanationRequest, caller: MayAsk) -> Explanation:
    """One item for one person: what each piece of evidence adds, and without what it would not be shown."""
    return caller.shop.recommender().explain(body.user_id, body.item_id, k=body.k)


@operation(router, "GET", "/v1/items/{item_id:path}/similar", "recommend", answer=SimilarItems)
def similar(item_id: Id, caller: MayAsk, k: Annotated[int, Query(ge=1, le=100)] = 10) -> dict[str, Any]:
    """Items on offer whose texts are nearest to an item's; cosine in [-1, 1]."""
    neighbours = similar_items(caller.shop.recommender(), item_id, k)
    listed = [{"item_id": near_id, "title": title, "cosine": value} for near_id, title, value in neighbours]
    return {"item_id": item_id, "items": listed}


@operation(router, "POST", "/v1/events", "events", answer=EventsAnswer)
def events(body: EventsRequest, caller: MaySend) -> dict[str, Any]:
    """Records events. They are durable when answered, and count in the next slate.

    A known event is a duplicate; one whose `event_id` is known with another content is a conflict and changes nothing;
    one that lies ahead of the clock or before 1990, or is of an erased person, is rejected. The lists hold positions in
    the request, from 0.
    """
    shop, metrics = caller.shop, caller.service.metrics[caller.shop.name].events
    fits = _plausible([event.timestamp for event in body.events])
    taken_positions = [position for position, is_plausible in enumerate(fits) if is_plausible]
    rejected = [position for position, is_plausible in enumerate(fits) if not is_plausible]
    account: dict[str, Any] = {"accepted": 0, "duplicates": 0, "conflicts": [], "rejected": rejected}
    if taken_positions:
        now = recording_time(shop.workspace)
        done = add_events(shop.workspace, [body.events[n].row(now) for n in taken_positions], source="service")
        account |= {"accepted": done.accepted, "duplicates": done.duplicates}
        account["conflicts"] = [taken_positions[n] for n in done.conflicts]
        account["rejected"] = sorted([*rejected, *(taken_positions[n] for n in done.erased)])
    for outcome, entry in account.items():
        metrics.labels(outcome).inc(len(entry) if isinstance(entry, list) else entry)
    return account


def _plausible(times: Sequence[datetime | None]) -> list[bool]:
    """Which times are plausible: none ahead of the clock or before `EARLIEST_YEAR`; no time is."""
    earliest = datetime(EARLIEST_YEAR, 1, 2, tzinfo=UTC)  # also where the zone is ahead
    latest = datetime.now(UTC) + timedelta(seconds=CLOCK_SKEW_SECONDS)
    return [at is None or (at.year > 1 and earliest <= at <= latest) for at in times]


@operation(router, "POST", "/v1/items", "events", answer=LoadAnswer)
def items(body: ItemsRequest, caller: MaySend) -> dict[str, int]:
    """New or changed items: all of the request or none.
    They are in force when answered: the next slate knows them."""
    done = add_items(caller.shop.workspace, [item.item() for item in body.items], source="service")
    caller.shop.update()
    return _account(done)


@operation(router, "POST", "/v1/users", "events", answer=LoadAnswer)
def users(body: UsersRequest, caller: MaySend) -> dict[str, int]:
    """Basics that people stated; they count in the next answer."""
    basics = {person.user_id: person.basics for person in body.users}
    return _account(add_users(caller.shop.workspace, basics, source="service"))


@operation(router, "POST", "/v1/consent", "events", answer=LoadAnswer)
def consent(body: ConsentRequest, caller: MaySend) -> dict[str, int]:
    """Decisions about consent; they count in the next answer of any kind."""
    for position, is_plausible in enumerate(_plausible([decision.timestamp for decision in body.consent])):
        if not is_plausible:
            raise UsageError(
                f"consent.{position}.timestamp lies ahead of the clock, or before the policy's earliest_year"
            )
    decisions = [(row.user_id, row.purpose, row.granted, row.timestamp) for row in body.consent]
    done = add_consent(caller.shop.workspace, decisions, source="service")
    if done.accepted:
        caller.audit_each(AuditAction.CONSENT_CHANGED, [row.user_id for row in body.consent])
    return _account(done)


def _account(done: Any) -> dict[str, int]:
    return {"accepted": done.accepted, "duplicates": done.duplicates, "erased": len(done.erased)}


@operation(router, "POST", "/v1/users/profile", "recommend")
def profile(body: ProfileRequest, caller: MayAsk) -> dict[str, Any]:
    """What is known of a person: User = (I, B, H), as figures and as the texts that models read."""
    workspace = caller.shop.workspace
    person, texts = person_profile(workspace, body.user_id, body.locale or workspace.settings.locale)
    caller.audit_each(AuditAction.PERSON_SHOWN, [body.user_id])
    return {**plain(person), "user_id": body.user_id, "texts": plain(texts)}


@operation(router, "POST", "/v1/copy", "marketing", answer=AdCopy)
def copy(body: CopyTextRequest, caller: MayMarket) -> AdCopy:
    """A checked ad text for a person: for an item, or for the best one for them. Needs the scope `people` too: it says
    what suits one customer, and why."""
    require(caller, Scope.PEOPLE)
    fields = {name: getattr(body, name) for name in ("item_id", "intent", "objective", "channel", "locale")}
    shop = caller.shop
    return write_ads(shop.workspace, shop.recommender(), [body.user_id], **fields).texts[0]


@operation(router, "POST", "/v1/copy/check", "marketing")
def check(body: TextsRequest, caller: MayMarket) -> dict[str, Any]:
    """What the guarantees, rule packs and the shop's voice say of ad texts that anyone wrote: a verdict
    for each (pass, person or blocked), why, and the words that nothing grounds."""
    # checked between two texts: the lengths of a text and its item are bounded, so one takes 50 ms or so at most
    deadline = time.monotonic() + caller.service.settings.deadline_seconds
    now, workspace = body.at or datetime.now(UTC), caller.shop.workspace
    read = partial(
        submission_of,
        now=now,
        voice=voice_of(workspace.root),
        domain=domain_of(workspace.locale()),
        countries=countries_of(workspace.settings),
    )
    submissions = list(map(read, body.texts))
    answers = []
    for submission in submissions:
        if time.monotonic() > deadline:
            raise OverloadError("the texts take too long; send fewer at once", status=503, retry_seconds=1)
        answers.append((submission.id, judge(submission)))
    return reviews_document(answers)


@operation(router, "GET", "/v1/report", "loop")
def report(
    caller: MayMarket,
    by: ReportBy = ReportBy.MODEL,
    days: Annotated[float, Query(gt=0, le=365, description="Days for which an answer belongs to a showing.")] = 7.0,
) -> dict[str, Any]:
    """Outcomes of what was shown: clicks, purchases, revenue, returning customers, coverage; with intervals.

    Without the scope `privacy`, groups below the policy's floor are left out, the figures carry noise that is small
    compared with their intervals and change once a day, and `days` is raised to the next of 1, 3, 7, 14, 28, 90, 365.
    """
    figures = caller.figures
    window = days if figures.is_exact else next(window for window in WINDOWS if window >= days)

    def reported() -> tuple[ShownOutcome, ...]:
        return reported_outcomes(feedback_report(caller.shop.workspace, by=by, window_days=window), figures)

    groups = caller.shop.once_a_day(figures, ("report", by, window), reported)
    return {"by": by, "window_days": window, "groups": groups}


@operation(router, "GET", "/v1/experiments", "loop")
def experiments(caller: MayMarket) -> dict[str, Any]:
    """All experiments, the running one too."""
    return {"experiments": [stored.document() for stored in list_experiments(caller.shop.workspace)]}


@operation(router, "POST", "/v1/experiments", "loop")
def start(body: ExperimentRequest, caller: MayMarket) -> dict[str, Any]:
    """Start an experiment on slates: people are split at random, from now on.
    The first variant is the control."""
    variants = {v.name: (v.weight, Treatment.model_validate(v.treatment)) for v in body.variants}
    if len(variants) < len(body.variants):
        raise UsageError("two variants have one name; give each its own")
    stored = start_experiment(caller.shop.workspace, body.name, variants, metric=body.metric, guard=body.guard)
    caller.audit(AuditAction.EXPERIMENT_STARTED, experiment=body.name)
    caller.shop.update()  # an answered change is in force
    return stored.document()


@operation(router, "GET", "/v1/experiments/{name}", "loop")
def outcome(name: Id, caller: MayMarket) -> ExperimentOutcome:
    """What may be said of an experiment now: intervals hold at every look."""
    figures, workspace = caller.figures, caller.shop.workspace
    question = ("experiment", name, find_experiment(workspace, name).revision)
    return caller.shop.once_a_day(
        figures, question, lambda: reported_experiment(experiment_outcome(workspace, name), figures)
    )


@operation(router, "POST", "/v1/experiments/{name}/stop", "loop")
def stop(name: Id, body: StopRequest, caller: MayMarket) -> dict[str, Any]:
    """End an experiment: all people get the serving model again. 409 where it was changed since `revision`."""
    stored = stop_experiment(caller.shop.workspace, name, revision=body.revision)
    caller.audit(AuditAction.EXPERIMENT_STOPPED, experiment=name)
    caller.shop.update()
    return stored.document()


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


@router.get("/metrics", tags=["service"], response_class=Response, responses={200: PLAIN_TEXT})
def metrics(caller: MayMeasure, service: TheService) -> Response:
    """Metrics of the caller's shop, in the text format of Prometheus."""
    figures = service.metrics[caller.shop.name]
    queues = {id(queue): queue for queue in (service.capacity, service.slate_capacity)}.values()
    figures.waiting.set(sum(queue.n_waiting for queue in queues))
    figures.ready.set(caller.shop.ready)
    figures.swaps.set(caller.shop.n_swaps)
    return Response(generate_latest(figures.registry), media_type="text/plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """Whether a person's data may be used."""

    restricted_since: datetime | None
    """UTC; None where they are used as the person agreed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJoin:
    joined: bool
    """False if the person refused personalisation, which then holds for the session too, or was erased."""
    events: int
    """Events moved to the person by this call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLog:
    check: AuditCheck
    entries: tuple[AuditEntry, ...]


def join_session(workspace: Workspace, session_id: str, user_id: str) -> SessionJoin:
    """Makes the present and later events of an anonymous session those of a person; may be repeated.

    Raises `ConflictError` for a session that belongs to another person.
    """
    session = workspace.session_pseudonymiser().one(session_id)
    person = workspace.pseudonymiser().one(user_id)
    if workspace.store().tombstones([session, person]):
        return SessionJoin(joined=False, events=0)
    is_joined = session_pseudonyms(workspace, [session_id]) != [session]
    if not is_joined and not workspace.gate().permits(person, Purpose.PERSONALISATION):
        refusal = (session, Purpose.PERSONALISATION, False, None)
        add_consent(workspace, [refusal], source="session", by_pseudonym=True)
        return SessionJoin(joined=False, events=0)
    with workspace.store().load(Table.EVENTS, load_id=uuid.uuid4().hex, source="session") as load:
        n_events = load.join_session(session, person)
    return SessionJoin(joined=True, events=n_events)


@operation(router, "POST", "/v1/sessions/join", "events", answer=SessionJoin)
def session_join(body: SessionJoinRequest, caller: MaySend) -> SessionJoin:
    """An anonymous session's events become those of a person, whose next answer knows them.

    Again for the same person it changes nothing; a session of another person is a conflict. Where the person refused
    personalisation nothing is joined: the session's events stay unjoined, and the session counts as having refused.
    """
    return join_session(caller.shop.workspace, body.session_id, body.user_id)


@operation(router, "POST", "/v1/users/erase", "privacy", answer=ErasureCertificate, marketing=True)
def user_erase(body: PersonRequest, caller: MayErase) -> ErasureCertificate:
    """Everything about a person goes, from rows to campaigns and refused rows, and a tombstone keeps them out: nothing
    that is sent about them later is kept. An unknown person is a 404, with a tombstone all the same.

    The signed certificate says what was deleted, which models learned from the person and until when they are replaced,
    and what is left to others: files of exports that left.
    """
    try:
        certificate = erase_people(caller.shop.workspace, [body.user_id], actor=caller.actor)
    except NothingToDo as error:
        raise UnknownIdError(str(error)) from error
    caller.shop.update()
    return certificate


@operation(router, "POST", "/v1/users/export", "privacy", marketing=True)
def user_export(body: PersonRequest, caller: MayErase) -> dict[str, Any]:
    """Everything of one person, given and inferred: basics, decisions, events, messages, campaigns, profile,
    recommendations with reasons, predictions that are in memory, models that learned from them, for what and how long
    it is kept, and when their data were looked at."""
    recommender = caller.shop.recommender() if caller.shop.ready else None
    predictions, workspace = caller.shop.everybody.held_predictions(), caller.shop.workspace
    document = export_person(workspace, body.user_id, recommender=recommender, predictions=predictions)
    caller.audit(AuditAction.PERSON_EXPORTED, subject=document["pseudonym"])
    return document


@operation(router, "POST", "/v1/users/restrict", "privacy", answer=Restriction, marketing=True)
def user_restrict(body: RestrictionRequest, caller: MayErase) -> Restriction:
    """A person's data are kept and used for nothing, whatever they agreed to; or used again, as they agreed."""
    workspace = caller.shop.workspace
    name = workspace.pseudonymiser().one(body.user_id)
    if restrict_person(workspace, name, restricted=body.restricted):
        action = AuditAction.RESTRICTED if body.restricted else AuditAction.RESTRICTION_LIFTED
        caller.audit(action, subject=name)
        caller.shop.update()
    return Restriction(restricted_since=workspace.store().restricted_since([name]).get(name))


@operation(router, "GET", "/v1/audit", "privacy", answer=AuditLog, marketing=True)
def audit_log(
    caller: MayErase,
    after: Annotated[int, Query(ge=0, le=2**53, description="Entries behind this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> AuditLog:
    """Who did what to whose data, oldest first, and whether the whole log is as it was written."""
    workspace = caller.shop.workspace
    return AuditLog(check=verify_audit(workspace), entries=tuple(read_audit(workspace, after=after)[:limit]))


@operation(router, "DELETE", "/v1/items/{item_id:path}", "events", status=204)
def item_remove(item_id: Id, caller: MaySend) -> Response:
    """An item leaves the catalogue: it is never recommended, found or explained again, until it is sent once more.

    Events about it stay readable.
    """
    store = caller.shop.workspace.store()
    with store.load(Table.ITEMS, load_id=uuid.uuid4().hex, source="removal") as load:
        load.remove_item(item_id)
    caller.shop.update()
    return Response()
