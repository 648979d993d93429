"""Boosted trees (LightGBM, Ke et al. 2017): over behavioural features of pairs, and for items that never sold.

The latter learn on the arrivals of past windows, where what became of them is known. Features of a (person, arrival)
pair: the person's share of decayed purchases in the item's type and category, the zero-shot set score (weighted mean of
cosine to the power 8 and 16 over what the person bought), the cosine with the mean of it, and how well earlier arrivals
of the type sold: how many there were, how many people took each in its first month, and how many bought of the type in
the last 28 days. Without the last two the trees are hardly better than the set score alone (.018 instead of .037 on
cj-next28's validation window).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from recllm.base.arrays import Array, Floats, Ints, Ints32, Rows, Values
from recllm.base.schema import Action
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.learn.features.candidates import CandidateCounts, Candidates, candidates
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.pair_features import FEATURE_NAMES, pair_cosine, pair_features
from recllm.learn.training.windows import PastWindows, window_starts
from recllm.recommend.evaluation.baselines import BLOCK, Scores, one_pass_for_both_masks, rank_in_blocks
from recllm.recommend.evaluation.protocols import COLD, EvaluationQuery, RankedLists, Ranker
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.shop.data.interactions import decay, matrix, merged_lines, unit

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
"""Pair features by name; the text cosine is added to them."""

ARRIVAL_SALES = ("arrival_rate", "arrivals", "type_buyers")
ARRIVAL_COLUMNS = ("type_affinity", "category_affinity", "set_8", "set_16", "mean_cosine", *ARRIVAL_SALES)
ARRIVAL_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class BoostSettings:
    rounds: int = 200
    leaves: int = 31
    learning_rate: float = 0.05
    least_rows: int = 50
    """In a leaf."""
    share: float = 0.8
    """Of the columns per tree and of the rows per round."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TreeExamples:
    """Pairs of a person and an item of all past windows."""

    features: Floats
    """(n, len(names))."""
    label: Floats
    weight: Floats
    names: tuple[str, ...]
    population: CollaborativeStatistics
    """As of the query."""


@dataclass(frozen=True, eq=False)
class Forest:
    booster: Any
    """A `lightgbm.Booster`."""
    population: CollaborativeStatistics

    def predict(self, features: Floats) -> Values:
        return np.asarray(self.booster.predict(features, num_threads=1))


