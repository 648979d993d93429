"""Histories as arrays: decay, tallies per (person, key), sparse matrices and the person's vector.

Pure functions of the given events, so that a virtual history (a line left out, an event added) is other events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from recllm.base.arrays import Array, Floats, Ints, Ints32, Mask, Rows, Values
from recllm.base.schema import ACTION_CODE, BROWSING, Action
from recllm.base.settings import CollaborativeSettings
from recllm.shop.data.dataset import DAY, Events, row_starts


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of users and items in compressed rows: those of user u are item[indptr[u]:indptr[u + 1]].

    indptr: int64 (n_users + 1,). item: int32 (n_pairs,), item rows, ascending within a user.
    """

    indptr: Ints
    item: Ints32

    @cached_property
    def user(self) -> Ints:
        """Row of the user of each pair, (n_pairs,)."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def select(self, mask: Mask) -> Pairs:
        return Pairs(row_starts(mask)[self.indptr], self.item[mask])


def decay(at: Ints, as_of: int, half_life_days: float) -> Values:
    """Weight in (0, 1] of events at `at` (epoch seconds): halved every `half_life_days` before `as_of`."""
    age = np.maximum(as_of - at, 0) / DAY
    return np.asarray(np.exp2(-age / half_life_days))


def of_actions(events: Events, actions: Iterable[Action]) -> Events:
    """The events of these kinds; people keep their rows."""
    return events.select(np.isin(events.action, [ACTION_CODE[a] for a in actions]))


def merged_lines(events: Events) -> Events:
    """One event per (person, item, time): the lines of one item inside a basket count once, quantities added."""
    user = events.user
    if not len(events):
        return events
    first = np.ones(len(events), bool)
    first[1:] = (np.diff(user) != 0) | (np.diff(events.item) != 0) | (np.diff(events.at) != 0)
    total = np.add.reduceat(events.quantity, np.flatnonzero(first)).astype(np.float32)
    return replace(events.select(first), quantity=total)


def within_limits(events: Events, settings: CollaborativeSettings) -> Events:
    """The events of each person that count for other people: a limited number per day, and per day, action and item.

    The earliest of a day (UTC) count, and all lines of an item at one time are one event. Everything counted or learned
    over many people uses this; a person's own history does not.
    """
    if not len(events):
        return events
    day = events.at // DAY
    begins = np.ones(len(events), bool)  # of a person's day; events are in the order of time
    begins[1:] = (np.diff(events.user) != 0) | (np.diff(day) != 0)
    key = (np.cumsum(begins) * (int(events.item.max()) + 1) + events.item) * len(ACTION_CODE) + events.action
    order = np.argsort(key, kind="stable")
    changes = np.ones(len(events), bool)
    changes[1:] = np.diff(key[order]) != 0
    later = changes.copy()  # further lines of one item at one time are no further event
    later[1:] |= np.diff(events.at[order]) != 0
    within, is_event = np.zeros(len(events), bool), np.zeros(len(events), bool)
    is_event[order] = later
    within[order] = _ordinal(later, changes) < settings.person_item_day_events
    is_event &= within
    return events.select(within & (_ordinal(is_event, begins) < settings.person_day_events))


def _ordinal(counts: Mask, begins: Mask) -> Ints:
    """Ordinal of each row's event in its group, (n,), by the rows of `counts`. begins: the first row of each group."""
    running = np.cumsum(counts)
    first = np.flatnonzero(begins)
    before: Ints = running[first] - counts[first]
    return np.asarray(running - np.repeat(before, np.diff(np.append(first, len(begins)))) - 1)


def merge(earlier: Events, later: Events) -> Events:
    """The events of the same users from two parts, each user's in the order of time."""
    changed, n = np.flatnonzero(np.diff(later.indptr)), len(earlier.indptr) - 1
    before, after = earlier.rows(changed), later.rows(changed)  # only these are sorted again
    columns = [np.concatenate(column) for column in zip(before.columns(), after.columns(), strict=True)]
    item, at, *_ = columns
    order = np.lexsort((item, at, np.concatenate([before.user, after.user])))
    merged = Events(before.indptr + after.indptr, *(column[order] for column in columns))
    rows = np.arange(n)
    rows[changed] = n + np.arange(len(changed))
    return Events.concat([earlier, merged]).rows(rows)


def visits(events: Events) -> tuple[Ints, Ints]:
    """Ordinal of each event's shopping trip (distinct time) within its person, and trips per person.

    Shapes (n,) and (n_users,).
    """
    is_new = np.ones(len(events), bool)
    is_new[1:] = (np.diff(events.user) != 0) | (np.diff(events.at) != 0)
    running = row_starts(is_new)
    ordinal = running[1:] - 1 - running[events.indptr[:-1]][events.user]
    return ordinal.astype(np.int64), (running[events.indptr[1:]] - running[events.indptr[:-1]]).astype(np.int64)


