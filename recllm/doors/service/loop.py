"""Operations of the closed loop: answers to what was shown, and experiments on it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from recllm.base.errors import UsageError
from recllm.base.schema import ReportBy
from recllm.doors.service.callers import ERRORS, MayMarket, answered
from recllm.doors.service.requests import ExperimentRequest, Id, JsonRoute, StopRequest
from recllm.market.jobs.experiments import (
    ExperimentOutcome,
    Treatment,
    experiment_outcome,
    find_experiment,
    list_experiments,
    reported_experiment,
    start_experiment,
    stop_experiment,
)
from recllm.market.jobs.feedback import WINDOWS, ShownOutcome, reported_outcomes
from recllm.market.jobs.load import feedback_report
from recllm.shop.workspace.audit import AuditAction

router = APIRouter(responses=ERRORS, route_class=JsonRoute)


@router.get("/v1/report", response_model=None, tags=["loop"])
@answered()
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


@router.get("/v1/experiments", response_model=None, tags=["loop"])
@answered()
def experiments(caller: MayMarket) -> dict[str, Any]:
    """All experiments, the running one too."""
    return {"experiments": [stored.document() for stored in list_experiments(caller.shop.workspace)]}


@router.post("/v1/experiments", response_model=None, tags=["loop"])
@answered()
def start(body: ExperimentRequest, caller: MayMarket) -> dict[str, Any]:
    """Start an experiment on slates: people are split at random, from now on. The first variant is the control."""
    variants = {v.name: (v.weight, Treatment.model_validate(v.treatment)) for v in body.variants}
    if len(variants) < len(body.variants):
        raise UsageError("two variants have one name; give each its own")
    stored = start_experiment(caller.shop.workspace, body.name, variants, metric=body.metric, guard=body.guard)
    caller.audit(AuditAction.EXPERIMENT_STARTED, experiment=body.name)
    caller.shop.update()  # an answered change is in force
    return stored.document()


@router.get("/v1/experiments/{name}", response_model=None, tags=["loop"])
@answered()
def outcome(name: Id, caller: MayMarket) -> ExperimentOutcome:
    """What may be said of an experiment now: intervals hold at every look."""
    figures, workspace = caller.figures, caller.shop.workspace
    question = ("experiment", name, find_experiment(workspace, name).revision)
    return caller.shop.once_a_day(
        figures, question, lambda: reported_experiment(experiment_outcome(workspace, name), figures)
    )


@router.post("/v1/experiments/{name}/stop", response_model=None, tags=["loop"])
@answered()
def stop(name: Id, body: StopRequest, caller: MayMarket) -> dict[str, Any]:
    """End an experiment: all people get the serving model again. 409 where it was changed since `revision`."""
    stored = stop_experiment(caller.shop.workspace, name, revision=body.revision)
    caller.audit(AuditAction.EXPERIMENT_STOPPED, experiment=name)
    caller.shop.update()
    return stored.document()
