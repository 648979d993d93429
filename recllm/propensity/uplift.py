"""What uplift may be learned from: who was treated, what came of it, and how the treated were chosen.

An effect of a treatment can be read off data only when who is treated does not depend on what is to come: drawn by lot
(a trial), or chosen by known chances (propensities). Nothing here guesses propensities. Campaigns that a shop mailed to
whom it liked, as those of Complete Journey, say who redeems, not whom the mailing moved; they are refused.

How much a treatment changes each person's chance: the S-, T- and X-learner (Künzel et al. 2019), and the doubly robust
one.

    uplift(x) = P(outcome | treated, x) - P(outcome | not treated, x)

S    one model with the treatment among the features; uplift is its answer with treatment minus without.
T    one model per arm; uplift is the difference of their answers.
X    T's models fill in what each person would have done in the other arm; a model of these differences is learned in
     each arm, and the two are joined by the propensity e(x): e · tau_control + (1 - e) · tau_treated.
DR   the same models, corrected by each person's own outcome; a forest finds what the effects have in common. It is the
     one with intervals (`recllm.propensity.effect_forest`).

With propensities that differ between people, each person counts in proportion to 1 / (probability of the own arm).
Base models are boosted trees, of probabilities for S and T, of differences (squared error) for X's second stage; of
means where the outcome is an amount.

From a trial's table to everybody's uplift: learned on the trial's people as of its start, told as of now.

user_id, treated, outcome, and with known probabilities propensity      treated and outcome are 0 or 1
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import Dataset, utc
from recllm.documents import guarded, plain, write_csv
from recllm.errors import DataError, NothingToDo, PolicyError, UsageError
from recllm.propensity.effect_forest import arm_scores, fit_effect_forest
from recllm.propensity.effects import EffectSource, LearnedEffects, fit_effects
from recllm.propensity.examples import Cohort
from recllm.propensity.features import FeatureTable, Floats
from recllm.propensity.model import Values, cross_fitted, people_folds, varying
from recllm.propensity.parameters import PropensitySettings, UpliftSettings
from recllm.propensity.quality import QiniCurve, auc, qini_curve

Predict = Callable[[Floats], Values]
"""(n,), of rows of a feature table."""

NEEDED = ("user_id", "treated", "outcome")
"""Columns of a trial's table."""

MIN_PEOPLE_OF_AN_ARM = 100
MIN_OUTCOMES = 20
MIN_PROPENSITY = 0.02
"""A propensity nearer to 0 or 1 leaves nobody to compare with."""

logger = logging.getLogger(__name__)

