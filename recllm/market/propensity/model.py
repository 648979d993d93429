"""Probabilities from a feature table: boosted trees and a ridge logistic regression, joined and calibrated.

    logit = a * trees + b * linear + c,   a, b >= 0

trees: gradient-boosted (Friedman 2001), which take unknown values as they are. linear: logistic regression with an L2
penalty on normal scores (each column's rank as a quantile of the normal distribution, unknown = 0). a, b and c are
fitted to rows that neither had seen, every row once, in folds of people (stacking, Wolpert 1992), which calibrates.

`backtest` says how good that is: the same fit to all windows but the latest, asked about the latest.

Spend: trees with a Tweedie deviance (Jorgensen 1987), which takes people who spend nothing and people who spend a lot
at once, scaled so that over held-out people the sum is right.

The next order, by a person's usual gap between days with an order: a gap divided by the usual one is a ratio that
people have in common. Of the shop's ratios those count that the person has not outlived:

    ratio > days since the last order / usual gap
    days ahead = ratio * usual gap - days since the last order

Ratios know only people who came back. So their share of days within the horizon is scaled to the probability of an
order within it. The date is the median of the days, none where that lies beyond the horizon; the interval goes from
their 15th to their 85th percentile, which as whole days hold about 80 % of the orders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.arrays import Ints, Values
from recllm.base.errors import DataError
from recllm.base.stats.probabilities import sigmoid
from recllm.learn.models.trees import BoostedTrees, BoostingSettings, grow_trees
from recllm.market.propensity.examples import TO_COUNT, TO_LEARN, Cohort, Examples
from recllm.market.propensity.features import FeatureTable, Floats, count, money
from recllm.shop.data.dataset import DAY, utc
from recllm.shop.data.rhythm import KNOWN_DAYS, ShoppingDays

QUANTILES = 101
"""Quantiles that a column's ranks are read from."""
MAX_LOGIT = 12.0
MIN_SPEND = 0.01
"""Money; less counts as no purchase."""
ORDER_QUANTILES = (0.15, 0.5, 0.85)
"""Of the earliest, the expected and the latest day; see above."""
ALIKE_CASES = 30
"""Past cases that are counted for a person."""
NEVER_DAYS = 1e6
"""Since the last order of people without one."""
CALIBRATION_START = np.array([0.5, 0.5, 0.0])
"""a, b, c before anything is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PropensitySettings(BoostingSettings):
    """How the trees and the logistic regression behind a probability of an action are fitted."""

    column_share: float = 0.5
    """Share of the columns that a split may choose from."""
    ridge: float = 0.005
    """Inverse strength of the logistic regression's penalty."""
    increasing: tuple[str, ...] = ()
    """Features with which the trees' probability may only rise."""
    decreasing: tuple[str, ...] = ()
    """Features with which it may only fall."""
    folds: int = 3
    """Parts that users are dealt into for the calibration."""


@dataclass(frozen=True, eq=False)
class BaseModels:
    """The trees and the logistic regression."""

    columns: NDArray[np.int64]
    """Columns of the table that they read: those that vary."""
    trees: BoostedTrees
    quantiles: Values
    """(QUANTILES, n_columns)."""
    slope: Values
    intercept: float

    def inputs(self, values: Floats) -> Floats:
        """What both read of the table: the used columns, then their normal scores, (n, 2 n_columns)."""
        used = values[:, self.columns]
        return np.concatenate([used, normal_scores(used, self.quantiles).astype(np.float32)], axis=1)

    def logits(self, inputs: Floats) -> Values:
        """trees and linear, (n, 2)."""
        used, scores = np.split(inputs, 2, axis=1)
        both = self.trees.score(used), scores.astype(np.float64) @ self.slope + self.intercept
        return np.clip(np.stack(both, axis=1).astype(np.float64), -MAX_LOGIT, MAX_LOGIT)


