"""Boosted trees for items that never sold: learned on the arrivals of past windows, where what became of them is known.

Features of a (person, arrival) pair: the person's share of decayed purchases in the item's type and category, the
zero-shot set score (weighted mean of cosine to the power 8 and 16 over what the person bought), the cosine with the
mean of it, and how well earlier arrivals of the type sold: how many there were, how many people took each in its first
month, and how many bought of the type in the last 28 days. Without the last two the trees are hardly better than the
set score alone (.018 instead of .037 on cj-next28's validation window).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, Events
from recllm.data.interactions import Floats, Ints, decay, matrix, occasions, unit
from recllm.evaluation.baselines import Scores, rank
from recllm.evaluation.peers.boosting import BoostSettings, Examples, Forest
from recllm.evaluation.protocols import Question
from recllm.features.collaborative import Population
from recllm.schema import Action
from recllm.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.training.windows import window_starts

SALES = ("arrival_rate", "arrivals", "type_buyers")
NAMES = ("type_affinity", "category_affinity", "set_8", "set_16", "mean_cosine", *SALES)
BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class ArrivalSettings(BoostSettings):
    rounds: int = 150
    leaves: int = 15
    learning_rate: float = 0.05
    windows: int = 5
    horizon_days: int = 28
    negatives: int = 300
    """Sampled per person and window; each weighs as many as it stands for."""


def arrival_examples(past: Dataset, vectors: Floats, given: ArrivalSettings) -> Examples:
    """Pairs of the people known before a window who bought one of its arrivals. Of `given`, only the windows, the
    negatives and the seed matter here."""
    args = ScorerTrainingSettings(horizon_days=given.horizon_days, n_windows=given.windows)
    parts = [_window(past, start, vectors, given) for start in window_starts(past, (Action.PURCHASE,), args)]
    features, label, weight, groups = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Examples(features, label, weight, groups, NAMES, _crowd(past, vectors))


def rank_arrivals(forest: Forest, question: Question) -> NDArray[np.int32]:
    """The k best of `question.items` for each person, `BLOCK` people at a time."""
    items, events = question.items, question.dataset.events

    def score(block: NDArray[np.int64]) -> Scores:
        taken = occasions(events.rows(question.users[block]).of(Action.PURCHASE))
        user, item = np.repeat(np.arange(len(block)), len(items)), np.tile(items, len(block))
        features = _features(forest.crowd, taken, question.as_of, user, item)
        return forest.predict(features).astype(np.float32).reshape(len(block), len(items))

    return rank(question, items, score, block=BLOCK)


def _window(past: Dataset, start: int, vectors: Floats, given: ArrivalSettings) -> tuple[NDArray[Any], ...]:
    before = past.before(start)
    future = past.between(start, start + given.horizon_days * DAY)
    earlier = before.events.of(Action.PURCHASE)
    sold = np.bincount(earlier.item, minlength=past.n_items) > 0
    future = future.select(~sold[future.item] & (np.diff(earlier.indptr) > 0)[future.user])
    people, arrived = np.unique(future.user), np.unique(future.item)
    rng, crowd = np.random.default_rng([given.seed, start]), _crowd(before, vectors)
    parts = []
    for first in range(0, len(people), BLOCK):
        rows = people[first : first + BLOCK]
        user, item, label, weight = _sample(future.rows(rows), arrived, given.negatives, rng)
        features = _features(crowd, occasions(earlier.rows(rows)), start, user, item)
        parts.append((features, label, weight, np.bincount(user, minlength=len(rows))))
    empty = (np.zeros((0, len(NAMES)), np.float32), *(np.zeros(0, np.float32) for _ in range(2)), np.zeros(0, int))
    return tuple(np.concatenate(column) for column in zip(empty, *parts, strict=True))


def _sample(
    future: Events, arrived: NDArray[np.integer], negatives: int, rng: np.random.Generator
) -> tuple[Ints, NDArray[np.integer], Floats, Floats]:
    """Person, item, label and weight: all that was taken, and each other arrival with the same chance."""
    shape = (len(future.indptr) - 1, len(arrived))
    taken = np.zeros(shape, bool)
    taken[future.user, np.searchsorted(arrived, future.item)] = True
    chance = min(1.0, negatives / len(arrived))
    user, column = np.nonzero(taken | (rng.random(shape) < chance))
    label = taken[user, column]
    return user, arrived[column], label.astype(np.float32), np.where(label, 1, 1 / chance).astype(np.float32)


def _crowd(dataset: Dataset, vectors: Floats) -> Population:
    """Only its facets and arrival rates are wanted here."""
    return Population.fit(dataset, vectors, CollaborativeSettings(item_item_items=0, neighbour_pool=1))


def _features(crowd: Population, taken: Events, as_of: int, user: Ints, item: NDArray[np.integer]) -> Floats:
    """(n_pairs, len(NAMES)); pairs stand person by person."""
    shares = [_share(taken, group, as_of)[user, group[item]] for group in (crowd.facets.type, crowd.facets.category)]
    kind = crowd.group_crowds["type"]
    sales = np.log1p([kind.arrival_rate[item], kind.arrivals[item], crowd.stats.type_buyers_28[item]])
    return np.column_stack([*shares, _text(crowd.item_vectors, taken, user, item), *sales]).astype(np.float32)


def _share(taken: Events, group: NDArray[np.int32], as_of: int) -> Floats:
    """Share of each person's purchases, half-life 120 days, by group, (n_users, n_groups + 1); the last column, that of
    an unknown group, is 0."""
    known = taken.select(group[taken.item] >= 0)
    known = replace(known, item=group[known.item])
    rows = matrix(known, int(group.max(initial=-1)) + 2, decay(known.at, as_of, 120.0)).toarray()
    return np.asarray(rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-9))


def _text(vectors: Floats, taken: Events, user: Ints, item: NDArray[np.integer]) -> Floats:
    """Set scores of powers 8 and 16 and the mean's cosine, (n_pairs, 3); 0 for a person without purchases."""
    out = np.zeros((len(user), 3), np.float32)
    ends = np.searchsorted(user, np.arange(len(taken.indptr)))
    for person in range(len(taken.indptr) - 1):
        part = slice(ends[person], ends[person + 1])
        rows, count = np.unique(taken.item[taken.indptr[person] : taken.indptr[person + 1]], return_counts=True)
        if not len(rows) or part.start == part.stop:
            continue
        weight = (count / count.sum()).astype(np.float32)
        candidates, bought = vectors[item[part]], vectors[rows]
        near = np.maximum(candidates @ bought.T, 0)
        near **= 2
        near **= 2
        near **= 2
        out[part, 0] = near @ weight
        near **= 2
        out[part, 1] = near @ weight
        out[part, 2] = candidates @ unit((weight @ bought)[None])[0]
    return out
