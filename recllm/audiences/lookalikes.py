"""People who are like a list of seeds.

With few seeds, likeness is the cosine of a person's vector with the mean of the seeds' vectors. With `ENOUGH` of them,
a logistic regression tells seeds from others by the vector and by how active a person is. Others include people who
would be seeds if the shop knew (positive and unlabelled data, Elkan and Noto 2008): the order means something, the
level does not, so a likeness is never given as a probability of buying.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.probabilities import BLOCK
from recllm.data.dataset import DAY, Events
from recllm.data.interactions import Floats, of_actions, user_vectors, visits
from recllm.errors import UsageError
from recllm.features.item_vectors import basics_of, basics_vectors
from recllm.schema import Action

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

ENOUGH = 50
OTHERS = 20_000
"""The regression learns from at most so many seeds, and so many others, drawn by a fixed seed."""

STRENGTH = 1e-2
"""Of the penalty on the weights' squares, per example."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """score: float64 (n,); in [-1, 1] for a cosine, in [0, 1] for the regression."""

    score: NDArray[np.float64]
    note: str


def likeness(recommender: Recommender, seeds: NDArray[np.integer], people: NDArray[np.integer]) -> Likeness:
    """Of each of `people` to the `seeds`, rows of the dataset's users. Raises `UsageError` when no seed is known."""
    if not len(seeds):
        raise UsageError("none of the seeds is known here; check the ids, or the consent table")
    if len(seeds) < ENOUGH:
        mean = sum(_vectors(recommender, rows).sum(axis=0) for rows in _blocks(seeds))
        mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return Likeness(_over(people, lambda rows: _vectors(recommender, rows) @ mean), _note(len(seeds)))
    rng = np.random.default_rng(0)
    others = rng.permutation(np.setdiff1d(people, seeds))[:OTHERS]
    known = rng.permutation(seeds)[:OTHERS]
    rows = np.concatenate([known, others])
    x = np.concatenate([_described(recommender, part) for part in _blocks(rows)])
    weights = fit_logistic(x, np.arange(len(rows)) < len(known))
    return Likeness(_over(people, lambda part: weights(_described(recommender, part))), _note(len(seeds)))


def _blocks(people: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    for start in range(0, len(people), BLOCK):
        yield people[start : start + BLOCK]


def _note(n: int) -> str:
    way = "a regression on vectors and activity" if n >= ENOUGH else "the cosine with the mean vector"
    return f"ordered by likeness to {n} seeds ({way}); a likeness is no probability of buying"


def _over(people: NDArray[np.integer], score: Any) -> NDArray[np.float64]:
    parts = [np.asarray(score(rows), np.float64) for rows in _blocks(people)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _vectors(recommender: Recommender, rows: NDArray[np.integer]) -> Floats:
    """Unit User vectors, (n, dim)."""
    data = recommender.dataset
    told = basics_vectors(recommender.encoder, basics_of(data.users[rows.tolist()]), recommender.locale)
    return user_vectors(recommender.item_vectors, data.events.rows(rows), data.as_of, told)


def _described(recommender: Recommender, rows: NDArray[np.integer]) -> Floats:
    """Vectors and activity, (n, dim + 4)."""
    data = recommender.dataset
    return np.hstack([_vectors(recommender, rows), activity(data.events.rows(rows), data.as_of)])


def activity(histories: Events, as_of: int) -> Floats:
    """Log of 1 + trips, items bought, money spent and days since the last trip (731 for never), float32 (n, 4)."""
    bought = of_actions(histories, (Action.PURCHASE,))
    n = len(bought.indptr) - 1
    pairs = np.unique(np.stack([bought.user.astype(np.int64), bought.item.astype(np.int64)]), axis=1)
    spent = np.bincount(bought.user, np.nan_to_num(bought.price * bought.quantity), n)
    last = np.full(n, as_of - 731 * DAY, np.int64)
    np.maximum.at(last, bought.user, bought.at)
    columns = (visits(bought)[1], np.bincount(pairs[0], minlength=n), np.maximum(spent, 0), (as_of - last) / DAY)
    return np.asarray(np.log1p(np.stack(columns, axis=1)), np.float32)


def fit_logistic(x: Floats, label: NDArray[np.bool_], strength: float = STRENGTH) -> Any:
    """Logistic regression with an L2 penalty on standardised columns, both classes of equal weight in all.

    Returns a function from (m, k) to the probability of the class, float64 (m,), after even odds.
    """
    from scipy.optimize import minimize

    centre, width = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    z, sign = (x - centre) / width, np.where(label, 1.0, -1.0)
    weight = np.where(label, 0.5 / max(label.sum(), 1), 0.5 / max((~label).sum(), 1))

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (z @ w[1:] + w[0])
        pull = -sign * weight / (1 + np.exp(np.minimum(margin, 500)))
        gradient = np.concatenate([[pull.sum()], z.T @ pull + strength * w[1:]])
        return float(weight @ np.logaddexp(0, -margin) + strength / 2 * w[1:] @ w[1:]), gradient

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return lambda rows: 1 / (1 + np.exp(-np.clip((rows - centre) / width @ found[1:] + found[0], -500, 500)))
