"""What a person will spend: chance of a purchase times what a buyer spends (two-part model, Duan et al. 1983).

The chance is that of `recllm.propensity.chance`; the second part, gradient boosting with a gamma deviance on buyers
alone, predicts a mean and needs no transformation back. It is scaled so that over held-out people the sum is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset, utc
from recllm.errors import DataError, NothingToDo
from recllm.propensity.chance import learned, left_out
from recllm.propensity.curves import quality
from recllm.propensity.examples import Examples
from recllm.propensity.features import money
from recllm.propensity.model import ChanceModel, fit_chances, held_out, people_folds, varying
from recllm.propensity.prediction import Kind, Predicted, Prediction
from recllm.propensity.question import Question, ids_of, known, ordered
from recllm.propensity.table import Features, Floats
from recllm.settings import PropensitySettings

Values = NDArray[np.float64]
LEAST_SPEND = 0.01


@dataclass(frozen=True, eq=False)
class ValueModel:
    """chance: of any spend. columns, trees, scale: what a buyer spends."""

    chance: ChanceModel
    columns: NDArray[np.int64]
    trees: Any
    scale: float

    def read(self, features: Features) -> Features:
        """What both parts read of people: what the chance reads, then the columns of the spend."""
        names, groups = ([whole[c] for c in self.columns] for whole in (features.names, features.groups))
        raw = Features(tuple(f"spend by {n}" for n in names), tuple(groups), features.values[:, self.columns])
        return self.chance.read(features).beside(raw)

    def log_value(self, read: Floats) -> Values:
        """Log of the expected spend, (n,), of the values of what `read` gave."""
        chance, spend = np.split(read, [read.shape[1] - len(self.columns)], axis=1)
        of_buyer = self.scale * np.maximum(self.trees.predict(spend), LEAST_SPEND)
        return np.asarray(np.log(of_buyer) - np.logaddexp(0, -self.chance.logit(chance)))

    def value(self, features: Features) -> Values:
        """Expected money within the horizon, above 0, (n,)."""
        return np.asarray(np.exp(self.log_value(self.read(features).values)))


def predict_value(question: Question) -> Prediction:
    """Raises `DataError` also for a log without prices."""
    if not np.isfinite(question.learn.events.price).any():
        raise DataError("the log has no prices, so spend cannot be predicted; load events with a price column")
    examples = learned(question, known, _spent_of(question))
    happened = examples.with_label(examples.label > LEAST_SPEND).check_classes("the value")
    inside, whole_window = held_out(happened)
    model = fit_value(examples, question.learn.as_of, question.seed)
    earlier = fit_value(examples.rows(~inside), question.learn.as_of, question.seed)
    asked = known(question.ask, question.ask.as_of)
    rows = np.flatnonzero(asked)
    if not len(rows):
        raise NothingToDo("nobody to predict: nobody has a past that counts")
    judged = examples.rows(inside)
    return Prediction(
        kind=Kind.VALUE,
        horizon_days=question.horizon_days,
        as_of=utc(question.ask.as_of),
        meaning=question.meaning(Kind.VALUE),
        people=_people(question, model, examples, rows),
        quality=quality(earlier.chance.probability(judged.features), happened.label[inside]),
        checked=question.checked(examples.cut[inside] if whole_window else None),
        figures=_figures(judged, earlier.value(judged.features)),
        left_out=left_out(asked),
    )


def fit_value(examples: Examples, as_of: int, seed: int = 0) -> ValueModel:
    """Both parts. examples.label: money, 0 for who does not buy; what is below 0 counts as 0."""
    label = np.maximum(examples.label, 0)
    chance = fit_chances(examples.with_label(label > LEAST_SPEND), as_of, PropensitySettings(seed=seed))
    buyers = examples.rows(label > LEAST_SPEND)
    columns = varying(buyers.features.values)
    values, spent = buyers.features.values[:, columns], buyers.label
    folds, guess = people_folds(buyers.person, 3, seed), np.empty(len(buyers))
    for fold in range(3):
        out = folds == fold
        guess[out] = _spend_trees(values[~out], spent[~out], seed).predict(values[out])
    scale = float(spent.sum() / max(guess.sum(), LEAST_SPEND))
    return ValueModel(chance, columns, _spend_trees(values, spent, seed), scale)


def _spend_trees(values: Floats, spent: Values, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        loss="gamma",
        max_iter=120,
        learning_rate=0.05,
        max_leaf_nodes=8,
        min_samples_leaf=min(40, max(2, len(spent) // 20)),
        l2_regularization=5.0,
        max_features=0.5,
        early_stopping=False,
        random_state=seed,
    ).fit(values, spent)


def _spent_of(question: Question) -> Any:
    def spent(dataset: Dataset, start: int, end: int) -> Values:
        window = dataset.between(start, end)
        window = window.select(question.wanted(dataset)[window.item]) if question.aimed else window
        return np.bincount(window.user, money(window), minlength=dataset.n_users).astype(np.float64)

    return spent


def _figures(judged: Examples, value: Values) -> dict[str, float]:
    """Mean absolute errors, and of "as much as in the last 28 days"; expected over real money in all."""
    last = np.nan_to_num(judged.features.column("spend_28").astype(np.float64))
    return {
        "mae": float(np.abs(value - judged.label).mean()),
        "mae_of_last_28_days": float(np.abs(last - judged.label).mean()),
        "expected_over_spent": float(value.sum() / max(judged.label.sum(), LEAST_SPEND)),
    }


def _people(
    question: Question, model: ValueModel, examples: Examples, rows: NDArray[np.int64]
) -> tuple[Predicted, ...]:
    table = question.table()(question.ask, question.ask.as_of).rows(rows)
    chance, value = model.chance.probability(table), model.value(table)
    why = question.answers(model.log_value, model.read, examples.features, table, "spend")
    names = ids_of(question.ask, rows)
    return tuple(
        Predicted(user_id=names[n], probability=float(chance[n]), value=float(value[n]), reasons=why[n])
        for n in ordered(question.ask, rows, value)
    )
