"""What simple systems and peers share: what may be offered, ranking in blocks of users, purchases as a matrix.

No array of users x catalogue is ever in memory at once. Equal scores are broken by sales of the last four weeks, then
by item row, and rows stand in the order of a hash of the item id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, Events
from recllm.data.interactions import decay, matrix
from recllm.evaluation.protocols import EvaluationQuery, RankedLists, Ranker
from recllm.schema import Action

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Items = NDArray[np.int32]
Scores = NDArray[np.float32]
"""(users of a block, items), higher is better; -inf keeps an item out."""

Score = Callable[[NDArray[np.int64]], Scores]
"""Takes positions in `query.users`."""

BLOCK = 256

Fitted = TypeVar("Fitted")


# --- learning and ranking once -------------------------------------------------------------------------------------


def once_per_window(fit: Callable[[Dataset], Fitted]) -> Callable[[Dataset], Fitted]:
    """`fit`, called again only for another dataset; the last window's result stays in memory, and no older one."""
    last: list[Any] = []  # the dataset stays beside what was learned from it, so that its identity is not used again

    def fitted(dataset: Dataset) -> Fitted:
        if not last or last[0] is not dataset:
            last[:] = [dataset, fit(dataset)]
        result: Fitted = last[1]
        return result

    return fitted


@dataclass(frozen=True, eq=False)
class ListsOfBothMasks:
    """One pass over the users of `query`: their lists with, and without, what they bought before."""

    query: EvaluationQuery
    unmasked: RankedLists
    masked: RankedLists

    def of(self, query: EvaluationQuery) -> RankedLists | None:
        """The lists of a query that differs only in the mask or has fewer users; None for any other."""
        same = query.dataset is self.query.dataset and query.fit_on is self.query.fit_on and query.k == self.query.k
        if not same or not np.array_equal(query.items, self.query.items):
            return None
        order = np.argsort(self.query.users)
        rows = np.searchsorted(self.query.users, query.users, sorter=order)
        rows = order[np.minimum(rows, len(order) - 1)]
        if not np.array_equal(self.query.users[rows], query.users):
            return None
        lists = self.masked if query.mask_seen else self.unmasked
        probabilities = None if lists.probabilities is None else lists.probabilities[rows]
        return RankedLists(lists.items[rows], probabilities)


def one_pass_for_both_masks(rank_both: Callable[[EvaluationQuery], ListsOfBothMasks]) -> Ranker:
    """Ranks anew only for a query that the last pass does not answer."""
    last: list[ListsOfBothMasks] = []

    def rank(query: EvaluationQuery) -> RankedLists:
        lists = last[0].of(query) if last else None
        if lists is None:
            last[:] = [rank_both(query)]
            lists = last[0].of(query)
            assert lists is not None  # noqa: S101 - a pass answers its own query
        return lists

    return rank


# --- ranking -------------------------------------------------------------------------------------------------------


def offered_items(query: EvaluationQuery) -> Items:
    """The items that may be offered, best sellers of the last four weeks first: the order in which ties are broken."""
    sold = buyers(query.fit_on, 28.0)[query.items]
    return query.items[np.argsort(-sold, kind="stable")]


def rank_by(scores_of: Callable[..., Score], **settings: Any) -> Ranker:
    """Ranks what may be offered by `scores_of(query, items, **settings)`, which is called once per query."""

    def rank(query: EvaluationQuery) -> RankedLists:
        items = offered_items(query)
        return rank_in_blocks(query, items, scores_of(query, items, **settings))

    return rank


def rank_in_blocks(query: EvaluationQuery, items: Items, score: Score, *, block: int = BLOCK) -> RankedLists:
    """The k best `items` of each user, scored `block` users at a time; of equal ones the earlier in `items`."""
    bought = purchase_matrix(query.dataset, query.users, None)[:, items] if query.mask_seen else None
    lists = np.full((len(query.users), query.k), -1, dtype=np.int32)
    for start in range(0, len(lists), block):
        rows = np.arange(start, min(start + block, len(lists)))
        scores = score(rows)
        if bought is not None:
            scores[bought[rows].nonzero()] = -np.inf
        best = top_k(scores, query.k)
        lists[rows, : best.shape[1]] = np.where(best >= 0, items[best], -1)
    return RankedLists(lists)


