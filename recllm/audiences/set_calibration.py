"""The probability of taking at least one of several items, set right by what happened in the latest known window.

Items taken as independent given the person expect too many takers of a set: people who come at all take several, and
what suits one need is taken instead of another. So the same question is asked as of one horizon ago, when the answer is
known, and a line is fitted through it by maximum likelihood with a normal prior around no change,

    P = 1 - exp(-h'),  log h' = a + b log h,  h = - sum over items of log(1 - p)
    a ~ N(0, 1),  log b ~ N(0, 1/2) and at most 0

The order of people stays what it is. The model has learned from that window, and tells its takers apart better than
those of the future: a line steeper than no change would be that, and is not believed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.probabilities import Chances, chances
from recllm.data.dataset import DAY, Dataset
from recllm.data.interactions import of_actions

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

ASKED = 1_000
"""People that are asked about at most, drawn by a fixed seed."""

LEAST = 50
"""With fewer people who were known before that window nothing is changed."""

Line = tuple[float, float]
UNCHANGED: Line = (0.0, 1.0)


def of_set(recommender: Recommender, items: NDArray[np.integer], found: Chances) -> Chances:
    """`found`, the chances of at least one of `items`, with probabilities set right; of a single item as it is."""
    if len(items) < 2 or not len(found.order):
        return found
    order = scaled(found.order, line_of(recommender, items))
    return replace(found, order=order, probability=np.asarray(-np.expm1(-order), np.float32))


def line_of(recommender: Recommender, items: NDArray[np.integer]) -> Line:
    """(a, b) from the window before the present; no change where the log does not reach back so far."""
    data, model = recommender.dataset, recommender.model
    if model is None:
        return UNCHANGED
    start = data.as_of - model.horizon_days * DAY
    past = data.before(start)
    known = np.flatnonzero(np.diff(of_actions(past.events, recommender.population.settings.target).indptr))
    if len(known) < LEAST:
        return UNCHANGED
    people = np.sort(np.random.default_rng(0).permutation(known)[:ASKED])
    earlier = recommender.with_items(past, recommender.item_vectors[:0])
    return fit_line(chances(earlier, items, people).order, _took(recommender, data, items, start)[people])


def fit_line(rate: NDArray[np.float64], took: NDArray[np.bool_]) -> Line:
    """rate: h of each person, 0 or more; took: whether they took one, (n,) each."""
    from scipy.optimize import minimize

    def loss(x: NDArray[np.float64]) -> float:
        h = scaled(rate, (x[0], float(np.exp(x[1]))))
        likelihood = np.where(took, np.log(np.maximum(-np.expm1(-h), 1e-12)), -h)
        return float(-likelihood.sum() + x[0] ** 2 / 2 + x[1] ** 2)

    x = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=((-4, 4), (-2, 0))).x
    return float(x[0]), float(np.exp(x[1]))


def scaled(rate: NDArray[np.float64], line: Line) -> NDArray[np.float64]:
    """exp(a) * rate ^ b; 0 stays 0."""
    return np.asarray(np.exp(line[0]) * rate ** line[1])


def _took(recommender: Recommender, data: Dataset, items: NDArray[np.integer], start: int) -> NDArray[np.bool_]:
    e = of_actions(data.events, recommender.population.settings.target)
    user = e.user[(e.at >= start) & np.isin(e.item, items)]
    return np.asarray(np.bincount(user, minlength=data.n_users) > 0)
