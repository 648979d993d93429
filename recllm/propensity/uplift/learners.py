"""How much a treatment changes each person's chance: the S-, T- and X-learner (Künzel et al. 2019).

    uplift(x) = P(outcome | treated, x) - P(outcome | not treated, x)

S    one model with the treatment among the features; uplift is its answer with treatment minus without.
T    one model per arm; uplift is the difference of their answers.
X    T's models fill in what each person would have done in the other arm; a model of these differences is learned in
     each arm, and the two are joined by the propensity e(x): e · tau_control + (1 - e) · tau_treated.

With propensities that differ between people, each person counts in proportion to 1 / (probability of the own arm).
Base models are boosted trees, of probabilities for S and T, of differences (squared error) for X's second stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.errors import UsageError
from recllm.propensity.features import FeatureTable, Floats
from recllm.propensity.model import people_folds, varying
from recllm.propensity.uplift.trial import RandomisedTrial
from recllm.settings import UpliftSettings

Values = NDArray[np.float64]
Predict = Callable[[Floats], Values]
"""(n,), of rows of a feature table."""


class UpliftLearner(StrEnum):
    """Which of the three."""

    S = "s"
    T = "t"
    X = "x"

    @classmethod
    def named(cls, name: str) -> UpliftLearner:
        """Raises `UsageError` for another name than these."""
        if name not in set(cls):
            raise UsageError(f"a learner is one of {', '.join(cls)}, not {name!r}")
        return cls(name)


@dataclass(frozen=True, eq=False)
class UpliftModel:
    """One learner, fitted."""

    learner: UpliftLearner
    predict: Predict

    def uplift(self, features: FeatureTable) -> Values:
        """In [-1, 1], (n,)."""
        return np.clip(self.predict(features.values), -1.0, 1.0)


def fit_uplift(
    trial: RandomisedTrial, learner: UpliftLearner = UpliftLearner.X, settings: UpliftSettings | None = None
) -> UpliftModel:
    """One learner on the whole trial."""
    fits = {UpliftLearner.S: _fit_s, UpliftLearner.T: _fit_t, UpliftLearner.X: _fit_x}
    return UpliftModel(learner, fits[learner](trial, settings or UpliftSettings()))


def held_out_uplift(
    trial: RandomisedTrial, learner: UpliftLearner = UpliftLearner.X, settings: UpliftSettings | None = None
) -> Values:
    """Each person's uplift by a model of other people, (n,): what Qini may be measured on."""
    settings = settings or UpliftSettings()
    folds, uplift = people_folds(np.arange(len(trial)), settings.folds, settings.seed), np.empty(len(trial))
    for fold in range(settings.folds):
        inside = folds == fold
        model = fit_uplift(trial.rows(~inside), learner, settings)
        uplift[inside] = model.uplift(trial.features.rows(inside))
    return uplift


def _fit_s(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    values = np.hstack([trial.features.values, trial.treated.astype(np.float32)[:, None]])
    settings = settings.model_copy(update={"rounds": settings.s_learner_rounds})
    probability = fit_outcome(values, trial.outcome, _weights(trial), settings)

    def uplift(rows: Floats) -> Values:
        treated, untreated = (np.hstack([rows, np.full((len(rows), 1), arm, np.float32)]) for arm in (1, 0))
        return probability(treated) - probability(untreated)

    return uplift


def _fit_t(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    treated, untreated = _fit_arms(trial, settings)
    return lambda rows: treated(rows) - untreated(rows)


def _fit_x(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    values, folds = trial.features.values, people_folds(np.arange(len(trial)), settings.folds, settings.seed + 1)
    # each person's probability in the other arm, by models of other people
    other_arm = np.empty(len(trial))
    for fold in range(settings.folds):
        inside = folds == fold
        treated, untreated = _fit_arms(trial.rows(~inside), settings)
        other_arm[inside] = np.where(trial.treated[inside], untreated(values[inside]), treated(values[inside]))
    effect = np.where(trial.treated, trial.outcome - other_arm, other_arm - trial.outcome)
    weights, share = _weights(trial), float(trial.propensity.mean())
    of_treated, of_untreated = (
        _fit_effect(values[arm], effect[arm], weights[arm], settings) for arm in (trial.treated, ~trial.treated)
    )
    return lambda rows: share * of_untreated(rows) + (1 - share) * of_treated(rows)


def _fit_arms(trial: RandomisedTrial, settings: UpliftSettings) -> tuple[Predict, Predict]:
    """Models of the outcome among the treated and among the others."""
    weights, values = _weights(trial), trial.features.values
    treated, untreated = (
        fit_outcome(values[arm], trial.outcome[arm], weights[arm], settings) for arm in (trial.treated, ~trial.treated)
    )
    return treated, untreated


def _weights(trial: RandomisedTrial) -> Values:
    """1 / (probability of the own arm), with mean 1."""
    weights = 1 / np.where(trial.treated, trial.propensity, 1 - trial.propensity)
    return np.asarray(weights / np.mean(weights))


def fit_outcome(values: Floats, outcome: Values, weights: Values, settings: UpliftSettings) -> Predict:
    """Probability of the outcome."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    columns = varying(values)
    trees = HistGradientBoostingClassifier(**_tree_settings(settings, len(outcome)))
    trees.fit(values[:, columns], outcome, sample_weight=weights)
    return lambda rows: np.asarray(trees.predict_proba(rows[:, columns])[:, 1], np.float64)


def _fit_effect(values: Floats, effect: Values, weights: Values, settings: UpliftSettings) -> Predict:
    from sklearn.ensemble import HistGradientBoostingRegressor

    columns = varying(values)
    trees = HistGradientBoostingRegressor(**_tree_settings(settings, len(effect)))
    trees.fit(values[:, columns], effect, sample_weight=weights)
    return lambda rows: np.asarray(trees.predict(rows[:, columns]), np.float64)


def _tree_settings(settings: UpliftSettings, n_rows: int) -> dict[str, Any]:
    return {
        "max_iter": settings.rounds,
        "learning_rate": settings.learning_rate,
        "max_leaf_nodes": settings.leaves,
        "min_samples_leaf": min(settings.min_leaf_rows, max(2, n_rows // 20)),
        "l2_regularization": settings.l2,
        "early_stopping": False,
        "random_state": settings.seed,
    }
