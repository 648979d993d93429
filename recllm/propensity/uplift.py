"""From a trial's table to everybody's uplift: learned on the trial's people as of its start, told as of now.

user_id, treated, outcome, and with known probabilities propensity      treated and outcome are 0 or 1
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.data.dataset import Dataset, utc
from recllm.documents import guarded, plain, write_csv
from recllm.errors import DataError, NothingToDo, UsageError
from recllm.propensity.examples import Cohort
from recllm.propensity.quality import QiniCurve, qini_curve
from recllm.propensity.trial import RandomisedTrial, UpliftLearner, fit_uplift, held_out_uplift
from recllm.settings import UpliftSettings

logger = logging.getLogger(__name__)

NEEDED = ("user_id", "treated", "outcome")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftRequest:
    """What is asked of a trial."""

    start: dt.datetime
    """Before the first treatment; what is known of people from then on is not used. Without a zone it is UTC."""
    randomised: bool = False
    """The shop's word that who was treated was drawn by lot, with one probability for everybody."""
    learner: UpliftLearner = UpliftLearner.X
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class UpliftEstimate:
    """The answer."""

    learner: UpliftLearner
    start: dt.datetime
    as_of: dt.datetime
    trial_people: int
    treated: int
    people: tuple[tuple[str, float], ...]
    """(user_id, uplift), most moved first; uplift in [-1, 1] is the change of the probability of the outcome."""
    curve: QiniCurve
    """On the trial's people, each by a model of other people."""


def read_trial(file: Path, pseudonyms: Callable[[Sequence[str]], list[str]] | None = None) -> pl.DataFrame:
    """The table of a CSV. pseudonyms: the shop's own ids to those of the dataset.

    Raises `UsageError` for a file that cannot be read, `DataError` for a missing column, a person twice, or a value
    that is no number.
    """
    try:
        frame = pl.read_csv(file, infer_schema=False, encoding="utf8")
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a CSV of {', '.join(NEEDED)}: {error}") from error
    missing = [name for name in NEEDED if name not in frame.columns]
    if missing:
        raise DataError(f"{file}: missing column {', '.join(missing)}; found {', '.join(frame.columns)}")
    numbers = [name for name in ("treated", "outcome", "propensity") if name in frame.columns]
    table = frame.with_columns(pl.col(numbers).str.strip_chars().cast(pl.Float64, strict=False))
    if table.select(pl.any_horizontal(pl.col(numbers).is_null())).to_series().any():
        raise DataError(f"{file}: {', '.join(numbers)} must be numbers in every row")
    if not table["treated"].is_in([0.0, 1.0]).all() or table["user_id"].n_unique() != table.height:
        raise DataError(f"{file}: treated is 0 or 1, and each person stands in it once")
    ids = table["user_id"].to_list()
    return table.with_columns(user_id=pl.Series(pseudonyms(ids) if pseudonyms else ids, dtype=pl.String))


def estimate_uplift(
    request: UpliftRequest,
    trial_table: pl.DataFrame,
    learn: Dataset,
    ask: Dataset,
    *,
    settings: UpliftSettings | None = None,
) -> UpliftEstimate:
    """trial_table: as `read_trial` gives it; rows of people who are not in `learn` are dropped. learn: holds the
    trial's people. ask: whose uplift is told, as of its own time.

    Raises `PolicyError` for what is no trial (see `RandomisedTrial.construct`), `NothingToDo` for nobody to tell about.
    """
    started, seed = time.perf_counter(), request.seed
    settings = (settings or UpliftSettings()).model_copy(update={"seed": seed})
    start = request.start if request.start.tzinfo else request.start.replace(tzinfo=dt.UTC)
    rows = learn.user_rows(trial_table["user_id"])
    table = trial_table.filter(pl.Series(rows >= 0, dtype=pl.Boolean))
    trial = RandomisedTrial.construct(
        Cohort(learn).features(int(start.timestamp())).rows(rows[rows >= 0]),
        table["treated"].to_numpy() > 0,
        table["outcome"].to_numpy(),
        randomised=request.randomised,
        propensity=table["propensity"].to_numpy() if "propensity" in table.columns else None,
        seed=seed,
    )
    cohort = Cohort(ask)
    user_rows = np.flatnonzero(cohort.with_history(ask.as_of))
    if not len(user_rows):
        raise NothingToDo("nobody to tell an uplift of: nobody has a past that counts")
    curve = qini_curve(held_out_uplift(trial, request.learner, settings), trial)
    model = fit_uplift(trial, request.learner, settings)
    uplift, ids = model.uplift(cohort.features(ask.as_of).rows(user_rows)), cohort.user_ids(user_rows)
    logger.info("uplift: %d people, a trial of %d, %.1f s", len(ids), len(trial), time.perf_counter() - started)
    return UpliftEstimate(
        learner=request.learner,
        start=utc(int(start.timestamp())),
        as_of=utc(ask.as_of),
        trial_people=len(trial),
        treated=int(trial.treated.sum()),
        people=tuple((ids[n], float(uplift[n])) for n in cohort.descending(user_rows, uplift)),
        curve=curve,
    )


def uplift_document(estimate: UpliftEstimate, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints. ids: pseudonym -> the shop's own id, where it is known."""
    ids, curve = ids or {}, estimate.curve
    return {
        "learner": estimate.learner.value,
        "start": plain(estimate.start),
        "as_of": plain(estimate.as_of),
        "trial": {"people": estimate.trial_people, "treated": estimate.treated, "effect": curve.effect},
        "qini": curve.qini,
        "auuc": curve.auuc,
        "people": [{"user_id": ids.get(name, name), "uplift": uplift} for name, uplift in estimate.people],
    }


def write_uplift_csv(estimate: UpliftEstimate, file: Path, ids: Mapping[str, str] | None = None) -> None:
    """user_id, uplift; most moved first. UTF-8."""
    rows = [(guarded((ids or {}).get(name, name)), f"{uplift:.6f}") for name, uplift in estimate.people]
    write_csv(file, ("user_id", "uplift"), rows)
