"""EASE: Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.evaluation.baselines import Scores, buyers, offered, purchases, rank
from recllm.evaluation.peers.fitted import once_per_window
from recllm.evaluation.protocols import Question, System


@dataclass(frozen=True, eq=False)
class ItemWeights:
    """rows: item rows that take part, (n,). weight: float32 (n, n), from the bought item to the scored one."""

    rows: NDArray[np.int64]
    weight: NDArray[np.float32]


def ease(*, l2: float = 500.0, items: int = 6000, half_life_days: float | None = None) -> System:
    """A linear item-to-item model in closed form; the score of an item is the sum of weights from the bought ones.

    Only the `items` most bought take part, others score 0: memory is 8 * items^2 bytes (288 MB for 6,000), time grows
    with its cube. `half_life_days` decays a person's purchases when the person is asked; the model learns from 0/1.
    """
    learned = once_per_window(lambda past: fit(past, l2, items))

    def answer(question: Question) -> NDArray[np.int32]:
        model, listed = learned(question.fit_on), offered(question)
        mine = purchases(question.dataset, question.users, half_life_days)[:, model.rows]
        mine = mine.sign() if half_life_days is None else mine.minimum(1.0)
        place = np.full(question.dataset.n_items, -1)
        place[model.rows] = np.arange(len(model.rows))
        column = place[listed]

        def score(block: NDArray[np.int64]) -> Scores:
            out = np.zeros((len(block), len(listed)), np.float32)
            known = mine[block] @ model.weight
            out[:, column >= 0] = known[:, column[column >= 0]]
            return out

        return rank(question, listed, score)

    return answer


def fit(past: Dataset, l2: float, items: int) -> ItemWeights:
    """With G = X'X and P = (G + l2 I)^-1, weight = -P / diag(P) by columns, and 0 on the diagonal."""
    from scipy.linalg import lapack

    sold = buyers(past, None)
    rows = np.sort(np.argsort(-sold, kind="stable")[:items])
    rows = rows[sold[rows] > 0]
    if not len(rows):
        return ItemWeights(rows, np.zeros((0, 0), np.float32))
    x = purchases(past, np.arange(past.n_users), None)[:, rows].sign()
    gram = np.asfortranarray((x.T @ x).toarray(), dtype=np.float32)
    gram[np.diag_indices(len(rows))] += l2
    factor, _ = lapack.spotrf(gram, lower=1, overwrite_a=1)
    half, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    weight = _whole(half.T)
    weight /= -weight.diagonal().copy()
    np.fill_diagonal(weight, 0)
    return ItemWeights(rows, weight)


def _whole(upper: NDArray[np.float32], step: int = 512) -> NDArray[np.float32]:
    """A symmetric matrix from its upper half, in place, a few rows at a time."""
    for start in range(0, len(upper), step):
        end = start + step
        corner = np.triu(upper[start:end, start:end])
        upper[start:end, start:end] = corner + np.triu(corner, 1).T
        upper[end:, start:end] = upper[start:end, end:].T
    return upper
