"""Chances from a feature table: boosted trees and a ridge logistic regression, joined and calibrated on held-out rows.

    logit = a * trees + b * linear + c,   a, b >= 0

trees: gradient-boosted on histograms (Friedman 2001; scikit-learn's), which take unknown values as they are. linear:
logistic regression with an L2 penalty on normal scores (each column's rank as a quantile of the normal distribution,
unknown = 0). a, b and c are fitted to rows that neither had seen (stacking, Wolpert 1992; with one model it would be
Platt's scaling), so the result is calibrated on them: every row once, in folds of people.

`backtest` says how good that is: the same fit to all windows but the latest, asked about the latest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.errors import DataError
from recllm.propensity.examples import Examples
from recllm.propensity.table import Features, Floats
from recllm.settings import PropensitySettings

Values = NDArray[np.float64]

_GRID = 101
"""Quantiles that a column's ranks are read from."""
_MOST_LOGIT = 12.0


@dataclass(frozen=True, eq=False)
class Parts:
    """The two fitted parts. columns: int64, which columns of the table they read: those that vary."""

    columns: NDArray[np.int64]
    trees: Any
    quantiles: Values
    """(_GRID, n_columns)."""
    slope: Values
    intercept: float

    def read(self, values: Floats) -> Floats:
        """What the parts read of rows of the table: the used columns, then their normal scores, (n, 2 n_columns)."""
        used = values[:, self.columns]
        return np.concatenate([used, normal_scores(used, self.quantiles).astype(np.float32)], axis=1)

    def logits(self, read: Floats) -> Values:
        """trees and linear, (n, 2), of what `read` gave."""
        used, scores = np.split(read, 2, axis=1)
        linear = scores.astype(np.float64) @ self.slope + self.intercept
        return np.stack([_trees_logit(self.trees, used), np.clip(linear, -_MOST_LOGIT, _MOST_LOGIT)], axis=1)


