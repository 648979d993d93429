"""People who are like a list of seeds.

With few seeds, likeness is the cosine of a person's vector with the mean of the seeds' vectors. With `MIN_SEEDS` of
them, a logistic regression tells seeds from others by the vector and by how active a person is. Others include people
who would be seeds if the shop knew (positive and unlabelled data, Elkan and Noto 2008): the order means something, the
level does not, so a likeness is never given as a probability of buying.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.probabilities import USERS_PER_BLOCK, map_blocks, vectors_of_basics
from recllm.data.dataset import DAY, Events
from recllm.data.interactions import Floats, user_vectors, visits
from recllm.errors import UsageError
from recllm.features.item_vectors import basics_of
from recllm.schema import Action

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

MIN_SEEDS = 50
"""Fewer are too few for a regression."""
MAX_EXAMPLES = 20_000
"""The regression learns from at most so many seeds, and so many others, drawn by a fixed seed."""

PENALTY = 1e-2
"""Of the weights' squares, where the weights of all examples sum to 1."""


@dataclass(frozen=True, eq=False)
class Likeness:
    score: NDArray[np.float64]
    """(n,); in [-1, 1] for a cosine, in [0, 1] for the regression."""
    note: str


def likeness(recommender: Recommender, seeds: NDArray[np.integer], user_rows: NDArray[np.integer]) -> Likeness:
    """Of each of `user_rows` to the `seeds`, rows of the dataset's users. Raises `UsageError` without seeds."""
    if not len(seeds):
        raise UsageError("none of the seeds is known here; check the ids, or the consent table")
    if len(seeds) < MIN_SEEDS:
        mean = _in_blocks(lambda rows: _vectors(recommender, rows), seeds).sum(axis=0)
        mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
        score = _in_blocks(lambda rows: _vectors(recommender, rows) @ mean, user_rows)
        return Likeness(score, _note(len(seeds), "the cosine with the mean vector"))
    rng = np.random.default_rng(0)
    others = rng.permutation(np.setdiff1d(user_rows, seeds))[:MAX_EXAMPLES]
    examples = rng.permutation(seeds)[:MAX_EXAMPLES]
    x = _in_blocks(lambda rows: _described(recommender, rows), np.concatenate([examples, others]))
    probability = fit_logistic(x, np.arange(len(x)) < len(examples))
    score = _in_blocks(lambda rows: probability(_described(recommender, rows)), user_rows)
    return Likeness(score, _note(len(seeds), "a regression on vectors and activity"))


def _note(n: int, method: str) -> str:
    return f"ordered by likeness to {n} seeds ({method}); a likeness is no probability of buying"


def _in_blocks(
    function: Callable[[NDArray[np.integer]], NDArray[np.floating]], rows: NDArray[np.integer]
) -> NDArray[np.float64]:
    blocks = map_blocks(lambda block: function(rows[block]), len(rows), USERS_PER_BLOCK)
    return np.concatenate(blocks).astype(np.float64) if blocks else np.zeros(0)


def _vectors(recommender: Recommender, user_rows: NDArray[np.integer]) -> Floats:
    """Unit User vectors, (n, dim)."""
    data = recommender.dataset
    basics = vectors_of_basics(recommender, basics_of(data.users[user_rows.tolist()]))
    return user_vectors(recommender.item_vectors, data.events.rows(user_rows), data.as_of, basics)


def _described(recommender: Recommender, user_rows: NDArray[np.integer]) -> Floats:
    """Vectors and activity, (n, dim + 4)."""
    data = recommender.dataset
    return np.hstack([_vectors(recommender, user_rows), activity(data.events.rows(user_rows), data.as_of)])


def activity(histories: Events, as_of: int) -> Floats:
    """Log of 1 + trips, items bought, money spent and days since the last trip (731 for never), float32 (n, 4)."""
    bought = histories.of(Action.PURCHASE)
    n = len(bought.indptr) - 1
    pairs = np.unique(np.stack([bought.user.astype(np.int64), bought.item.astype(np.int64)]), axis=1)
    spent = np.bincount(bought.user, np.nan_to_num(bought.price * bought.quantity), n)
    last = np.full(n, as_of - 731 * DAY, np.int64)
    np.maximum.at(last, bought.user, bought.at)
    columns = (visits(bought)[1], np.bincount(pairs[0], minlength=n), np.maximum(spent, 0), (as_of - last) / DAY)
    return np.asarray(np.log1p(np.stack(columns, axis=1)), np.float32)


def fit_logistic(x: NDArray[np.floating], label: NDArray[np.bool_]) -> Callable[[NDArray[np.floating]], Floats]:
    """Logistic regression with an L2 penalty on standardised columns, both classes of equal weight in all.

    Returns a function from (m, k) to the probability of the class, (m,), after even odds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # scikit-learn weighs each example by n / (2 * its class's size), and the penalty by 1 / C
    regression = LogisticRegression(C=1 / (PENALTY * len(x)), class_weight="balanced", max_iter=1_000, tol=1e-6)
    model = make_pipeline(StandardScaler(), regression).fit(x.astype(np.float64), label)
    return lambda rows: np.asarray(model.predict_proba(rows.astype(np.float64))[:, 1])
