"""When a person orders next: a discrete-time survival model (Singer and Willett 1993) by the same trees.

    hazard(k) = P(the next order falls into interval k | none before it, the person)
    S(t) = product of (1 - hazard) over the intervals before t, with a constant rate inside of an interval

Each past window gives a person one row per interval until the next order or the horizon's end, so people who did not
order are used as what they are: censored. The hazards are calibrated as any probability is. The date is the median of
the person's distribution; beyond the horizon there is none. The interval lies between two percentiles as far below it
as above it: so far that between their dates lay 80 % of the orders of people who were not learned from (split
conformal, Vovk et al. 2005), because a person's distribution is wider than what people do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from recllm.market.propensity.examples import Cohort, Examples
from recllm.market.propensity.features import FeatureTable, Floats
from recllm.market.propensity.model import PropensityModel, Values, fit_propensity, validation_rows
from recllm.market.propensity.parameters import PropensitySettings
from recllm.market.propensity.prediction import Prediction
from recllm.market.propensity.task import Answer, PredictionTask
from recllm.shop.data.dataset import DAY, utc

MAX_WINDOWS = 6
"""Past windows learned from: each person of one gives several rows."""
MAX_ROWS = 60_000
_EDGES = (1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 56, 84, 112, 168, 224, 336)
COVERED = 0.8
"""Share of orders that the interval should hold."""
INTERVAL = "interval"
"""The group of the columns that say which interval a row is about: no fact of a person."""


def edges(horizon_days: int) -> Values:
    """Bounds of the intervals in days, from 0 to the horizon, ascending."""
    return np.array([0, *(e for e in _EDGES if e < horizon_days), horizon_days], np.float64)


def learn_next_order(task: PredictionTask) -> Answer:
    bounds, as_of = edges(task.request.horizon_days), task.learn.dataset.as_of
    settings = replace(task.settings, rounds=120, folds=2)
    examples = task.examples(_days_until, Cohort.with_history, MAX_WINDOWS)
    ordered = examples.with_label(np.isfinite(examples.label)).check_classes("the next order")
    model = fit_hazards(examples, bounds, as_of, settings)
    inside, later_window = validation_rows(ordered)
    earlier, validation = fit_hazards(examples.rows(~inside), bounds, as_of, settings), examples.rows(inside)
    survival = earlier.survival(earlier.inputs(validation.features).values)
    reach = interval_reach(survival, bounds, validation)
    figures = _figures(survival, bounds, validation)

    def answer(query: PredictionTask) -> Prediction:
        table, rows, left_out = query.with_past(query.ask.with_history(query.now))
        predicted = model.survival(model.inputs(table).values)
        days = [day_of(predicted, bounds, quantile) for quantile in (0.5 - reach, 0.5, 0.5 + reach)]
        now = utc(query.now)
        dates = [[(now + timedelta(days=n)).date() if np.isfinite(n) else None for n in c.tolist()] for c in days]
        soonest = -np.where(np.isfinite(days[1]), days[1], 1e6 + predicted[:, -1])
        people = query.people(
            rows,
            soonest,
            query.reasons(model.score, model.inputs, examples.features, table),
            probability=(1 - predicted[:, -1]).tolist(),
            earliest=dates[0],
            date=dates[1],
            latest=dates[2],
        )
        return query.prediction(
            people,
            1 - survival[:, -1],
            ordered.label[inside],
            validation.cut if later_window else None,
            figures=figures,
            left_out=left_out,
        )

    return answer


@dataclass(frozen=True, eq=False)
class HazardModel:
    """The probability of an order in each interval, for who has not ordered before it."""

    propensity: PropensityModel
    bounds: Values
    positions: NDArray[np.int64]
    """Of the columns that say which interval a row is about, among the propensity's inputs."""
    interval_values: Floats
    """Their values in each interval, (n_intervals, n_positions)."""

    def inputs(self, features: FeatureTable) -> FeatureTable:
        """What the model reads of people, with the first interval."""
        return self.propensity.inputs(_with_interval(features, self.bounds, 0))

    def survival(self, inputs: Floats) -> Values:
        """S at each bound, (n, len(bounds)), of values as `inputs` gives them; the first column is 1."""
        survival, at = np.ones((len(inputs), len(self.bounds))), inputs.copy()
        for k, values in enumerate(self.interval_values):
            at[:, self.positions] = values
            survival[:, k + 1] = survival[:, k] * np.exp(-np.logaddexp(0, self.propensity.logit(at)))  # 1 - sigmoid
        return survival

    def score(self, inputs: Floats) -> Values:
        """Log of the cumulative hazard within the horizon, (n,)."""
        hazard = -np.log(np.maximum(self.survival(inputs)[:, -1], 1e-300))
        return np.asarray(np.log(np.maximum(hazard, 1e-12)))