def boost(examples: TreeExamples, settings: BoostSettings) -> Forest:
    """Trees grown on the examples; one thread and fixed orders, so that a seed gives one result."""
    import lightgbm

    data = lightgbm.Dataset(
        examples.features,
        label=examples.label,
        weight=examples.weight,
        feature_name=list(examples.names),
        params={"verbosity": -1},
    )
    parameters = {
        "objective": "binary",
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.least_rows,
        "feature_fraction": settings.share,
        "bagging_fraction": settings.share,
        "bagging_freq": 1,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    return Forest(lightgbm.train(parameters, data, num_boost_round=settings.rounds), examples.population)


@dataclass(frozen=True, kw_only=True)
class ArrivalSettings(BoostSettings):
    rounds: int = 150
    leaves: int = 15
    learning_rate: float = 0.05
    windows: int = 5
    horizon_days: int = 28
    negatives: int = 300
    """Sampled per person and window; each weighs as many as it stands for."""


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
    arrivals: ArrivalSettings = field(default_factory=ArrivalSettings)


def lightgbm(item_vectors: Floats, *, arrivals: dict[str, Any] | None = None, **settings: Any) -> Ranker:
    """Trees over a person's candidates, learned on the windows of 28 days before the question.

    item_vectors: (n_items, dim), unit rows. settings: the fields of `TreeSettings`; arrivals: those of
    `ArrivalSettings`, for the slice COLD, which has trees of its own.

    The features are `COLUMNS`, explained in `features.pair_features.FEATURES`, and the text cosine. Candidates:
    the own history, 300 by similar people, 300 by EASE, 100 popular.
    """
    args = TreeSettings(arrivals=ArrivalSettings(**(arrivals or {})), **settings)

    @lru_cache(maxsize=1)
    def forest(past: Dataset) -> Forest:
        return boost(tree_examples(past, item_vectors, args), args)

    @lru_cache(maxsize=1)
    def arrival_forest(past: Dataset) -> Forest:
        return boost(arrival_examples(past, item_vectors, args.arrivals), args.arrivals)

    rank_sold = tree_ranker(forest, args)

    def rank(query: EvaluationQuery) -> RankedLists:
        return rank_arrivals(arrival_forest(query.fit_on), query) if query.slice == COLD else rank_sold(query)

    return rank


def tree_examples(past: Dataset, vectors: Floats, args: TreeSettings) -> TreeExamples:
    """What the trees are grown on; of `args`, the fields of `BoostSettings` other than the seed do not matter here."""
    population = CollaborativeSettings(item_item_items=args.ease_items, item_item_l2=args.ease_l2)
    training = ScorerTrainingSettings(horizon_days=args.horizon_days, n_windows=args.windows, seed=args.seed)
    drawn: dict[str, Any] = {
        "negatives": (args.own_negatives, args.other_negatives),
        "users_per_window": args.people,
    }
    read = np.asarray(vectors, np.float32)
    log, parts = PastWindows(past, read, None, training, population, _sources(args), **drawn), []
    for start in window_starts(past, population.target, training):
        window = log.window(log.population(start))[0]
        columns = _columns(window.features, window.cosine)
        parts.append((columns, window.label.astype(np.float32), np.exp(window.correction)))
    features, label, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    names = (*COLUMNS, "pair_cosine")
    return TreeExamples(features, label, weight, names, CollaborativeStatistics.fit(past, read, population))


def tree_ranker(fitted: Callable[[Dataset], Forest], args: TreeSettings) -> Ranker:
    """Ranks items that were sold before. The sources propose the same new items whatever the mask, and scores do not
    depend on it, so one pass over the users serves the masked and the unmasked query."""

    @one_pass_for_both_masks
    def rank(query: EvaluationQuery) -> Sequence[RankedLists]:
        forest = fitted(query.fit_on)
        allowed = np.zeros(query.dataset.n_items, dtype=bool)
        allowed[query.items] = True
        unmasked, masked = np.full((2, len(query.users), query.k), -1, np.int32)
        for start in range(0, len(query.users), BLOCK):
            part = slice(start, start + BLOCK)
            histories = query.dataset.events.rows(query.users[part])
            users = ask(forest.population, histories, query.as_of, user_rows=query.fit_users[part])
            pairs = candidates(users, _sources(args), allowed=allowed)
            cosine = pair_cosine(users, pairs)
            score = forest.predict(_columns(pair_features(users, pairs), cosine))
            unmasked[part] = _top(score, pairs, query.k)
            new = ~users.owned.occurs(pairs.user, pairs.item)
            masked[part] = _top(score[new], pairs.select(new), query.k)
        return RankedLists(unmasked), RankedLists(masked)

    return rank


def _sources(args: TreeSettings) -> CandidateCounts:
    return CandidateCounts(
        own_history=2_000,
        neighbours=args.neighbours,
        item_item=args.item_item,
        text_nearest=0,
        category_trend=0,
        new_arrivals=0,
        popular=args.popular,
    )


def _columns(features: Floats, cosine: Floats) -> Floats:
    return np.column_stack([features[:, [FEATURE_NAMES.index(name) for name in COLUMNS]], cosine])


def _top(score: Values, pairs: Candidates, k: int) -> Ints32:
    """Best k of each run; ties go to the lower item row, whose order is that of a hash."""
    user, lists = pairs.user, np.full((len(pairs.indptr) - 1, k), -1, np.int32)
    order = np.lexsort((pairs.item, -score, user))
    position = np.arange(len(order)) - pairs.indptr[user]
    top = position < k
    lists[user[top], position[top]] = pairs.item[order][top]
    return lists


def arrival_examples(past: Dataset, vectors: Floats, settings: ArrivalSettings) -> TreeExamples:
    """Pairs of the people known before a window who bought one of its arrivals. Of `settings`, only the windows, the
    negatives and the seed matter here."""
    args = ScorerTrainingSettings(horizon_days=settings.horizon_days, n_windows=settings.windows)
    parts = [_arrival_window(past, start, vectors, settings) for start in window_starts(past, (Action.PURCHASE,), args)]
    features, label, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TreeExamples(features, label, weight, ARRIVAL_COLUMNS, _arrival_population(past, vectors))


def rank_arrivals(forest: Forest, query: EvaluationQuery) -> RankedLists:
    """The k best of `query.items` for each user, `ARRIVAL_BLOCK` users at a time."""
    items, events = query.items, query.dataset.events

    def score(block: Ints) -> Scores:
        bought = merged_lines(events.rows(query.users[block]).of(Action.PURCHASE))
        user, item = np.repeat(np.arange(len(block)), len(items)), np.tile(items, len(block))
        features = _arrival_features(forest.population, bought, query.as_of, user, item)
        return forest.predict(features).astype(np.float32).reshape(len(block), len(items))

    return rank_in_blocks(query, items, score, block=ARRIVAL_BLOCK)


def _arrival_window(past: Dataset, start: int, vectors: Floats, settings: ArrivalSettings) -> tuple[Array, ...]:
    """Features, label and weight of the pairs of one past window."""
    before = past.before(start)
    future = past.between(start, start + settings.horizon_days * DAY)
    earlier = before.events.of(Action.PURCHASE)
    sold = np.bincount(earlier.item, minlength=past.n_items) > 0
    future = future.select(~sold[future.item] & (np.diff(earlier.indptr) > 0)[future.user])
    people, arrivals = np.unique(future.user), np.unique(future.item)
    rng, population = np.random.default_rng([settings.seed, start]), _arrival_population(before, vectors)
    nothing = np.zeros(0, np.float32)
    parts: list[tuple[Array, ...]] = [(np.zeros((0, len(ARRIVAL_COLUMNS)), np.float32), nothing, nothing)]
    for first in range(0, len(people), ARRIVAL_BLOCK):
        rows = people[first : first + ARRIVAL_BLOCK]
        # all that was bought, and each other arrival with the same chance
        purchases, bought = future.rows(rows), np.zeros((len(rows), len(arrivals)), bool)
        bought[purchases.user, np.searchsorted(arrivals, purchases.item)] = True
        chance = min(1.0, settings.negatives / len(arrivals))
        user, column = np.nonzero(bought | (rng.random(bought.shape) < chance))
        label = bought[user, column]
        features = _arrival_features(population, merged_lines(earlier.rows(rows)), start, user, arrivals[column])
        weight = np.where(label, 1, 1 / chance).astype(np.float32)
        parts.append((features, label.astype(np.float32), weight))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _arrival_population(dataset: Dataset, vectors: Floats) -> CollaborativeStatistics:
    """Only its item groups and arrival rates are used here."""
    return CollaborativeStatistics.fit(dataset, vectors, CollaborativeSettings(item_item_items=0, neighbour_pool=1))


def _arrival_features(
    population: CollaborativeStatistics, bought: Events, as_of: int, user: Ints, item: Rows
) -> Floats:
    """(n_pairs, len(ARRIVAL_COLUMNS)); pairs stand person by person."""
    groups = (population.facets.type, population.facets.category)
    shares = [_share(bought, group, as_of)[user, group[item]] for group in groups]
    types = population.group_statistics["type"]
    sales = np.log1p([types.arrival_rate[item], types.arrivals[item], population.stats.type_buyers_28[item]])
    return np.column_stack([*shares, _text(population.item_vectors, bought, user, item), *sales]).astype(np.float32)


def _share(bought: Events, group: Ints32, as_of: int) -> Floats:
    """Share of each person's purchases, half-life 120 days, by group, (n_users, n_groups + 1); the last column, that of
    an unknown group, is 0."""
    grouped = bought.select(group[bought.item] >= 0)
    grouped = replace(grouped, item=group[grouped.item])
    rows = matrix(grouped, int(group.max(initial=-1)) + 2, decay(grouped.at, as_of, 120.0)).toarray()
    return np.asarray(rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-9))


def _text(vectors: Floats, bought: Events, user: Ints, item: Rows) -> Floats:
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
