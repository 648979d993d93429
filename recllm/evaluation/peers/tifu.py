"""TIFU-KNN: Hu, He, Gao, Zhang 2020, "Modeling Personalized Item Frequency Information for Next-basket
Recommendation", SIGIR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset, Events
from recllm.data.interactions import occasions, visits
from recllm.evaluation.protocols import EvaluationQuery
from recllm.evaluation.ranking import Items, Score, Scores
from recllm.schema import Action

if TYPE_CHECKING:
    from scipy.sparse import csr_array


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
    group_decay^(m - i) times the group's. Score = own_share * own vector + (1 - own_share) * mean vector of the
    `neighbours` nearest people by Euclidean distance, without the person. Nobody is near to a person without baskets.
    """
    everyone = np.arange(query.fit_on.n_users)
    fit_vectors = person_vectors(query.fit_on, everyone, groups, within_decay, group_decay)
    vectors = person_vectors(query.dataset, query.users, groups, within_decay, group_decay)
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

    trips = occasions(dataset.events.of(Action.PURCHASE).rows(users))
    weight = _weights(trips, groups, within_decay, group_decay).astype(np.float32)
    vectors = csr_array((weight, trips.item, trips.indptr), shape=(len(users), dataset.n_items))
    vectors.sum_duplicates()
    return vectors


def _weights(trips: Events, groups: int, within_decay: float, group_decay: float) -> NDArray[np.float64]:
    """Weight of each event's basket in its person's vector."""
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
    return np.asarray(within * group_decay ** (m - 1 - group) / np.maximum(m, 1))


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
