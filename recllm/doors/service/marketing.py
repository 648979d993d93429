"""Operations for marketing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from fastapi import APIRouter
from fastapi import Path as PathParameter
from fastapi.responses import Response
from pydantic import BaseModel

from recllm.base.documents import json_text, plain
from recllm.base.errors import ConflictError, UsageError
from recllm.base.questions import SearchRequest
from recllm.base.schema import Slate
from recllm.doors.service.callers import (
    ERRORS,
    MayAsk,
    MayMarket,
    Service,
    TheService,
    document_answer,
    operation,
    require,
)
from recllm.doors.service.jobs import Job
from recllm.doors.service.live import LiveShop
from recllm.doors.service.marketing_requests import (
    AudienceQuery,
    CampaignId,
    CampaignList,
    CampaignRevision,
    ChangedCampaign,
    CouponItemIn,
    CouponsIn,
    ExportOrder,
    MailingIn,
    NewCampaign,
    OccasionsQuery,
    PlanOrder,
    PredictionQuery,
    RedemptionIn,
    SearchQuery,
    TextDecision,
)
from recllm.doors.service.requests import JsonRoute
from recllm.market.audiences.audience import audience_document
from recllm.market.audiences.people_rule import rule_document, rule_words
from recllm.market.campaigns.drafts import (
    CampaignAct,
    CampaignStage,
    campaign_file,
    change_campaign,
    create_campaign,
    history,
    list_campaigns,
    note,
    open_by_id,
    revision_of,
    summary_of,
)
from recllm.market.campaigns.export import export_campaign
from recllm.market.campaigns.folder import TextStatus
from recllm.market.campaigns.open_campaign import decide, enter_edit, preview_document
from recllm.market.campaigns.outcome import campaign_outcome
from recllm.market.campaigns.plan import plan_campaign
from recllm.market.campaigns.reach import audience_of_workspace
from recllm.market.occasions.day import find_occasions
from recllm.market.propensity.coupons import Coupons
from recllm.market.propensity.prediction import PredictionRequest, prediction_document
from recllm.recommend.recommender.search import search as best_items
from recllm.shop.data.catalogue import matching, on_offer
from recllm.shop.workspace.audit import AuditAction
from recllm.shop.workspace.keys import Scope

router = APIRouter(responses=ERRORS, route_class=JsonRoute)

MAX_TARGET_ITEMS = 1_000
"""Items that a condition may select for an audience."""

OneCampaign = Annotated[CampaignId, PathParameter(description="The campaign's id.")]


@operation(router, "POST", "/v1/search", "recommend", answer=Slate)
def search(body: SearchQuery, caller: MayAsk) -> Slate:
    """Items for a query: by words, by the meaning of the query, and in the person's own order.

    An item whose id or title is the query comes first. `status` says whether the order is personal. Until the text
    encoder is loaded, which the first search sets off, queries go by words alone, and a note says so.
    """
    shop = caller.shop
    recommender, visitor = shop.visitor(body.user_id, body.session_id)
    request = body.part(SearchRequest, user=visitor or None)
    index = shop.finder.index(recommender.dataset.items)
    vector = shop.finder.vector(recommender.encoder, body.query)
    return best_items(recommender, index, request, vector)


@operation(router, "POST", "/v1/audience", "marketing", marketing=True)
def audience(body: AudienceQuery, caller: MayMarket) -> dict[str, Any]:
    """Whom to reach, why them, who is left out for which reason, and what to expect.

    With the scope `people`: who they are, under their pseudonyms or the ids of `ids`, without the holdout; a list of
    fewer people than the policy's floor is refused. Without it: figures alone, which are rounded, or null below the
    floor, and each key has a budget of different groups.
    """
    shop = caller.shop
    recommender = shop.everybody.recommender()
    items = body.items
    if body.where is not None:
        catalogue = recommender.dataset.items
        rows = np.flatnonzero(matching(catalogue, body.where) & on_offer(catalogue, recommender.dataset.as_of))
        if not 0 < len(rows) <= MAX_TARGET_ITEMS:
            raise UsageError(f"where selects {len(rows)} items on offer; an audience is for 1 to {MAX_TARGET_ITEMS}")
        items = tuple(catalogue["item_id"].gather(rows).to_list())
    request = body.request(items=items, explain=body.explain_first > 0, explain_first=body.explain_first)
    members = audience_of_workspace(shop.workspace, recommender, request, caller.figures)
    limit = body.limit if caller.may(Scope.PEOPLE) else 0
    document = audience_document(members, ids_by_pseudonym(shop, body.ids), limit=limit)
    caller.audit(AuditAction.PEOPLE_LISTED, what="audience", people=len(document["people"]))
    return document


def ids_by_pseudonym(shop: LiveShop, ids: Sequence[str]) -> dict[str, str]:
    """Pseudonym -> the shop's own id."""
    return dict(zip(shop.workspace.pseudonymiser().many(ids), ids, strict=True))


