"""Models: which version serves, what each was trained on and how good it was, and letting another one serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from recllm.base.errors import ModelError, UnknownIdError
from recllm.base.stats.intervals import ConfidenceInterval, Interval
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheForm, TheVisit, Visit, history, text_of
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.doors.service.jobs import ENDED, Job, JobState, Progress
from recllm.market.experiments.off_policy import OffPolicyReport, ValueEstimate, estimate_model
from recllm.market.experiments.slates import ANSWER_COLUMNS, Metric
from recllm.recommend.recommender.lineage import Lineage
from recllm.recommend.recommender.registry import VersionDecision, current, decisions, promote, serving, versions
from recllm.recommend.recommender.saved_model import MODEL_FILE, load_model
from recllm.recommend.recommender.shop_recommender import model_encoder
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/models", route_class=PageRoute)
SECTION = ConsoleSection("models", "/models", router)

ACTS = 20
METRICS = {"ndcg@20_all": "models.ndcg_all", "ndcg@20_new": "models.ndcg_new"}
"""Figures of a version in words; the page has the others for the engineer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """One version as the list shows it."""

    version: str
    created_at: datetime
    serves: bool
    metrics: Mapping[str, float]
    training: Mapping[str, Any]
    """People, items, events, span and notes of the training, where they are known."""
    lineage: Lineage | None
    """Where it comes from, and what the gate said of it."""

    @property
    def is_refused(self) -> bool:
        return self.lineage is not None and self.lineage.is_refused


@router.get("")
def index(visit: TheVisit) -> Response:
    """All versions, newest first."""
    lines, problem, version = model_lines(visit), None, None
    try:
        version = current(visit.workspace.models_dir)
    except ModelError as error:
        problem = str(error)
    return visit.page(
        "models.html.j2",
        section="models",
        metrics=METRICS,
        lines=lines,
        serving=version,
        problem=problem,
        gates={line.version: gate_table(visit, line) for line in lines},
        decisions=decisions_table(visit),
        acts=[act for act in history(visit.workspace, 500) if act["act"] == "promote"][:ACTS],
    )


def gate_table(visit: Visit, line: ModelLine) -> ConsoleTable | None:
    """A version and the one that served when the gate compared them; None where it did not compare."""
    gate = line.lineage.gate if line.lineage is not None else None
    rows = [
        (
            *(f"{c.slice} {c.metric}", c.serving, c.challenger),
            *(ConfidenceInterval(c.difference, c.low, c.high), c.people),
        )
        for c in (gate.comparisons if gate is not None else ())
    ]
    return visit.table(f"gate-{line.version}", rows, of="gate") if rows else None


def decisions_table(visit: Visit) -> ConsoleTable | None:
    """Which version served when, newest first; None before the first decision."""

    def row(decision: VersionDecision) -> TableRow:
        kind = TableCell(value=decision.kind, text=visit.say(f"decision.{decision.kind}"))
        return datetime.fromisoformat(decision.at), kind, decision.version

    rows = [row(decision) for decision in reversed(decisions(visit.workspace.models_dir))]
    return visit.table("decisions", rows[:ACTS], all_rows=lambda: rows) if rows else None


@router.get("/version/{version}")
def confirm_page(visit: TheVisit, version: str) -> Response:
    """What would change if this version served."""
    line = _line_of(visit, version)
    now_serving = next((other_line for other_line in model_lines(visit) if other_line.serves), None)
    with visit.workspace.store().read() as reader:
        people = reader.counts()["users"]
    table = comparison_table(visit, now_serving, line)
    return visit.page("model.html.j2", section="models", line=line, table=table, people=people)


def comparison_table(visit: Visit, now_serving: ModelLine | None, line: ModelLine) -> ConsoleTable:
    """The serving version and the one that would serve instead."""
    versions_shown = (now_serving, line)

    def metric_cell(version: ModelLine | None, name: str) -> TableCell:
        value = None if version is None else version.metrics.get(name)
        return TableCell(value=value, text=None if value is None else visit.words.number(value, 4))

    rows: list[TableRow] = [
        (TableCell(value=name, text=visit.say(label)), *(metric_cell(version, name) for version in versions_shown))
        for name, label in METRICS.items()
    ]
    for name, label in (("created_at", "models.made"), ("version", "models.version")):
        values = (None if version is None else getattr(version, name) for version in versions_shown)
        rows.append((TableCell(value=name, text=visit.say(label)), *values))
    return visit.table("comparison", rows)


