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
from recllm.evaluation.peers.boosting import BoostSettings, Examples, Forest, boost
from recllm.evaluation.peers.fitted import once_per_window
from recllm.evaluation.protocols import COLD, Question, System
from recllm.features.candidates import Candidates, candidates
from recllm.features.collaborative import Asked, Population, ask
from recllm.features.pair_features import FEATURE_NAMES, pair_cosine, pair_features
from recllm.settings import CandidateSettings, CollaborativeSettings, ScorerTrainingSettings
from recllm.training.windows import Past, Window, window_starts

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

BLOCK = 256


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


def lightgbm(item_vectors: Floats, *, arrivals: dict[str, Any] | None = None, **settings: Any) -> System:
    """Trees over a person's candidates, learned on the windows of 28 days before the question.

    item_vectors: (n_items, dim), unit rows. settings: the fields of `TreeSettings`; arrivals: those of
    `ArrivalSettings`, for the slice COLD, which has trees of its own (see `recllm.evaluation.peers.arrivals`).

    The features, each by its name in `recllm.features.pair_features.FEATURES`: times bought `times`; days since the
    last and the
    first purchase `days_since`, `days_since_first`; decayed counts of half-life 120, 30 and 10 days `count_120`,
    `count_30`, `count_10`; the 100 nearest people's recent purchases and decayed counts `neighbours_recent`,
    `neighbours_decayed`; EASE score `item_item`; popularity over a month, a week and ever `buyers_28`, `buyers_7`,
    `buyers_ever`; price and price against the person's mean `price`, `price_gap`; baskets and days since the last
    visit `visits`, `days_since_visit`; days since the last purchase over the person's own interval for the item
    `overdue`; share of purchases in the item's category and type `category_affinity`, `type_affinity`; text cosine
    `pair_cosine`. Candidates: the own history, 300 by similar people, 300 by EASE, 100 popular.
    """
    given = TreeSettings(arrivals=ArrivalSettings(**(arrivals or {})), **settings)
    learned = once_per_window(lambda past: boost(learn_from(past, item_vectors, given), given))
    learned_arrivals = once_per_window(
        lambda past: boost(arrival_examples(past, item_vectors, given.arrivals), given.arrivals)
    )
    of_sold = answering(learned, given)

    def answer(question: Question) -> NDArray[np.int32]:
        if question.slice == COLD:
            return rank_arrivals(learned_arrivals(question.fit_on), question)
        return of_sold(question)

    return answer


# --- learning ------------------------------------------------------------------------------------------------------


def learn_from(past: Dataset, vectors: Floats, given: TreeSettings) -> Examples:
    """What the trees are grown on; of `given`, the fields of `BoostSettings` other than the seed do not matter here."""
    settings = CollaborativeSettings(item_item_items=given.ease_items, item_item_l2=given.ease_l2)
    args = ScorerTrainingSettings(
        horizon_days=given.horizon_days,
        n_windows=given.windows,
        repeat_negatives=given.own_negatives,
        discovery_negatives=given.other_negatives,
        users_per_window=given.people,
        seed=given.seed,
    )
    seen = np.asarray(vectors, np.float32) if given.text else np.zeros((len(vectors), 1), np.float32)
    log = Past(past, seen, None, args, settings, _sources(given))
    parts = [_rows(log.window(log.crowd(start))[0], given) for start in window_starts(past, settings.target, args)]
    features, label, weight, groups = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Examples(features, label, weight, groups, _names(given), Population.fit(past, seen, settings))


def _sources(given: TreeSettings) -> CandidateSettings:
    return CandidateSettings(
        own_history=2_000,
        neighbours=given.neighbours,
        item_item=given.item_item,
        text_nearest=0,
        category_trend=0,
        new_arrivals=0,
        popular=given.popular,
    )


def _names(given: TreeSettings) -> tuple[str, ...]:
    return (*COLUMNS, "pair_cosine") if given.text else COLUMNS


def _rows(window: Window, given: TreeSettings) -> tuple[NDArray[Any], ...]:
    chosen = _chosen(window.features, window.cosine, given)
    return chosen, window.label.astype(np.float32), np.exp(window.correction), np.diff(window.indptr)


def _chosen(features: Floats, cosine: Floats, given: TreeSettings) -> Floats:
    kept = features[:, [FEATURE_NAMES.index(name) for name in COLUMNS]]
    return np.column_stack([kept, cosine]) if given.text else kept


# --- answering -----------------------------------------------------------------------------------------------------


def answering(learned: Callable[[Dataset], Forest], given: TreeSettings) -> Callable[[Question], NDArray[np.int32]]:
    """Ranks items that were sold before; one pass over the people serves the masked and the open question."""
    passes: list[_Pass] = []

    def answer(question: Question) -> NDArray[np.int32]:
        if not passes or not passes[0].answers(question):
            passes[:] = [_pass(learned(question.fit_on), question, given)]
        return passes[0].lists(question)

    return answer


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass over people: their best items with and without what they bought, for all questions that differ only in
    the mask. The sources propose the same new items in both cases, and scores do not depend on the mask."""

    question: Question
    open: NDArray[np.int32]
    masked: NDArray[np.int32]

    def answers(self, question: Question) -> bool:
        asked = self.question
        return (
            question.dataset is asked.dataset
            and question.fit_on is asked.fit_on
            and question.k == asked.k
            and np.array_equal(question.items, asked.items)
            and bool(np.isin(question.users, asked.users).all())
        )

    def lists(self, question: Question) -> NDArray[np.int32]:
        order = np.argsort(self.question.users)
        rows = order[np.searchsorted(self.question.users, question.users, sorter=order)]
        return (self.masked if question.mask_seen else self.open)[rows]


def _pass(forest: Forest, question: Question, given: TreeSettings) -> _Pass:
    allowed = np.zeros(question.dataset.n_items, dtype=bool)
    allowed[question.items] = True
    lists = np.full((2, len(question.users), question.k), -1, np.int32)
    for start in range(0, len(question.users), BLOCK):
        part = slice(start, start + BLOCK)
        histories = question.dataset.events.rows(question.users[part])
        asked = ask(forest.crowd, histories, question.as_of, own=question.own[part])
        pairs = candidates(forest.crowd, asked, _sources(given), allowed=allowed)
        score = _scores(forest, asked, pairs, given)
        lists[0, part] = _top(score, pairs, question.k)
        fresh = asked.owned.find(pairs.user, pairs.item) == len(asked.owned.keys)
        lists[1, part] = _top(score[fresh], pairs.select(fresh), question.k)
    return _Pass(question, lists[0], lists[1])


def _scores(forest: Forest, asked: Asked, pairs: Candidates, given: TreeSettings) -> NDArray[np.float64]:
    cosine = pair_cosine(forest.crowd.item_vectors, asked.vectors.user, pairs)
    features = _chosen(pair_features(forest.crowd, asked, pairs), cosine, given)
    return forest.predict(features)


def _top(score: NDArray[np.float64], pairs: Candidates, k: int) -> NDArray[np.int32]:
    """Best k of each run; ties go to the lower item row, whose order is that of a hash."""
    user, out = pairs.user, np.full((len(pairs.indptr) - 1, k), -1, np.int32)
    order = np.lexsort((pairs.item, -score, user))
    place = np.arange(len(order)) - pairs.indptr[user]
    kept = place < k
    out[user[kept], place[kept]] = pairs.item[order][kept]
    return out