@operation(router, "POST", "/v1/predict", "marketing", marketing=True)
def predict(body: PredictionQuery, caller: MayMarket) -> dict[str, Any]:
    """What people will do within a horizon: a calibrated chance, a date or an amount, with reasons and how good it is.

    It is learned at the first time of asking, once for a model version, and kept for a day; `as_of` says what it knows.
    People who withdrew consent since are left out. Needs the scope `people` too.
    """
    require(caller, Scope.PEOPLE)
    shop = caller.shop
    request = body.part(
        PredictionRequest,
        coupons=None if body.coupons is None else _coupons(shop, body.coupons),
        campaign=body.coupon_campaign,
        locale=body.locale or shop.workspace.settings.locale,
    )
    prediction = shop.everybody.prediction(request)
    listed = replace(prediction, people=prediction.people[: body.limit])
    caller.audit(AuditAction.PEOPLE_LISTED, what="prediction", kind=body.kind, people=len(listed.people))
    return prediction_document(listed, ids_by_pseudonym(shop, body.ids)) | {"size": len(prediction.people)}


@operation(router, "POST", "/v1/occasions", "marketing", answer=Job, marketing=True, status=202)
def occasions(body: OccasionsQuery, caller: MayMarket) -> Job:
    """Who should hear what on a day, why, on which channel and at which hour, in the background: see
    `GET /v1/jobs/{job_id}`, whose `result` is the list. Needs the scope `people` too."""
    require(caller, Scope.PEOPLE)
    shop = caller.shop

    def listed(progress: Any) -> dict[str, Any]:
        progress("reading the log")
        day = find_occasions(
            shop.workspace, body.on, size=body.limit, explain=body.explain, locale=body.locale, progress=progress
        )
        document: dict[str, Any] = plain(day)
        names = ids_by_pseudonym(shop, body.ids)
        for person in document["people"]:
            person["user_id"] = names.get(person["user_id"], person["user_id"])
        caller.audit(AuditAction.PEOPLE_LISTED, what="occasions", people=len(document["people"]))
        return document

    return caller.service.background.submit(shop.name, "occasions", listed)


def _coupons(shop: LiveShop, body: CouponsIn) -> Coupons:
    def table(rows: Sequence[BaseModel], row_model: type[BaseModel]) -> pl.DataFrame:
        types = {
            name: pl.Datetime("us", "UTC") if name in ("timestamp", "end") else pl.String
            for name in row_model.model_fields
        }
        frame = pl.DataFrame([row.model_dump() for row in rows], schema=types)
        if "user_id" in frame.columns:
            frame = frame.with_columns(
                user_id=pl.Series(shop.workspace.pseudonymiser().many(frame["user_id"].to_list()))
            )
        return frame

    return Coupons.construct(
        table(body.mailings, MailingIn), table(body.products, CouponItemIn), table(body.redemptions, RedemptionIn)
    )


@operation(router, "GET", "/v1/campaigns", "campaigns", answer=CampaignList, marketing=True)
def campaigns(caller: MayMarket) -> dict[str, Any]:
    """All campaigns of the shop with their stage; those planned by the command line have no revision."""
    return {"campaigns": list_campaigns(caller.shop.workspace)}


@operation(router, "POST", "/v1/campaigns", "campaigns", answer=CampaignRevision, marketing=True, status=201)
def campaign_create(body: NewCampaign, caller: MayMarket) -> dict[str, str]:
    """Keep a new campaign as a draft."""
    workspace = caller.shop.workspace
    return _revised(caller.shop, create_campaign(workspace, body.campaign, by=caller.name))


