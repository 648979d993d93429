"""What uplift may be learned from: who was treated, what came of it, and how the treated were chosen.

An effect of a treatment can be read off data only when who is treated does not depend on what is to come: drawn by lot
(a trial), or chosen by known chances (propensities). Nothing here guesses propensities. Campaigns that a shop mailed to
whom it liked, as those of Complete Journey, say who redeems, not whom the mailing moved; they are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.errors import DataError, PolicyError
from recllm.propensity.features import FeatureTable
from recllm.propensity.model import fit_base_models, people_folds
from recllm.propensity.quality import auc
from recllm.settings import PropensitySettings

Values = NDArray[np.float64]

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
    folds, score = people_folds(np.arange(len(treated)), 3, seed), np.empty(len(treated))
    for fold in range(3):
        inside = folds == fold
        base = fit_base_models(features.rows(~inside), treated[~inside].astype(np.float64), settings)
        score[inside] = base.logits(base.inputs(features.values[inside])).mean(axis=1)
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
