"""Predictions on a person's page: computed in the background, for all people at once, when one is first asked for.

They are kept as `recllm.doors.service.everybody` says. Nothing is computed while a page waits.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from recllm.base.errors import RecllmError
from recllm.base.schema import Purpose
from recllm.doors.console.pages import Visit
from recllm.doors.service.everybody import LearnedPrediction
from recllm.doors.service.jobs import ENDED, Job, JobState, Progress
from recllm.market.propensity.prediction import PredictionRequest, UserPrediction
from recllm.market.propensity.question import PredictionKind

KINDS = (PredictionKind.BUY, PredictionKind.NEXT_ORDER, PredictionKind.LEAVE, PredictionKind.VALUE)
"""In the order of the page; all within the horizon of a `PredictionRequest` that says none."""


class PredictionState(StrEnum):
    """What is known of one kind of prediction for one person."""

    ANSWERED = "answered"
    NOT_COMPUTED = "not_computed"
    NOT_ASKED = "not_asked"
    """It is computed, and not about such people: who has no past, or has been away for long."""
    IMPOSSIBLE = "impossible"
    """It was tried, and the log does not allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionLine:
    """One kind of prediction for one person."""

    kind: PredictionKind
    state: PredictionState
    horizon_days: int
    problem: str = ""
    """Of an impossible one, for the engineer."""
    person: UserPrediction | None = None
    """Chance, value or date with its reasons; None unless it is answered."""
    average: float | None = None
    """Mean probability, or value, of all people; None for a date, and for a group under the floor."""
    error: float | None = None
    """Mean error of such predictions: money, or days."""
    as_of: dt.datetime | None = None


def request_of(visit: Visit, kind: PredictionKind) -> PredictionRequest:
    """In the visitor's language, which is that of the reasons."""
    return PredictionRequest(kind=kind, locale=visit.language)


def job_subject(language: str) -> str:
    """What the job that computes them is about."""
    return f"predictions {language}"


def prediction_values(visit: Visit, name: str) -> dict[str, Any]:
    """The predictions on the page of a person; nothing without consent to personalisation."""
    values: dict[str, Any] = {"name": name, "predictions": [], "job": None, "may_predict": False}
    if not visit.workspace.gate().permits(name, Purpose.PERSONALISATION):
        return values
    job = visit.state.service.background.latest_job(visit.shop.name, job_subject(visit.language))
    problems = job.result if job is not None and job.state is JobState.DONE else {}
    learned = {kind: visit.shop.everybody.learned_prediction(request_of(visit, kind)) for kind in KINDS}
    return values | {
        "predictions": [_line(visit, name, kind, learned[kind], problems) for kind in KINDS],
        "job": job,
        "is_computing": job is not None and job.state not in ENDED,
        "n_kinds": len(KINDS),
        "may_predict": True,
    }


def _line(
    visit: Visit,
    name: str,
    kind: PredictionKind,
    learned: LearnedPrediction | None,
    problems: Mapping[str, str],
) -> PredictionLine:
    if learned is None:
        state = PredictionState.IMPOSSIBLE if kind in problems else PredictionState.NOT_COMPUTED
        days = PredictionRequest(kind=kind).horizon_days
        return PredictionLine(kind=kind, state=state, horizon_days=days, problem=problems.get(kind, ""))
    prediction, position = learned.prediction, learned.positions.get(name)
    if position is None:
        return PredictionLine(kind=kind, state=PredictionState.NOT_ASKED, horizon_days=prediction.horizon_days)
    person, floor = prediction.people[position], visit.workspace.policy.group_floor
    averages = {kind: learned.mean_probability for kind in KINDS} | {
        PredictionKind.VALUE: learned.mean_value,
        PredictionKind.NEXT_ORDER: None,
    }
    return PredictionLine(
        kind=kind,
        state=PredictionState.ANSWERED,
        horizon_days=prediction.horizon_days,
        person=person,
        average=None if len(prediction.people) < floor else averages[kind],
        error=prediction.figures.get("mae" if kind is PredictionKind.VALUE else "mae_days"),
        as_of=prediction.as_of,
    )


def order_predictions(visit: Visit) -> Job:
    """Predict all people in the background, unless a job does it."""
    background, shop, subject = visit.state.service.background, visit.shop, job_subject(visit.language)
    requests = [request_of(visit, kind) for kind in KINDS]

    def learn(tell: Progress) -> dict[str, str]:
        """Kind -> why it cannot be predicted."""
        problems = {}
        for request in requests:
            tell(request.kind.value)
            try:
                shop.everybody.prediction(request)
            except RecllmError as error:
                problems[request.kind.value] = str(error)
        return problems

    return background.open_job(shop.name, subject) or background.submit(shop.name, subject, learn)
