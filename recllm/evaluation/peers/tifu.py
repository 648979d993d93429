"""TIFU-KNN: Hu, He, Gao, Zhang 2020, "Modeling Personalized Item Frequency Information for Next-basket
Recommendation", SIGIR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset, Events
from recllm.data.interactions import occasions, visits
from recllm.evaluation.baselines import Scores, offered, rank
from recllm.evaluation.protocols import Question, System
from recllm.schema import Action

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def tifu_knn(
    *,
    groups: int = 7,
    within_decay: float = 0.9,
    group_decay: float = 0.7,
    neighbours: int = 100,
    own_share: float = 0.7,
) -> System:
    """What the person buys again and again, blended with the mean of the most similar people.

    A person's baskets (distinct times) are cut into `groups` runs of nearly equal length, oldest first; fewer baskets
    are a group each. With n_g baskets in a group, its vector is the mean over its baskets j = 1..n_g of
    within_decay^(n_g - j) times the basket's 0/1 vector; the person's is the mean over the m groups i = 1..m of
    group_decay^(m - i) times the group's. Score = own_share * own vector + (1 - own_share) * mean vector of the
    `neighbours` nearest people by Euclidean distance, without the person. Nobody is near to a person without baskets.
    """

    def answer(question: Question) -> NDArray[np.int32]:
        items = offered(question)
        crowd = person_vectors(question.fit_on, np.arange(question.fit_on.n_users), groups, within_decay, group_decay)
        mine = person_vectors(question.dataset, question.users, groups, within_decay, group_decay)
        known = np.flatnonzero(np.diff(crowd.indptr) > 0)
        place = np.full(question.fit_on.n_users + 1, -1)
        place[known] = np.arange(len(known))
        own, crowd = place[question.own], crowd[known]
        lengths = np.asarray(crowd.multiply(crowd).sum(axis=1), dtype=np.float32)
        turned, shown, wanted = crowd.T.tocsr(), crowd[:, items], mine[:, items]

        def score(block: NDArray[np.int64]) -> Scores:
            near = _nearest(mine[block] @ turned, lengths, own[block], neighbours)
            near.data[np.repeat(np.diff(mine.indptr)[block] == 0, np.diff(near.indptr))] = 0
            return np.asarray((own_share * wanted[block] + (1 - own_share) * (near @ shown)).toarray())

        return rank(question, items, score)

    return answer


def person_vectors(
    dataset: Dataset, users: NDArray[np.integer], groups: int, within_decay: float, group_decay: float
) -> csr_array:
    """The time-decayed item frequencies of `users`, float32 sparse (len(users), n_items)."""
    from scipy.sparse import csr_array

    taken = occasions(dataset.events.of(Action.PURCHASE).rows(users))
    weight = _weights(taken, groups, within_decay, group_decay).astype(np.float32)
    out = csr_array((weight, taken.item, taken.indptr), shape=(len(users), dataset.n_items))
    out.sum_duplicates()
    return out


def _weights(taken: Events, groups: int, within_decay: float, group_decay: float) -> NDArray[np.float64]:
    """Weight of each event's basket in its person's vector."""
    ordinal, baskets = visits(taken)
    n = baskets[taken.user]
    m = np.minimum(groups, n)
    short, longer = n // np.maximum(m, 1), n % np.maximum(m, 1)  # the last `longer` groups hold one basket more
    first_long = (m - longer) * short
    late = ordinal >= first_long
    size = np.where(late, short + 1, short)
    since = np.where(late, ordinal - first_long, ordinal)
    group = np.where(late, m - longer, 0) + since // np.maximum(size, 1)
    place = since % np.maximum(size, 1)
    within = within_decay ** (size - 1 - place) / np.maximum(size, 1)
    return np.asarray(within * group_decay ** (m - 1 - group) / np.maximum(m, 1))


def _nearest(products: csr_array, lengths: NDArray[np.float32], own: NDArray[np.int64], count: int) -> csr_array:
    """1 / count at the `count` nearest people of each row, sparse; the asker's own squared length moves nobody."""
    from scipy.sparse import csr_array

    distance = lengths[None, :] - 2 * products.toarray()
    rows = np.flatnonzero(own >= 0)
    distance[rows, own[rows]] = np.inf
    k = min(count, distance.shape[1] - 1)
    if k < 1:
        return csr_array(distance.shape, dtype=np.float32)
    best = np.argpartition(distance, k - 1, axis=1)[:, :k]
    ends = np.arange(0, best.size + 1, k)
    return csr_array((np.full(best.size, 1 / k, np.float32), best.ravel(), ends), shape=distance.shape)