@router.post("/version/{version}/promote")
def promote_version(visit: TheVisit, form: TheForm, version: str) -> Response:
    """Let a version serve. Every byte of it is verified first; one that the gate refused needs a further tick."""
    visit.require(Scope.ADMIN)
    _line_of(visit, version)
    previous = serving(visit.workspace.models_dir)
    promote(visit.workspace.models_dir, version, force=text_of(form, "force") == "yes")
    visit.remember("promote", version=version, previous=previous)
    return visit.back("/models", "promoted")


@router.get("/version/{version}/estimate")
def estimate_page(visit: TheVisit, version: str, metric: Annotated[str, Query()] = Metric.CLICKS) -> Response:
    """What a version would have brought, by slates that explored."""
    template = "estimate_state.html.j2" if visit.is_part else "estimate.html.j2"
    line = _line_of(visit, version)
    return visit.page(template, section="models", line=line, **estimate_values(visit, version, _metric(metric)))


@router.post("/version/{version}/estimate")
def order(visit: TheVisit, form: TheForm, version: str) -> Response:
    """Have it computed in the background."""
    visit.require(Scope.MARKETING)
    metric = _metric(text_of(form, "metric"))

    _line_of(visit, version)
    order_estimate(visit, version, metric)
    return visit.back(f"/models/version/{quote(version)}/estimate?metric={metric.value}")


@router.post("/version/{version}/estimate/cancel")
def cancel(visit: TheVisit, form: TheForm, version: str) -> Response:
    """End it at its next slates; nothing of it is kept."""
    visit.require(Scope.MARKETING)
    metric, background = _metric(text_of(form, "metric")), visit.state.service.background
    if job := background.open_job(visit.shop.name, job_subject(version, metric)):
        background.cancel(visit.shop.name, job.job_id)
    return visit.back(f"/models/version/{quote(version)}/estimate?metric={metric.value}")


def _metric(text: str) -> Metric:
    """Raises `HTTPException` for one that is not of single showings."""
    if text not in ANSWER_COLUMNS:
        raise HTTPException(404)
    return Metric(text)


def _line_of(visit: Visit, version: str) -> ModelLine:
    """Raises `UnknownIdError` for a version that there is not."""
    line = next((line for line in model_lines(visit) if line.version == version), None)
    if line is None:
        raise UnknownIdError(f"there is no model version {version[:80]!r}; see the list of models")
    return line


def model_lines(visit: Visit) -> list[ModelLine]:
    """Every version whose manifest can be read, newest first."""
    models_dir = visit.workspace.models_dir
    now_serving = serving(models_dir)
    lines = []
    for manifest in reversed(versions(models_dir)):
        try:
            text = (models_dir / "versions" / manifest.version / MODEL_FILE).read_text("utf-8")
            record = json.loads(text)
        except (OSError, ValueError):  # a version that cannot serve: its promotion says why
            record = {}
        lines.append(
            ModelLine(
                version=manifest.version,
                created_at=datetime.fromisoformat(manifest.created_at),
                serves=manifest.version == now_serving,
                metrics=record.get("metrics", {}),
                training=record.get("training", {}),
                lineage=manifest.lineage,
            )
        )
    return lines


# --- the estimate of a version by slates that explored; see `jobs.off_policy` ----------------------------------

MAX_SLATES = 1_000
"""Logged slates of one estimate; more narrow the range and take longer."""
TOLD_SLATES = 20
"""How often the job says how far it is, and may be cancelled."""
MUCH_OUTSIDE = 0.2
"""Share of a model's choices that the log could not show, from which a page warns."""


class EstimateVerdict(StrEnum):
    """Verdict on a model compared with the one that served."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    """The range includes zero, or is not known."""
    FEW_PEOPLE = "few_people"
    """Fewer than the policy's floor."""


