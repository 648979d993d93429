"""EASE: Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.evaluation.protocols import EvaluationQuery, Ranker
from recllm.evaluation.ranking import Items, Score, Scores, buyers, once_per_window, purchase_matrix, rank_by


@dataclass(frozen=True, eq=False)
class ItemWeights:
    rows: NDArray[np.int64]
    """Item rows that take part, (n,)."""
    weight: NDArray[np.float32]
    """(n, n), from the bought item to the scored one."""


def ease(*, l2: float = 500.0, items: int = 6000, half_life_days: float | None = None) -> Ranker:
    """A linear item-to-item model in closed form; the score of an item is the sum of weights from the bought ones.

    Only the `items` most bought take part, others score 0: memory is 8 * items^2 bytes (288 MB for 6,000), time grows
    with its cube. `half_life_days` decays a user's purchases when the user is asked; the model learns from 0/1.
    """
    fitted = once_per_window(lambda past: fit(past, l2, items))

    def scores(query: EvaluationQuery, listed: Items) -> Score:
        model = fitted(query.fit_on)
        bought = purchase_matrix(query.dataset, query.users, half_life_days)[:, model.rows]
        bought = bought.sign() if half_life_days is None else bought.minimum(1.0)
        column_of_item = np.full(query.dataset.n_items, -1)
        column_of_item[model.rows] = np.arange(len(model.rows))
        column = column_of_item[listed]

        def score(block: NDArray[np.int64]) -> Scores:
            values = np.zeros((len(block), len(listed)), np.float32)
            values[:, column >= 0] = (bought[block] @ model.weight)[:, column[column >= 0]]
            return values

        return score

    return rank_by(scores)


def fit(past: Dataset, l2: float, items: int, step: int = 512) -> ItemWeights:
    """With G = X'X and P = (G + l2 I)^-1, weight = -P / diag(P) by columns, and 0 on the diagonal."""
    from scipy.linalg import lapack

    sold = buyers(past, None)
    rows = np.sort(np.argsort(-sold, kind="stable")[:items])
    rows = rows[sold[rows] > 0]
    if not len(rows):
        return ItemWeights(rows, np.zeros((0, 0), np.float32))
    x = purchase_matrix(past, np.arange(past.n_users), None)[:, rows].sign()
    gram = np.asfortranarray((x.T @ x).toarray(), dtype=np.float32)
    gram[np.diag_indices(len(rows))] += l2
    factor, _ = lapack.spotrf(gram, lower=1, overwrite_a=1)
    lower, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    weight = lower.T
    for start in range(0, len(weight), step):  # the other half of the symmetric matrix, in place, a few rows at a time
        end = start + step
        corner = np.triu(weight[start:end, start:end])
        weight[start:end, start:end] = corner + np.triu(corner, 1).T
        weight[end:, start:end] = weight[start:end, end:].T
    weight /= -weight.diagonal().copy()
    np.fill_diagonal(weight, 0)
    return ItemWeights(rows, weight)
