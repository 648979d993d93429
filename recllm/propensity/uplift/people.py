"""From a trial's table to everybody's uplift: learned on the trial's people as of its start, told as of now.

user_id, treated, outcome, and with known chances propensity      treated and outcome are 0 or 1
"""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import Dataset, utc
from recllm.documents import plain
from recllm.errors import DataError, NothingToDo, UsageError
from recllm.propensity.features import person_features
from recllm.propensity.question import ids_of, known, ordered
from recllm.propensity.uplift.learners import Learner, fit_uplift, held_out_uplift
from recllm.propensity.uplift.qini import QiniCurve, qini_curve
from recllm.propensity.uplift.trial import Trial
from recllm.settings import UpliftSettings

NEEDED = ("user_id", "treated", "outcome")


@dataclass(frozen=True, kw_only=True)
class UpliftAnswer:
    """people: (user_id, uplift), most moved first; uplift in [-1, 1] is the change of the chance of the outcome.

    curve: on the trial's people, each by a model of other people. effect: the mean effect in the trial.
    """

    learner: Learner
    start: dt.datetime
    as_of: dt.datetime
    trial_people: int
    treated: int
    people: tuple[tuple[str, float], ...]
    curve: QiniCurve


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
    out = frame.with_columns(pl.col(numbers).str.strip_chars().cast(pl.Float64, strict=False))
    if out.select(pl.any_horizontal(pl.col(numbers).is_null())).to_series().any():
        raise DataError(f"{file}: {', '.join(numbers)} must be numbers in every row")
    if not out["treated"].is_in([0.0, 1.0]).all() or out["user_id"].n_unique() != out.height:
        raise DataError(f"{file}: treated is 0 or 1, and each person stands in it once")
    names = out["user_id"].to_list()
    return out.with_columns(user_id=pl.Series(pseudonyms(names) if pseudonyms else names, dtype=pl.String))


def uplift_of(
    learn: Dataset,
    ask: Dataset,
    frame: pl.DataFrame,
    start: int,
    *,
    randomised: bool = False,
    learner: Learner = Learner.X,
    seed: int = 0,
) -> UpliftAnswer:
    """learn: holds the trial's people; ask: whose uplift is told, as of its own time. start: epoch seconds, before the
    first treatment; what is known of people from then on is not used.

    Raises `PolicyError` for what is no trial (see `Trial.construct`), `NothingToDo` for nobody to tell about.
    """
    trial = _trial(learn, frame, start, randomised, seed)
    settings, rows = UpliftSettings(seed=seed), np.flatnonzero(known(ask, ask.as_of))
    if not len(rows):
        raise NothingToDo("nobody to tell an uplift of: nobody has a past that counts")
    curve = qini_curve(held_out_uplift(trial, learner, settings), trial)
    model = fit_uplift(trial, learner, settings)
    uplift = model.uplift(person_features(ask, ask.as_of).rows(rows))
    names = ids_of(ask, rows)
    return UpliftAnswer(
        learner=learner,
        start=utc(start),
        as_of=utc(ask.as_of),
        trial_people=len(trial),
        treated=int(trial.treated.sum()),
        people=tuple((names[n], float(uplift[n])) for n in ordered(ask, rows, uplift)),
        curve=curve,
    )


def _trial(learn: Dataset, frame: pl.DataFrame, start: int, randomised: bool, seed: int) -> Trial:
    """The trial's people who are in the dataset; the others' rows are dropped."""
    rows = learn.user_rows(frame["user_id"])
    kept = frame.filter(pl.Series(rows >= 0, dtype=pl.Boolean))
    features = person_features(learn, start).rows(rows[rows >= 0])
    propensity: NDArray[np.float64] | None = None
    if "propensity" in kept.columns:
        propensity = kept["propensity"].to_numpy()
    treated, outcome = kept["treated"].to_numpy() > 0, kept["outcome"].to_numpy()
    return Trial.construct(features, treated, outcome, randomised=randomised, propensity=propensity, seed=seed)


def document(found: UpliftAnswer, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints. ids: pseudonym -> the shop's own id, where it is known."""
    ids = ids or {}
    return {
        "learner": found.learner.value,
        "start": plain(found.start),
        "as_of": plain(found.as_of),
        "trial": {"people": found.trial_people, "treated": found.treated, "effect": found.curve.effect},
        "qini": found.curve.qini,
        "auuc": found.curve.auuc,
        "people": [{"user_id": ids.get(name, name), "uplift": uplift} for name, uplift in found.people],
    }


def write_csv(found: UpliftAnswer, file: Path, ids: Mapping[str, str] | None = None) -> None:
    """user_id, uplift; most moved first. UTF-8."""
    from recllm.audiences.export import guarded  # brings torch, which nothing else here needs

    ids = ids or {}
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["user_id", "uplift"])
        writer.writerows([guarded(ids.get(name, name)), f"{uplift:.6f}"] for name, uplift in found.people)