@dataclass(frozen=True, eq=False)
class PropensityModel:
    """The base models, joined and calibrated."""

    base: BaseModels
    weights: Values
    """a, b, c."""
    names: tuple[str, ...]
    """Columns that it was learned on, in order, and the group of each."""
    groups: tuple[str, ...]

    def inputs(self, features: FeatureTable) -> FeatureTable:
        """What the model reads of people: each used column and its normal score, by group."""
        names, groups = ([labels[c] for c in self.base.columns] for labels in (self.names, self.groups))
        scores = [f"score of {name}" for name in names]
        return FeatureTable((*names, *scores), (*groups, *groups), self.base.inputs(features.values))

    def logit(self, inputs: Floats) -> Values:
        """(n,), of values as `inputs` gives them; they may have been mixed."""
        return np.asarray(self.base.logits(inputs) @ self.weights[:2] + self.weights[2])

    def probability(self, features: FeatureTable) -> Values:
        """Calibrated, in (0, 1), (n,)."""
        return sigmoid(self.logit(self.base.inputs(features.values)))


def fit_propensity(examples: Examples, as_of: int, settings: PropensitySettings | None = None) -> PropensityModel:
    """The model of all rows. Raises `DataError` for labels that were not known at `as_of`, or too few of them."""
    settings = settings or PropensitySettings()
    examples.check(as_of).check_classes("this prediction")
    logits = cross_fitted(examples.features, examples.label, examples.person, settings)
    base = fit_base_models(examples.features, examples.label, settings)
    weights = calibrate(logits, examples.label)
    return PropensityModel(base, weights, examples.features.names, examples.features.groups)


@dataclass(frozen=True, eq=False)
class Backtest:
    """How the model did on rows that it was not learned from."""

    inside: NDArray[np.bool_]
    """These, among all rows."""
    probability: Values
    label: Values
    cut: NDArray[np.int64] | None
    """Of each of these rows, the latest window's; None where they are people of all windows."""


@dataclass(frozen=True, eq=False)
class CountedModel:
    """Where too few people order to learn from: the mean outcome of the past cases most alike in the usual gap
    and the days since the last order."""

    names: tuple[str, str]
    """The columns of the two."""
    group: str
    usual_gap: float
    """Days, of people whose own is not known."""
    cases: Values
    """(n, 2), logs of the two."""
    label: Values

    @classmethod
    def fit(cls, examples: Examples, as_of: int, _: PropensitySettings) -> CountedModel:
        """Raises `DataError` for labels that were not known at `as_of`, or too few of them."""
        examples.check(as_of).check_classes("this prediction", TO_COUNT)
        names, group = ("gap_median", "days_since"), "rhythm"
        if "target" in examples.features.groups:
            names, group = ("target_gap_median", "target_days_since"), "target"
        gaps = examples.features.column(names[0])
        usual_gap = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1.0
        model = cls(names, group, usual_gap, np.empty((0, 2)), examples.label)
        return replace(model, cases=model.logs(model.inputs(examples.features).values))

    def inputs(self, features: FeatureTable) -> FeatureTable:
        """The two columns."""
        values = np.stack([features.column(name) for name in self.names], axis=1)
        return FeatureTable(self.names, (self.group, self.group), values)

    def logs(self, inputs: Floats) -> Values:
        """(n, 2); who never ordered is far from who did."""
        return np.log1p(np.where(np.isnan(inputs), [self.usual_gap, NEVER_DAYS], inputs).astype(np.float64))

    def probability(self, features: FeatureTable) -> Values:
        """In (0, 1), (n,)."""
        return sigmoid(self.logit(self.inputs(features).values))

    def logit(self, inputs: Floats) -> Values:
        """(n,), of values as `inputs` gives them; they may have been mixed."""
        from scipy.spatial import KDTree

        alike = KDTree(self.cases).query(self.logs(inputs), min(ALIKE_CASES, len(self.cases)))[1]
        happened = self.label[alike].sum(axis=1) + self.label.mean()
        return np.asarray(np.log(happened / (alike.shape[1] + 1 - happened)))