NOT_RANDOMISED = (
    "uplift needs a trial: who was treated must have been drawn by lot (declare randomised) or by known chances "
    "(give the propensities). Among people chosen by a rule, treated and others differ already, and the difference "
    "would be told as an effect; Complete Journey's campaigns are of this kind. Use recllm predict redeem to say who "
    "responds, or run a campaign with a holdout first"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomisedTrial:
    """n people whose treatment was drawn."""

    features: FeatureTable
    """As of before the treatment."""
    treated: NDArray[np.bool_]
    outcome: Values
    """(n,), what came after the treatment: 0 or 1; amounts where `recllm.propensity.trial` made it."""
    propensity: Values
    """(n,), each person's probability to be treated."""

    @classmethod
    def construct(
        cls,
        features: FeatureTable,
        treated: NDArray[np.generic],
        outcome: NDArray[np.generic],
        *,
        randomised: bool = False,
        propensity: NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> RandomisedTrial:
        """The one door.

        randomised: the shop's word that everybody had the same probability. propensity: known ones, (n,), in (0, 1).
        Raises `PolicyError` without either, or when the features tell who was treated better than the propensities
        allow; `DataError` for arms or outcomes too few, or values that cannot be.
        """
        arm, result = np.asarray(treated, bool), np.asarray(outcome, np.float64)
        if not randomised and propensity is None:
            raise PolicyError(NOT_RANDOMISED)
        _check_values(features, arm, result)
        drawn = np.full(len(arm), arm.mean()) if propensity is None else np.asarray(propensity, np.float64)
        if drawn.shape != arm.shape or not ((drawn >= MIN_PROPENSITY) & (drawn <= 1 - MIN_PROPENSITY)).all():
            raise DataError(
                f"propensities: one for each of {len(arm)} people, from {MIN_PROPENSITY} to {1 - MIN_PROPENSITY}"
            )
        check_assignment(features, arm, drawn, seed=seed)
        return cls(features=features, treated=arm, outcome=result, propensity=drawn)

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def binary(self) -> bool:
        """Whether the outcome is 0 or 1."""
        return bool(np.isin(self.outcome, (0, 1)).all())

    def rows(self, which: NDArray[np.generic]) -> RandomisedTrial:
        """These people only: a mask or row numbers."""
        return RandomisedTrial(
            features=self.features.rows(which),
            treated=self.treated[which],
            outcome=self.outcome[which],
            propensity=self.propensity[which],
        )


def check_assignment(features: FeatureTable, treated: NDArray[np.bool_], propensity: Values, *, seed: int = 0) -> float:
    """The AUC with which features tell who was treated, over and above the propensities; near .5 in a true trial.

    A classifier (`recllm.propensity.model`) is cross-fitted on the arms; its scores are compared with those for arms
    drawn anew by the propensities. Raises `PolicyError` when the true arms are told apart by more than chance: more
    than four standard errors, and at least .02, above what the propensities alone would give.
    """
    settings = PropensitySettings(rounds=60, leaves=6, folds=3, seed=seed)
    score = cross_fitted(features, treated.astype(np.float64), np.arange(len(treated)), settings).mean(axis=1)
    measured, rng = auc(score, treated), np.random.default_rng(seed)
    drawn = np.array([auc(score, rng.random(len(treated)) < propensity) for _ in range(200)])
    expected = float(np.nanmean(drawn))
    if measured - expected > max(0.02, 4 * float(np.nanstd(drawn))):
        raise PolicyError(
            f"treatment was not drawn as declared: what is known of people beforehand tells who was treated "
            f"(AUC {measured:.3f}, {expected:.3f} by the declared chances). {NOT_RANDOMISED}"
        )
    return measured


def _check_values(features: FeatureTable, treated: NDArray[np.bool_], outcome: Values) -> None:
    if not len(features) == len(treated) == len(outcome):
        raise DataError(f"a trial of {len(features)} people has {len(treated)} treatments and {len(outcome)} outcomes")
    if not np.isin(outcome, (0, 1)).all():
        raise DataError("a trial's outcome is 0 or 1 for each person")
    arms = (int(treated.sum()), int((~treated).sum()))
    if min(arms) < MIN_PEOPLE_OF_AN_ARM:
        raise DataError(
            f"a trial of {arms[0]} treated and {arms[1]} others: at least {MIN_PEOPLE_OF_AN_ARM} each are needed"
        )
    for name, arm in (("treated", treated), ("others", ~treated)):
        positive = int(outcome[arm].sum())
        if min(positive, int(arm.sum()) - positive) < MIN_OUTCOMES:
            raise DataError(
                f"{name}: {positive} of {int(arm.sum())} had the outcome; at least {MIN_OUTCOMES} of each needed"
            )


# --- learners --------------------------------------------------------------------------------------------------------


class UpliftLearner(StrEnum):
    """Which of the four."""

    S = "s"
    T = "t"
    X = "x"
    DR = "dr"

    @classmethod
    def named(cls, name: str) -> UpliftLearner:
        """Raises `UsageError` for another name than these."""
        if name not in set(cls):
            raise UsageError(f"a learner is one of {', '.join(cls)}, not {name!r}")
        return cls(name)


@dataclass(frozen=True, eq=False)
class UpliftModel:
    """One learner, fitted."""

    predict: Predict
    binary: bool

    def uplift(self, features: FeatureTable) -> Values:
        """(n,); in [-1, 1] where the outcome is 0 or 1."""
        uplift = self.predict(features.values)
        return np.clip(uplift, -1.0, 1.0) if self.binary else uplift


def fit_uplift(
    trial: RandomisedTrial, learner: UpliftLearner = UpliftLearner.X, settings: UpliftSettings | None = None
) -> UpliftModel:
    """One learner on the whole trial."""
    fits = {UpliftLearner.S: _fit_s, UpliftLearner.T: _fit_t, UpliftLearner.X: _fit_x, UpliftLearner.DR: _fit_dr}
    return UpliftModel(fits[learner](trial, settings or UpliftSettings()), trial.binary)


def held_out_uplift(trial: RandomisedTrial, learner: UpliftLearner, settings: UpliftSettings | None = None) -> Values:
    """Each person's uplift by a model of other people, (n,): what Qini may be measured on."""
    settings = settings or UpliftSettings()
    uplift = np.empty(len(trial))
    for inside in people_folds(np.arange(len(trial)), settings.folds, settings.seed):
        model = fit_uplift(trial.rows(~inside), learner, settings)
        uplift[inside] = model.uplift(trial.features.rows(inside))
    return uplift


def _fit_s(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    values = np.hstack([trial.features.values, trial.treated.astype(np.float32)[:, None]])
    settings = settings.model_copy(update={"rounds": settings.s_learner_rounds})
    mean = fit_outcome(values, trial.outcome, _weights(trial), settings, binary=trial.binary)

    def uplift(rows: Floats) -> Values:
        treated, untreated = (np.hstack([rows, np.full((len(rows), 1), arm, np.float32)]) for arm in (1, 0))
        return mean(treated) - mean(untreated)

    return uplift


def _fit_t(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    untreated, treated = _fit_arms(trial, trial.outcome, settings, binary=trial.binary)
    return lambda rows: treated(rows) - untreated(rows)


def _fit_x(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    means = _cross_fitted_means(trial, settings)
    effect = np.where(trial.treated, trial.outcome - means[:, 0], means[:, 1] - trial.outcome)
    of_untreated, of_treated = _fit_arms(trial, effect, settings, binary=False)
    share = float(trial.propensity.mean())
    return lambda rows: share * of_untreated(rows) + (1 - share) * of_treated(rows)


def _fit_dr(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    columns, rng = varying(trial.features.values), np.random.default_rng(settings.seed)
    forest = fit_effect_forest(trial.features.values[:, columns], _treatment_scores(trial, settings), settings, rng)
    return lambda rows: forest.predict(rows[:, columns])[0]


def _cross_fitted_means(trial: RandomisedTrial, settings: UpliftSettings) -> Values:
    arm = trial.treated.astype(np.int64)
    return cross_fitted_means(trial.features.values, arm, trial.outcome, _weights(trial), settings, binary=trial.binary)


def cross_fitted_means(
    values: Floats,
    arm: NDArray[np.integer],
    outcome: Values,
    weights: Values,
    settings: UpliftSettings,
    *,
    binary: bool,
) -> Values:
    """Each person's mean outcome in each arm by models of other people, (n, arms)."""
    means = np.empty((len(outcome), int(arm.max()) + 1))
    for inside in people_folds(np.arange(len(outcome)), settings.folds, settings.seed + 1):
        balanced = weights / np.mean(weights[~inside])
        for number in range(means.shape[1]):
            learn = ~inside & (arm == number)
            mean = fit_outcome(values[learn], outcome[learn], balanced[learn], settings, binary=binary)
            means[inside, number] = mean(values[inside])
    return means


def _fit_arms(trial: RandomisedTrial, target: Values, settings: UpliftSettings, *, binary: bool) -> list[Predict]:
    """Models of `target` (n,) among those not treated and among the treated."""
    weights, values = _weights(trial), trial.features.values
    return [
        fit_outcome(values[arm], target[arm], weights[arm], settings, binary=binary)
        for arm in (~trial.treated, trial.treated)
    ]


def _weights(trial: RandomisedTrial) -> Values:
    """1 / (probability of the own arm), with mean 1."""
    weights = 1 / np.where(trial.treated, trial.propensity, 1 - trial.propensity)
    return np.asarray(weights / np.mean(weights))


def fit_outcome(
    values: Floats, target: Values, weights: Values, settings: UpliftSettings, *, binary: bool = True
) -> Predict:
    """Probability of an outcome of 0 or 1; with `binary=False` the mean of any number."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    columns = varying(values)
    trees: Any = (HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor)(
        max_iter=settings.rounds,
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.leaves,
        min_samples_leaf=min(settings.min_leaf_rows, max(2, len(target) // 20)),
        l2_regularization=settings.l2,
        early_stopping=False,
        random_state=settings.seed,
    )
    trees.fit(values[:, columns], target, sample_weight=weights)
    if binary:
        return lambda rows: np.asarray(trees.predict_proba(rows[:, columns])[:, 1], np.float64)
    return lambda rows: np.asarray(trees.predict(rows[:, columns]), np.float64)


# --- from a trial's table to everybody's uplift ----------------------------------------------------------------------


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
    effects: LearnedEffects | None = None
    """Of the doubly robust learner: what can be saved, and told of anybody with an interval."""
    limits: tuple[tuple[float, float], ...] = ()
    """Of the doubly robust learner: (low, high) of each of `people`, which hold their uplift at 95 %."""


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
    source: str = "",
) -> UpliftEstimate:
    """trial_table: as `read_trial` gives it; rows of people who are not in `learn` are dropped. learn: holds the
    trial's people. ask: whose uplift is told, as of its own time. source: what the trial is called in what is kept.

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
    features, ids = cohort.features(ask.as_of).rows(user_rows), cohort.user_ids(user_rows)
    effects, limits = None, np.zeros((0, 2))
    if request.learner is UpliftLearner.DR:
        effects, held_out = _effects_of(trial, settings, utc(int(start.timestamp())), source)
        uplift, *both = effects.predict(features)
        limits = np.stack(both, axis=1)
    else:
        held_out = held_out_uplift(trial, request.learner, settings)
        uplift = fit_uplift(trial, request.learner, settings).uplift(features)
    curve, order = qini_curve(held_out, trial), cohort.descending(user_rows, uplift)
    logger.info("uplift: %d people, a trial of %d, %.1f s", len(ids), len(trial), time.perf_counter() - started)
    return UpliftEstimate(
        learner=request.learner,
        start=utc(int(start.timestamp())),
        as_of=utc(ask.as_of),
        trial_people=len(trial),
        treated=int(trial.treated.sum()),
        people=tuple((ids[n], float(uplift[n])) for n in order),
        curve=curve,
        effects=effects,
        limits=tuple((float(low), float(high)) for low, high in limits[order]) if len(limits) else (),
    )


def _effects_of(
    trial: RandomisedTrial, settings: UpliftSettings, start: dt.datetime, source: str
) -> tuple[LearnedEffects, Values]:
    """What is kept of a trial, and each person's effect by forests of other people, (n,)."""
    scores = _treatment_scores(trial, settings)
    error = float(scores.std(ddof=1)) / np.sqrt(len(scores))
    mean = float(scores.mean())
    about = EffectSource(
        start=start.isoformat(),
        trial=source,
        people=len(trial),
        treated=int(trial.treated.sum()),
        effect=mean,
        effect_low=mean - 1.959964 * error,
        effect_high=mean + 1.959964 * error,
        binary=trial.binary,
    )
    model, held_out = fit_effects(trial.features, scores, about, settings, np.random.default_rng(settings.seed))
    return model, held_out.expected


def _treatment_scores(trial: RandomisedTrial, settings: UpliftSettings) -> Values:
    """Doubly robust scores of the treatment less those of none, (n,)."""
    arm, probability = trial.treated.astype(np.int64), np.stack([1 - trial.propensity, trial.propensity], axis=1)
    scores = arm_scores(_cross_fitted_means(trial, settings), arm, trial.outcome, probability)
    return scores[:, 1] - scores[:, 0]


def uplift_document(estimate: UpliftEstimate, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints. ids: pseudonym -> the shop's own id, where it is known."""
    ids, curve, limits = ids or {}, estimate.curve, estimate.limits or ((None, None),) * len(estimate.people)
    return {
        "learner": estimate.learner.value,
        "start": plain(estimate.start),
        "as_of": plain(estimate.as_of),
        "trial": {"people": estimate.trial_people, "treated": estimate.treated, "effect": curve.effect},
        "qini": curve.qini,
        "auuc": curve.auuc,
        "people": [
            {"user_id": ids.get(name, name), "uplift": uplift, "low": low, "high": high}
            for (name, uplift), (low, high) in zip(estimate.people, limits, strict=True)
        ],
    }


def write_uplift_csv(estimate: UpliftEstimate, file: Path, ids: Mapping[str, str] | None = None) -> None:
    """user_id, uplift, and with intervals low and high; most moved first. UTF-8."""
    limits = estimate.limits or ((),) * len(estimate.people)
    rows = [
        (guarded((ids or {}).get(name, name)), f"{uplift:.6f}", *(f"{limit:.6f}" for limit in both))
        for (name, uplift), both in zip(estimate.people, limits, strict=True)
    ]
    write_csv(file, ("user_id", "uplift", *(("low", "high") if estimate.limits else ())), rows)