DENSE_KEYS = 8
"""Possible keys per event up to which a table of all is faster than sorting."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Events grouped by (person, key). `keys` int64 ascending: person * n_keys + key; `group`: row of each event."""

    keys: Ints
    group: Ints
    n_keys: int

    @classmethod
    def of(cls, user: Rows, key: Rows, n_keys: int) -> Tally:
        row = user.astype(np.int64) * n_keys + key
        n_rows = int(row.max(initial=-1)) + 1
        if n_rows > DENSE_KEYS * len(row) or (len(row) and row.min() < 0):
            keys, group = np.unique(row, return_inverse=True)
            return cls(keys, group.astype(np.int64), n_keys)
        occurs = np.zeros(n_rows, bool)
        occurs[row] = True
        return cls(np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[row], n_keys)

    @cached_property
    def user(self) -> Ints:
        return self.keys // self.n_keys

    @cached_property
    def key(self) -> Ints:
        return self.keys % self.n_keys

    @cached_property
    def _n_rows(self) -> int:
        """One more than the largest key."""
        return int(self.keys[-1]) + 1 if len(self.keys) else 0

    @cached_property
    def _position(self) -> Ints:
        """Row of each key up to the largest, and last of none; `len(keys)` where it does not occur."""
        position = np.full(self._n_rows + 1, len(self.keys))
        position[self.keys] = np.arange(len(self.keys))
        return position

    def total(self, weight: Array | None = None) -> Floats:
        """Sum of `weight` (n_events,), or the number of events, per group."""
        return np.bincount(self.group, weight, minlength=len(self.keys)).astype(np.float32)

    def largest(self, value: Array) -> Array:
        maxima = np.full(len(self.keys), np.iinfo(np.int64).min)
        np.maximum.at(maxima, self.group, value)
        return maxima

    def smallest(self, value: Array) -> Array:
        return -self.largest(-value)

    def occurs(self, user: Rows, key: Rows) -> Mask:
        """Whether each (person, key) pair is among the events, (n,)."""
        return self.find(user, key) < len(self.keys)

    def starts(self, n_users: int) -> Ints:
        """Row of the first key of each person, and last the number of keys, (n_users + 1,)."""
        return np.searchsorted(self.keys, np.arange(n_users + 1) * self.n_keys)

    def last(self, events: Events) -> Ints:
        """When the last of these events of each person and item was; long before all times where there is none."""
        latest = np.full(len(self.keys) + 1, np.iinfo(np.int64).min)
        np.maximum.at(latest, self.find(events.user, events.item), events.at)
        return latest[:-1]

    def find(self, user: Rows, key: Rows) -> Ints:
        """Row of each (person, key) pair; `len(keys)`, where `padded` has its default, when it does not occur."""
        sought = user.astype(np.int64) * self.n_keys + key
        if self._n_rows <= DENSE_KEYS * min(len(sought), len(self.group)):
            in_table = (sought >= 0) & (sought < self._n_rows) & (key >= 0)
            return np.asarray(self._position[np.where(in_table, sought, self._n_rows)])
        position = np.searchsorted(self.keys, sought)
        safe = np.minimum(position, max(len(self.keys) - 1, 0))
        occurs = (self.keys[safe] == sought) & (key >= 0) if len(self.keys) else np.zeros(len(sought), bool)
        return np.where(occurs, position, len(self.keys)).astype(np.int64)


def distinct(numbers: Array) -> Array:
    """Each number once, ascending; ten times as fast as `np.unique` for a few whole numbers."""
    ordered = np.sort(numbers)
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return np.asarray(ordered[is_first])


def padded(column: Array, default: float) -> Floats:
    """A tally's column with the default of absent pairs appended, for indexing by `Tally.find`."""
    return np.append(column, default).astype(np.float32)


def enlarged(rows: Any, n_rows: int, n_columns: int) -> Any:
    """A sparse matrix with further rows and columns, which are empty; its values are not copied."""
    from scipy.sparse import csr_matrix

    larger = csr_matrix((n_rows, n_columns), dtype=rows.dtype)
    larger.data, larger.indices = rows.data, rows.indices
    larger.indptr = np.pad(rows.indptr, (0, n_rows - rows.shape[0]), mode="edge")
    return larger


