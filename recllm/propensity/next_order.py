"""When a person orders next: a discrete-time survival model (Singer and Willett 1993) by the same trees.

    hazard(k) = P(the next order falls into interval k | none before it, the person)
    S(t) = product of (1 - hazard) over the intervals before t, with a constant rate inside of an interval

Each past window gives a person one row per interval until the next order or the horizon's end, so people who did not
order are used as what they are: censored. The hazards are calibrated as any chance is. The date told is the median of
the person's distribution, with the days between its 10th and 90th percentile; beyond the horizon nothing is told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, utc
from recllm.errors import NothingToDo
from recllm.propensity.chance import learned, left_out
from recllm.propensity.curves import quality
from recllm.propensity.examples import Examples
from recllm.propensity.model import ChanceModel, fit_chances, held_out
from recllm.propensity.prediction import Kind, Predicted, Prediction
from recllm.propensity.question import Question, ids_of, known, ordered
from recllm.propensity.table import Features, Floats
from recllm.settings import PropensitySettings

Values = NDArray[np.float64]

WINDOWS = 6
"""Past windows learned from: each person of one gives several rows."""
MOST_ROWS = 60_000
_EDGES = (1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 56, 84, 112, 168, 224, 336)
QUANTILES = (0.1, 0.5, 0.9)
AHEAD = "ahead"
"""The group of the columns that say which interval a row is about: no fact of a person."""


def edges(horizon_days: int) -> NDArray[np.float64]:
    """Bounds of the intervals in days, from 0 to the horizon, ascending."""
    return np.array([0, *(e for e in _EDGES if e < horizon_days), horizon_days], np.float64)


def predict_next_order(question: Question) -> Prediction:
    """Raises what `recllm.propensity.predict` tells."""
    bounds, as_of = edges(question.horizon_days), question.learn.as_of
    examples = learned(question, known, _days_until(question), WINDOWS)
    ordered_at_all = examples.with_label(np.isfinite(examples.label)).check_classes("the next order")
    model = fit_hazards(examples, bounds, as_of, question.seed)
    inside, whole_window = held_out(ordered_at_all)
    earlier = fit_hazards(examples.rows(~inside), bounds, as_of, question.seed)
    survival = earlier.survival(earlier.read(examples.features.rows(inside)).values)
    happened = examples.label[inside]
    asked = known(question.ask, question.ask.as_of)
    if not asked.any():
        raise NothingToDo("nobody to predict: nobody has a past that counts")
    return Prediction(
        kind=Kind.NEXT_ORDER,
        horizon_days=question.horizon_days,
        as_of=utc(question.ask.as_of),
        meaning=question.meaning(Kind.NEXT_ORDER),
        people=_people(question, model, examples, np.flatnonzero(asked)),
        quality=quality(1 - survival[:, -1], np.isfinite(happened).astype(np.float64)),
        checked=question.checked(examples.cut[inside] if whole_window else None),
        figures=_figures(survival, bounds, happened, examples.features.rows(inside)),
        left_out=left_out(asked),
    )


@dataclass(frozen=True, eq=False)
class HazardModel:
    """marks: what the chance model reads of each interval, float32 (n_intervals, n_places), at these places."""

    chance: ChanceModel
    bounds: Values
    places: NDArray[np.int64]
    marks: Floats

    def read(self, features: Features) -> Features:
        """What the model reads of people, with the first interval."""
        return self.chance.read(_with_interval(features, self.bounds, 0))

    def survival(self, read: Floats) -> Values:
        """S at each bound, (n, len(bounds)), of the values of what `read` gave; the first column is 1."""
        out, at = np.ones((len(read), len(self.bounds))), read.copy()
        for k, mark in enumerate(self.marks):
            at[:, self.places] = mark
            out[:, k + 1] = out[:, k] * np.exp(-np.logaddexp(0, self.chance.logit(at)))  # 1 - sigmoid
        return out

    def score(self, read: Floats) -> Values:
        """Log of the cumulative hazard within the horizon, (n,)."""
        return np.asarray(np.log(np.maximum(-np.log(np.maximum(self.survival(read)[:, -1], 1e-300)), 1e-12)))


def fit_hazards(examples: Examples, bounds: Values, as_of: int, seed: int = 0) -> HazardModel:
    """examples.label: days until the next order, infinite where there was none within the horizon."""
    settings = PropensitySettings(seed=seed, rounds=120, folds=2)
    chance = fit_chances(person_periods(_some(examples, bounds, seed), bounds), as_of, settings)
    first = examples.features.rows(np.arange(1))
    reads = [chance.read(_with_interval(first, bounds, k)) for k in range(len(bounds) - 1)]
    places = np.array([n for n, group in enumerate(reads[0].groups) if group == AHEAD], np.int64)
    return HazardModel(chance, bounds, places, np.concatenate([read.values[:, places] for read in reads]))


def _some(examples: Examples, bounds: Values, seed: int) -> Examples:
    """As many examples, drawn at random, as give `MOST_ROWS` rows."""
    rows = int((examples.label[:, None] >= bounds[:-1]).sum())
    if rows <= MOST_ROWS:
        return examples
    kept = np.random.default_rng(seed).permutation(len(examples))[: int(len(examples) * MOST_ROWS / rows)]
    return examples.rows(np.sort(kept))


def person_periods(examples: Examples, bounds: Values) -> Examples:
    """One row per example and interval that it was at risk in; the label says whether the order fell into it."""
    starts, ends = bounds[:-1], bounds[1:]
    row, interval = np.nonzero(examples.label[:, None] >= starts)
    longer = examples.rows(row)
    happened = examples.label[row] < ends[interval]
    features = longer.features.beside(_ahead(starts[interval], (ends - starts)[interval]))
    known_at = longer.cut + (ends[interval] * DAY).astype(np.int64)
    return replace(longer, features=features, label=happened.astype(np.float64), known=known_at)


def _ahead(start: Values, width: Values) -> Features:
    return Features.of({AHEAD: {"days_ahead": start, "interval_days": width}}, len(start))


def _with_interval(features: Features, bounds: Values, k: int) -> Features:
    """The people with the marks of interval k."""
    same = np.ones(len(features))
    return features.beside(_ahead(bounds[k] * same, (bounds[k + 1] - bounds[k]) * same))


def day_of(survival: Values, bounds: Values, quantile: float) -> Values:
    """Days until the order has happened with this probability, (n,); infinite where that is beyond the last bound."""
    left = np.log(1 - quantile)
    log_s = np.log(np.maximum(survival, 1e-12))
    after = np.argmax(log_s <= left, axis=1)  # 0 where never: S is 1 at the first bound
    row = np.arange(len(survival))
    before = np.maximum(after - 1, 0)
    step = np.minimum(log_s[row, after] - log_s[row, before], -1e-12)
    share = (left - log_s[row, before]) / step
    return np.asarray(np.where(after > 0, bounds[before] + share * (bounds[after] - bounds[before]), np.inf))


def _days_until(question: Question) -> Any:
    def days(dataset: Dataset, start: int, end: int) -> Values:
        window = dataset.between(start, end)
        window = window.select(question.wanted(dataset)[window.item]) if question.aimed else window
        out = np.full(dataset.n_users, np.inf)
        np.minimum.at(out, window.user, (window.at - start) / DAY)
        return out

    return days


def _figures(survival: Values, bounds: Values, happened: Values, features: Features) -> dict[str, float]:
    """Of who ordered within the horizon: days by which the median is off, and by which "the last order and the usual
    gap" is. within_80: how often the order fell between the 10th and the 90th percentile, of everybody."""
    low, middle, high = (day_of(survival, bounds, q) for q in QUANTILES)
    horizon, came = bounds[-1], np.isfinite(happened)
    capped = np.minimum(middle, horizon)
    gap, since = (features.column(name).astype(np.float64) for name in ("gap_median", "days_since"))
    usual = np.clip(np.nan_to_num(gap - since, nan=horizon), 0, horizon)
    inside = np.where(came, (happened >= low) & (happened <= high), ~np.isfinite(high))
    return {
        "mae_days": float(np.abs(capped - happened)[came].mean()),
        "mae_days_of_usual_gap": float(np.abs(usual - happened)[came].mean()),
        "within_80": float(inside.mean()),
    }


def _people(
    question: Question, model: HazardModel, examples: Examples, rows: NDArray[np.int64]
) -> tuple[Predicted, ...]:
    table = question.table()(question.ask, question.ask.as_of).rows(rows)
    survival = model.survival(model.read(table).values)
    days = [day_of(survival, model.bounds, q) for q in QUANTILES]
    why = question.answers(model.score, model.read, examples.features, table)
    names, as_of = ids_of(question.ask, rows), question.ask.as_of
    soonest = -np.where(np.isfinite(days[1]), days[1], 1e6 + survival[:, -1])
    return tuple(
        Predicted(
            user_id=names[n],
            probability=float(1 - survival[n, -1]),
            earliest=_date(as_of, days[0][n]),
            date=_date(as_of, days[1][n]),
            latest=_date(as_of, days[2][n]),
            reasons=why[n],
        )
        for n in ordered(question.ask, rows, soonest)
    )


def _date(as_of: int, days: float) -> date | None:
    return (utc(as_of) + timedelta(days=float(days))).date() if np.isfinite(days) else None
