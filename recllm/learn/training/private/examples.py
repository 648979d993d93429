"""What a private scorer learns from: of each user, past windows with what they bought and what they did not.

Everything in a user's examples is a function of that user's own events and basics, the public catalogue, the settings
and the day at which the log ends. Not even the draw of negatives depends on who else is in the log.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.schema import Action
from recllm.base.settings import CollaborativeSettings, PrivateTrainingSettings
from recllm.learn.features.collaborative import UserBatch, ask
from recllm.learn.features.other_crowds import PRIVATE_FEATURES, crowd_of_nobody, is_listed
from recllm.learn.features.pair_features import FEATURE_NAMES, pair_cosine, pair_features
from recllm.learn.models.scorer import STANDARDISED_LIMIT
from recllm.shop.data.catalogue import ItemGroups
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset
from recllm.shop.data.interactions import Floats, Ints, Pairs, Tally, of_actions

USER_BLOCK = 128
"""Users whose features are computed at once."""

NEAR_ITEMS = 500
"""In a catalogue without types, the number of texts nearest to a user's that are near."""

PairSizes = tuple[int, int, int, int]
PAIR_SIZES: PairSizes = (16, 24, 24, 32)
"""Pairs of an example at most: purchases of the window, and items drawn from what the user bought before and did not
buy in it, from the types that the user buys or the nearest texts, and from the whole catalogue."""

_COLUMNS = [FEATURE_NAMES.index(name) for name in PRIVATE_FEATURES]
_CENTRE, _SPREAD = np.array(list(PRIVATE_FEATURES.values()), np.float32).T


@dataclass(frozen=True, eq=False)
class UserWindows:
    """Examples of users, at most `width` pairs each, padded.

    user: (n,), row of the user of each example, ascending; one user has at most one example per window. The others:
    (n, width, ...), `is_pair` False where a row is padding.
    """

    n_users: int
    user: Ints
    start: Ints
    """Of the window, (n,), epoch seconds."""
    item: NDArray[np.int32]
    is_pair: NDArray[np.bool_]
    label: NDArray[np.bool_]
    is_new: NDArray[np.bool_]
    """The user had not bought the item before."""
    correction: Floats
    """Log of how many items a drawn one stands for."""
    cosine: Floats
    features: Floats
    """Standardised, (n, width, n_features)."""
    user_vectors: Floats
    """(n, dim)."""

    def __len__(self) -> int:
        return len(self.user)

    def first(self) -> Ints:
        """Row of each user's first example, (n_users + 1,): those of user u are first[u] to first[u + 1]."""
        return np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)


def standardised(features: Floats) -> Floats:
    """The columns that a private scorer reads, brought to scale by constants; features as `pair_features` gives them,
    (..., n)."""
    scaled = (features[..., _COLUMNS] - _CENTRE) / _SPREAD
    return np.asarray(np.clip(scaled, -STANDARDISED_LIMIT, STANDARDISED_LIMIT), np.float32)


