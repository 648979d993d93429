"""What uplift may be learned from: who was treated, what came of it, and how the treated were chosen.

An effect of a treatment can be read off data only when who is treated does not depend on what is to come: drawn by lot
(a trial), or chosen by known chances (propensities). Nothing here guesses propensities. Campaigns that a shop mailed to
whom it liked, as those of Complete Journey, say who redeems, not whom the mailing moved; they are refused.

How much a treatment changes each person's chance: the S-, T- and X-learner (Künzel et al. 2019).

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

from recllm.errors import DataError, PolicyError, UsageError
from recllm.propensity.features import FeatureTable, Floats
from recllm.propensity.model import cross_fitted, people_folds, varying
from recllm.propensity.quality import auc
from recllm.settings import PropensitySettings, UpliftSettings

Values = NDArray[np.float64]
Predict = Callable[[Floats], Values]
"""(n,), of rows of a feature table."""

MIN_PEOPLE_OF_AN_ARM = 100
MIN_OUTCOMES = 20
MIN_PROPENSITY = 0.02
"""A propensity nearer to 0 or 1 leaves nobody to compare with."""

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
    """(n,), 0 or 1: what came after the treatment."""
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

    predict: Predict

    def uplift(self, features: FeatureTable) -> Values:
        """In [-1, 1], (n,)."""
        return np.clip(self.predict(features.values), -1.0, 1.0)


def fit_uplift(
    trial: RandomisedTrial, learner: UpliftLearner = UpliftLearner.X, settings: UpliftSettings | None = None
) -> UpliftModel:
    """One learner on the whole trial."""
    fits = {UpliftLearner.S: _fit_s, UpliftLearner.T: _fit_t, UpliftLearner.X: _fit_x}
    return UpliftModel(fits[learner](trial, settings or UpliftSettings()))


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
    probability = fit_outcome(values, trial.outcome, _weights(trial), settings)

    def uplift(rows: Floats) -> Values:
        treated, untreated = (np.hstack([rows, np.full((len(rows), 1), arm, np.float32)]) for arm in (1, 0))
        return probability(treated) - probability(untreated)

    return uplift


def _fit_t(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    treated, untreated = _fit_arms(trial, trial.outcome, settings)
    return lambda rows: treated(rows) - untreated(rows)


def _fit_x(trial: RandomisedTrial, settings: UpliftSettings) -> Predict:
    # each person's probability in the other arm, by models of other people
    values, other_arm = trial.features.values, np.empty(len(trial))
    for inside in people_folds(np.arange(len(trial)), settings.folds, settings.seed + 1):
        others = trial.rows(~inside)
        treated, untreated = _fit_arms(others, others.outcome, settings)
        other_arm[inside] = np.where(trial.treated[inside], untreated(values[inside]), treated(values[inside]))
    effect = np.where(trial.treated, trial.outcome - other_arm, other_arm - trial.outcome)
    of_treated, of_untreated = _fit_arms(trial, effect, settings, binary=False)
    share = float(trial.propensity.mean())
    return lambda rows: share * of_untreated(rows) + (1 - share) * of_treated(rows)


def _fit_arms(
    trial: RandomisedTrial, target: Values, settings: UpliftSettings, *, binary: bool = True
) -> list[Predict]:
    """Models of `target` (n,) among the treated and among the others."""
    weights, values = _weights(trial), trial.features.values
    return [
        fit_outcome(values[arm], target[arm], weights[arm], settings, binary=binary)
        for arm in (trial.treated, ~trial.treated)
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
