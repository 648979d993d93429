"""When a person orders next: a discrete-time survival model (Singer and Willett 1993) by the same trees.

    hazard(k) = P(the next order falls into interval k | none before it, the person)
    S(t) = product of (1 - hazard) over the intervals before t, with a constant rate inside of an interval

A past window gives a person one row per interval until the next order or the horizon's end, so people without an order
are censored. The date is the median of the person's distribution, none beyond the horizon; the interval goes from its
15th to its 85th percentile, which as whole days hold 80 % of the orders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.stats.probabilities import sigmoid
from recllm.market.propensity.examples import Cohort, Examples
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.model import PropensityModel, PropensitySettings, Values, fit_propensity
from recllm.shop.data.dataset import DAY, utc

MAX_ROWS = 60_000
_EDGES = (1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 56, 84, 112, 168, 224, 336)
REACH = 0.35
"""How far from .5 the percentiles of the interval lie: dates are a day wide, so it holds four fifths of the orders."""
INTERVAL = "interval"
"""The group of the columns that say which interval a row is about: no fact of a person."""


def days_until(cohort: Cohort, start: int, end: int) -> Values:
    """Days until the first purchase, infinite without one, (n_users,)."""
    purchases = cohort.purchases(start, end)
    days = np.full(cohort.dataset.n_users, np.inf)
    np.minimum.at(days, purchases.user, (purchases.at - start) / DAY)
    return days


def edges(horizon_days: int) -> Values:
    """Bounds of the intervals in days, from 0 to the horizon, ascending."""
    return np.array([0, *(e for e in _EDGES if e < horizon_days), horizon_days], np.float64)


@dataclass(frozen=True, eq=False)
class OrderDates:
    """The probability of an order in each interval, for who has not ordered before it, and dates made of them."""

    propensity: PropensityModel
    bounds: Values

    @classmethod
    def fit(cls, examples: Examples, horizon_days: int, as_of: int, settings: PropensitySettings) -> OrderDates:
        """examples.label: as `days_until` gives it. Of more than `MAX_ROWS` rows of people and intervals a sample."""
        bounds, settings = edges(horizon_days), replace(settings, rounds=120, folds=2)
        # a row for each person and interval that it was at risk in; the label says whether the order fell into it
        row, interval = np.nonzero(examples.label[:, None] >= bounds[:-1])
        if len(row) > MAX_ROWS:
            drawn = np.sort(np.random.default_rng(settings.seed).choice(len(row), MAX_ROWS, replace=False))
            row, interval = row[drawn], interval[drawn]
        periods, ends = examples.rows(row), bounds[1:][interval]
        periods = replace(
            periods,
            features=_with_interval(periods.features, bounds, interval),
            label=(periods.label < ends).astype(np.float64),
            known_at=periods.cut + (ends * DAY).astype(np.int64),
        )
        return cls(fit_propensity(periods, as_of, settings), bounds)

    def survival(self, features: FeatureTable) -> Values:
        """S at each bound, (n, len(bounds)); the first column is 1."""
        survival = np.ones((len(features), len(self.bounds)))
        table = self.propensity.inputs(_with_interval(features, self.bounds, 0))
        person = features.rows(np.arange(1))
        inputs = table.values.copy()
        is_interval = np.array([group == INTERVAL for group in table.groups])
        for k in range(len(self.bounds) - 1):  # from one interval to the next these columns alone differ
            of_interval = self.propensity.inputs(_with_interval(person, self.bounds, k))
            inputs[:, is_interval] = of_interval.values[0, is_interval]
            survival[:, k + 1] = survival[:, k] * (1 - sigmoid(self.propensity.logit(inputs)))
        return survival

    def days(self, survival: Values) -> list[Values]:
        """Earliest, median and latest, (n,) each; infinite where that is beyond the horizon."""
        return [day_of(survival, self.bounds, 0.5 + offset) for offset in (-REACH, 0.0, REACH)]

    def answers(self, features: FeatureTable, now: int) -> tuple[Values, dict[str, list[Any]]]:
        """What people are ranked by, soonest highest, and their dates by field of `UserPrediction`."""
        survival, moment = self.survival(features), utc(now)
        days = self.days(survival)
        dates = [[(moment + timedelta(days=n)).date() if np.isfinite(n) else None for n in c.tolist()] for c in days]
        soonest = -np.where(np.isfinite(days[1]), days[1], 1e6 + survival[:, -1])
        return soonest, dict(zip(("earliest", "date", "latest"), dates, strict=True))

    def figures(self, validation: Examples) -> dict[str, float]:
        """Of people who ordered within the horizon: days by which the median is off, and by which "the last order and
        the usual gap" is. within_80: how often an order fell into the interval."""
        survival = self.survival(validation.features)
        days, came, horizon = validation.label, np.isfinite(validation.label), self.bounds[-1]
        gap, since = (validation.features.column(name).astype(np.float64) for name in ("gap_median", "days_since"))
        usual = np.clip(np.nan_to_num(gap - since, nan=horizon), 0, horizon)
        return {
            "mae_days": float(np.abs(np.minimum(self.days(survival)[1], horizon) - days)[came].mean()),
            "mae_days_of_usual_gap": float(np.abs(usual - days)[came].mean()),
            "within_80": float(covered(self.days(survival), validation).mean()),
        }


def _with_interval(features: FeatureTable, bounds: Values, k: int | NDArray[np.integer]) -> FeatureTable:
    """The people with the columns of interval k, one for all or (n,)."""
    columns = {"days_ahead": bounds[k], "interval_days": bounds[k + 1] - bounds[k]}
    return features.with_columns(FeatureTable.of({INTERVAL: columns}, len(features)))


def day_of(survival: Values, bounds: Values, quantile: float) -> Values:
    """Days until the order has happened with this probability, (n,); infinite where that is beyond the last bound."""
    threshold = np.log(1 - quantile)
    log_s = np.log(np.maximum(survival, 1e-12))
    after = np.argmax(log_s <= threshold, axis=1)  # 0 where never: S is 1 at the first bound
    row = np.arange(len(survival))
    before = np.maximum(after - 1, 0)
    step = np.minimum(log_s[row, after] - log_s[row, before], -1e-12)
    share = (threshold - log_s[row, before]) / step
    return np.asarray(np.where(after > 0, bounds[before] + share * (bounds[after] - bounds[before]), np.inf))


def covered(days: list[Values], people: Examples) -> NDArray[np.bool_]:
    """Whose order came on a date from the first to the last of `days`, as `OrderDates.days` gives them; (n,)."""
    day, start, end = (np.floor(people.cut % DAY / DAY + d) for d in (people.label, days[0], days[2]))
    return np.asarray(np.where(np.isfinite(people.label), (day >= start) & (day <= end), np.isinf(days[2])))