@operation(router, "PUT", "/v1/campaigns/{campaign_id}", "campaigns", answer=CampaignRevision, marketing=True)
def campaign_change(campaign_id: OneCampaign, body: ChangedCampaign, caller: MayMarket) -> dict[str, str]:
    """Put other fields in the place of a campaign's, before it was exported; it then has to be planned again."""
    shop = caller.shop
    check_no_job(caller.service, shop, campaign_id)
    change_campaign(shop.workspace, campaign_id, body.campaign, revision=body.revision, by=caller.name)
    return _revised(shop, campaign_id)


@operation(router, "GET", "/v1/campaigns/{campaign_id}", "campaigns", marketing=True)
def campaign(campaign_id: OneCampaign, caller: MayMarket) -> dict[str, Any]:
    """A campaign as it is now: stage and revision, people and who is left out, texts with their checks, its history.

    Texts whose item changed its price or is gone, or whose offer ended, are withdrawn by this call.
    """
    workspace, shop, figures = caller.shop.workspace, caller.shop, caller.figures

    def counted(n: int | None, *question: object) -> int | None:
        return None if n is None else figures.people(n, campaign_id, *question)

    stage, file = summary_of(workspace, campaign_id).stage, campaign_file(workspace, campaign_id)
    document: dict[str, Any] = {"campaign_id": campaign_id, "goal": file.goal, "note": file.note, "people_rule": None}
    if file.target.people is not None:
        settings = workspace.settings
        document["people_rule"] = {
            "rule": rule_document(file.target.people),
            "words": rule_words(file.target.people, shop.workspace.locale(), settings.currency),
        }
    if stage is not CampaignStage.DRAFT:
        preview = preview_document(open_by_id(workspace, campaign_id))
        if not figures.is_exact:  # rounded numbers, and no people
            preview["people"] = []
            preview |= {name: counted(preview[name], name) for name in ("size", "holdout")}
            preview["excluded"] = {name: counted(n, name) for name, n in preview["excluded"].items()}
            for item in preview["items"]:
                item["people"] = counted(item["people"], item["item_id"])
            for way, parts in preview["divided"].items():
                preview["divided"][way] = {name: counted(n, way, name) for name, n in parts.items()}
            for document_of_text in preview["texts"]:
                document_of_text["people"] = counted(document_of_text["people"], document_of_text["id"])
        document |= preview
    return document | {
        "stage": stage,
        "revision": revision_of(workspace, campaign_id),
        "history": history(workspace, campaign_id),
    }


@operation(router, "POST", "/v1/campaigns/{campaign_id}/plan", "campaigns", answer=Job, marketing=True, status=202)
def campaign_plan(campaign_id: OneCampaign, body: PlanOrder, caller: MayMarket) -> Job:
    """Choose the people, one item each, and write the texts, in the background: see `GET /v1/jobs/{job_id}`. Needs the
    scope `people` too."""
    require(caller, Scope.PEOPLE)
    caller.audit(AuditAction.CAMPAIGN_PLANNED, campaign=campaign_id)
    service, shop = caller.service, caller.shop
    return order_plan(service, shop, campaign_id, by=caller.name, revision=body.revision, replace=body.replace)


def order_plan(
    service: Service, shop: LiveShop, campaign_id: str, *, by: str, revision: str, replace: bool = False
) -> Job:
    """Plans a campaign in the background.
    Raises `ConflictError`, and `OverloadError` when too many jobs wait."""

    def planned(progress: Any) -> dict[str, Any]:
        progress("opening the workspace")
        recommender, file = shop.everybody.recommender(), campaign_file(shop.workspace, campaign_id)
        campaign_plan = plan_campaign(shop.workspace, file, replace=replace, recommender=recommender, progress=progress)
        addressed = campaign_plan.addressed
        held_out, texts = campaign_plan.held_out, campaign_plan.read_texts
        counts = {"addressed": len(addressed), "held_out": len(held_out), "texts": len(texts)}
        note(shop.workspace, campaign_id, CampaignAct.PLANNED, by=by, **counts)
        return {**counts, **_revised(shop, campaign_id)}

    if revision_of(shop.workspace, campaign_id) != revision:
        raise ConflictError(f"the campaign {campaign_id!r} was changed since you read it; read it again")
    check_no_job(service, shop, campaign_id)
    return service.background.submit(shop.name, campaign_id, planned)


