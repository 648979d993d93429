"""What is bought together on one trip more often than chance: what an offer may go with.

Of two items a and b, people u and their trips t with s_t different items in each:

    o_u   the person's trips with both
    e_u   the same by chance: sum over the trips with a of (s_t - 1) * (lines of b / lines of anything but a)
    z     sum of (o_u - e_u) / root of the sum of (o_u - e_u)^2

Trips of one person are alike, so a person counts once in the variance (cluster-robust, Liang and Zeger 1986): one
household that buys two things every week is no evidence that they go together. Only items of different kinds count:
what is of one kind is bought instead of the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.arrays import Array, Floats, Ints, Ints32, Rows, Values
from recllm.base.schema import Action
from recllm.base.settings import CollaborativeSettings
from recllm.learn.features.collaborative import ease
from recllm.shop.data.dataset import Events
from recllm.shop.data.interactions import Tally, distinct, visits, within_limits

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TOGETHER_ITEMS = 2_500
"""Best selling items that are looked at; cost grows with the square of it."""
LINES_AT_ONCE = 2**21
"""Pairs of lines of one trip that are looked at together."""
CART_ITEMS = 3_500
"""Best selling items that complete a cart; cost grows with the cube of it."""
CART_RIDGE = 5.0


def bought_together(
    log: Events,
    n_items: int,
    kind: Rows,
    limits: CollaborativeSettings | None = None,
    *,
    min_people: int = 5,
    min_z: float = 4.0,
) -> csr_matrix:
    """z of each ordered pair of items that goes together, sparse float32 (n_items, n_items); nothing elsewhere.

    log: of all people, of whose purchases those within `limits` count. kind: (n_items,), the narrowest group of each
    item, -1 for none. Only the best selling `TOGETHER_ITEMS` are looked at, and a pair needs `min_people`
    with both on a trip, and trips that exceed chance by `min_z` standard errors.
    """
    from scipy.sparse import csr_matrix

    limits = limits or CollaborativeSettings()
    buyers = _buyers(log, n_items, limits)
    # items with too few buyers cannot go with anything
    rows = np.argsort(-buyers, kind="stable")[:TOGETHER_ITEMS]
    rows = np.sort(rows[buyers[rows] >= min_people])
    n = len(rows)
    if not n:
        return csr_matrix((n_items, n_items), dtype=np.float32)
    column = np.full(n_items, -1)
    column[rows] = np.arange(n)
    n_lines, companions, joint = np.zeros(n, np.int64), np.zeros(n), np.zeros(n * n, np.int64)
    for _, events in log.parts():
        trips = _TripLines.of(_purchases(events, limits), column, n)
        for _row, first, second in trips.pairs():
            joint += np.bincount(first * n + second, minlength=n * n)
        n_lines += np.bincount(trips.item, minlength=n)
        companions += np.bincount(trips.item, trips.size[trips.trip] - 1, minlength=n)
        del trips  # before those of the next part are made
    chance = n_lines[None, :] / np.maximum(n_lines.sum() - n_lines, 1)[:, None]  # another line with a is of b
    observed, expected = joint.reshape(n, n), companions[:, None] * chance
    observed = observed + observed.T
    of_kind = kind[rows]
    # most pairs cannot pass, even if each of their trips were another person's
    promising = (observed >= min_people) & ((of_kind[:, None] != of_kind) | (of_kind < 0))
    promising &= observed - expected > min_z * np.sqrt(expected)
    promising = np.triu(promising | promising.T)
    a, b = np.nonzero(promising)
    number = np.where(promising, np.cumsum(promising).reshape(n, n) - 1, -1).ravel().astype(np.int32)
    people, squares = np.zeros(len(a), np.int64), np.zeros(n)
    joint_squares, beside_a, beside_b = np.zeros(len(a)), np.zeros(len(a)), np.zeros(len(a))
    for _, events in log.parts():
        of_people = _squares_of_people(events, column, (a, b), number, limits)
        for total, count in zip((people, squares, joint_squares, beside_a, beside_b), of_people, strict=True):
            total += count

    def z_of(a: Ints, b: Ints, beside_a: Values) -> Values:
        by_chance = chance[a, b]
        variance = joint_squares - 2 * by_chance * beside_a + by_chance**2 * squares[a]
        return np.asarray((observed[a, b] - expected[a, b]) / np.sqrt(np.maximum(variance, 1e-12)))

    z = np.concatenate([z_of(a, b, beside_a), z_of(b, a, beside_b)])
    passing = (z > min_z) & (np.tile(people, 2) >= min_people)
    cells = (rows[np.concatenate([a, b])[passing]], rows[np.concatenate([b, a])[passing]])
    return csr_matrix((z[passing].astype(np.float32), cells), shape=(n_items, n_items))


def cart_weights(
    log: Events, n_items: int, limits: CollaborativeSettings | None = None, *, min_people: int = 5
) -> tuple[csr_matrix, Floats]:
    """What completes a cart, sparse float32 (n_items, n_items), and the share of trips with each item, (n_items,).

    The sum of the rows of a cart's items less the share is the order: without it all carts get the best sellers. EASE
    over the trips within `limits`, each weighing one over the root of its size, and of the person's trips. A pair needs
    `min_people` with both on a trip."""
    from scipy.sparse import csr_matrix

    limits = limits or CollaborativeSettings()
    buyers = _buyers(log, n_items, limits)
    rows = np.sort(np.argsort(-buyers, kind="stable")[:CART_ITEMS])
    rows = rows[buyers[rows] >= min_people]
    n, column = len(rows), np.full(n_items, -1)
    column[rows] = np.arange(n)
    gram, weight = np.zeros((n, n), np.float32), 0.0
    for _, events in log.parts():
        products, weight_of_part = _products_of_trips(events, column, n, limits)
        gram += products
        weight += weight_of_part
    share = np.zeros(n_items, np.float32)
    share[rows] = np.diag(gram) / max(weight, 1e-9)
    weights = ease(gram, rows, n_items, CART_RIDGE).tocoo()
    a, b = column[weights.row], column[weights.col]
    pairs, pair = np.unique(np.minimum(a, b) * n + np.maximum(a, b), return_inverse=True)
    number = np.full(n * n, -1, np.int32)
    number[pairs] = np.arange(len(pairs))
    people = np.zeros(len(pairs), np.int64)
    for _, events in log.parts():
        lines = _TripLines.of(_purchases(events, limits), column, n)
        people += np.bincount(lines.pairs_of_people(number, len(pairs))[1], minlength=len(pairs))
        del lines  # before those of the next part are made
    shared = people[pair] >= min_people
    cells = (weights.row[shared], weights.col[shared])
    return csr_matrix((weights.data[shared], cells), shape=(n_items, n_items)), share


def _products_of_trips(events: Events, column: Ints, n: int, limits: CollaborativeSettings) -> tuple[Floats, float]:
    """Weight of the trips with each two items, (n, n), and of all."""
    from scipy.sparse import csr_matrix

    trips = _TripLines.of(_purchases(events, limits), column, n)
    n_trips = np.maximum(np.bincount(trips.owner), 1)[trips.owner]
    weight = (np.maximum(trips.size, 1) * n_trips) ** -0.25  # on both sides of the product
    lines = csr_matrix((weight[trips.trip].astype(np.float32), (trips.trip, trips.item)), (len(trips.size), n))
    return np.asarray((lines.T @ lines).toarray(), np.float32), float((weight**2).sum())


def _buyers(log: Events, n_items: int, limits: CollaborativeSettings) -> Ints:
    buyers = np.zeros(n_items, np.int64)
    for _, events in log.parts():
        purchases = _purchases(events, limits)
        buyers += np.bincount(Tally.of(purchases.user, purchases.item, n_items).key, minlength=n_items)
    return buyers


def _squares_of_people(
    events: Events,
    column: Ints,
    pairs: tuple[Ints, Ints],
    number: Ints32,
    limits: CollaborativeSettings,
) -> tuple[Array, ...]:
    """What z sums over people: of each of the pairs (a, b) those with both on a trip, (n_pairs,); of each item the
    squared other lines, (n,); of each pair the squared trips with both, and these times the other lines of a, and of b,
    (n_pairs,) each. number: of the pair of two columns, -1 for none, (n * n,)."""
    n, n_pairs = math.isqrt(len(number)), len(pairs[0])
    trips = _TripLines.of(_purchases(events, limits), column, n)
    person, pair, n_joint = trips.pairs_of_people(number, n_pairs)
    bought_by, group = np.unique(trips.owner[trips.trip] * n + trips.item, return_inverse=True)
    companions = np.bincount(group, trips.size[trips.trip] - 1)  # other lines on a person's trips with an item
    products = []
    for of_item in pairs:
        lines = companions[np.searchsorted(bought_by, person * n + of_item[pair])]
        products.append(np.bincount(pair, n_joint * lines, minlength=n_pairs))
    return (
        np.bincount(pair, minlength=n_pairs),
        np.bincount(bought_by % n, companions**2, minlength=n),
        np.bincount(pair, n_joint**2.0, minlength=n_pairs),
        products[0],
        products[1],
    )


def _purchases(events: Events, limits: CollaborativeSettings) -> Events:
    return within_limits(events.of(Action.PURCHASE), limits)


@dataclass(frozen=True, eq=False)
class _TripLines:
    """A line for each trip and item of some people, (n_lines,)."""

    trip: Ints
    item: Ints
    size: Ints
    """Lines of each trip, (n_trips,)."""
    owner: Ints
    """User row of each trip, (n_trips,)."""

    @classmethod
    def of(cls, purchases: Events, column: Ints, n: int) -> _TripLines:
        """column: (n_items,), one of n, -1 for an item that is not looked at."""
        sold = purchases.select(column[purchases.item] >= 0)
        # a trip is a person's basket, or where it is unknown what they bought at one time
        ordinal = np.where(sold.basket >= 0, sold.basket.astype(np.int64), 2**31 + visits(sold)[0])
        trips = np.unique(sold.user.astype(np.int64) * 2**33 + ordinal, return_inverse=True)[1]
        trip, item = np.divmod(distinct(trips * n + column[sold.item]), n)
        owner = np.zeros(int(trips.max(initial=-1)) + 1, np.int64)
        owner[trips] = sold.user
        return cls(trip, item, np.bincount(trip, minlength=len(owner)), owner)

    def pairs_of_people(self, number: Ints32, n_pairs: int) -> tuple[Ints, Ints, Ints]:
        """Person, pair and on how many trips, for each person's pairs. number: as of `_squares_of_people`."""
        n, keys = math.isqrt(len(number)), [np.zeros(0, np.int64)]
        for at, first, second in self.pairs():
            pair = number[first * n + second]
            keys.append((self.owner[self.trip[at]] * n_pairs + pair)[pair >= 0])
        of_person, n_joint = np.unique(np.concatenate(keys), return_counts=True)
        person, pair = np.divmod(of_person, max(n_pairs, 1))
        return person, pair, n_joint

    def pairs(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Each two lines of one trip once, some at a time: row of the first, and the items of both, the lower first."""
        end = np.cumsum(self.size)[self.trip]
        mates = end - np.arange(len(self.trip)) - 1  # lines of the trip that come later
        ends = np.concatenate([[0], np.cumsum(mates)])
        edges = np.searchsorted(ends, np.arange(0, ends[-1] + LINES_AT_ONCE, LINES_AT_ONCE)).clip(0, len(self.trip))
        for low, high in pairwise(np.unique(edges).tolist()):
            at = np.repeat(np.arange(low, high), mates[low:high])
            later = at + 1 + np.arange(len(at)) - np.repeat(ends[low:high] - ends[low], mates[low:high])
            yield at, self.item[at], self.item[later]