def top_k(scores: Scores, k: int) -> NDArray[np.int64]:
    """Columns of each row's k best, best first, of equal ones the earlier first; -1 where only -inf is left.

    The k-th largest of the maxima over stretches of columns is a lower bound of the k-th largest score, which spares
    sorting all but a few columns. A partition of the row is ten times slower here, since most scores are equal.
    """
    n = scores.shape[1]
    k, width = min(k, n), max(1, min(256, n // (4 * k)))
    starts = np.arange(0, n, width)
    maxima = np.maximum.reduceat(scores, starts, axis=1) if n else scores
    bound = np.sort(maxima, axis=1)[:, -k] if len(starts) >= k > 0 else np.full(len(scores), -np.inf)
    columns = np.full((len(scores), k), -1, dtype=np.int64)
    for row, (line, limit) in enumerate(zip(scores, bound, strict=True)):
        above = np.flatnonzero(line > limit)
        best = above[np.argsort(-line[above], kind="stable")][:k]
        columns[row, : len(best)] = best
        if len(best) < k and limit > -np.inf:
            columns[row, len(best) :] = np.flatnonzero(line == limit)[: k - len(best)]
    return columns


# --- purchases -----------------------------------------------------------------------------------------------------


def buyers(dataset: Dataset, days: float | None) -> NDArray[np.int64]:
    """People who bought each item, ever or in the last `days` before the dataset's `as_of`, (n_items,)."""
    e = _purchase_events(dataset, days)
    pairs = np.unique(e.user.astype(np.int64) * dataset.n_items + e.item)
    return np.bincount(pairs % max(dataset.n_items, 1), minlength=dataset.n_items)


def purchase_matrix(
    dataset: Dataset, users: NDArray[np.int64], half_life_days: float | None, days: float | None = None
) -> csr_array:
    """Purchase lines per user and item, float32 sparse (len(users), n_items), decayed when a half-life is given."""
    from scipy.sparse import csr_array

    e = _purchase_events(dataset, days).rows(users)
    weight = np.ones(len(e)) if half_life_days is None else decay(e.at, dataset.as_of, half_life_days)
    return csr_array(matrix(e, dataset.n_items, weight))


def _purchase_events(dataset: Dataset, days: float | None) -> Events:
    e = dataset.events.of(Action.PURCHASE)
    return e if days is None else e.select(e.at >= dataset.as_of - int(days * DAY))


def unit_rows(rows: csr_array) -> csr_array:
    """Rows of length 1; an empty row stays empty."""
    length = np.sqrt(rows.multiply(rows).sum(axis=1))
    scaled = rows.copy()
    scaled.data = scaled.data / np.repeat(np.maximum(length, 1e-12), np.diff(rows.indptr)).astype(rows.dtype)
    return scaled


def nearest_users(profiles: csr_array, fit_profiles: csr_array, fit_users: NDArray[np.int64], count: int) -> csr_array:
    """Similarities to the `count` nearest people, the rest 0, sparse (len(profiles), len(fit_profiles)).

    fit_users: the row of each profile's own user in `fit_profiles`, who is no neighbour; -1 for none.
    """
    from scipy.sparse import csr_array

    similar = (profiles @ fit_profiles.T).toarray()
    rows = np.flatnonzero(fit_users >= 0)
    similar[rows, fit_users[rows]] = 0.0
    if count < similar.shape[1]:
        limit = np.partition(similar, similar.shape[1] - count, axis=1)[:, similar.shape[1] - count]
        similar[similar < limit[:, None]] = 0.0
    return csr_array(similar)