def backtest(
    examples: Examples, as_of: int, settings: PropensitySettings, *, may_count: bool = False
) -> tuple[Backtest, PropensityModel | CountedModel]:
    """The latest window by a model of the earlier ones, where these are too few a third of the people by the others;
    and the same model of all rows. may_count: whether it may count where there are too few to learn from.
    Raises what `fit_propensity` raises, and `DataError` when the other two thirds are too few as well."""
    examples.check(as_of)
    splits = ((examples.window == 0, True), (people_folds(examples.person, 3)[0], False))
    fits = ((fit_propensity, TO_LEARN), (CountedModel.fit, TO_COUNT))[: 1 + may_count]
    for fit_model, minimum in fits:
        for inside, is_latest in splits:
            if not examples.rows(~inside).shortage("", minimum):
                model = fit_model(examples.rows(~inside), as_of, settings)
                probability, cut = model.probability(examples.features.rows(inside)), examples.cut[inside]
                check = Backtest(inside, probability, examples.label[inside], cut if is_latest else None)
                return check, fit_model(examples, as_of, settings)
    examples.check_classes("this prediction", minimum)
    people = len(np.unique(examples.person))
    raise DataError(f"{people} people are too few to learn from two thirds of them and check on the others")


def cross_fitted(
    features: FeatureTable, label: Values, person: NDArray[np.integer], settings: PropensitySettings
) -> Values:
    """The base models' logits of each row by a fit to other people's rows, (n, 2)."""
    logits = np.empty((len(label), 2))
    for inside in people_folds(person, settings.folds, settings.seed):
        base = fit_base_models(features.rows(~inside), label[~inside], settings)
        logits[inside] = base.logits(base.inputs(features.values[inside]))
    return logits


def people_folds(person: NDArray[np.integer], n: int, seed: int = 0) -> list[NDArray[np.bool_]]:
    """Which rows are in each of n folds, all rows of a person in the same one."""
    people, position = np.unique(person, return_inverse=True)
    fold_of = np.random.default_rng(seed).permutation(len(people))[position] % n
    return [fold_of == fold for fold in range(n)]


def fit_base_models(features: FeatureTable, label: Values, settings: PropensitySettings) -> BaseModels:
    from sklearn.linear_model import LogisticRegression

    columns = varying(features.values)
    used, names = features.values[:, columns], [features.names[c] for c in columns]
    directions = [(n in settings.increasing) - (n in settings.decreasing) for n in names]
    trees = grow_trees(used, label, settings, column_share=settings.column_share, directions=directions)
    quantiles = np.nanquantile(used.astype(np.float64), np.linspace(0, 1, QUANTILES), axis=0)
    linear = LogisticRegression(C=settings.ridge, max_iter=1_000).fit(normal_scores(used, quantiles), label)
    return BaseModels(columns, trees, quantiles, linear.coef_[0].astype(np.float64), float(linear.intercept_[0]))


def varying(values: Floats) -> NDArray[np.int64]:
    """Columns with at least two distinct known values."""
    low = np.where(np.isnan(values), np.inf, values).min(axis=0)
    high = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    return np.flatnonzero(high > low)


def normal_scores(values: Floats, quantiles: Values) -> Values:
    """Each value's rank among `quantiles` as a quantile of the normal distribution; 0 where unknown. (n, n_columns).
    Among equal quantiles, as of a count that is mostly 0, the middle one counts."""
    from scipy.special import ndtri

    grid, scores = np.linspace(0, 1, len(quantiles)), np.zeros(values.shape)
    for column, edges in enumerate(quantiles.T):
        x = values[:, column].astype(np.float64)
        below = np.interp(x, edges, grid)
        above = 1 - np.interp(-x, -edges[::-1], grid)
        scores[:, column] = ndtri(np.clip((below + above) / 2, 0.002, 0.998))
    return np.nan_to_num(scores)


def calibrate(logits: Values, label: Values) -> Values:
    """a, b, c of the most likely logit a * logits[:, 0] + b * logits[:, 1] + c.
    a, b >= 0, with a normal prior around 0.5, which decides where few rows do not."""
    from scipy.optimize import minimize

    design = np.column_stack([logits, np.ones(len(logits))])

    def loss(w: Values) -> tuple[float, Values]:
        z, step = design @ w, (w - CALIBRATION_START) * [1, 1, 0]
        value = np.logaddexp(0, z).sum() - label @ z + step @ step
        return float(value), np.asarray(design.T @ (sigmoid(z) - label) + 2 * step)

    bounds = [(0, None), (0, None), (None, None)]
    return np.asarray(minimize(loss, CALIBRATION_START, jac=True, method="L-BFGS-B", bounds=bounds).x, np.float64)


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