@operation(router, "POST", "/v1/campaigns/{campaign_id}/decisions", "campaigns", marketing=True)
def campaign_decide(campaign_id: OneCampaign, body: TextDecision, caller: MayMarket) -> dict[str, Any]:
    """Approve, edit or reject texts; answers with the campaign as it is then. All of the texts or none."""
    opened_campaign = open_by_id(caller.shop.workspace, campaign_id)
    common: dict[str, Any] = {"by": caller.name, "at": datetime.now(UTC), "revision": body.revision}
    if body.text is not None:
        enter_edit(opened_campaign, body.text_ids[0], body.text, **common)
    elif body.decision == "approve":
        decide(opened_campaign, TextStatus.APPROVED, body.text_ids, **common)
    else:
        decide(opened_campaign, TextStatus.REJECTED, body.text_ids, why=body.why, **common)
    caller.audit(AuditAction.CAMPAIGN_DECIDED, campaign=campaign_id, texts=len(body.text_ids))
    return campaign(campaign_id, caller)


@operation(router, "POST", "/v1/campaigns/{campaign_id}/export", "campaigns", marketing=True)
def campaign_export(campaign_id: OneCampaign, body: ExportOrder, caller: MayMarket) -> dict[str, Any]:
    """What leaves: approved texts, for people who agree at this moment, as one CSV per channel; logged as sent.

    `files` holds each file's name and content. People are named by their pseudonyms, or the ids of `ids`. Needs the
    scope `people` too.
    """
    require(caller, Scope.PEOPLE)
    shop = caller.shop
    opened_campaign = open_by_id(shop.workspace, campaign_id)
    ids = ids_by_pseudonym(shop, body.ids)
    with tempfile.TemporaryDirectory() as folder:
        done = export_campaign(opened_campaign, Path(folder), ids=ids, revision=body.revision)
        files = {Path(file).name: Path(file).read_text(encoding="utf-8") for file in done.files}
    counts = {"reached": done.reached, "held_out": done.held_out}
    note(shop.workspace, campaign_id, CampaignAct.EXPORTED, by=caller.name, **counts)
    caller.audit(AuditAction.CAMPAIGN_EXPORTED, campaign=campaign_id, reached=done.reached)
    sending = {"dropped": done.dropped, "send_from": done.window.start, "send_until": done.window.end}
    return {**_revised(shop, campaign_id), **counts, **sending, "files": files}


@operation(router, "GET", "/v1/campaigns/{campaign_id}/report", "campaigns", marketing=True)
def campaign_report(campaign_id: OneCampaign, caller: MayMarket) -> Any:
    """What an exported campaign brought: reached, converted, revenue, unsubscribed, and the difference to those held
    out."""
    figures = caller.figures
    opened_campaign = open_by_id(caller.shop.workspace, campaign_id, recheck=False)
    return caller.shop.once_a_day(
        figures, ("campaign", campaign_id), lambda: campaign_outcome(opened_campaign, figures)
    )


@router.get("/v1/jobs/{job_id}", response_model=None, responses={200: {"model": Job}}, tags=["campaigns"])
async def job(job_id: str, caller: MayMarket, service: TheService) -> Response:
    """A job in the background: queued, running with its step, done, failed and why, or cancelled. Its result needs the
    scope `people` too."""
    job = service.background.job(caller.shop.name, job_id)
    return document_answer(json_text(job if caller.may(Scope.PEOPLE) else replace(job, result=None)))


@router.post("/v1/jobs/{job_id}/cancel", response_model=None, responses={200: {"model": Job}}, tags=["campaigns"])
async def job_cancel(job_id: str, caller: MayMarket, service: TheService) -> Response:
    """Cancel a job: one that waits at once, one that runs before its next step.
    Nothing half done is kept."""
    return document_answer(json_text(service.background.cancel(caller.shop.name, job_id)))


def check_no_job(service: Service, shop: LiveShop, campaign_id: str) -> None:
    """Raises `ConflictError` while the campaign is being planned."""
    if job := service.background.open_job(shop.name, campaign_id):
        raise ConflictError(f"{job.about!r} is being planned, by the job {job.job_id}; wait for it, or cancel it")


def _revised(shop: LiveShop, campaign_id: str) -> dict[str, str]:
    return {"campaign_id": campaign_id, "revision": revision_of(shop.workspace, campaign_id)}
