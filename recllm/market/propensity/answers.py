"""From a workspace to a prediction: who is learned from, who is predicted, and the present.

Learned from: people who agreed to model training. Predicted: people who agreed to personalisation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from recllm.base.errors import DataError, NothingToDo, PolicyError
from recllm.base.questions import PredictionKind
from recllm.base.schema import Purpose
from recllm.market.propensity.coupons import Coupons
from recllm.market.propensity.examples import Cohort
from recllm.market.propensity.predict import predict
from recllm.market.propensity.prediction import Prediction, PredictionRequest
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.order import refuse_steps
from recllm.shop.workspace.workspace import Workspace, present

logger = logging.getLogger(__name__)
EVERYDAY = ("buy", "leave", "next-order", "value")
"""Kinds of predictions that need nothing but the log."""


def predict_workspace(
    workspace: Workspace, request: PredictionRequest, *, datasets: tuple[Dataset, Dataset] | None = None
) -> Prediction:
    """Predict everybody of a workspace. Coupon tables (under the shop's ids) and the target are read before the log.

    datasets: people to learn from and people to predict, where they were read already.
    Everybody who is known and has not agreed to personalisation is counted among those left out, but for `REDEEM`.
    Raises `PolicyError` without anyone to learn from, and what `predict` raises.
    """
    if isinstance(request.coupons, Path):
        coupons = Coupons.read(request.coupons, workspace.pseudonymiser().many)
        request = request.model_copy(update={"coupons": coupons})
    if request.targeted:
        catalogue = workspace.gate().catalogue(request.items or None)
        Cohort.of(Dataset.of_catalogue(catalogue, 0), request, workspace.policy)  # raises what is wrong with the target
    learn, ask = datasets or datasets_of(workspace)
    if not len(learn.events):
        raise PolicyError(
            "no customer of this workspace has agreed to model training; load a consent table, "
            "or make the workspace with --consent-default granted"
        )
    request = request.model_copy(update={"locale": workspace.locale(request.locale)})
    prediction = predict(request, learn, ask, policy=workspace.policy)
    with workspace.store().read() as reader:
        refused = reader.counts()["users"] - ask.n_users
    if refused <= 0 or request.kind is PredictionKind.REDEEM:
        return prediction
    return replace(prediction, left_out={"no_consent": refused, **prediction.left_out})


def everyday_predictions(workspace: Workspace) -> Iterator[Prediction]:
    """Who buys, who leaves, who is worth how much and who orders when, of everybody, each learned as it is asked for.
    A kind that this log does not allow is left out, and the log of the process says why."""
    if workspace.gate().step_seconds() is not None:
        logger.warning("no predictions: the log knows only an order, and no days")
        return
    datasets = datasets_of(workspace)
    for kind in map(PredictionKind, EVERYDAY):
        request = PredictionRequest(kind=kind, locale=workspace.settings.locale)
        try:
            yield predict_workspace(workspace, request, datasets=datasets)
        except (DataError, NothingToDo, PolicyError) as error:
            logger.warning("no prediction of %s: %s", kind, error)


def datasets_of(workspace: Workspace) -> tuple[Dataset, Dataset]:
    """People to learn from, and people to predict, as of the present."""
    ask = workspace.gate().dataset(Purpose.PERSONALISATION)
    return people_learned_from(workspace), ask.before(present(workspace))


def people_learned_from(workspace: Workspace) -> Dataset:
    """People who agreed to model training; of more than `scorer.learn_people` a sample (`data.people_sample`).
    Raises `UsageError` for a log of steps."""
    gate = workspace.gate()
    refuse_steps(gate.step_seconds(), "predictions of a person's next days")
    return gate.dataset(Purpose.MODEL_TRAINING, people_limit=workspace.settings.scorer.learn_people)
