"""Advice and measurements for the log of a workspace, or of a folder of tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recllm.base.errors import PolicyError, UsageError
from recllm.base.schema import Encoder, Purpose
from recllm.learn.training.advise import Advice, advise
from recllm.recommend.evaluation.protocols import split_tables, time_split, with_candidates
from recllm.recommend.evaluation.report import Report, evaluate
from recllm.recommend.evaluation.systems import BASELINES, TrainingRecipe, check_systems, systems_for
from recllm.recommend.evaluation.tables import LogTables, read_folder, read_table
from recllm.recommend.recommender.shop_recommender import workspace_encoder
from recllm.recommend.recommender.train import settings_in_use, workspace_advice
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.privacy import PolicyGate
from recllm.shop.workspace.workspace import Workspace, call_settings
from recllm.text.encoder.loading import load_encoder
from recllm.text.items import item_texts

logger = logging.getLogger(__name__)


def advise_data(*, workspace: Path | None = None, data: Path | None = None, encoder: str | None = None) -> Advice:
    """Advice for a workspace, on people who agreed to training, or for a folder of parquet tables.

    encoder: one that is decided on; the workspace's own when its settings name another than the default. Raises
    `UsageError` when neither or both sources are given.
    """
    if (workspace is None) == (data is None):
        raise UsageError("give one of --workspace and --data")
    if workspace is not None:
        with Workspace.open(str(workspace)) as shop:
            return workspace_advice(shop, shop.gate().dataset(Purpose.MODEL_TRAINING), encoder)
    log = read_folder(Path(str(data))).dataset()
    return advise(log, item_texts(log.items), encoder=encoder)


def evaluate_data(
    *,
    workspace: Path | None = None,
    data: Path | None = None,
    split: str = "time",
    test_days: int = 28,
    slices: Sequence[str] = (),
    baselines: Sequence[str] = (),
    ks: Sequence[int] = (20,),
    candidates: Path | None = None,
    encoder: Encoder | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure `recllm`, trained on what came before as `recllm train` would, and baselines.

    Of a workspace those people count who agreed both to analytics and to model training. The scorer learns to look as
    far ahead as the test window reaches; all else is what `recllm advise` proposes for the window's past. Without
    `slices` the split's own are used; "all" among the baselines stands for every one. ks: lengths of the lists; the
    longest is the one that systems are compared at. candidates: a table of the items that are ranked for each user, see
    `with_candidates`. Raises `UsageError` when neither or both sources are given, or the test days do not fit into the
    log; `DataError` for a past that is too small.
    """
    tell, settings = progress or logger.info, call_settings()
    if (workspace is None) == (data is None):
        raise UsageError("give one of --workspace and --data")
    if not ks or min(ks) < 1:
        raise UsageError("the lengths of lists are whole numbers from 1, such as --k 5,10,20")
    if candidates is not None and data is None:
        raise UsageError("--candidates go with a folder of tables (--data)")
    names = ("recllm", *(BASELINES if "all" in baselines else baselines))
    check_systems(names)
    if data is not None:
        window = split_tables(read_folder(data), split=split, test_days=test_days, slices=tuple(slices) or None)
        encoder = encoder or load_encoder()
    else:
        if split not in ("time", "leave-one-out"):
            raise UsageError(f"a workspace is split by time or leave-one-out; --split {split} is for a folder (--data)")
        with Workspace.open(str(workspace)) as shop:
            log, settings = _evaluable(shop.gate()), shop.settings
            if split == "time" and log.step_seconds is not None:
                raise UsageError("the log of this workspace knows only an order; measure it with --split leave-one-out")
            encoder = encoder or workspace_encoder(shop)
        if split == "leave-one-out":
            window = split_tables(LogTables.of(log, "workspace"), split=split, slices=tuple(slices) or None)
        else:
            slices = tuple(slices) or ("ALL", "NEW", "COLD")
            window = time_split(log, test_days=test_days, name=f"workspace-last{test_days}", slices=slices)
    if candidates is not None:
        window = with_candidates(window, read_table(candidates), candidates.name)
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
    tell(f"{len(past.events):,} events to learn from, {past.n_items:,} items; their texts are encoded")
    systems = systems_for(window, names, lambda: encoder, recipe=recipe, seed=seed, progress=tell)
    return evaluate(window, systems, k=max(ks), ks=ks, seed=seed)


def _evaluable(gate: PolicyGate) -> Dataset:
    """The people who agreed to analytics, because they are measured, and to training, because they are learned from."""
    data, agreed = gate.dataset(Purpose.ANALYTICS), gate.permitted_users(Purpose.MODEL_TRAINING)
    rows = np.flatnonzero(data.users["user_id"].is_in(agreed).to_numpy())
    data = replace(data, users=data.users[rows], events=data.events.rows(rows))
    if not len(data.events):
        raise PolicyError("no customer of this workspace has agreed both to analytics and to model training")
    # an item that only the others' events know is not known here
    listed = data.items["title"].is_not_null() | data.items["available"]
    return data.with_items(listed.to_numpy() | (np.bincount(data.events.item, minlength=data.n_items) > 0))
