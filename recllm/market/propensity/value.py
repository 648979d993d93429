"""What a person will spend within the horizon: trees with a Tweedie deviance (Jorgensen 1987), which takes the people
who spend nothing and those who spend a lot at once. It is scaled so that over held-out people the sum is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.learn.models.trees import BoostedTrees, grow_trees
from recllm.market.propensity.examples import Cohort, Examples
from recllm.market.propensity.features import FeatureTable, Floats, count, money
from recllm.market.propensity.model import PropensitySettings, Values, people_folds

MIN_SPEND = 0.01
"""Money; less counts as no purchase."""


def spent(cohort: Cohort, start: int, end: int) -> Values:
    """Money, (n_users,)."""
    purchases = cohort.purchases(start, end)
    return count(purchases.user, cohort.dataset.n_users, money(purchases))


@dataclass(frozen=True, eq=False)
class SpendModel:
    """The expected spend of anyone with the same features."""

    trees: BoostedTrees
    """Of the log of it."""
    scale: float

    @classmethod
    def fit(cls, examples: Examples, seed: int) -> SpendModel:
        """examples.label: money; what is below 0 counts as 0."""
        settings = PropensitySettings(rounds=150, learning_rate=0.05, leaves=8, min_leaf_rows=40, l2=5.0, seed=seed)
        values, label = examples.features.values, np.maximum(examples.label, 0)

        def grown(rows: NDArray[np.bool_] | slice) -> BoostedTrees:
            return grow_trees(values[rows], label[rows], settings, objective="tweedie", column_share=0.5)

        expected = sum(
            float(np.exp(grown(~inside).score(values[inside])).sum())
            for inside in people_folds(examples.person, 3, seed)
        )
        return cls(grown(slice(None)), float(label.sum()) / max(expected, MIN_SPEND))

    def log_value(self, values: Floats) -> Values:
        """Log of the expected money, (n,), of rows of the table's values."""
        return np.asarray(self.trees.score(values) + np.log(max(self.scale, 1e-9)))

    def value(self, features: FeatureTable) -> Values:
        """Expected money within the horizon, above 0, (n,)."""
        return np.asarray(np.exp(self.log_value(features.values)))

    def figures(self, validation: Examples) -> dict[str, float]:
        """Mean absolute errors, and of "as much as in the last 28 days"; expected over real money in all."""
        value = self.value(validation.features)
        last = np.nan_to_num(validation.features.column("spend_28").astype(np.float64))
        return {
            "mae": float(np.abs(value - validation.label).mean()),
            "mae_of_last_28_days": float(np.abs(last - validation.label).mean()),
            "expected_over_spent": float(value.sum() / max(validation.label.sum(), MIN_SPEND)),
        }
