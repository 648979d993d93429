"""What a person will spend: probability of a purchase times what a buyer spends (two-part model, Duan et al. 1983).

The probability is that of `propensity.model`; the second part, gradient boosting with a gamma deviance on buyers
alone, predicts a mean and needs no transformation back. It is scaled so that over held-out people the sum is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.learn.models.trees import BoostedTrees, grow_trees
from recllm.market.propensity.examples import Cohort, Examples
from recllm.market.propensity.features import FeatureTable, Floats, count, money
from recllm.market.propensity.model import (
    PropensityModel,
    Values,
    fit_propensity,
    people_folds,
    validation_rows,
    varying,
)
from recllm.market.propensity.parameters import PropensitySettings
from recllm.market.propensity.prediction import Prediction
from recllm.market.propensity.task import Answer, PredictionTask

MIN_SPEND = 0.01
"""Money; less counts as no purchase."""


@dataclass(frozen=True, eq=False)
class ValueModel:
    """Both parts."""

    propensity: PropensityModel
    """Of any spend."""
    columns: NDArray[np.int64]
    """What a buyer spends: the columns that the trees read."""
    trees: BoostedTrees
    """Of the log of it."""
    scale: float

    def inputs(self, features: FeatureTable) -> FeatureTable:
        """What both parts read of people: what the propensity reads, then the columns of the spend."""
        names = tuple(f"spend by {features.names[c]}" for c in self.columns)
        groups = tuple(features.groups[c] for c in self.columns)
        return self.propensity.inputs(features).with_columns(
            FeatureTable(names, groups, features.values[:, self.columns])
        )

    def log_value(self, inputs: Floats) -> Values:
        """Log of the expected spend, (n,), of values as `inputs` gives them."""
        propensity, spend = np.split(inputs, [inputs.shape[1] - len(self.columns)], axis=1)
        of_buyer = self.scale * np.maximum(np.exp(self.trees.score(spend)), MIN_SPEND)
        return np.asarray(np.log(of_buyer) - np.logaddexp(0, -self.propensity.logit(propensity)))

    def value(self, features: FeatureTable) -> Values:
        """Expected money within the horizon, above 0, (n,)."""
        return np.asarray(np.exp(self.log_value(self.inputs(features).values)))


def learn_value(task: PredictionTask) -> Answer:
    """Raises `DataError` also for a log without prices."""
    if not np.isfinite(task.learn.dataset.events.price).any():
        raise DataError("the log has no prices, so spend cannot be predicted; load events with a price column")
    examples, as_of = task.examples(_spent, Cohort.with_history), task.learn.dataset.as_of
    bought = examples.with_label(examples.label > MIN_SPEND).check_classes("the value")
    inside, later_window = validation_rows(bought)
    model = fit_value(examples, as_of, task.settings)
    earlier = fit_value(examples.rows(~inside), as_of, task.settings)
    validation = examples.rows(inside)
    past_probability = earlier.propensity.probability(validation.features)
    figures = _figures(validation, earlier.value(validation.features))

    def answer(query: PredictionTask) -> Prediction:
        table, rows, left_out = query.with_past(query.ask.with_history(query.now))
        probability, value = model.propensity.probability(table), model.value(table)
        reasons = query.reasons(model.log_value, model.inputs, examples.features, table, "spend")
        return query.prediction(
            query.people(rows, value, reasons, probability=probability.tolist(), value=value.tolist()),
            past_probability,
            bought.label[inside],
            validation.cut if later_window else None,
            figures=figures,
            left_out=left_out,
        )

    return answer


def fit_value(examples: Examples, as_of: int, settings: PropensitySettings) -> ValueModel:
    """Both parts. examples.label: money, 0 for who does not buy; what is below 0 counts as 0."""
    label = np.maximum(examples.label, 0)
    propensity = fit_propensity(examples.with_label(label > MIN_SPEND), as_of, settings)
    buyers = examples.rows(label > MIN_SPEND)
    columns = varying(buyers.features.values)
    values, spent = buyers.features.values[:, columns], buyers.label
    expected = np.empty(len(buyers))
    for inside in people_folds(buyers.person, 3, settings.seed):
        trees = _spend_trees(values[~inside], spent[~inside], settings.seed)
        expected[inside] = np.exp(trees.score(values[inside]))
    scale = float(spent.sum() / max(expected.sum(), MIN_SPEND))
    return ValueModel(propensity, columns, _spend_trees(values, spent, settings.seed), scale)


def _spend_trees(values: Floats, spent: Values, seed: int) -> BoostedTrees:
    settings = PropensitySettings(rounds=120, learning_rate=0.05, leaves=8, min_leaf_rows=40, l2=5.0, seed=seed)
    return grow_trees(values, spent, settings, objective="gamma", column_share=0.5)


def _spent(cohort: Cohort, start: int, end: int) -> Values:
    purchases = cohort.purchases(start, end)
    return count(purchases.user, cohort.dataset.n_users, money(purchases))


def _figures(validation: Examples, value: Values) -> dict[str, float]:
    """Mean absolute errors, and of "as much as in the last 28 days"; expected over real money in all."""
    last = np.nan_to_num(validation.features.column("spend_28").astype(np.float64))
    return {
        "mae": float(np.abs(value - validation.label).mean()),
        "mae_of_last_28_days": float(np.abs(last - validation.label).mean()),
        "expected_over_spent": float(value.sum() / max(validation.label.sum(), MIN_SPEND)),
    }
