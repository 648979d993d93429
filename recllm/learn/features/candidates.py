"""Which items are worth scoring for whom: the union of several named sources.

`own_history` proposes what a person took before; every other source proposes only items that are new to the person, so
that `served_by` says which source really brought an item in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.base.arrays import Array, Floats, Ints, Mask, Rows
from recllm.learn.features.collaborative import UserBatch
from recllm.shop.data.interactions import Pairs, WeightedSums

OWN_HISTORY = "own_history"
NEIGHBOURS = "neighbours"
ITEM_ITEM = "item_item"
TEXT_NEAREST = "text_nearest"
CATEGORY_TREND = "category_trend"
NEW_ARRIVALS = "new_arrivals"
POPULAR = "popular"
INTERESTS = "interests"
CART = "cart"

SOURCES: tuple[str, ...] = (
    OWN_HISTORY,
    NEIGHBOURS,
    ITEM_ITEM,
    TEXT_NEAREST,
    CATEGORY_TREND,
    NEW_ARRIVALS,
    POPULAR,
    INTERESTS,
    CART,
)
"""Position is the bit in `Candidates.sources`. Append only."""

BIT = {name: np.uint16(1 << bit) for bit, name in enumerate(SOURCES)}


@dataclass(frozen=True)
class CandidateCounts:
    """How many items each source may propose per user; 0 switches a source off. A model keeps its own."""

    own_history: int = 500  # what the user bought before, the most habitual first
    neighbours: int = 300
    item_item: int = 150
    text_nearest: int = 30  # a full pass over the catalogue, so only for users with a short history
    category_trend: int = 150
    new_arrivals: int = 30
    popular: int = 100
    interests: int = 300  # a full pass over the catalogue, where the shop has a sequence model
    cart: int = 200  # what completes the cart
    short_history: int = 20  # a history of fewer items is short
    habit_items: int = 100
    """With this many own items, these fill the head of a list by score: each source then proposes half as
    many, which hardly ever changes the first ten (`eval/LOG.md`) and spares a sixth of the time. Not where habits are
    left out or a list is by lift; 0 never."""


@dataclass(frozen=True, eq=False)
class Candidates(Pairs):
    """Pairs with the sources that proposed them."""

    sources: NDArray[np.uint16]
    """One bit per entry of `SOURCES`, (n_pairs,)."""

    def select(self, mask: Mask) -> Candidates:
        pairs = super().select(mask)
        return Candidates(pairs.indptr, pairs.item, self.sources[mask])


def served_by(sources: int) -> tuple[str, ...]:
    """Names of the sources in a bitmask."""
    return tuple(name for name in SOURCES if int(sources) & int(BIT[name]))


def explicit(n: int, items: Rows) -> Candidates:
    """The same items for each of `n` people, named by no source."""
    rows = np.unique(items).astype(np.int32)
    indptr = np.arange(n + 1, dtype=np.int64) * len(rows)
    return Candidates(indptr, np.tile(rows, n), np.zeros(n * len(rows), np.uint16))


def candidates(
    users: UserBatch,
    settings: CandidateCounts | None = None,
    *,
    allowed: Mask | None = None,
    banned: tuple[Ints, Rows] | None = None,
    repeats: bool = True,
    habits_lead: bool = False,
) -> Candidates:
    """Union of all sources.

    allowed: (n_items,) items that may be shown at all. banned: (indptr, item), items hidden from single people.
    repeats: False hides what a person took before. habits_lead: the caller needs the first by score alone, and may have
    fewer proposals where habits fill them, see `CandidateCounts.habit_items`. Filters come before each source's cut,
    so filters never shorten its list while it has more to propose.
    """
    settings, population, n_items = settings or CandidateCounts(), users.population, users.population.n_items
    keys, bits = [np.zeros(0, np.int64)], [np.zeros(0, np.uint16)]

    def add(user: int, source: str, rows: Array) -> None:
        keys.append(user * n_items + rows.astype(np.int64))
        bits.append(np.full(len(rows), BIT[source]))

    ends = users.owned.starts(users.n)
    closed = np.zeros(n_items, bool) if allowed is None else ~np.asarray(allowed, bool)
    shut = closed.copy()
    n_hidden = settings.short_history + (0 if banned is None else int(np.diff(banned[0]).max(initial=0)))
    for user, proposals in enumerate(_proposals(users, settings, np.diff(ends), n_hidden, allowed)):
        span = slice(ends[user], ends[user + 1])
        own_items = users.owned.key[span]
        hidden = banned[1][banned[0][user] : banned[0][user + 1]] if banned is not None else own_items[:0]
        shut[hidden] = True
        n_habits = min(int((~shut[own_items]).sum()), settings.own_history) if repeats else 0
        divisor = 2 if habits_lead and 0 < settings.habit_items <= n_habits else 1
        if repeats:
            add(user, OWN_HISTORY, _best(own_items, users.habits[span], shut, settings.own_history // divisor))
        shut[own_items] = True
        for name, rows, score in proposals:
            add(user, name, _best(rows, score, shut, getattr(settings, name) // divisor))
        add(user, POPULAR, _first(population.popular, shut, settings.popular))
        shut[own_items], shut[hidden] = closed[own_items], closed[hidden]
    every, source = np.concatenate(keys), np.concatenate(bits)
    order = np.argsort(every, kind="stable")
    every, source = every[order], source[order]
    first = np.flatnonzero(np.diff(every, prepend=-1))
    merged = np.bitwise_or.reduceat(source, first) if len(first) else source
    every = every[first]
    indptr = np.searchsorted(every, np.arange(users.n + 1) * n_items).astype(np.int64)
    return Candidates(indptr, (every % n_items).astype(np.int32), merged.astype(np.uint16))


def _proposals(
    users: UserBatch,
    settings: CandidateCounts,
    n_own_items: Ints,
    n_hidden: int,
    allowed: Mask | None,
) -> Iterator[list[tuple[str, Array, Array]]]:
    """What the scored sources would propose to each person: source, item rows and their scores, higher is better; 0 or
    less is never proposed. n_hidden: items at most that are hidden from a person besides those that are not allowed."""
    population = users.population
    # share of the person's purchases in a type times the item's share of the type's buyers lately
    trend = WeightedSums(users.type_share, population.type_trend)
    sums = {NEIGHBOURS: users.neighbour_recent, ITEM_ITEM: users.item_item, CATEGORY_TREND: trend}
    is_short = (n_own_items < settings.short_history) & (settings.text_nearest > 0)
    if users.cart is not None:
        sums[CART] = users.cart
    arriving, nearest = _arriving(users), _text_nearest(users, is_short, settings.text_nearest + n_hidden, allowed)
    sequence: Iterator[Floats] | None = None
    if population.interests is not None and users.interests is not None and settings.interests:
        sequence = population.interests.catalogue(users.interests)
    every = np.arange(population.n_items)
    for user in range(users.n):
        proposals = [(name, *of_source.of(user)) for name, of_source in sums.items()]
        proposals.append((NEW_ARRIVALS, population.arrivals, arriving[user]))
        if sequence is not None:
            proposals.append((INTERESTS, every, np.exp(next(sequence))))
        if is_short[user]:
            proposals.append((TEXT_NEAREST, *next(nearest)))
        yield proposals


def _arriving(users: UserBatch) -> Floats:
    """(n, n_arrivals): how an arrival and its type sell, times the person's share of the type."""
    population, rows = users.population, users.population.arrivals
    kind = population.facets.type[rows]
    strength = 1 + population.stats.buyers_28[rows] + population.group_statistics["type"].arrival_rate[rows]
    share = np.zeros((users.n, len(rows)), np.float32)
    share[:, kind >= 0] = users.type_share.toarray()[:, kind[kind >= 0]]
    return np.asarray((share + 1e-3) * strength, np.float32)


