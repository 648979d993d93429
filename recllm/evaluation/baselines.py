"""Simple systems that every result is shown beside. Each maker returns a `System`.

All of them count on `question.fit_on` only, offer `question.items` only, and score people in blocks, so that no array
of people x catalogue is ever whole. Equal scores are broken by sales of the last four weeks, then by row, and rows
stand in hash order of the item id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, Events
from recllm.evaluation.protocols import ALL, MASKED, NEW, NOHISTORY, UNMASKED, Question, System
from recllm.schema import Action

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Scores = NDArray[np.float32]
"""(block, len(question.items)), higher is better; -inf keeps an item out."""

Score = Callable[[NDArray[np.int64]], Scores]
"""Takes positions in `question.users`."""

BLOCK = 256

WARM = frozenset({ALL, NEW, MASKED, UNMASKED, NOHISTORY})
"""Slices of items that were sold before; on others a system that only counts sales has nothing to say."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Contender:
    """A system in a comparison: what answers, on which slices (None for all), and the settings it was made with.

    `note`: what a reader of its figures should know.
    """

    answer: System
    slices: frozenset[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


# --- the systems ---------------------------------------------------------------------------------------------------


def random_system(seed: int = 0) -> System:
    """Any items, each as likely as the other; a person's draw depends on the seed and the person's row only."""

    def answer(question: Question) -> NDArray[np.int32]:
        def score(block: NDArray[np.int64]) -> Scores:
            users, n = question.users[block], len(question.items)
            return np.stack([np.random.default_rng((seed, int(u))).random(n, np.float32) for u in users])

        return rank(question, question.items, score)

    return answer


def popular(days: float | None = None) -> System:
    """What sold to the most people, ever or in the last `days`; the same list for everybody."""

    def answer(question: Question) -> NDArray[np.int32]:
        items = offered(question)
        sold = buyers(question.fit_on, days)[items].astype(np.float32)
        return rank(question, items, lambda block: np.tile(sold, (len(block), 1)))

    return answer


def personal_frequency(half_life_days: float = 120.0) -> System:
    """What the person bought most, a purchase t days ago counting 2^(-t / half-life); then what sells."""

    def answer(question: Question) -> NDArray[np.int32]:
        items = offered(question)
        counts = purchases(question.dataset, question.users, half_life_days)[:, items]
        return rank(question, items, lambda block: counts[block].toarray())

    return answer


def user_knn(days: float = 28.0, neighbours: int = 100, half_life_days: float = 120.0) -> System:
    """What the most similar people bought in the last `days` (Herlocker et al. 1999).

    Similarity is the cosine of log(1 + decayed counts) over each person's whole history; the `neighbours` nearest,
    without the person, vote with their similarity for each item they bought in the last `days`.
    """

    def answer(question: Question) -> NDArray[np.int32]:
        items, everyone = offered(question), np.arange(question.fit_on.n_users)
        theirs = unit_rows(purchases(question.fit_on, everyone, half_life_days).log1p())
        mine = unit_rows(purchases(question.dataset, question.users, half_life_days).log1p())
        recent = purchases(question.fit_on, everyone, None, days)[:, items].sign()

        def score(block: NDArray[np.int64]) -> Scores:
            return np.asarray((nearest(mine[block], theirs, question.own[block], neighbours) @ recent).toarray())

        return rank(question, items, score)

    return answer


def bm25(texts: Sequence[str], *, half_life_days: float = 120.0, k1: float = 1.2, b: float = 0.75) -> System:
    """BM25 over item texts; the query is the text of everything the person bought, weighted by decayed count.

    score(d) = sum over words w of query weight(w) * idf(w) * tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|)), with
    idf(w) = ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) (Robertson and Zaragoza 2009). N counts distinct texts. texts: one
    per item row.
    """
    from recllm.evaluation.bm25 import index_texts

    index = index_texts(texts, k1=k1, b=b)

    def answer(question: Question) -> NDArray[np.int32]:
        items, counts = offered(question), purchases(question.dataset, question.users, half_life_days)
        texts, spread = np.unique(index.text_of_item[items], return_inverse=True)
        documents = index.weights[texts].T.tocsr()

        def score(block: NDArray[np.int64]) -> Scores:
            queries = counts[block] @ index.words_of_items
            return np.asarray((queries @ documents).toarray().take(spread, axis=1))

        return rank(question, items, score)

    return answer


def zero_shot(vectors: NDArray[np.float32], *, half_life_days: float | None = None, power: int | None = None) -> System:
    """Cosine of untrained text vectors (n_items, dim), unit rows; no learning at all.

    The person is the mean of what they bought, weighted by decayed count (plain count without a half-life). With
    `power` p the person stays a set: score = sum over bought items of weight * max(cos, 0)^p, so that one strong
    interest is not averaged away.
    """

    def answer(question: Question) -> NDArray[np.int32]:
        items, counts = offered(question), purchases(question.dataset, question.users, half_life_days)
        candidates = vectors[items]

        def mean(block: NDArray[np.int64]) -> Scores:
            return np.asarray((counts[block] @ vectors) @ candidates.T, dtype=np.float32)

        def pooled(block: NDArray[np.int64]) -> Scores:
            return _pooled(counts[block], vectors, candidates, power or 1)

        if power is None:
            return rank(question, items, mean)
        return rank(question, items, pooled, block=max(BLOCK, 4_000_000 // max(1, len(items))))

    return answer


def _pooled(counts: csr_array, vectors: NDArray[np.float32], candidates: NDArray[np.float32], power: int) -> Scores:
    """Sums over each person's items, some candidates at a time, since bought items x candidates can be large."""
    from scipy.sparse import csr_array

    bought, column = np.unique(counts.indices, return_inverse=True)
    counts = csr_array((counts.data, column, counts.indptr), shape=(counts.shape[0], len(bought)))
    rows, out = vectors[bought], np.empty((counts.shape[0], len(candidates)), np.float32)
    for start in range(0, len(candidates), BLOCK):
        cosine = np.maximum(rows @ candidates[start : start + BLOCK].T, 0.0)
        out[:, start : start + BLOCK] = counts @ _raise(cosine, power)
    return out


def _raise(base: NDArray[np.float32], power: int) -> NDArray[np.float32]:
    """base ** power by squaring, twenty times as fast as numpy's power of floats."""
    out = base if power % 2 else np.ones_like(base)
    while power := power // 2:
        base = base * base
        out = out * base if power % 2 else out
    return out


def category_affinity(half_life_days: float | None = None) -> System:
    """How much the person bought in the item's narrowest category, as a decayed count; the same for all its items."""

    def answer(question: Question) -> NDArray[np.int32]:
        items, counts = offered(question), purchases(question.dataset, question.users, half_life_days)
        path = question.dataset.items["category"].list.join(" > ").fill_null("")
        group = (path.rank("dense") - 1).to_numpy().astype(np.int64)
        belongs = _membership(group)

        def score(block: NDArray[np.int64]) -> Scores:
            return np.asarray((counts[block] @ belongs).toarray().take(group[items], axis=1))

        return rank(question, items, score)

    return answer


def _membership(group: NDArray[np.int64]) -> csr_array:
    from scipy.sparse import csr_array

    ones = np.ones(len(group), np.float32)
    return csr_array((ones, group, np.arange(len(group) + 1)), shape=(len(group), int(group.max(initial=0)) + 1))


# --- what they share -----------------------------------------------------------------------------------------------


def offered(question: Question) -> NDArray[np.int32]:
    """The items that may be offered, best sellers of the last four weeks first: the order in which ties are broken."""
    sold = buyers(question.fit_on, 28.0)[question.items]
    return question.items[np.argsort(-sold, kind="stable")]


def rank(question: Question, items: NDArray[np.int32], score: Score, *, block: int = BLOCK) -> NDArray[np.int32]:
    """The k best `items` of each person, scored `block` people at a time; of equal ones the earlier in `items`."""
    seen = purchases(question.dataset, question.users, None)[:, items] if question.mask_seen else None
    out = np.full((len(question.users), question.k), -1, dtype=np.int32)
    for start in range(0, len(out), block):
        rows = np.arange(start, min(start + block, len(out)))
        scores = score(rows)
        if seen is not None:
            scores[seen[rows].nonzero()] = -np.inf
        best = top_k(scores, question.k)
        out[rows, : best.shape[1]] = np.where(best >= 0, items[best], -1)
    return out


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
    out = np.full((len(scores), k), -1, dtype=np.int64)
    for row, (line, limit) in enumerate(zip(scores, bound, strict=True)):
        above = np.flatnonzero(line > limit)
        best = above[np.argsort(-line[above], kind="stable")][:k]
        out[row, : len(best)] = best
        if len(best) < k and limit > -np.inf:
            out[row, len(best) :] = np.flatnonzero(line == limit)[: k - len(best)]
    return out


def buyers(dataset: Dataset, days: float | None) -> NDArray[np.int64]:
    """People who bought each item, ever or in the last `days` before the dataset's `as_of`, (n_items,)."""
    e = _purchase_events(dataset, days)
    pairs = np.unique(e.user.astype(np.int64) * dataset.n_items + e.item)
    return np.bincount(pairs % max(dataset.n_items, 1), minlength=dataset.n_items)


def purchases(
    dataset: Dataset, users: NDArray[np.int64], half_life_days: float | None, days: float | None = None
) -> csr_array:
    """Purchase lines per person and item, float32 sparse (len(users), n_items), decayed when a half-life is given."""
    from scipy.sparse import csr_array

    e = _purchase_events(dataset, days).rows(users)
    age = (dataset.as_of - e.at) / DAY
    weight = np.ones(len(e), np.float32) if half_life_days is None else np.exp2(-age / half_life_days)
    counts = csr_array((weight.astype(np.float32), e.item, e.indptr), shape=(len(users), dataset.n_items))
    counts.sum_duplicates()
    return counts


def unit_rows(matrix: csr_array) -> csr_array:
    """Rows of length 1; an empty row stays empty."""
    length = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    out = matrix.copy()
    out.data = out.data / np.repeat(np.maximum(length, 1e-12), np.diff(out.indptr)).astype(out.dtype)
    return out


def nearest(mine: csr_array, theirs: csr_array, own: NDArray[np.int64], count: int) -> csr_array:
    """Similarities to the `count` nearest people, the rest 0, sparse (len(mine), n_people). own: -1 for nobody."""
    from scipy.sparse import csr_array

    similar = (mine @ theirs.T).toarray()
    known = np.flatnonzero(own >= 0)
    similar[known, own[known]] = 0.0
    if count < similar.shape[1]:
        limit = np.partition(similar, similar.shape[1] - count, axis=1)[:, similar.shape[1] - count]
        similar[similar < limit[:, None]] = 0.0
    return csr_array(similar)


def _purchase_events(dataset: Dataset, days: float | None) -> Events:
    e = dataset.events.of(Action.PURCHASE)
    return e if days is None else e.select(e.at >= dataset.as_of - int(days * DAY))