def job_subject(version: str, metric: Metric) -> str:
    """What the job of an estimate is about."""
    return f"estimate {version} {metric.value}"


def order_estimate(visit: Visit, version: str, metric: Metric) -> Job:
    """Have the estimate computed in the background, unless that is being done."""
    background, shop, subject = visit.state.service.background, visit.shop, job_subject(version, metric)

    def compute(tell: Progress) -> OffPolicyReport:
        def count(n: int) -> None:
            if n % TOLD_SLATES == 0:
                tell(str(n))

        tell("0")
        workspace, model = shop.workspace, load_model(shop.workspace.models_dir, version)
        return estimate_model(
            workspace,
            model,
            model_encoder(workspace, model),
            metric=metric,
            max_requests=MAX_SLATES,
            rng=np.random.default_rng(0),
            progress=count,
        )

    return background.open_job(shop.name, subject) or background.submit(shop.name, subject, compute)


def estimate_values(visit: Visit, version: str, metric: Metric) -> dict[str, Any]:
    """What the page of an estimate shows: nothing yet, how far it is, why it failed, or the result."""
    job = visit.state.service.background.latest_job(visit.shop.name, job_subject(version, metric))
    report = job.result if job is not None and job.state is JobState.DONE else None
    return {
        "model_version": version,
        "metric": metric,
        "metrics": list(ANSWER_COLUMNS),
        "job": job,
        "is_computing": job is not None and job.state not in ENDED,
        "max_slates": MAX_SLATES,
        "explore_share": visit.workspace.settings.experiments.explore_share,
        "is_not_enough": job is not None and job.error_type in ("NothingToDo", "DataError"),
        "report": report,
        **({} if report is None else _estimate_result(visit, report)),
    }


def _estimate_result(visit: Visit, report: OffPolicyReport) -> dict[str, Any]:
    people, floor = report.serving.people, visit.workspace.policy.group_floor
    difference = None if people < floor else _difference(visit, report)
    outside = report.candidate.outside_support
    verdict = EstimateVerdict.FEW_PEOPLE if people < floor else verdict_of(report)
    return {
        "verdict": verdict,
        "people": visit.figures.people(people, "estimate"),
        "difference": difference,
        "outside": outside,
        "is_much_outside": outside >= MUCH_OUTSIDE,
        "estimates": None if verdict is EstimateVerdict.FEW_PEOPLE else estimates_table(visit, report),
    }


def verdict_of(report: OffPolicyReport) -> EstimateVerdict:
    """By the range of the difference; of dismissals fewer are better."""
    interval = report.difference_interval
    if interval is None or interval.low <= 0 <= interval.high:
        return EstimateVerdict.UNDECIDED
    is_more = interval.low > 0
    return EstimateVerdict.BETTER if is_more is not (report.metric is Metric.DISMISSALS) else EstimateVerdict.WORSE


def _difference(visit: Visit, report: OffPolicyReport) -> dict[str, float] | None:
    """Answers per 1,000 items shown, with the ends of the range; None without one."""
    interval = report.difference_interval
    if interval is None:
        return None
    reported = visit.figures.interval(interval.around(report.difference), "difference")
    return {name: 1_000 * getattr(reported, name) for name in ("value", "low", "high")}


def estimates_table(visit: Visit, report: OffPolicyReport) -> ConsoleTable:
    """The model, and what was shown until now."""

    def row(name: str, estimate: ValueEstimate) -> TableRow:
        return (
            TableCell(value=name, text=visit.say(f"estimates.estimator.{name.replace(' ', '_')}")),
            _ranged(visit, estimate.value, estimate.interval),
            estimate.outside_support,
            *(estimate.effective_sample_size, estimate.rows, visit.figures.people(estimate.people, "estimate")),
        )

    return visit.table("estimates", [row("shown until now", report.serving), row("this model", report.candidate)])


def _ranged(visit: Visit, value: float, interval: Interval | None) -> TableCell | ConfidenceInterval:
    return TableCell() if interval is None else visit.figures.interval(interval.around(value), "value")
