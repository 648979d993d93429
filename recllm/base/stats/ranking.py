"""How good a ranking is: plain arrays in, one value per person out.

A ranking is an int32 array (n_users, k) of item rows, best first, -1 where a list is shorter than k. What really
happened is a `Truth`. Functions that judge a person return float64 (n_users,), NaN where the person has nothing to
find, so that two systems can be compared person by person; `average` skips the NaN.

Sources: Järvelin and Kekäläinen 2002 (NDCG), Voorhees 1999 (MRR). `tests/test_metrics.py` compares with `ranx`. Where
definitions differ:

* `recall` divides by min(|truth|, k), so that a perfect list of k scores 1; `ranx` divides by |truth|.
* A person with an empty truth is NaN here and left out of the average; `ranx` counts 0.
* A ranking has no ties, and a list that names an item twice is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recllm.base.arrays import Ints, Ints32, Mask, Rows, Values
from recllm.base.errors import UsageError

Rankings = Ints32


@dataclass(frozen=True, eq=False)
class Truth:
    """What each person did in the window, in compressed-row form.

    The items of person u are item[indptr[u]:indptr[u + 1]], ascending, none twice.
    """

    indptr: Ints
    item: Ints32

    @classmethod
    def from_pairs(cls, user: Rows, item: Rows, n_users: int) -> Truth:
        """From one row per event: repeated pairs become one."""
        width = int(item.max()) + 1 if len(item) else 1
        pairs = np.unique(user.astype(np.int64) * width + item)
        indptr = np.searchsorted(pairs, np.arange(n_users + 1, dtype=np.int64) * width)
        return cls(indptr.astype(np.int64), (pairs % width).astype(np.int32))

    @property
    def sizes(self) -> Ints:
        return np.diff(self.indptr)

    @property
    def user(self) -> Ints:
        """Row of the person for each entry of `item`."""
        return np.repeat(np.arange(len(self.indptr) - 1), self.sizes)

    def rows(self, users: Rows) -> Truth:
        """The same for these people only, in the order given."""
        lengths = self.sizes[users]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        take = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - self.indptr[users], lengths)
        return Truth(indptr, self.item[take])


def hits(lists: Rankings, truth: Truth, k: int | None = None) -> Mask:
    """Which of the first k ranks are right, bool (n_users, min(k, width)).

    Raises `UsageError` for a k below 1, another number of people, or a list that names an item twice.
    """
    lists = _checked(lists, len(truth.sizes), k)
    width = int(max(lists.max(initial=0), truth.item.max(initial=0))) + 1
    pairs = np.arange(len(lists), dtype=np.int64)[:, None] * width + lists
    return np.isin(pairs, truth.user * width + truth.item) & (lists >= 0)


def ndcg(lists: Rankings, truth: Truth, k: int) -> Values:
    """NDCG@k = sum over hits of 1 / log2(rank + 1), over the same sum of a list with min(|truth|, k) hits on top."""
    hit = hits(lists, truth, k)
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[np.nan], np.cumsum(discount)])[np.minimum(truth.sizes, k)]
    return np.asarray(hit @ discount[: hit.shape[1]] / ideal)


def recall(lists: Rankings, truth: Truth, k: int) -> Values:
    findable = np.where(truth.sizes > 0, np.minimum(truth.sizes, k), np.nan)
    return np.asarray(hits(lists, truth, k).sum(axis=1) / findable)


def precision(lists: Rankings, truth: Truth, k: int) -> Values:
    """Precision@k = hits / k, also where the list is shorter than k."""
    return np.asarray(hits(lists, truth, k).sum(axis=1) / np.where(truth.sizes > 0, float(k), np.nan))


def hit_rate(lists: Rankings, truth: Truth, k: int) -> Values:
    """HR@k: 1 with at least one hit, else 0."""
    return np.where(truth.sizes > 0, hits(lists, truth, k).any(axis=1).astype(np.float64), np.nan)


def reciprocal_rank(lists: Rankings, truth: Truth, k: int) -> Values:
    """1 / rank of the first hit, 0 without one; its mean is MRR@k."""
    hit = hits(lists, truth, k)
    first = (hit / np.arange(1, hit.shape[1] + 1)).max(axis=1, initial=0.0)
    return np.where(truth.sizes > 0, first, np.nan)


def average(values: Values) -> float:
    """Mean over the people who have a value; NaN when none has."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def coverage(lists: Rankings, n_items: int, k: int) -> float:
    """Share of the catalogue's `n_items` that at least one list shows in its first k ranks."""
    return len(np.unique(_listed(lists, k))) / n_items if n_items else float("nan")


def gini(lists: Rankings, n_items: int, k: int) -> float:
    """Gini index of how often each of the catalogue's `n_items` is shown in the first k ranks, in [0, 1): 0 when all
    are shown equally often, near 1 when a few take every rank. Source: Gini 1912, over items as Fleder and Hosanagar
    2009 do."""
    _, often = np.unique(_listed(lists, k), return_counts=True)
    if not len(often):
        return float("nan")
    rank = np.arange(n_items - len(often), n_items) + 1  # items that are never shown stand before these and add 0
    return float(((2 * rank - n_items - 1) * np.sort(often)).sum() / (n_items * often.sum()))


def _checked(lists: Rankings, n_users: int, k: int | None) -> Rankings:
    if lists.ndim != 2 or len(lists) != n_users:
        raise UsageError(f"rankings of shape {lists.shape} for {n_users} people; give one row of items per person")
    if k is not None and k < 1:
        raise UsageError(f"k is {k}; it must be at least 1")
    lists = lists[:, :k]
    ordered = np.sort(lists, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        user = int(np.flatnonzero(twice.any(axis=1))[0])
        raise UsageError(f"the ranking in row {user} names an item twice; each item may stand in a list once")
    return lists


def _listed(lists: Rankings, k: int) -> Ints32:
    first = lists[:, :k]
    return first[first >= 0]
