"""Peers that learn from who bought what: EASE (Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data"), ALS
(Hu, Koren, Volinsky 2008) by the library implicit, and TIFU-KNN (Hu et al. 2020, "Modeling Personalized Item Frequency
Information for Next-basket Recommendation")."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.schema import Action
from recllm.recommend.evaluation.baselines import Items, Score, Scores, buyers, purchase_matrix, rank_by
from recllm.recommend.evaluation.protocols import EvaluationQuery, Ranker
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import merged_lines, visits

if TYPE_CHECKING:
    from scipy.sparse import csr_array, csr_matrix


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
    return rank_by(ease_scores(l2=l2, items=items, half_life_days=half_life_days))


def ease_scores(
    *, l2: float = 500.0, items: int = 6000, half_life_days: float | None = None
) -> Callable[[EvaluationQuery, Items], Score]:
    """What `ease` ranks by, fitted at the first query."""
    fitted = lru_cache(maxsize=1)(lambda past: fit(past, l2, items))

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

    return scores


def fit(past: Dataset, l2: float, items: int) -> ItemWeights:
    """With G = X'X and P = (G + l2 I)^-1, weight = -P / diag(P) by columns, and 0 on the diagonal."""
    from scipy.linalg import inv

    sold = buyers(past, None)
    rows = np.sort(np.argsort(-sold, kind="stable")[:items])
    rows = rows[sold[rows] > 0]
    if not len(rows):
        return ItemWeights(rows, np.zeros((0, 0), np.float32))
    x = purchase_matrix(past, np.arange(past.n_users), None)[:, rows].sign()
    gram = np.asarray((x.T @ x).toarray(), np.float32)
    gram[np.diag_indices(len(rows))] += l2
    weight = inv(gram, overwrite_a=True, assume_a="pos")
    weight /= -weight.diagonal().copy()
    np.fill_diagonal(weight, 0)
    return ItemWeights(rows, weight)


ALS = {"factors": 128, "regularization": 0.01, "alpha": 1.0, "iterations": 15}
"""Its settings, where the caller gives no others."""


def als(*, half_life_days: float | None = None, seed: int = 0, **settings: float) -> Ranker:
    """Weighted least squares on confidences 1 + alpha * count; a user's vector is solved for anew from the
    history in the query, so unknown users are served like everybody. `half_life_days` decays the counts."""

    @lru_cache(maxsize=1)
    def fitted(past: Dataset) -> Any:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the library asks for
        from implicit.cpu.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(num_threads=1, random_state=seed, **ALS | settings)
        model.fit(_counts(past, np.arange(past.n_users), half_life_days), show_progress=False)
        return model

    def scores(query: EvaluationQuery, items: Items) -> Score:
        model = fitted(query.fit_on)
        vectors = np.asarray(model.item_factors)[items]
        counts = _counts(query.dataset, query.users, half_life_days)

        def score(block: NDArray[np.int64]) -> Scores:
            users = model.recalculate_user(np.arange(len(block)), counts[block])
            return np.asarray(users @ vectors.T, dtype=np.float32)

        return score

    return rank_by(scores)


def _counts(dataset: Dataset, users: NDArray[np.int64], half_life_days: float | None) -> csr_matrix:
    """What `implicit` accepts: the older kind of sparse matrix, with int32 indices."""
    from scipy.sparse import csr_matrix

    counts = purchase_matrix(dataset, users, half_life_days)
    columns, ends = counts.indices.astype(np.int32), counts.indptr.astype(np.int32)
    return csr_matrix((counts.data, columns, ends), shape=counts.shape)


