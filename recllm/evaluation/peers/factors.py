"""Matrix factorisation by the library `implicit`: ALS (Hu, Koren, Volinsky 2008) and BPR (Rendle et al. 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.errors import MissingExtraError
from recllm.evaluation.baselines import Scores, offered, purchases, rank
from recllm.evaluation.peers.fitted import once_per_window
from recllm.evaluation.protocols import Question, System

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
) -> System:
    """Weighted least squares on confidences 1 + alpha * count; an asked person's vector is solved for anew from the
    history in the question, so strangers are served like everybody. `half_life_days` decays the counts."""

    def fit(past: Dataset) -> Any:
        model = _cpu("als").AlternatingLeastSquares(
            factors=factors,
            regularization=regularization,
            alpha=alpha,
            iterations=iterations,
            num_threads=1,
            random_state=seed,
        )
        model.fit(_counts(past, np.arange(past.n_users), half_life_days), show_progress=False)
        return model

    learned = once_per_window(fit)

    def answer(question: Question) -> NDArray[np.int32]:
        model, items = learned(question.fit_on), offered(question)
        vectors = np.asarray(model.item_factors)[items]
        counts = _counts(question.dataset, question.users, half_life_days)

        def score(block: NDArray[np.int64]) -> Scores:
            people = model.recalculate_user(np.arange(len(block)), counts[block])
            return np.asarray(people @ vectors.T, dtype=np.float32)

        return rank(question, items, score)

    return answer


@dataclass(frozen=True, eq=False)
class Factors:
    """float32; the last column of `items` is a bias, that of `users` 1. `typical`: the mean of all people."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    typical: NDArray[np.float32]


def bpr(
    *,
    factors: int = 128,
    learning_rate: float = 0.05,
    regularization: float = 0.01,
    iterations: int = 100,
    seed: int = 0,
) -> System:
    """Pairs of a bought and an unbought item, by stochastic gradient. It has no vector for strangers and for people
    who bought nothing yet; they get the mean person's."""

    def fit(past: Dataset) -> Factors:
        model = _cpu("bpr").BayesianPersonalizedRanking(
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
        typical = users[active].mean(axis=0)
        users[~active] = typical
        return Factors(users, np.asarray(model.item_factors, dtype=np.float32), typical)

    learned = once_per_window(fit)

    def answer(question: Question) -> NDArray[np.int32]:
        model, items = learned(question.fit_on), offered(question)
        vectors = model.items[items]
        people = np.where(question.own[:, None] >= 0, model.users[np.maximum(question.own, 0)], model.typical)
        return rank(question, items, lambda block: people[block] @ vectors.T)

    return answer


def _counts(dataset: Dataset, users: NDArray[np.int64], half_life_days: float | None) -> csr_matrix:
    """What `implicit` accepts: the older kind of sparse matrix, with int32 indices."""
    from scipy.sparse import csr_matrix

    counts = purchases(dataset, users, half_life_days)
    columns, ends = counts.indices.astype(np.int32), counts.indptr.astype(np.int32)
    return csr_matrix((counts.data, columns, ends), shape=counts.shape)


def _cpu(name: str) -> Any:
    """The module of one model; it is asked to leave the BLAS library's threads alone."""
    import os
    from importlib import import_module

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return import_module(f"implicit.cpu.{name}")
    except ModuleNotFoundError as error:
        raise MissingExtraError("implicit", "bench") from error