def _text_nearest(users: UserBatch, which: Mask, n: int, allowed: Mask | None) -> Iterator[tuple[Array, Floats]]:
    """For each of these people, a few at a time, every item and its cosine with them, less its `text_centrality`.

    With an item index, of the allowed items alone those that may be among the `n` best.
    """
    vectors, population = users.vectors.user[which], users.population
    every = np.arange(population.n_items)
    allowed = np.ones(len(every), bool) if allowed is None else allowed
    for start in range(0, len(vectors), 16):
        span, nearest = vectors[start : start + 16], None
        if population.index is not None:
            # x·item - c·mean·item is the product of the item with one vector
            span = span - np.float32(population.settings.text_centring) * population.mean_vector
            nearest = population.index.nearest(span, n, allowed)
        if nearest is not None:
            yield from (
                (rows, population.item_vectors[rows] @ vector) for rows, vector in zip(nearest, span, strict=True)
            )
        else:
            scores = vectors[start : start + 16] @ population.item_vectors.T - population.text_centrality
            yield from ((every, row) for row in scores)


def _best(rows: Array, score: Array, shut: Mask, k: int) -> Array:
    """The `k` open rows with the highest positive scores; ties go to the lower row."""
    is_open = (score > 0) & ~shut[rows]
    if k <= 0 or not is_open.any():
        return rows[:0]
    rows, score = rows[is_open], score[is_open]
    if len(rows) <= k:
        return rows
    limit = np.partition(score, len(score) - k)[len(score) - k]
    above = rows[score > limit]
    return np.asarray(np.concatenate([above, np.sort(rows[score == limit])[: k - len(above)]]))


def _first(ordered: Array, shut: Mask, k: int) -> Array:
    """The first `k` open rows of an ordered list, walked in steps so that long lists stay cheap."""
    step = 4 * k + 1000
    for end in range(step, len(ordered) + step, step):
        head = ordered[:end]
        head = head[~shut[head]]
        if len(head) >= k or end >= len(ordered):
            return np.asarray(head[:k])
    return ordered[:0]
