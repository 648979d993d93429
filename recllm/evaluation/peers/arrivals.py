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
from recllm.evaluation.peers.boosting import BoostSettings, Forest, TreeExamples
from recllm.evaluation.protocols import EvaluationQuery, RankedLists
from recllm.evaluation.ranking import Scores, rank_in_blocks
from recllm.features.collaborative import CollaborativeStatistics
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


def arrival_examples(past: Dataset, vectors: Floats, settings: ArrivalSettings) -> TreeExamples:
    """Pairs of the people known before a window who bought one of its arrivals. Of `settings`, only the windows, the
    negatives and the seed matter here."""
    args = ScorerTrainingSettings(horizon_days=settings.horizon_days, n_windows=settings.windows)
    parts = [_window(past, start, vectors, settings) for start in window_starts(past, (Action.PURCHASE,), args)]
    features, label, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TreeExamples(features, label, weight, NAMES, _population(past, vectors))


def rank_arrivals(forest: Forest, query: EvaluationQuery) -> RankedLists:
    """The k best of `query.items` for each user, `BLOCK` users at a time."""
    items, events = query.items, query.dataset.events

    def score(block: NDArray[np.int64]) -> Scores:
        bought = occasions(events.rows(query.users[block]).of(Action.PURCHASE))
        user, item = np.repeat(np.arange(len(block)), len(items)), np.tile(items, len(block))
        features = _features(forest.population, bought, query.as_of, user, item)
        return forest.predict(features).astype(np.float32).reshape(len(block), len(items))

    return rank_in_blocks(query, items, score, block=BLOCK)


def _window(past: Dataset, start: int, vectors: Floats, settings: ArrivalSettings) -> tuple[NDArray[Any], ...]:
    """Features, label and weight of the pairs of one past window."""
    before = past.before(start)
    future = past.between(start, start + settings.horizon_days * DAY)
    earlier = before.events.of(Action.PURCHASE)
    sold = np.bincount(earlier.item, minlength=past.n_items) > 0
    future = future.select(~sold[future.item] & (np.diff(earlier.indptr) > 0)[future.user])
    people, arrivals = np.unique(future.user), np.unique(future.item)
    rng, population = np.random.default_rng([settings.seed, start]), _population(before, vectors)
    parts: list[tuple[NDArray[Any], ...]] = [
        (np.zeros((0, len(NAMES)), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32))
    ]
    for first in range(0, len(people), BLOCK):
        rows = people[first : first + BLOCK]
        # all that was bought, and each other arrival with the same chance
        purchases, bought = future.rows(rows), np.zeros((len(rows), len(arrivals)), bool)
        bought[purchases.user, np.searchsorted(arrivals, purchases.item)] = True
        chance = min(1.0, settings.negatives / len(arrivals))
        user, column = np.nonzero(bought | (rng.random(bought.shape) < chance))
        label = bought[user, column]
        features = _features(population, occasions(earlier.rows(rows)), start, user, arrivals[column])
        weight = np.where(label, 1, 1 / chance).astype(np.float32)
        parts.append((features, label.astype(np.float32), weight))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _population(dataset: Dataset, vectors: Floats) -> CollaborativeStatistics:
    """Only its item groups and arrival rates are used here."""
    return CollaborativeStatistics.fit(dataset, vectors, CollaborativeSettings(item_item_items=0, neighbour_pool=1))


def _features(
    population: CollaborativeStatistics, bought: Events, as_of: int, user: Ints, item: NDArray[np.integer]
) -> Floats:
    """(n_pairs, len(NAMES)); pairs stand person by person."""
    groups = (population.facets.type, population.facets.category)
    shares = [_share(bought, group, as_of)[user, group[item]] for group in groups]
    types = population.group_statistics["type"]
    sales = np.log1p([types.arrival_rate[item], types.arrivals[item], population.stats.type_buyers_28[item]])
    return np.column_stack([*shares, _text(population.item_vectors, bought, user, item), *sales]).astype(np.float32)


def _share(bought: Events, group: NDArray[np.int32], as_of: int) -> Floats:
    """Share of each person's purchases, half-life 120 days, by group, (n_users, n_groups + 1); the last column, that of
    an unknown group, is 0."""
    grouped = bought.select(group[bought.item] >= 0)
    grouped = replace(grouped, item=group[grouped.item])
    rows = matrix(grouped, int(group.max(initial=-1)) + 2, decay(grouped.at, as_of, 120.0)).toarray()
    return np.asarray(rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-9))


def _text(vectors: Floats, bought: Events, user: Ints, item: NDArray[np.integer]) -> Floats:
    """Set scores of powers 8 and 16 and the mean's cosine, (n_pairs, 3); 0 for a person without purchases."""
    scores = np.zeros((len(user), 3), np.float32)
    ends = np.searchsorted(user, np.arange(len(bought.indptr)))
    for person in range(len(bought.indptr) - 1):
        part = slice(ends[person], ends[person + 1])
        rows, count = np.unique(bought.item[bought.indptr[person] : bought.indptr[person + 1]], return_counts=True)
        if not len(rows) or part.start == part.stop:
            continue
        weight = (count / count.sum()).astype(np.float32)
        candidates, history = vectors[item[part]], vectors[rows]
        cosine = np.maximum(candidates @ history.T, 0)
        cosine **= 2
        cosine **= 2
        cosine **= 2  # the power 8 by squaring, much faster than numpy's power of floats
        scores[part, 0] = cosine @ weight
        cosine **= 2
        scores[part, 1] = cosine @ weight
        scores[part, 2] = candidates @ unit((weight @ history)[None])[0]
    return scores
