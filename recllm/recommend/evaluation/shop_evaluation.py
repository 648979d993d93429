"""Measurements on the log of a workspace."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recllm.base.errors import PolicyError, UsageError
from recllm.base.schema import Encoder, Purpose
from recllm.learn.training.advise import advise
from recllm.recommend.evaluation.protocols import MASKED, UNMASKED, leave_one_out, time_split
from recllm.recommend.evaluation.report import Report, evaluate
from recllm.recommend.evaluation.systems import BASELINES, TrainingRecipe, check_systems, systems_for
from recllm.recommend.recommender.shop_recommender import workspace_encoder
from recllm.recommend.recommender.train import settings_in_use
from recllm.shop.workspace.workspace import Workspace
from recllm.text.items import item_texts

logger = logging.getLogger(__name__)


def evaluate_workspace(
    workspace: Workspace,
    *,
    split: str = "time",
    test_days: int = 28,
    slices: Sequence[str] = (),
    baselines: Sequence[str] = (),
    ks: Sequence[int] = (20,),
    encoder: Encoder | None = None,
    seed: int = 0,
) -> Report:
    """Measure `recllm`, trained on what came before as `recllm train` would, and baselines.

    Those people count who agreed both to analytics and to model training. split: "time", whose last `test_days` are the
    test, or "leave-one-out". By time the scorer learns to look as far ahead as the test window reaches; all else is
    what `recllm advise` proposes for the window's past. Without `slices` the split's own are used; "all" among the
    baselines stands for every one. ks: lengths of the lists; the longest is the one that systems are compared at.
    Raises `UsageError` when the test days do not fit into the log; `DataError` for a past that is too small.
    """
    if split not in ("time", "leave-one-out"):
        raise UsageError(f"unknown split {split!r}; give time or leave-one-out")
    if not ks or min(ks) < 1:
        raise UsageError("the lengths of lists are whole numbers from 1, such as --k 5,10,20")
    names = ("recllm", *(BASELINES if "all" in baselines else baselines))
    check_systems(names)
    settings, encoder, gate = workspace.settings, encoder or workspace_encoder(workspace), workspace.gate()
    data, learned = gate.dataset(Purpose.ANALYTICS), gate.permitted_users(Purpose.MODEL_TRAINING)
    rows = np.flatnonzero(data.users["user_id"].is_in(learned).to_numpy())
    data = replace(data, users=data.users[rows], events=data.events.rows(rows))
    if not len(data.events):
        raise PolicyError("no customer of this workspace has agreed both to analytics and to model training")
    # an item that only the others' events know is not known here
    listed = data.items["title"].is_not_null() | data.items["available"]
    log = data.with_items(listed.to_numpy() | (np.bincount(data.events.item, minlength=data.n_items) > 0))
    if split == "time":
        if log.step_seconds is not None:
            raise UsageError("the log of this workspace knows only an order; measure it with --split leave-one-out")
        slices = tuple(slices) or ("ALL", "NEW", "COLD")
        window = time_split(log, test_days=test_days, name=f"workspace-last{test_days}", slices=slices)
    else:
        window = leave_one_out(log, slices=tuple(slices) or (UNMASKED, MASKED))
    past, horizon = window.fit_on, test_days if split == "time" else None
    advice = advise(past, item_texts(past.items), encoder=encoder.name, horizon_days=horizon, seed=seed)
    scorer, sequence = settings_in_use(settings, advice, past, seed=seed)
    if horizon is not None:
        scorer = scorer.model_copy(update={"horizon_days": horizon})
    recipe = TrainingRecipe(
        training=scorer,
        lora=advice.lora,
        interests=sequence,
        collaborative=settings.collaborative,
        locale=settings.locale,
    )
    logger.info(f"{len(past.events):,} events to learn from, {past.n_items:,} items; their texts are encoded")
    systems = systems_for(window, names, lambda: encoder, recipe=recipe, seed=seed, progress=logger.info)
    return evaluate(window, systems, k=max(ks), ks=ks, seed=seed)
