"""Everybody's uplift by a trial: learned from the past of the trial's people as of its start, predicted as of now."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from recllm.base.documents import plain
from recllm.base.errors import NothingToDo
from recllm.market.propensity.effects import LearnedEffects, UpliftSettings, fit_effects
from recllm.market.propensity.examples import Cohort
from recllm.market.propensity.prediction import QiniCurve, qini_curve
from recllm.market.propensity.trial import Trial
from recllm.shop.data.dataset import Dataset, utc

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


def estimate_uplift(
    trial_table: pl.DataFrame,
    learn: Dataset,
    ask: Dataset,
    *,
    start: dt.datetime,
    randomised: bool = False,
    seed: int = 0,
    settings: UpliftSettings | None = None,
    source: str = "",
) -> UpliftEstimate:
    """trial_table: as `read_trial` gives it; rows of people who are not in `learn` are dropped. learn: holds the
    trial's people. ask: whose uplift is predicted, as of its own time. start: before the first treatment; later events
    of people are not used; without a zone it is UTC. randomised: the shop's word that who was treated was drawn at
    random, with one probability for everybody. source: the trial's name in the saved effects.

    Raises `PolicyError` for what is no trial (see `Trial.construct`), `NothingToDo` without anyone to predict.
    """
    started = time.perf_counter()
    settings = replace(settings or UpliftSettings(), seed=seed)
    start = start if start.tzinfo else start.replace(tzinfo=dt.UTC)
    rows = learn.user_rows(trial_table["user_id"])
    table = trial_table.filter(pl.Series(rows >= 0, dtype=pl.Boolean))
    trial = Trial.construct(
        Cohort(learn).features(int(start.timestamp())).rows(rows[rows >= 0]),
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
    features, ids = cohort.features(ask.as_of).rows(user_rows), cohort.user_ids(user_rows)
    effects, held_out = fit_effects(trial, settings, start=utc(int(start.timestamp())).isoformat(), source=source)
    uplift = effects.predict(features)
    effect, low, high = uplift.effect, uplift.low, uplift.high
    curve = qini_curve(held_out.expected, trial.treated, trial.outcome, trial.propensity)
    order = cohort.descending(user_rows, effect)
    logger.info("uplift: %d people, a trial of %d, %.1f s", len(ids), len(trial), time.perf_counter() - started)
    return UpliftEstimate(
        start=utc(int(start.timestamp())),
        as_of=utc(ask.as_of),
        people=tuple((ids[n], float(effect[n]), float(low[n]), float(high[n])) for n in order),
        curve=curve,
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
