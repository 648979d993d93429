"""Boosted trees over behavioural pair features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.data.interactions import Floats
from recllm.evaluation.peers.arrivals import ArrivalSettings, arrival_examples, rank_arrivals
from recllm.evaluation.peers.boosting import BoostSettings, Forest, TreeExamples, boost
from recllm.evaluation.protocols import COLD, EvaluationQuery, RankedLists, Ranker
from recllm.evaluation.ranking import BLOCK, ListsOfBothMasks, once_per_window, one_pass_for_both_masks
from recllm.features.candidates import Candidates, candidates
from recllm.features.collaborative import CollaborativeStatistics, ask
from recllm.features.pair_features import FEATURE_NAMES, pair_cosine, pair_features
from recllm.settings import CandidateSettings, CollaborativeSettings, ScorerTrainingSettings
from recllm.training.windows import PastWindows, window_starts

COLUMNS: tuple[str, ...] = (
    "times",
    "days_since",
    "days_since_first",
    "count_120",
    "count_30",
    "count_10",
    "neighbours_recent",
    "neighbours_decayed",
    "item_item",
    "buyers_28",
    "buyers_7",
    "buyers_ever",
    "price",
    "price_gap",
    "visits",
    "days_since_visit",
    "overdue",
    "category_affinity",
    "type_affinity",
)
"""Pair features by name; the text cosine is added to them. See `lightgbm`."""


@dataclass(frozen=True, kw_only=True)
class TreeSettings(BoostSettings):
    windows: int = 4
    horizon_days: int = 28
    own_negatives: int = 100
    other_negatives: int = 150
    """Sampled per person and window; each weighs as many as it stands for."""
    people: int = 4000
    """Per window at most."""
    neighbours: int = 300
    item_item: int = 300
    popular: int = 100
    """Candidates by each source, besides the person's whole history."""
    ease_items: int = 4000
    ease_l2: float = 150.0
    text: bool = True
    arrivals: ArrivalSettings = field(default_factory=ArrivalSettings)


def lightgbm(item_vectors: Floats, *, arrivals: dict[str, Any] | None = None, **settings: Any) -> Ranker:
    """Trees over a person's candidates, learned on the windows of 28 days before the question.

    item_vectors: (n_items, dim), unit rows. settings: the fields of `TreeSettings`; arrivals: those of
    `ArrivalSettings`, for the slice COLD, which has trees of its own (see `recllm.evaluation.peers.arrivals`).

    The features, each by its name in `recllm.features.pair_features.FEATURES`: times bought `times`; days since the
    last and the first purchase `days_since`, `days_since_first`; decayed counts of half-life 120, 30 and 10 days
    `count_120`, `count_30`, `count_10`; the 100 nearest people's recent purchases and decayed counts
    `neighbours_recent`, `neighbours_decayed`; EASE score `item_item`; popularity over a month, a week and ever
    `buyers_28`, `buyers_7`, `buyers_ever`; price and price against the person's mean `price`, `price_gap`; baskets
    and days since the last visit `visits`, `days_since_visit`; days since the last purchase over the person's own
    interval for the item `overdue`; share of purchases in the item's category and type `category_affinity`,
    `type_affinity`; text cosine `pair_cosine`. Candidates: the own history, 300 by similar people, 300 by EASE, 100
    popular.
    """
    args = TreeSettings(arrivals=ArrivalSettings(**(arrivals or {})), **settings)
    fitted = once_per_window(lambda past: boost(tree_examples(past, item_vectors, args), args))
    fitted_arrivals = once_per_window(
        lambda past: boost(arrival_examples(past, item_vectors, args.arrivals), args.arrivals)
    )
    rank_sold = tree_ranker(fitted, args)

    def rank(query: EvaluationQuery) -> RankedLists:
        if query.slice == COLD:
            return rank_arrivals(fitted_arrivals(query.fit_on), query)
        return rank_sold(query)

    return rank


def tree_examples(past: Dataset, vectors: Floats, args: TreeSettings) -> TreeExamples:
    """What the trees are grown on; of `args`, the fields of `BoostSettings` other than the seed do not matter here."""
    population = CollaborativeSettings(item_item_items=args.ease_items, item_item_l2=args.ease_l2)
    training = ScorerTrainingSettings(
        horizon_days=args.horizon_days,
        n_windows=args.windows,
        repeat_negatives=args.own_negatives,
        discovery_negatives=args.other_negatives,
        users_per_window=args.people,
        seed=args.seed,
    )
    read = np.asarray(vectors, np.float32) if args.text else np.zeros((len(vectors), 1), np.float32)
    log, parts = PastWindows(past, read, None, training, population, _sources(args)), []
    for start in window_starts(past, population.target, training):
        window = log.window(log.population(start))[0]
        columns = _columns(window.features, window.cosine, args)
        parts.append((columns, window.label.astype(np.float32), np.exp(window.correction)))
    features, label, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    names = (*COLUMNS, "pair_cosine") if args.text else COLUMNS
    return TreeExamples(features, label, weight, names, CollaborativeStatistics.fit(past, read, population))


def tree_ranker(fitted: Callable[[Dataset], Forest], args: TreeSettings) -> Ranker:
    """Ranks items that were sold before. The sources propose the same new items whatever the mask, and scores do not
    depend on it, so one pass over the users serves the masked and the unmasked query."""

    def rank_both(query: EvaluationQuery) -> ListsOfBothMasks:
        forest = fitted(query.fit_on)
        allowed = np.zeros(query.dataset.n_items, dtype=bool)
        allowed[query.items] = True
        unmasked, masked = np.full((2, len(query.users), query.k), -1, np.int32)
        for start in range(0, len(query.users), BLOCK):
            part = slice(start, start + BLOCK)
            histories = query.dataset.events.rows(query.users[part])
            users = ask(forest.population, histories, query.as_of, user_rows=query.fit_users[part])
            pairs = candidates(forest.population, users, _sources(args), allowed=allowed)
            cosine = pair_cosine(forest.population.item_vectors, users.vectors.user, pairs)
            score = forest.predict(_columns(pair_features(forest.population, users, pairs), cosine, args))
            unmasked[part] = _top(score, pairs, query.k)
            new = users.owned.find(pairs.user, pairs.item) == len(users.owned.keys)
            masked[part] = _top(score[new], pairs.select(new), query.k)
        return ListsOfBothMasks(query, RankedLists(unmasked), RankedLists(masked))

    return one_pass_for_both_masks(rank_both)


def _sources(args: TreeSettings) -> CandidateSettings:
    return CandidateSettings(
        own_history=2_000,
        neighbours=args.neighbours,
        item_item=args.item_item,
        text_nearest=0,
        category_trend=0,
        new_arrivals=0,
        popular=args.popular,
    )


def _columns(features: Floats, cosine: Floats, args: TreeSettings) -> Floats:
    columns = features[:, [FEATURE_NAMES.index(name) for name in COLUMNS]]
    return np.column_stack([columns, cosine]) if args.text else columns


def _top(score: NDArray[np.float64], pairs: Candidates, k: int) -> NDArray[np.int32]:
    """Best k of each run; ties go to the lower item row, whose order is that of a hash."""
    user, lists = pairs.user, np.full((len(pairs.indptr) - 1, k), -1, np.int32)
    order = np.lexsort((pairs.item, -score, user))
    position = np.arange(len(order)) - pairs.indptr[user]
    top = position < k
    lists[user[top], position[top]] = pairs.item[order][top]
    return lists
