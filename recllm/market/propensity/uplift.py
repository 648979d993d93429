"""Everybody's uplift by a trial: learned from the past of the trial's people as of its start, predicted as of now."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.base.documents import plain
from recllm.base.errors import NothingToDo
from recllm.market.propensity.answers import datasets_of
from recllm.market.propensity.effects import (
    LearnedEffects,
    UpliftSettings,
    effects_folder,
    fit_effects,
    save_effects,
)
from recllm.market.propensity.examples import Cohort
from recllm.market.propensity.prediction import QiniCurve, qini_curve
from recllm.market.propensity.trial import Trial, read_trial
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UpliftEstimate:
    """The answer."""

    start: dt.datetime
    as_of: dt.datetime
    people: tuple[tuple[str, float, float, float], ...]
    """(user_id, uplift, low, high), most moved first; uplift in [-1, 1] is the change of the probability of the
    outcome, which lies between low and high at 95 %."""
    curve: QiniCurve
    """On the trial's people, each by a model of other people."""
    effects: LearnedEffects
    """What can be saved, and asked of anyone."""


def uplift_workspace(
    workspace: Workspace,
    trial: Path | pl.DataFrame,
    *,
    start: dt.datetime,
    randomised: bool = False,
    seed: int = 0,
    source: str = "",
    save: str | None = None,
) -> UpliftEstimate:
    """Everybody's uplift, learned from a trial's CSV, or its table with pseudonyms, as `read_trial` gives it; rows of
    people who may not be learned from are dropped.

    start: before the first treatment; later events of people are not used; without a zone it is UTC. randomised: the
    shop's word that who was treated was drawn at random, with one probability for everybody. source: the name of a
    table in the saved effects. save: the name under which the effects are saved in the workspace; those of the same
    name are replaced.

    Raises `PolicyError` for what is no trial (see `Trial.construct`), `NothingToDo` without anyone to predict,
    `UsageError` for a name that cannot be, and what `read_trial` raises.
    """
    from recllm.recommend.recommender.registry import clear_taint

    started = time.perf_counter()
    folder = None if save is None else effects_folder(workspace, save)
    table = read_trial(trial, workspace.pseudonymiser().many) if isinstance(trial, Path) else trial
    source = source or (trial.name if isinstance(trial, Path) else "a table")
    learn, ask = datasets_of(workspace)
    at = int((start if start.tzinfo else start.replace(tzinfo=dt.UTC)).timestamp())
    rows = learn.user_rows(table["user_id"])
    table = table.filter(pl.Series(rows >= 0, dtype=pl.Boolean))
    randomised_trial = Trial.construct(
        Cohort(learn).features(at).rows(rows[rows >= 0]),
        table["treated"].to_numpy() > 0,
        table["outcome"].to_numpy(),
        randomised=randomised,
        propensity=table["propensity"].to_numpy() if "propensity" in table.columns else None,
        seed=seed,
    )
    cohort = Cohort(ask)
    user_rows = np.flatnonzero(cohort.with_history(ask.as_of))
    if not len(user_rows):
        raise NothingToDo("no one to predict: no customer has a past that counts")
    settings = UpliftSettings(seed=seed)
    effects, held_out = fit_effects(randomised_trial, settings, start=utc(at).isoformat(), source=source)
    uplift = effects.predict(cohort.features(ask.as_of).rows(user_rows))
    ids = cohort.user_ids(user_rows)
    if folder is not None:
        save_effects(effects, folder)
        clear_taint(folder.parent, folder.name)
    seconds = time.perf_counter() - started
    logger.info("uplift: %d people, a trial of %d, %.1f s", len(ids), len(randomised_trial), seconds)
    of_trial = randomised_trial.treated, randomised_trial.outcome, randomised_trial.propensity
    columns = (uplift.effect, uplift.low, uplift.high)
    return UpliftEstimate(
        start=utc(at),
        as_of=utc(ask.as_of),
        people=tuple((ids[n], *(float(c[n]) for c in columns)) for n in cohort.descending(user_rows, uplift.effect)),
        curve=qini_curve(held_out.expected, *of_trial),
        effects=effects,
    )


def uplift_document(estimate: UpliftEstimate, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints. ids: pseudonym -> the shop's own id, where it is known."""
    ids, curve, source = ids or {}, estimate.curve, estimate.effects.source
    return {
        "start": plain(estimate.start),
        "as_of": plain(estimate.as_of),
        "trial": {"people": source.people, "treated": source.treated, "effect": curve.effect},
        "qini": curve.qini,
        "auuc": curve.auuc,
        "people": [
            {"user_id": ids.get(name, name), "uplift": uplift, "low": low, "high": high}
            for name, uplift, low, high in estimate.people
        ],
    }
