"""Trials, from which effects are learned: people who were treated or not, their features beforehand, their outcomes.

Who is treated was drawn at random or by known chances (propensities), which nothing here guesses: see `NOT_RANDOMISED`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Mask, Values
from recllm.base.errors import DataError, PolicyError
from recllm.base.stats.probabilities import auc
from recllm.market.propensity.coupons import read_texts
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.model import PropensitySettings, cross_fitted, fit_base_models

NEEDED = ("user_id", "treated", "outcome")
"""Columns of a trial's table; `propensity` may be there too."""
MIN_PEOPLE_OF_A_GROUP = 100
MIN_OUTCOMES = 20
MIN_PROPENSITY = 0.02
"""A propensity nearer to 0 or 1 leaves no one to compare with."""
NOT_RANDOMISED = (
    "uplift needs a trial: who was treated must have been drawn at random (declare randomised) or by known chances "
    "(give the propensities). Among people chosen by a rule, treated and others differ already, and the difference "
    "would look like an effect; Complete Journey's campaigns are of this kind. Use recllm predict redeem to say who "
    "responds, or run a campaign with a holdout first"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """n people, each treated or not."""

    features: FeatureTable
    """As of before the treatment."""
    treated: Mask
    """(n,)"""
    outcome: Values
    """(n,), 0 or 1."""
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
    ) -> Trial:
        """treated, outcome: (n,), 0 or 1. randomised: the shop's word that everybody had the same probability.
        propensity: known ones, (n,), in (0, 1).

        Raises `PolicyError` without either, or when the features tell who was treated better than the propensities
        allow; `DataError` for people or outcomes too few, or values that cannot be.
        """
        is_treated, result = np.asarray(treated, bool), np.asarray(outcome, np.float64)
        n = len(is_treated)
        if not len(features) == n == len(result):
            raise DataError(f"a trial of {len(features)} people has {n} treatments and {len(result)} outcomes")
        if not np.isin(result, (0, 1)).all():
            raise DataError("a trial's outcome is 0 or 1 for each person")
        if not randomised and propensity is None:
            raise PolicyError(NOT_RANDOMISED)
        for group, inside in (("treated", is_treated), ("not treated", ~is_treated)):
            people, happened = int(inside.sum()), int(result[inside].sum())
            if people < MIN_PEOPLE_OF_A_GROUP:
                raise DataError(
                    f"{people} people of the trial are {group}; at least {MIN_PEOPLE_OF_A_GROUP} are needed. Run the "
                    "trial longer"
                )
            if min(happened, people - happened) < MIN_OUTCOMES:
                raise DataError(
                    f"the outcome is 1 for {happened:,} of {people:,} people who are {group}; at least {MIN_OUTCOMES} "
                    "of 0 and of 1 are needed. Take a more frequent outcome, or run the trial longer"
                )
        chance = np.full(n, is_treated.mean()) if propensity is None else np.asarray(propensity, np.float64)
        if chance.shape != is_treated.shape or not (np.abs(chance - 0.5) <= 0.5 - MIN_PROPENSITY).all():
            raise DataError(
                f"propensities: one for each of {n} people, from {MIN_PROPENSITY} to {1 - MIN_PROPENSITY:g}"
            )
        check_assignment(features, is_treated, chance, seed=seed)
        return cls(features=features, treated=is_treated, outcome=result, propensity=chance)

    def __len__(self) -> int:
        return len(self.outcome)

    def rows(self, which: NDArray[np.generic]) -> Trial:
        """These people only: a mask or row numbers."""
        columns = {f.name: getattr(self, f.name)[which] for f in fields(self) if f.name != "features"}
        return Trial(features=self.features.rows(which), **columns)


def check_assignment(features: FeatureTable, treated: Mask, propensity: Values, *, seed: int = 0) -> float:
    """The AUC with which features tell who was treated, over and above the propensities; near .5 in a true trial.

    The scores of a cross-fitted classifier are compared with those for treatments drawn again by the propensities.
    Raises `PolicyError`, which names the clearest feature, when the AUC is above what these give by more than chance:
    by four standard errors, and at least .02.
    """
    settings = PropensitySettings(rounds=60, leaves=6, folds=3, seed=seed)
    score = cross_fitted(features, treated.astype(np.float64), np.arange(len(treated)), settings).mean(axis=1)
    measured, rng = auc(score, treated), np.random.default_rng([seed, len(treated)])
    drawn = np.array([auc(score, rng.random(len(treated)) < propensity) for _ in range(200)])
    expected = float(np.nanmean(drawn))
    if measured - expected > max(0.02, 4 * float(np.nanstd(drawn))):
        base = fit_base_models(features, treated.astype(np.float64), settings)
        clearest = features.groups[base.columns[int(np.argmax(base.trees.booster.feature_importance("gain")))]]
        raise PolicyError(
            "treatment was not drawn as declared: what is known of people beforehand predicts who was treated, most "
            f"of all {clearest} (AUC {measured:.3f}, {expected:.3f} by the declared chances). {NOT_RANDOMISED}"
        )
    return measured


def read_trial(file: Path, pseudonyms: Callable[[Sequence[str]], list[str]] | None = None) -> pl.DataFrame:
    """The table of a trial in a CSV, read as `read_texts` does.
    Raises `DataError` for an empty one, a missing column, a person twice, or a value that is no number."""
    table = read_texts(file, pseudonyms)
    missing = [name for name in NEEDED if name not in table.columns]
    if missing or not table.height:
        what = f"missing column {', '.join(missing)}; found {', '.join(table.columns)}" if missing else "has no rows"
        raise DataError(f"{file}: {what}; a trial has {', '.join(NEEDED)} of each person")
    numbers = [name for name in ("treated", "outcome", "propensity") if name in table.columns]
    table = table.with_columns(pl.col(numbers).str.strip_chars().cast(pl.Float64, strict=False))
    if table.select(pl.any_horizontal(pl.col(numbers).is_null())).to_series().any():
        raise DataError(f"{file}: {', '.join(numbers)} must be numbers in every row")
    if not table["treated"].is_in([0.0, 1.0]).all() or table["user_id"].n_unique() != table.height:
        raise DataError(f"{file}: treated is 0 or 1, and each person stands in it once")
    return table