@dataclass(frozen=True, eq=False)
class ChanceModel:
    """weights: a, b, c. names, groups: columns that it was learned on, in order."""

    parts: Parts
    weights: Values
    names: tuple[str, ...]
    groups: tuple[str, ...]

    def read(self, features: Features) -> Features:
        """What the model reads of people: each used column, and its normal score, in the column's group."""
        names, groups = ([whole[c] for c in self.parts.columns] for whole in (self.names, self.groups))
        scores = [f"score of {name}" for name in names]
        return Features((*names, *scores), (*groups, *groups), self.parts.read(features.values))

    def logit(self, read: Floats) -> Values:
        """(n,), of the values of what `read` gave; they may have been mixed."""
        return np.asarray(self.parts.logits(read) @ self.weights[:2] + self.weights[2])

    def probability(self, features: Features) -> Values:
        """Calibrated, in (0, 1), (n,)."""
        return sigmoid(self.logit(self.parts.read(features.values)))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that were predicted without having been learned from. rows: (n,), of the examples; probability, label: (n,).

    whole_window: whether they are a later window than all that was learned from, and not only other people.
    """

    rows: NDArray[np.int64]
    probability: Values
    label: Values
    whole_window: bool


def fit_chances(examples: Examples, as_of: int, settings: PropensitySettings | None = None) -> ChanceModel:
    """The model of all rows. Raises `DataError` for labels that were not known at `as_of`, or too few of them."""
    settings = settings or PropensitySettings()
    examples.check(as_of).check_classes("this prediction")
    raw = cross_fitted(examples, settings)
    parts = fit_parts(examples.features, examples.label, settings)
    weights = stack(raw, examples.label)
    return ChanceModel(parts, weights, examples.features.names, examples.features.groups)


def backtest(examples: Examples, as_of: int, settings: PropensitySettings | None = None) -> HeldOut:
    """The latest window by a model of the earlier ones; where these are too few, people by other people.

    Raises what `fit_chances` raises.
    """
    settings = settings or PropensitySettings()
    examples.check(as_of).check_classes("this prediction")
    label, latest = examples.label, examples.window == 0
    if examples.rows(~latest).learnable:
        rows = np.flatnonzero(latest)
        model = fit_chances(examples.rows(~latest), as_of, settings)
        return HeldOut(rows, model.probability(examples.features.rows(rows)), label[rows], True)
    raw = cross_fitted(examples, settings)
    return HeldOut(np.arange(len(label)), _cross_calibrated(raw, label, examples.person, settings.seed), label, False)


def held_out(examples: Examples) -> tuple[NDArray[np.bool_], bool]:
    """The rows of the latest window, and True; where the others are too few to learn from, a third of the people.

    Raises `DataError` when the other two thirds are too few as well.
    """
    latest = examples.window == 0
    if examples.rows(~latest).learnable:
        return latest, True
    third = people_folds(examples.person, 3) == 0
    if not examples.rows(~third).learnable:
        people = len(np.unique(examples.person))
        raise DataError(f"{people} people are too few to learn from two thirds of them and check on the others")
    return third, False


def cross_fitted(examples: Examples, settings: PropensitySettings) -> Values:
    """The parts' logits of each row by a fit to other people's rows, (n, 2)."""
    folds, raw = people_folds(examples.person, settings.folds, settings.seed), np.empty((len(examples), 2))
    for fold in range(settings.folds):
        out = folds == fold
        parts = fit_parts(examples.features.rows(~out), examples.label[~out], settings)
        raw[out] = parts.logits(parts.read(examples.features.values[out]))
    return raw


def people_folds(person: NDArray[np.integer], n: int, seed: int = 0) -> NDArray[np.int64]:
    """A number from 0 to n - 1 for each row, the same for all rows of a person."""
    known, place = np.unique(person, return_inverse=True)
    return np.asarray(np.random.default_rng(seed).permutation(len(known))[place] % n, np.int64)


def fit_parts(features: Features, label: Values, settings: PropensitySettings) -> Parts:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    columns = varying(features.values)
    used = features.values[:, columns]
    names = [features.names[c] for c in columns]
    trees = HistGradientBoostingClassifier(
        max_iter=settings.rounds,
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.leaves,
        min_samples_leaf=min(settings.min_leaf_rows, max(2, len(label) // 20)),
        l2_regularization=settings.l2,
        max_features=settings.column_share,
        monotonic_cst=[(n in settings.increasing) - (n in settings.decreasing) for n in names],
        early_stopping=False,
        random_state=settings.seed,
    ).fit(used, label)
    quantiles = column_quantiles(used)
    linear = LogisticRegression(C=settings.ridge, max_iter=1_000).fit(normal_scores(used, quantiles), label)
    return Parts(columns, trees, quantiles, linear.coef_[0].astype(np.float64), float(linear.intercept_[0]))


def varying(values: Floats) -> NDArray[np.int64]:
    """Columns with at least two distinct known values: the others tell nobody apart."""
    low, high = (
        f(np.where(np.isnan(values), fill, values), axis=0) for f, fill in ((np.min, np.inf), (np.max, -np.inf))
    )
    return np.flatnonzero(high > low)


def column_quantiles(values: Floats) -> Values:
    """(_GRID, n_columns), of the known values."""
    return np.asarray(np.nanquantile(values.astype(np.float64), np.linspace(0, 1, _GRID), axis=0))


def normal_scores(values: Floats, quantiles: Values) -> Values:
    """Each value's rank among `quantiles` as a quantile of the normal distribution; 0 where unknown. (n, n_columns).

    Among equal quantiles, as of a count that is mostly 0, the middle one counts.
    """
    from scipy.special import ndtri

    grid, out = np.linspace(0, 1, len(quantiles)), np.zeros(values.shape)
    for column, edges in enumerate(quantiles.T):
        x = values[:, column].astype(np.float64)
        below = np.interp(x, edges, grid)
        above = 1 - np.interp(-x, -edges[::-1], grid)
        out[:, column] = ndtri(np.clip((below + above) / 2, 0.002, 0.998))
    return np.nan_to_num(out)


def stack(raw: Values, label: Values) -> Values:
    """a, b, c of the most likely logit a * raw[:, 0] + b * raw[:, 1] + c, with a, b >= 0 and a little held to 0.5."""
    from scipy.optimize import minimize

    design = np.column_stack([raw, np.ones(len(raw))])

    def loss(w: Values) -> tuple[float, Values]:
        z = design @ w
        held = w - _START
        value = np.logaddexp(0, z).sum() - label @ z + held[:2] @ held[:2]
        return float(value), np.asarray(design.T @ (sigmoid(z) - label) + 2 * held * [1, 1, 0])

    found = minimize(loss, _START, jac=True, method="L-BFGS-B", bounds=[(0, None), (0, None), (None, None)])
    return np.asarray(found.x, np.float64)


_START = np.array([0.5, 0.5, 0.0])


def sigmoid(logit: Values) -> Values:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


def _cross_calibrated(raw: Values, label: Values, person: NDArray[np.integer], seed: int) -> Values:
    """Each row's probability by weights fitted to the rows of other people."""
    folds, out = people_folds(person, 5, seed), np.empty(len(raw))
    for fold in range(5):
        inside = folds == fold
        weights = stack(raw[~inside], label[~inside])
        out[inside] = sigmoid(raw[inside] @ weights[:2] + weights[2])
    return out


def _trees_logit(trees: Any, values: Floats) -> Values:
    return np.asarray(np.clip(trees.decision_function(values), -_MOST_LOGIT, _MOST_LOGIT), np.float64)
