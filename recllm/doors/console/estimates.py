"""What a model that nobody has seen would have brought, by slates that explored: ordered, computed in the background,
told in words. See `recllm.market.experiments.off_policy`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np

from recllm.base.stats.intervals import ConfidenceInterval, Interval
from recllm.doors.console.pages import Visit
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.doors.service.capacity import ENDED, Job, JobState, Progress
from recllm.market.experiments.off_policy import OffPolicyReport, ValueEstimate, estimate_model
from recllm.market.experiments.slates import ANSWER_COLUMNS, Metric
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.shop_recommender import model_encoder

MAX_SLATES = 1_000
"""Logged slates of one estimate; more narrow the range and take longer."""
TOLD_SLATES = 20
"""How often the job says how far it is, and may be cancelled."""
MUCH_OUTSIDE = 0.2
"""Share of a model's choices that the log could not show, from which a page warns."""


class EstimateVerdict(StrEnum):
    """What may be said of a model beside the one that served."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    """The range includes zero, or cannot be told."""
    FEW_PEOPLE = "few_people"
    """Fewer than the policy's floor, so nothing is told."""


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
        **({} if report is None else _result(visit, report)),
    }


def _result(visit: Visit, report: OffPolicyReport) -> dict[str, Any]:
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