def tifu_knn(
    query: EvaluationQuery,
    items: Items,
    *,
    groups: int = 7,
    within_decay: float = 0.9,
    group_decay: float = 0.7,
    neighbours: int = 100,
    own_share: float = 0.7,
) -> Score:
    """What the person buys again and again, blended with the mean of the most similar people.

    A person's baskets (distinct times) are cut into `groups` runs of nearly equal length, oldest first; fewer baskets
    are a group each. With n_g baskets in a group, its vector is the mean over its baskets j = 1..n_g of
    within_decay^(n_g - j) times the basket's 0/1 vector; the person's is the mean over the m groups i = 1..m of
    group_decay^(m - i) times the group's. `blended_with_nearest` makes the score of both.
    """
    everyone = np.arange(query.fit_on.n_users)
    fit_vectors = person_vectors(query.fit_on, everyone, groups, within_decay, group_decay)
    vectors = person_vectors(query.dataset, query.users, groups, within_decay, group_decay)
    return blended_with_nearest(query, items, fit_vectors, vectors, neighbours, own_share)


def blended_with_nearest(
    query: EvaluationQuery, items: Items, fit_vectors: csr_array, vectors: csr_array, neighbours: int, own_share: float
) -> Score:
    """own_share * own vector + (1 - own_share) * mean vector of the `neighbours` nearest people by Euclidean distance.

    fit_vectors: of all of `query.fit_on.users`. vectors: of `query.users`. Nobody is near to a person without baskets.
    """
    active = np.flatnonzero(np.diff(fit_vectors.indptr) > 0)
    active_row = np.full(query.fit_on.n_users + 1, -1)  # the last one is for the unknown user, row -1
    active_row[active] = np.arange(len(active))
    fit_rows, fit_vectors = active_row[query.fit_users], fit_vectors[active]
    lengths = np.asarray(fit_vectors.multiply(fit_vectors).sum(axis=1), dtype=np.float32)
    transposed, neighbour_items, personal = fit_vectors.T.tocsr(), fit_vectors[:, items], vectors[:, items]

    def score(block: NDArray[np.int64]) -> Scores:
        votes = _nearest(vectors[block] @ transposed, lengths, fit_rows[block], neighbours)
        votes.data[np.repeat(np.diff(vectors.indptr)[block] == 0, np.diff(votes.indptr))] = 0
        return np.asarray((own_share * personal[block] + (1 - own_share) * (votes @ neighbour_items)).toarray())

    return score


def person_vectors(
    dataset: Dataset, users: NDArray[np.integer], groups: int, within_decay: float, group_decay: float
) -> csr_array:
    """The time-decayed item frequencies of `users`, float32 sparse (len(users), n_items)."""
    from scipy.sparse import csr_array

    trips = merged_lines(dataset.events.of(Action.PURCHASE).rows(users))
    ordinal, baskets = visits(trips)
    n = baskets[trips.user]
    m = np.minimum(groups, n)
    short, longer = n // np.maximum(m, 1), n % np.maximum(m, 1)  # the last `longer` groups hold one basket more
    first_long = (m - longer) * short
    late = ordinal >= first_long
    size = np.where(late, short + 1, short)
    since = np.where(late, ordinal - first_long, ordinal)
    group = np.where(late, m - longer, 0) + since // np.maximum(size, 1)
    position = since % np.maximum(size, 1)
    within = within_decay ** (size - 1 - position) / np.maximum(size, 1)
    weight = np.asarray(within * group_decay ** (m - 1 - group) / np.maximum(m, 1)).astype(np.float32)
    vectors = csr_array((weight, trips.item, trips.indptr), shape=(len(users), dataset.n_items))
    vectors.sum_duplicates()
    return vectors


def _nearest(products: csr_array, lengths: NDArray[np.float32], fit_rows: NDArray[np.int64], count: int) -> csr_array:
    """1 / count at the `count` nearest people of each row, sparse; the asker's own squared length moves nobody."""
    from scipy.sparse import csr_array

    distance = lengths[None, :] - 2 * products.toarray()
    rows = np.flatnonzero(fit_rows >= 0)
    distance[rows, fit_rows[rows]] = np.inf
    k = min(count, distance.shape[1] - 1)
    if k < 1:
        return csr_array(distance.shape, dtype=np.float32)
    best = np.argpartition(distance, k - 1, axis=1)[:, :k]
    ends = np.arange(0, best.size + 1, k)
    return csr_array((np.full(best.size, 1 / k, np.float32), best.ravel(), ends), shape=distance.shape)