def fit_hazards(examples: Examples, bounds: Values, as_of: int, settings: PropensitySettings) -> HazardModel:
    """examples.label: days until the next order, infinite where there was none within the horizon.

    Of many examples as many are drawn at random as give `MAX_ROWS` rows.
    """
    n_rows = int((examples.label[:, None] >= bounds[:-1]).sum())
    if n_rows > MAX_ROWS:
        order = np.random.default_rng(settings.seed).permutation(len(examples))
        examples = examples.rows(np.sort(order[: int(len(examples) * MAX_ROWS / n_rows)]))
    propensity = fit_propensity(person_periods(examples, bounds), as_of, settings)
    first = examples.features.rows(np.arange(1))
    tables = [propensity.inputs(_with_interval(first, bounds, k)) for k in range(len(bounds) - 1)]
    positions = np.array([n for n, group in enumerate(tables[0].groups) if group == INTERVAL], np.int64)
    return HazardModel(propensity, bounds, positions, np.concatenate([t.values[:, positions] for t in tables]))


def person_periods(examples: Examples, bounds: Values) -> Examples:
    """One row per example and interval that it was at risk in; the label says whether the order fell into it."""
    starts, ends = bounds[:-1], bounds[1:]
    row, interval = np.nonzero(examples.label[:, None] >= starts)
    periods = examples.rows(row)
    features = _with_interval(periods.features, bounds, interval)
    label = (periods.label < ends[interval]).astype(np.float64)
    known_at = periods.cut + (ends[interval] * DAY).astype(np.int64)
    return replace(periods, features=features, label=label, known_at=known_at)


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


def interval_reach(survival: Values, bounds: Values, validation: Examples) -> float:
    """How far from .5 the percentiles lie between whose dates `COVERED` of these people ordered, in [0, .5).

    validation.label: days until the order, infinite for none within the horizon; such a person is covered where the
    upper percentile is beyond the horizon.
    """
    low, high = 0.0, 0.499
    for _ in range(12):  # coverage grows with the reach
        middle = (low + high) / 2
        days = (day_of(survival, bounds, 0.5 - middle), day_of(survival, bounds, 0.5 + middle))
        if covered(*days, validation).mean() >= COVERED:
            high = middle
        else:
            low = middle
    return high


def covered(first: Values, last: Values, validation: Examples) -> NDArray[np.bool_]:
    """Whose order came on a date from that of `first` to that of `last`, days after the cut; (n,)."""
    into_day = validation.cut % DAY / DAY
    day, start, end = (np.floor(into_day + days) for days in (validation.label, first, last))
    return np.asarray(np.where(np.isfinite(validation.label), (day >= start) & (day <= end), np.isinf(last)))


def _days_until(cohort: Cohort, start: int, end: int) -> Values:
    """Days until the first purchase, infinite without one."""
    purchases = cohort.purchases(start, end)
    days = np.full(cohort.dataset.n_users, np.inf)
    np.minimum.at(days, purchases.user, (purchases.at - start) / DAY)
    return days


def _figures(survival: Values, bounds: Values, validation: Examples) -> dict[str, float]:
    """Of who ordered within the horizon: days by which the median is off, and by which "the last order and the usual
    gap" is. within_80: how often an order fell into the interval, by the other half of these people."""
    half = np.arange(len(survival)) % 2 == 0
    middle, low, high = (np.empty(len(survival)) for _ in range(3))
    for inside_half in (half, ~half):
        reach = interval_reach(survival[~inside_half], bounds, validation.rows(~inside_half))
        for column, quantile in ((low, 0.5 - reach), (middle, 0.5), (high, 0.5 + reach)):
            column[inside_half] = day_of(survival[inside_half], bounds, quantile)
    days, horizon = validation.label, bounds[-1]
    came = np.isfinite(days)
    gap, since = (validation.features.column(name).astype(np.float64) for name in ("gap_median", "days_since"))
    usual = np.clip(np.nan_to_num(gap - since, nan=horizon), 0, horizon)
    return {
        "mae_days": float(np.abs(np.minimum(middle, horizon) - days)[came].mean()),
        "mae_days_of_usual_gap": float(np.abs(usual - days)[came].mean()),
        "within_80": float(covered(low, high, validation).mean()),
    }
