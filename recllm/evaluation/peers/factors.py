"""Matrix factorisation by the library `implicit`: ALS (Hu, Koren, Volinsky 2008) and BPR (Rendle et al. 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.errors import MissingExtraError
from recllm.evaluation.protocols import EvaluationQuery, Ranker
from recllm.evaluation.ranking import Items, Score, Scores, once_per_window, purchase_matrix, rank_by

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def als(
    *,
    factors: int = 128,
    regularization: float = 0.01,
    alpha: float = 1.0,
    iterations: int = 15,
    half_life_days: float | None = None,
    seed: int = 0,
) -> Ranker:
    """Weighted least squares on confidences 1 + alpha * count; a user's vector is solved for anew from the
    history in the query, so unknown users are served like everybody. `half_life_days` decays the counts."""

    def fit(past: Dataset) -> Any:
        model = _implicit("als").AlternatingLeastSquares(
            factors=factors,
            regularization=regularization,
            alpha=alpha,
            iterations=iterations,
            num_threads=1,
            random_state=seed,
        )
        model.fit(_counts(past, np.arange(past.n_users), half_life_days), show_progress=False)
        return model

    fitted = once_per_window(fit)

    def scores(query: EvaluationQuery, items: Items) -> Score:
        model = fitted(query.fit_on)
        vectors = np.asarray(model.item_factors)[items]
        counts = _counts(query.dataset, query.users, half_life_days)

        def score(block: NDArray[np.int64]) -> Scores:
            users = model.recalculate_user(np.arange(len(block)), counts[block])
            return np.asarray(users @ vectors.T, dtype=np.float32)

        return score

    return rank_by(scores)


@dataclass(frozen=True, eq=False)
class Factors:
    """float32; the last column of `items` is a bias, that of `users` 1."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    mean_user: NDArray[np.float32]
    """The mean of those who bought anything."""


def bpr(
    *,
    factors: int = 128,
    learning_rate: float = 0.05,
    regularization: float = 0.01,
    iterations: int = 100,
    seed: int = 0,
) -> Ranker:
    """Pairs of a bought and an unbought item, by stochastic gradient. It has no vector for unknown users and for those
    who bought nothing yet; they get the mean user's."""

    def fit(past: Dataset) -> Factors:
        model = _implicit("bpr").BayesianPersonalizedRanking(
            factors=factors,
            learning_rate=learning_rate,
            regularization=regularization,
            iterations=iterations,
            num_threads=1,
            random_state=seed,
        )
        counts = _counts(past, np.arange(past.n_users), None)
        model.fit(counts, show_progress=False)
        active = np.diff(counts.indptr) > 0
        users = np.array(model.user_factors, dtype=np.float32)
        mean_user = users[active].mean(axis=0)
        users[~active] = mean_user
        return Factors(users, np.asarray(model.item_factors, dtype=np.float32), mean_user)

    fitted = once_per_window(fit)

    def scores(query: EvaluationQuery, items: Items) -> Score:
        model = fitted(query.fit_on)
        vectors = model.items[items]
        users = np.where(query.fit_users[:, None] >= 0, model.users[np.maximum(query.fit_users, 0)], model.mean_user)
        return lambda block: users[block] @ vectors.T

    return rank_by(scores)


def _counts(dataset: Dataset, users: NDArray[np.int64], half_life_days: float | None) -> csr_matrix:
    """What `implicit` accepts: the older kind of sparse matrix, with int32 indices."""
    from scipy.sparse import csr_matrix

    counts = purchase_matrix(dataset, users, half_life_days)
    columns, ends = counts.indices.astype(np.int32), counts.indptr.astype(np.int32)
    return csr_matrix((counts.data, columns, ends), shape=counts.shape)


def _implicit(name: str) -> Any:
    """The module of one model; it is asked to leave the BLAS library's threads alone."""
    import os
    from importlib import import_module

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return import_module(f"implicit.cpu.{name}")
    except ModuleNotFoundError as error:
        raise MissingExtraError("implicit", "bench") from error
