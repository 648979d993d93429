"""One door to every kind of prediction; and who buys, and who leaves, within a horizon.

buy      at least one purchase (of some items) with as_of <= time < as_of + horizon; asked of everybody with any event.
leave    no purchase at all in that time, asked of active people: those who bought within `active_days` before. A person
         who has already stayed away longer is not asked about: whoever is gone cannot leave.
"""

from __future__ import annotations

import logging
import time

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.policy import Policy
from recllm.propensity.examples import Cohort, active_within
from recllm.propensity.features import Basics
from recllm.propensity.model import backtest, fit_propensity
from recllm.propensity.next_order import predict_next_order
from recllm.propensity.prediction import Prediction, PredictionKind, PredictionRequest
from recllm.propensity.redeem import predict_redeem
from recllm.propensity.task import PredictionTask
from recllm.propensity.value import predict_value
from recllm.settings import PredictionReasonSettings, PropensitySettings

logger = logging.getLogger(__name__)

ACTIVE_DAYS = 91


def predict(
    request: PredictionRequest,
    learn: Dataset,
    ask: Dataset,
    *,
    policy: Policy | None = None,
    settings: PropensitySettings | None = None,
    reason_settings: PredictionReasonSettings | None = None,
) -> Prediction:
    """learn: people whose past may be learned from. ask: people who are predicted, as of its own time.

    settings: how the models are fitted; `NEXT_ORDER` and `REDEEM` have values of their own for some.

    Raises `UsageError` for an unknown item, category or campaign; `DataError` for a log that is shorter than two
    horizons or without what is asked about, too few people, or an outcome that always or never happened; `NothingToDo`
    for nobody to predict; `PolicyError` for a target of a sensitive category.
    """
    started, policy = time.perf_counter(), policy or Policy()
    basics = Basics.of(learn.users) if request.basics else None
    task = PredictionTask(
        request=request,
        learn=Cohort.of(learn, request, policy, basics),
        ask=Cohort.of(ask, request, policy, basics),
        policy=policy,
        settings=(settings or PropensitySettings()).model_copy(update={"seed": request.seed}),
        reason_settings=reason_settings or PredictionReasonSettings(),
    )
    kinds = {
        PredictionKind.BUY: predict_outcome,
        PredictionKind.LEAVE: predict_outcome,
        PredictionKind.REDEEM: predict_redeem,
        PredictionKind.NEXT_ORDER: predict_next_order,
        PredictionKind.VALUE: predict_value,
    }
    prediction = kinds[request.kind](task)
    seconds = time.perf_counter() - started
    logger.info("%s: %d people predicted, %.1f s", request.kind, len(prediction.people), seconds)
    return prediction


def predict_outcome(task: PredictionTask) -> Prediction:
    """Who buys, and who leaves."""

    def left(cohort: Cohort, start: int, end: int) -> NDArray[np.float64]:
        return 1 - cohort.bought(start, end)

    if task.request.kind is PredictionKind.BUY:
        outcome, eligible, days = Cohort.bought, Cohort.with_history, 0
    else:
        days = task.request.active_days or ACTIVE_DAYS
        outcome, eligible = left, active_within(days)
    examples, as_of = task.examples(outcome, eligible), task.learn.dataset.as_of
    held_out = backtest(examples, as_of, task.settings)
    model = fit_propensity(examples, as_of, task.settings)
    table, rows, left_out = task.with_past(eligible(task.ask, task.now))
    probability = model.probability(table)
    reasons = task.reasons(model.logit, model.inputs, examples.features, table)
    return task.prediction(
        task.people(rows, probability, reasons, probability=probability.tolist()),
        held_out.probability,
        examples.label[held_out.rows],
        examples.cut[held_out.rows] if held_out.later_window else None,
        left_out=left_out,
        active_days=days,
    )
