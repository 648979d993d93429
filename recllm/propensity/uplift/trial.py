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
from recllm.propensity.curves import auc
from recllm.propensity.model import fit_parts, people_folds
from recllm.propensity.table import Features
from recllm.settings import PropensitySettings

Values = NDArray[np.float64]

LEAST_OF_AN_ARM = 100
LEAST_OUTCOMES = 20
LEAST_PROPENSITY = 0.02
"""A chance of treatment nearer to 0 or 1 leaves nobody to compare with."""

NOT_RANDOMISED = (
    "uplift needs a trial: who was treated must have been drawn by lot (declare randomised) or by known chances "
    "(give the propensities). Among people chosen by a rule, treated and others differ already, and the difference "
    "would be told as an effect; Complete Journey's campaigns are of this kind. Use recllm predict redeem to say who "
    "responds, or run a campaign with a holdout first"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """features: of n people, as of before the treatment. treated: bool (n,). outcome: float64 (n,) of 0 and 1, what
    came after it. propensity: float64 (n,), each person's chance to be treated."""

    features: Features
    treated: NDArray[np.bool_]
    outcome: Values
    propensity: Values

    @classmethod
    def construct(
        cls,
        features: Features,
        treated: NDArray[np.generic],
        outcome: NDArray[np.generic],
        *,
        randomised: bool = False,
        propensity: NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> Trial:
        """The one door.

        randomised: the shop's word that everybody had the same chance. propensity: known chances, (n,), in (0, 1).
        Raises `PolicyError` without either, or when the features tell who was treated better than the propensities
        allow; `DataError` for arms or outcomes too few, or values that cannot be.
        """
        arm, result = np.asarray(treated, bool), np.asarray(outcome, np.float64)
        if not randomised and propensity is None:
            raise PolicyError(NOT_RANDOMISED)
        _check_values(features, arm, result)
        chance = np.full(len(arm), arm.mean()) if propensity is None else np.asarray(propensity, np.float64)
        if chance.shape != arm.shape or not ((chance >= LEAST_PROPENSITY) & (chance <= 1 - LEAST_PROPENSITY)).all():
            raise DataError(
                f"propensities: one for each of {len(arm)} people, from {LEAST_PROPENSITY} to {1 - LEAST_PROPENSITY}"
            )
        check_assignment(features, arm, chance, seed=seed)
        return cls(features=features, treated=arm, outcome=result, propensity=chance)

    def rows(self, which: NDArray[np.generic]) -> Trial:
        return Trial(
            features=self.features.rows(which),
            treated=self.treated[which],
            outcome=self.outcome[which],
            propensity=self.propensity[which],
        )

    def __len__(self) -> int:
        return len(self.outcome)


def check_assignment(features: Features, treated: NDArray[np.bool_], propensity: Values, *, seed: int = 0) -> float:
    """The AUC with which features tell who was treated, over and above the propensities; near .5 in a true trial.

    A classifier (`recllm.propensity.model`) is cross-fitted on the arms; its scores are compared with those for arms
    drawn anew by the propensities. Raises `PolicyError` when the true arms are told apart by more than chance: more
    than four standard errors, and at least .02, above what the propensities alone would give.
    """
    settings = PropensitySettings(rounds=60, leaves=6, folds=3, seed=seed)
    folds, score = people_folds(np.arange(len(treated)), 3, seed), np.empty(len(treated))
    for fold in range(3):
        out = folds == fold
        parts = fit_parts(features.rows(~out), treated[~out].astype(np.float64), settings)
        score[out] = parts.logits(parts.read(features.values[out])).mean(axis=1)
    found, rng = auc(score, treated), np.random.default_rng(seed)
    drawn = np.array([auc(score, rng.random(len(treated)) < propensity) for _ in range(200)])
    excess = found - float(np.nanmean(drawn))
    if excess > max(0.02, 4 * float(np.nanstd(drawn))):
        raise PolicyError(
            f"treatment was not drawn as declared: what is known of people beforehand tells who was treated "
            f"(AUC {found:.3f}, {float(np.nanmean(drawn)):.3f} by the declared chances). {NOT_RANDOMISED}"
        )
    return found


def _check_values(features: Features, treated: NDArray[np.bool_], outcome: Values) -> None:
    if not len(features) == len(treated) == len(outcome):
        raise DataError(f"a trial of {len(features)} people has {len(treated)} treatments and {len(outcome)} outcomes")
    if not np.isin(outcome, (0, 1)).all():
        raise DataError("a trial's outcome is 0 or 1 for each person")
    arms = (int(treated.sum()), int((~treated).sum()))
    if min(arms) < LEAST_OF_AN_ARM:
        raise DataError(
            f"a trial of {arms[0]} treated and {arms[1]} others: at least {LEAST_OF_AN_ARM} each are needed"
        )
    for name, arm in (("treated", treated), ("others", ~treated)):
        yes = int(outcome[arm].sum())
        if min(yes, int(arm.sum()) - yes) < LEAST_OUTCOMES:
            raise DataError(
                f"{name}: {yes} of {int(arm.sum())} had the outcome; at least {LEAST_OUTCOMES} of each needed"
            )
