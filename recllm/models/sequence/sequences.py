"""Histories as sequences of tokens, and the baskets in them that are predicted from what came before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Events
from recllm.data.interactions import Floats, Ints, occasions, of_actions
from recllm.schema import ACTION_CODE, BROWSING, Action

if TYPE_CHECKING:
    from torch import Tensor

GAPS = 12
"""Buckets of the days between two tokens: 0, under a day, 1, 2 to 3, 4 to 7, ... by powers of two."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Tokens of n people in time order; those of person u are item[indptr[u]:indptr[u + 1]].

    item int32, action int16, at int64 (epoch seconds), is_target bool: an action that is predicted, not only read.
    """

    indptr: Ints
    item: NDArray[np.int32]
    action: NDArray[np.int16]
    at: Ints
    is_target: NDArray[np.bool_]

    @classmethod
    def of(cls, events: Events, target: Iterable[Action]) -> Sequences:
        """The target and browsing events; lines of one item at one time count once."""
        target = tuple(target)
        read = occasions(of_actions(events, {*target, *BROWSING}))
        is_target = np.isin(read.action, [ACTION_CODE[a] for a in target])
        return cls(read.indptr, read.item, read.action.astype(np.int16), read.at, is_target)

    @property
    def n(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def user(self) -> Ints:
        return np.repeat(np.arange(self.n), np.diff(self.indptr))

    @cached_property
    def ends(self) -> NDArray[np.bool_]:
        """True at the last token of each basket, i.e. of one person's tokens of one time."""
        is_end = np.ones(len(self.item), bool)
        is_end[:-1] = (np.diff(self.user) != 0) | (np.diff(self.at) != 0)
        return is_end

    @cached_property
    def first(self) -> NDArray[np.bool_]:
        """True where a person takes an item for the first time."""
        key = self.user * (int(self.item.max(initial=0)) + 1) + self.item
        rows = np.flatnonzero(self.is_target)
        is_first = np.zeros(len(self.item), bool)
        is_first[rows[np.unique(key[rows], return_index=True)[1]]] = True
        return is_first

    def gap(self, as_of: int) -> NDArray[np.int64]:
        """Bucket of the days between each token and the person's next one, or `as_of` for the last."""
        following = np.append(self.at[1:], as_of)
        last = self.indptr[1:][np.diff(self.indptr) > 0] - 1
        following[last] = as_of
        return gap_bucket(following - self.at)


def gap_bucket(seconds: Ints) -> NDArray[np.int64]:
    """0 for the same moment, then 1 + log2 of the days, at most GAPS - 1."""
    days = np.maximum(seconds, 0) / DAY
    bucket = np.where(days > 0, 2 + np.floor(np.log2(np.maximum(days, 0.5))), 0)
    return np.clip(bucket, 0, GAPS - 1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class NextBaskets:
    """Baskets that hold something new to their user, and the state that they are predicted from."""

    user: Ints
    token: Ints
    """The last token before the basket; -1 where it is the user's first."""
    at: Ints
    """Time of the basket, epoch seconds."""
    low: Ints
    high: Ints
    """The items that are new to the user are new_tokens[low:high]."""
    new_tokens: Ints
    """Indices of tokens of the sequences."""

    @classmethod
    def of(cls, sequences: Sequences) -> NextBaskets:
        """All of them."""
        new_tokens = np.flatnonzero(sequences.first)
        starts = np.flatnonzero(np.append(True, sequences.ends[:-1])) if len(sequences.item) else new_tokens
        ends = np.append(starts[1:], len(sequences.item))
        low, high = np.searchsorted(new_tokens, starts), np.searchsorted(new_tokens, ends)
        has_new = high > low
        starts, low, high = starts[has_new], low[has_new], high[has_new]
        user = sequences.user[starts]
        token = np.where(starts > sequences.indptr[user], starts - 1, -1)
        return cls(user, token, sequences.at[starts], low, high, new_tokens)

    def select(self, mask: NDArray[np.bool_] | Ints) -> NextBaskets:
        return NextBaskets(
            self.user[mask], self.token[mask], self.at[mask], self.low[mask], self.high[mask], self.new_tokens
        )

    def between(self, start: int, stop: int) -> NextBaskets:
        """Those of [start, stop)."""
        return self.select((self.at >= start) & (self.at < stop))

    def joined(self, second: NextBaskets) -> NextBaskets:
        """These and others of the same sequences."""
        names = ("user", "token", "at", "low", "high")
        columns = {name: np.concatenate([getattr(self, name), getattr(second, name)]) for name in names}
        return replace(self, **columns)

    def draw(self, rng: np.random.Generator) -> Ints:
        """One token index of a new item per basket."""
        return self.new_tokens[self.low + (rng.random(len(self.low)) * (self.high - self.low)).astype(np.int64)]


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded sequences. item (b, length), -1 is padding; action, gap the same shape. basics (b, dim) or None."""

    item: NDArray[np.int64]
    action: NDArray[np.int64]
    gap: NDArray[np.int64]
    basics: Floats | None

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """item, action, gap and basics as the network takes them."""
        import torch

        basics = None if self.basics is None else torch.from_numpy(self.basics)
        return torch.from_numpy(self.item), torch.from_numpy(self.action), torch.from_numpy(self.gap), basics


def padded_rows(sequences: Sequences, gap: NDArray[np.int64], start: Ints, stop: Ints, basics: Floats | None) -> Batch:
    """Tokens [start, stop) of each row, left-aligned."""
    length = stop - start
    width = max(int(length.max(initial=0)), 1)
    inside = np.arange(width) < length[:, None]
    safe = np.where(inside, start[:, None] + np.arange(width), 0)
    if not len(sequences.item):
        blank = np.full(safe.shape, -1)
        return Batch(blank, np.zeros_like(blank), np.zeros_like(blank), basics)
    item = np.where(inside, sequences.item[safe], -1).astype(np.int64)
    action = np.where(inside, sequences.action[safe], 0).astype(np.int64)
    return Batch(item, action, np.where(inside, gap[safe], 0), basics)
