"""How much a treatment changes each person's chance: the S-, T- and X-learner (Künzel et al. 2019).

    uplift(x) = P(outcome | treated, x) - P(outcome | not treated, x)

S    one model with the treatment among the features; uplift is its answer with treatment minus without.
T    one model per arm; uplift is the difference of their answers.
X    T's models fill in what each person would have done in the other arm; a model of these differences is learned in
     each arm, and the two are joined by the propensity e(x): e · tau_control + (1 - e) · tau_treated.

With propensities that differ between people, each person counts in proportion to 1 / (chance of the arm they are in).
Base models are boosted trees, of chances for S and T, of differences (squared error) for X's second stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.propensity.model import people_folds, varying
from recllm.propensity.table import Features, Floats
from recllm.propensity.uplift.trial import Trial
from recllm.settings import UpliftSettings

Values = NDArray[np.float64]
Guess = Callable[[Floats], Values]


class Learner(StrEnum):
    """Which of the three."""

    S = "s"
    T = "t"
    X = "x"


@dataclass(frozen=True, eq=False)
class UpliftModel:
    """uplift: in [-1, 1], (n,), of rows of a table with these names."""

    learner: Learner
    names: tuple[str, ...]
    guess: Guess

    def uplift(self, features: Features) -> Values:
        return np.clip(self.guess(features.values), -1.0, 1.0)


def fit_uplift(trial: Trial, learner: Learner = Learner.X, settings: UpliftSettings | None = None) -> UpliftModel:
    """One learner on the whole trial."""
    fits = {Learner.S: _fit_s, Learner.T: _fit_t, Learner.X: _fit_x}
    return UpliftModel(learner, trial.features.names, fits[learner](trial, settings or UpliftSettings()))


def held_out_uplift(trial: Trial, learner: Learner = Learner.X, settings: UpliftSettings | None = None) -> Values:
    """Each person's uplift by a model of other people, (n,): what Qini may be measured on."""
    settings = settings or UpliftSettings()
    folds, out = people_folds(np.arange(len(trial)), settings.folds, settings.seed), np.empty(len(trial))
    for fold in range(settings.folds):
        inside = folds == fold
        model = fit_uplift(trial.rows(~inside), learner, settings)
        out[inside] = model.uplift(trial.features.rows(inside))
    return out


def _fit_s(trial: Trial, settings: UpliftSettings) -> Guess:
    settings = settings.model_copy(update={"rounds": settings.s_learner_rounds})
    arm = trial.treated.astype(np.float32)[:, None]
    chance = _chances(np.hstack([trial.features.values, arm]), trial.outcome, _weights(trial), settings)

    def guess(values: Floats) -> Values:
        with_, without = (np.full((len(values), 1), arm, np.float32) for arm in (1, 0))
        return chance(np.hstack([values, with_])) - chance(np.hstack([values, without]))

    return guess


def _fit_t(trial: Trial, settings: UpliftSettings) -> Guess:
    treated, others = _arms(trial, settings)
    return lambda values: treated(values) - others(values)


def _fit_x(trial: Trial, settings: UpliftSettings) -> Guess:
    filled = _filled_in(trial, settings)
    gain = np.where(trial.treated, trial.outcome - filled, filled - trial.outcome)
    weights, share = _weights(trial), float(trial.propensity.mean())
    tau = [
        _differences(trial.features.values[a], gain[a], weights[a], settings) for a in (trial.treated, ~trial.treated)
    ]
    return lambda values: share * tau[1](values) + (1 - share) * tau[0](values)


def _filled_in(trial: Trial, settings: UpliftSettings) -> Values:
    """Each person's chance in the other arm, by models of other people."""
    folds, out = people_folds(np.arange(len(trial)), settings.folds, settings.seed + 1), np.empty(len(trial))
    for fold in range(settings.folds):
        inside = folds == fold
        treated, others = _arms(trial.rows(~inside), settings)
        values = trial.features.values[inside]
        out[inside] = np.where(trial.treated[inside], others(values), treated(values))
    return out


def _arms(trial: Trial, settings: UpliftSettings) -> tuple[Guess, Guess]:
    """Chance models of the treated and of the others."""
    weights, values = _weights(trial), trial.features.values
    treated, others = (
        _chances(values[arm], trial.outcome[arm], weights[arm], settings) for arm in (trial.treated, ~trial.treated)
    )
    return treated, others


def _weights(trial: Trial) -> Values:
    """1 / (chance of the own arm), with mean 1."""
    own = np.where(trial.treated, trial.propensity, 1 - trial.propensity)
    return np.asarray(1 / own / np.mean(1 / own))


def _chances(values: Floats, outcome: Values, weights: Values, settings: UpliftSettings) -> Guess:
    from sklearn.ensemble import HistGradientBoostingClassifier

    columns = varying(values)
    trees = HistGradientBoostingClassifier(**_how(settings, len(outcome)))
    trees.fit(values[:, columns], outcome, sample_weight=weights)
    return lambda asked: np.asarray(trees.predict_proba(asked[:, columns])[:, 1], np.float64)


def _differences(values: Floats, gain: Values, weights: Values, settings: UpliftSettings) -> Guess:
    from sklearn.ensemble import HistGradientBoostingRegressor

    columns = varying(values)
    trees = HistGradientBoostingRegressor(**_how(settings, len(gain)))
    trees.fit(values[:, columns], gain, sample_weight=weights)
    return lambda asked: np.asarray(trees.predict(asked[:, columns]), np.float64)


def _how(settings: UpliftSettings, rows: int) -> dict[str, Any]:
    return {
        "max_iter": settings.rounds,
        "learning_rate": settings.learning_rate,
        "max_leaf_nodes": settings.leaves,
        "min_samples_leaf": min(settings.min_leaf_rows, max(2, rows // 20)),
        "l2_regularization": settings.l2,
        "early_stopping": False,
        "random_state": settings.seed,
    }