def days_until(cohort: Cohort, start: int, end: int) -> Values:
    """Days until the first purchase, infinite without one, (n_users,)."""
    purchases = cohort.purchases(start, end)
    days = np.full(cohort.dataset.n_users, np.inf)
    np.minimum.at(days, purchases.user, (purchases.at - start) / DAY)
    return days


def spent(cohort: Cohort, start: int, end: int) -> Values:
    """Money, (n_users,)."""
    purchases = cohort.purchases(start, end)
    return count(purchases.user, cohort.dataset.n_users, money(purchases))


@dataclass(frozen=True, eq=False)
class OrderDates:
    """How far gaps are from the usual ones, learned from the people of a shop."""

    ratios: Values
    """Gaps divided by their person's usual gap, ascending."""
    usual_gap: float
    """Days, of people whose own is not known: the median of the others."""

    @classmethod
    def learn(cls, past: ShoppingDays) -> OrderDates:
        owner, gap = past.gaps
        is_known = past.n_days >= KNOWN_DAYS
        ratios = (gap / past.usual_gap[owner])[is_known[owner]]
        return cls(np.sort(ratios), float(np.median(past.usual_gap[is_known])) if is_known.any() else np.inf)

    def days(self, past: ShoppingDays, rows: Ints, probability: Values, horizon_days: int) -> Values:
        """Days ahead of the next order of the people of `rows` by `ORDER_QUANTILES`, (3, n); infinite where unknown or
        beyond the horizon. probability: of an order within the horizon, (n,)."""
        usual = np.where(past.n_days >= KNOWN_DAYS, past.usual_gap, self.usual_gap)[rows]
        since, ratios = past.since[rows], np.append(self.ratios, np.inf)
        quantiles = np.array(ORDER_QUANTILES)[:, None]
        with np.errstate(invalid="ignore"):  # infinite days by an infinite gap
            first = np.searchsorted(self.ratios, since / usual, side="right")
            end = np.searchsorted(self.ratios, (since + horizon_days + 0.5) / usual, side="right")
            # of a person who comes within the horizon with less than a quantile's probability it is not read
            share = np.minimum(quantiles / probability, 1)
            days = ratios[first + ((end - first) * share).astype(np.int64)] * usual - since
        days = np.nan_to_num(np.maximum(days - 0.5, 0), nan=np.inf)  # orders count for noon
        return np.where((quantiles <= probability) & (days <= horizon_days), days, np.inf)

    def answers(
        self, past: ShoppingDays, rows: Ints, probability: Values, horizon_days: int, now: int
    ) -> tuple[Values, dict[str, list[Any]]]:
        """What the people of `rows` are ranked by, and their dates by field of `UserPrediction`."""
        days, moment = self.days(past, rows, probability, horizon_days), utc(now)
        dates = [[(moment + timedelta(days=n)).date() if np.isfinite(n) else None for n in c] for c in days.tolist()]
        # without a date those come first who are likeliest to order
        soonest = np.where(np.isfinite(days[1]), -days[1], probability - 1e6)
        return soonest, dict(zip(("earliest", "date", "latest"), dates, strict=True))

    def figures(
        self, past: ShoppingDays, validation: Examples, probability: Values, horizon_days: int
    ) -> dict[str, float]:
        """Of people who ordered within the horizon: days by which the date is off. within_80: how often an order fell
        into the interval. probability: of each row of `validation`."""
        days = self.days(past, validation.person, probability, horizon_days)
        came, horizon = np.isfinite(validation.label), float(horizon_days)
        off = np.abs(np.minimum(days[1], horizon) - validation.label)[came]
        return {"mae_days": float(off.mean()), "within_80": float(covered(days, validation, horizon).mean())}


def covered(days: NDArray[np.float64], people: Examples, horizon_days: float) -> NDArray[np.bool_]:
    """Whose order came on a date from the first to the last of `days`, (3, n), as of `OrderDates.days`; (n,)."""
    days = np.where(days <= horizon_days, days, np.inf)
    day, start, end = (np.floor(people.cut % DAY / DAY + d) for d in (people.label, days[0], days[2]))
    return np.asarray(np.where(np.isfinite(people.label), (day >= start) & (day <= end), np.isinf(days[2])))