def matrix(events: Events, n_items: int, weight: Values) -> Any:
    """Sparse float32 (n_users, n_items): summed `weight` of each person's events on each item."""
    from scipy.sparse import csr_matrix

    shape = (len(events.indptr) - 1, n_items)
    rows = csr_matrix((weight.astype(np.float32), events.item.copy(), events.indptr), shape=shape)
    rows.sum_duplicates()
    return rows


def unit(rows: Array) -> Floats:
    """Rows scaled to length 1; a row of zeros stays zeros."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12) * (length > 1e-9), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class UserVectors:
    """The parts of User = Emb(I) + Emb(B) + Emb(H), each (n, dim) of unit or zero rows, and their unit sum."""

    basics: Floats
    purchases: Floats
    browsing: Floats
    user: Floats


def user_parts(
    item_vectors: Floats, histories: Events, as_of: int, basics: Floats | None = None, half_life_days: float = 60.0
) -> UserVectors:
    """Vectors of people in the items' space.

    Emb(B) is the unit-length sum of the bought items' vectors, weighted by decayed counts, and Emb(H) the same over
    browsed items: each history line's text is the item's own, so taking a line away is exact. `basics`: (n, dim) unit
    or zero rows, or None.
    """
    n, dim = len(histories.indptr) - 1, item_vectors.shape[1]

    def part(actions: Iterable[Action]) -> Floats:
        e = merged_lines(of_actions(histories, actions))
        return unit(matrix(e, len(item_vectors), decay(e.at, as_of, half_life_days)) @ item_vectors)

    stated = np.zeros((n, dim), np.float32) if basics is None else np.asarray(basics, np.float32)
    bought, browsed = part((Action.PURCHASE,)), part(BROWSING)
    return UserVectors(stated, bought, browsed, unit(stated + bought + browsed))


def user_vectors(item_vectors: Floats, histories: Events, as_of: int, basics: Floats | None = None) -> Floats:
    """Unit User vectors (n, dim); a zero row for an unknown person. See `user_parts`."""
    return user_parts(item_vectors, histories, as_of, basics).user


FEW_COLUMNS = 256
"""The sums of at most this many columns, as a list or its reasons need, are computed for themselves."""

DENSE_BLOCK = 2**18
"""Numbers of a dense block that stays in the cache."""


@dataclass(frozen=True, eq=False)
class WeightedSums:
    """weights @ rows, (n, n_columns), float32, computed as far as needed."""

    weights: Any
    """Sparse (n, n_rows): what each user gives to each row."""
    rows: Any
    """Sparse (n_rows, n_columns)."""

    @cached_property
    def _single(self) -> Floats:
        """Of the only user, (n_columns,)."""
        indptr, used = self.rows.indptr, self.weights.indices
        lengths = indptr[used + 1] - indptr[used]
        ends = np.cumsum(lengths)
        entry = np.arange(ends[-1] if len(ends) else 0) + np.repeat(indptr[used + 1] - ends, lengths)
        values = self.rows.data[entry] * np.repeat(self.weights.data, lengths)
        sums = np.bincount(self.rows.indices[entry], values, minlength=self.rows.shape[1])
        return sums.astype(np.float32)

    @cached_property
    def _product(self) -> Any:
        return self.weights @ self.rows

    def of(self, user: int) -> tuple[Rows, Floats]:
        """The columns in which a user has a sum, in no order, and the sums."""
        if self.weights.shape[0] == 1:
            columns = np.flatnonzero(self._single != 0)  # of booleans it is ten times as fast as of numbers
            return columns, self._single[columns]
        span = slice(self._product.indptr[user], self._product.indptr[user + 1])
        return self._product.indices[span], self._product.data[span]

    def at(self, column: Rows, pairs: Pairs) -> Floats:
        """The sum of each pair's user in a column of each pair, (n_pairs,); 0 for the column -1."""
        n, n_columns = self.weights.shape[0], self.rows.shape[1]
        if not len(column) or not n_columns:
            return np.zeros(len(column), np.float32)
        if n == 1:
            return np.where(column >= 0, self._single[column], np.float32(0))
        columns, number = np.unique(column, return_inverse=True)
        if len(columns) <= FEW_COLUMNS and "_product" not in vars(self):
            used = distinct(self.weights.indices)
            sums = self.weights[:, used] @ self.rows[used][:, np.maximum(columns, 0)].toarray()
            return np.where(column >= 0, sums[pairs.user, number], np.float32(0))
        values = np.zeros(len(column), np.float32)
        step = max(1, DENSE_BLOCK // n_columns)
        for start in range(0, n, step):
            block = self._product[start : start + step].toarray()
            span = slice(pairs.indptr[start], pairs.indptr[min(start + step, n)])
            values[span] = block[pairs.user[span] - start, column[span]]
        return np.where(column >= 0, values, np.float32(0))