def log_end_day(as_of: int) -> int:
    """The end of the day of a time, in epoch seconds: to the second it would reveal the last event."""
    return -(-as_of // DAY) * DAY


def user_windows(
    dataset: Dataset,
    vectors: Floats,
    basics: Floats | None,
    settings: PrivateTrainingSettings,
    population: CollaborativeSettings,
    sizes: PairSizes = PAIR_SIZES,
) -> UserWindows:
    """The examples of all users. vectors: unit rows of the items by the catalogue alone, (n_items, dim). basics:
    Emb(I), (n_users, dim), or None.

    Raises `DataError` when no listed item was bought in any window.
    """
    listed, facets = is_listed(dataset.items), ItemGroups.of(dataset.items)
    end, horizon = log_end_day(dataset.as_of), settings.horizon_days * DAY
    parts = []
    for number in range(settings.n_windows):
        start = end - (number + 1) * horizon
        empty = crowd_of_nobody(dataset.items, vectors, start, population, facets)
        events = dataset.events
        bought = of_actions(events.select((events.at >= start) & (events.at < start + horizon)), population.target)
        on_list = bought.select(listed[bought.item])
        truth = Tally.of(on_list.user, on_list.item, dataset.n_items)
        users, past = np.unique(truth.user), dataset.before(start).events
        for at in range(0, len(users), USER_BLOCK):
            block = users[at : at + USER_BLOCK]
            batch = ask(
                empty,
                past.rows(block),
                start,
                basics=None if basics is None else np.asarray(basics[block], np.float32),
            )
            seeds = [_seed(dataset, settings, row, number) for row in block.tolist()]
            parts.append(_examples(batch, block, truth, listed, seeds, sizes))
    if not parts:
        raise DataError(
            f"in no window of {settings.horizon_days} days did anybody buy an item that the catalogue lists, so there "
            "is nothing to learn from: load a longer log, the catalogue, or set privacy.horizon_days"
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((-columns[1], columns[0]))
    return UserWindows(dataset.n_users, *(column[order] for column in columns))


def _seed(dataset: Dataset, settings: PrivateTrainingSettings, row: int, window: int) -> list[int]:
    """Of the draws of one user in one window; by the id, as rows depend on who else is there."""
    return [settings.seed, window, zlib.crc32(str(dataset.users[USER_COLUMN][row]).encode())]


def _examples(
    batch: UserBatch,
    users: Ints,
    truth: Tally,
    listed: NDArray[np.bool_],
    seeds: list[list[int]],
    sizes: PairSizes,
) -> tuple[NDArray[np.generic], ...]:
    """The fields of `UserWindows` from `user` on, of one block of users in one window."""
    n_items = len(listed)
    width = sum(sizes)
    item = np.zeros((len(users), width), np.int32)
    correction = np.zeros((len(users), width), np.float32)
    n_pairs, label = np.zeros(len(users), np.int64), np.zeros((len(users), width), bool)
    ends = np.searchsorted(batch.owned.keys, np.arange(batch.n + 1) * n_items)
    first = np.searchsorted(truth.keys, users * n_items)
    last = np.searchsorted(truth.keys, (users + 1) * n_items)
    for row in range(len(users)):
        rng = np.random.default_rng(seeds[row])
        positives = truth.key[first[row] : last[row]]
        owned = batch.owned.key[ends[row] : ends[row + 1]]
        near_items = _near_items(batch, row)
        kind = np.zeros(n_items, np.int8)  # 0: any other item, 1: near, 2: bought before, 3: not to be drawn
        kind[near_items], kind[owned] = 1, 2
        kind[positives], kind[~listed] = 3, 3
        negatives = [np.flatnonzero(kind == number) for number in (2, 1, 0)]
        drawn, stands_for = [], []
        for items, size in zip((positives, *negatives), sizes, strict=True):
            sample = items if len(items) <= size else np.sort(rng.choice(items, size, replace=False))
            drawn.append(sample)
            stands_for.append(np.full(len(sample), np.log(len(items) / len(sample)) if len(sample) else 0.0))
        together = np.concatenate(drawn)
        order = np.argsort(together, kind="stable")
        n_pairs[row] = len(together)
        item[row, : len(together)] = together[order]
        correction[row, : len(together)] = np.concatenate(stands_for)[order]
        label[row, : len(together)] = (np.arange(len(together)) < len(drawn[0]))[order]
    is_pair = np.arange(width) < n_pairs[:, None]
    pairs = Pairs(np.concatenate([[0], np.cumsum(n_pairs)]).astype(np.int64), item[is_pair])
    cosine = np.zeros(item.shape, np.float32)
    features = np.zeros((*item.shape, len(_COLUMNS)), np.float32)
    is_new = np.zeros(item.shape, bool)
    cosine[is_pair] = pair_cosine(batch, pairs)
    features[is_pair] = standardised(pair_features(batch, pairs))
    is_new[is_pair] = batch.owned.find(pairs.user, pairs.item) == len(batch.owned.keys)
    start = np.full(len(users), batch.as_of)
    return users, start, item, is_pair, label, is_new, correction, cosine, features, batch.vectors.user


def _near_items(batch: UserBatch, row: int) -> Ints:
    """Items of the types that the user bought, ascending; of a user without types, those of the nearest texts."""
    shares, kind = batch.type_share, batch.population.facets.type
    types = shares.indices[shares.indptr[row] : shares.indptr[row + 1]]
    if len(types):
        of_user = np.zeros(shares.shape[1], bool)
        of_user[types] = True
        return np.flatnonzero((kind >= 0) & of_user[np.maximum(kind, 0)])
    vector = batch.vectors.user[row]
    if not vector.any() or len(kind) <= NEAR_ITEMS:
        return np.zeros(0, np.int64)
    cosines = batch.population.item_vectors @ vector
    return np.sort(np.argpartition(-cosines, NEAR_ITEMS)[:NEAR_ITEMS])


TARGET = (Action.PURCHASE,)
"""What counts as a purchase where the settings say nothing: that there are too few of them would tell of people."""
