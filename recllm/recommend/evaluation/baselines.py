"""Simple systems that every result is compared with, and what they share with other peers.

They count on `query.fit_on` only and offer `query.items` only. Functions of a query and the items on offer are made a
`Ranker` by `rank_by`; the others make one. No array of users x catalogue is ever in memory at once. Equal scores are
broken by sales of the last four weeks, then by item row, and rows stand in the order of a hash of the item id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recllm.base.arrays import Floats, Ints, Ints32
from recllm.base.schema import Action
from recllm.recommend.evaluation.protocols import EvaluationQuery, RankedLists, Ranker
from recllm.shop.data.dataset import DAY, Dataset, Events, rows_of_ids
from recllm.shop.data.interactions import decay, matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Items = Ints32
Scores = Floats
"""(users of a block, items), higher is better; -inf keeps an item out."""

Score = Callable[[Ints], Scores]
"""Takes positions in `query.users`."""

BLOCK = 256


def one_pass_for_both_masks(rank_both: Callable[[EvaluationQuery], Sequence[RankedLists]]) -> Ranker:
    """`rank_both` lists what each user may be offered with, and without, what the user bought before. It is asked again
    only for a query that differs from the last one in more than the mask, or by other users than the last one's."""
    last: list[Any] = []  # a query and its two answers

    def rank(query: EvaluationQuery) -> RankedLists:
        rows = np.full(len(query.users), -1)  # of its users in the last query
        is_known = bool(last) and query.dataset is last[0].dataset and query.fit_on is last[0].fit_on
        if is_known and query.k == last[0].k and np.array_equal(query.items, last[0].items):
            rows = rows_of_ids(pl.Series(last[0].users), query.users)
        if not last or (rows < 0).any():
            last[:] = [query, rank_both(query)]
            rows = np.arange(len(query.users))
        lists = last[1][query.mask_seen]
        return RankedLists(lists.items[rows], None if lists.probabilities is None else lists.probabilities[rows])

    return rank


def offered_items(query: EvaluationQuery) -> Items:
    """The items that may be offered, best sellers of four weeks first: the order of ties."""
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


def top_k(scores: Scores, k: int) -> Ints:
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


def buyers(dataset: Dataset, days: float | None) -> Ints:
    """People who bought each item, ever or in the last `days` before the dataset's `as_of`, (n_items,)."""
    e = _purchase_events(dataset, days)
    pairs = np.unique(e.user.astype(np.int64) * dataset.n_items + e.item)
    return np.bincount(pairs % max(dataset.n_items, 1), minlength=dataset.n_items)


def purchase_matrix(
    dataset: Dataset, users: Ints, half_life_days: float | None, days: float | None = None
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


def random_order(seed: int = 0) -> Ranker:
    """Any items, each as likely as the other; a user's draw depends on the seed and the user's row only."""

    def rank(query: EvaluationQuery) -> RankedLists:
        def score(block: Ints) -> Scores:
            users, n = query.users[block], len(query.items)
            return np.stack([np.random.default_rng((seed, int(u))).random(n, np.float32) for u in users])

        return rank_in_blocks(query, query.items, score)

    return rank


def popular(query: EvaluationQuery, items: Items, days: float | None = None) -> Score:
    """What sold to the most people, ever or in the last `days`; the same list for everybody."""
    sold = buyers(query.fit_on, days)[items].astype(np.float32)
    return lambda block: np.tile(sold, (len(block), 1))


def personal_frequency(query: EvaluationQuery, items: Items, half_life_days: float = 120.0) -> Score:
    """What the user bought most, a purchase t days ago counting 2^(-t / half-life); then what sells."""
    counts = purchase_matrix(query.dataset, query.users, half_life_days)[:, items]
    return lambda block: counts[block].toarray()


def user_knn(
    query: EvaluationQuery, items: Items, days: float = 28.0, neighbours: int = 100, half_life_days: float = 120.0
) -> Score:
    """What the most similar people bought in the last `days` (Herlocker et al. 1999).

    Similarity is the cosine of log(1 + decayed counts) over each person's whole history; the `neighbours` nearest,
    without the user, vote with their similarity for each item they bought in the last `days`.
    """
    from scipy.sparse import csr_array

    everyone = np.arange(query.fit_on.n_users)
    fit_profiles = unit_rows(purchase_matrix(query.fit_on, everyone, half_life_days).log1p())
    profiles = unit_rows(purchase_matrix(query.dataset, query.users, half_life_days).log1p())
    recent = purchase_matrix(query.fit_on, everyone, None, days)[:, items].sign()

    def score(block: Ints) -> Scores:
        similar, own_rows = (profiles[block] @ fit_profiles.T).toarray(), query.fit_users[block]
        rows = np.flatnonzero(own_rows >= 0)
        similar[rows, own_rows[rows]] = 0.0
        if neighbours < similar.shape[1]:
            limit = np.partition(similar, -neighbours, axis=1)[:, -neighbours]
            similar[similar < limit[:, None]] = 0.0
        return np.asarray((csr_array(similar) @ recent).toarray())

    return score


def zero_shot(vectors: Floats) -> Ranker:
    """Cosine of untrained text vectors (n_items, dim), unit rows, with the mean of what the user bought; no learning at
    all."""

    def rank(query: EvaluationQuery) -> RankedLists:
        items, counts = offered_items(query), purchase_matrix(query.dataset, query.users, None)
        candidates = vectors[items]
        return rank_in_blocks(query, items, lambda b: np.asarray((counts[b] @ vectors) @ candidates.T, np.float32))

    return rank
