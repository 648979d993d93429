"""From a workspace to a prediction or an uplift: who is learned from, who is predicted, and the present.

Learned from: people who agreed to model training. Predicted: people who agreed to personalisation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from recllm.base.errors import DataError, NothingToDo, PolicyError
from recllm.base.schema import Purpose
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.order import refuse_steps
from recllm.shop.workspace.workspace import present

if TYPE_CHECKING:
    import polars as pl

    from recllm.market.propensity.prediction import Prediction, PredictionRequest
    from recllm.market.propensity.uplift import UpliftEstimate
    from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


EVERYDAY = ("buy", "leave", "next-order", "value")
"""Kinds of predictions that need nothing but the log."""


def predict_workspace(
    workspace: Workspace, request: PredictionRequest, *, datasets: tuple[Dataset, Dataset] | None = None
) -> Prediction:
    """Predict everybody of a workspace. Coupon tables (under the shop's ids) and the target are read before the log.

    datasets: people to learn from and people to predict, where they were read already.
    Everybody who is known and has not agreed to personalisation is counted among those left out, but for `REDEEM`.
    Raises `PolicyError` without anyone to learn from, and what `recllm.market.propensity.predict.predict` raises.
    """
    from recllm.market.propensity.coupons import Coupons
    from recllm.market.propensity.examples import Cohort
    from recllm.market.propensity.predict import predict
    from recllm.market.propensity.question import PredictionKind

    if isinstance(request.coupons, Path):
        coupons = Coupons.read(request.coupons, workspace.pseudonymiser().many)
        request = request.model_copy(update={"coupons": coupons})
    if request.targeted:
        catalogue = workspace.gate().catalogue(request.items or None)
        Cohort.of(Dataset.of_catalogue(catalogue, 0), request, workspace.policy)  # raises what is wrong with the target
    learn, ask = datasets or _datasets(workspace)
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

    A kind that this log does not allow is left out, and the log of the process says why.
    """
    from recllm.market.propensity.prediction import PredictionRequest
    from recllm.market.propensity.question import PredictionKind

    if workspace.gate().step_seconds() is not None:
        logger.warning("no predictions: the log knows only an order, and no days")
        return
    datasets = _datasets(workspace)
    for kind in map(PredictionKind, EVERYDAY):
        request = PredictionRequest(kind=kind, locale=workspace.settings.locale)
        try:
            yield predict_workspace(workspace, request, datasets=datasets)
        except (DataError, NothingToDo, PolicyError) as error:
            logger.warning("no prediction of %s: %s", kind, error)


def uplift_workspace(
    workspace: Workspace,
    trial: Path | pl.DataFrame,
    *,
    start: datetime,
    randomised: bool = False,
    seed: int = 0,
    source: str = "",
    save: str | None = None,
) -> UpliftEstimate:
    """Everybody's uplift, learned from a trial's CSV, or its table with pseudonyms.

    start, randomised: as in `estimate_uplift`. source: the name of a table in the saved effects. save: the name under
    which the effects are saved in the workspace; those of the same name are replaced.
    Raises what `recllm.market.propensity.uplift` raises, and `UsageError` for a name that cannot be.
    """
    from recllm.market.propensity.effects import effects_folder, save_effects
    from recllm.market.propensity.trial import read_trial
    from recllm.market.propensity.uplift import estimate_uplift
    from recllm.recommend.recommender.registry import clear_taint

    folder = None if save is None else effects_folder(workspace, save)
    table = read_trial(trial, workspace.pseudonymiser().many) if isinstance(trial, Path) else trial
    source = source or (trial.name if isinstance(trial, Path) else "a table")
    learn, ask = _datasets(workspace)
    estimate = estimate_uplift(table, learn, ask, start=start, randomised=randomised, seed=seed, source=source)
    if folder is not None:
        save_effects(estimate.effects, folder)
        clear_taint(folder.parent, folder.name)
    return estimate


def _datasets(workspace: Workspace) -> tuple[Dataset, Dataset]:
    """People to learn from, and people to predict, as of the present."""
    ask = workspace.gate().dataset(Purpose.PERSONALISATION)
    return people_learned_from(workspace), ask.before(present(workspace))


def people_learned_from(workspace: Workspace) -> Dataset:
    """People who agreed to model training; of more than `propensity.learn_people` a sample, see
    `recllm.shop.data.people_sample`. Raises `UsageError` for a log of steps."""
    gate = workspace.gate()
    refuse_steps(gate.step_seconds(), "predictions of a person's next days")
    return gate.dataset(Purpose.MODEL_TRAINING, people_limit=workspace.settings.propensity.learn_people)
