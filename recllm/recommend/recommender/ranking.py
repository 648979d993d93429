"""The best items for users: candidates, features, score, top k, in blocks of users so that memory stays bounded.

Without a scorer, pairs are scored by `counting_score` and, of items that a person never bought, by the cosine of the
two texts, less the item's `text_centrality`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Array, Floats, Ints, Ints32, Mask, Rows
from recllm.base.errors import ModelError, UsageError
from recllm.base.schema import COST_NAMES, MARGIN_NAMES, Objective
from recllm.learn.features.candidates import CandidateCounts, Candidates, candidates, explicit
from recllm.learn.features.collaborative import WINDOW_DAYS, CollaborativeStatistics, UserBatch, ask
from recllm.learn.features.pair_features import FEATURE_NAMES, SOLD_FEATURES, pair_cosine, pair_features
from recllm.learn.models.scorer import ItemProjections, Scorer, counting_score, sales, score_in_chunks
from recllm.shop.data.dataset import Events
from recllm.shop.data.interactions import Pairs
from recllm.text.encoder.hardware import map_blocks

LIST_DEPTH = 110
"""Items that a list is ranked to, at least. They say how far apart a user's scores lie, and by that which evidence is
clear. A longer list has all candidates, see `CandidateCounts.habit_items`."""

NAMESAKES = 100
"""Items that are ranked besides those asked for, because several may share a name."""

BLOCK_PAIRS = 2**18

USERS_AT_ONCE = 128
"""Users of a block, at most: what is computed of their pairs on the way stays in the cache."""

TEXT_WEIGHT = 2.0
"""Of the cosine, next to the logarithm of counts, where no scorer ranks."""
CART_WEIGHT = 50.0
"""Of how well an item completes the cart, next to the logit; chosen on trips of Online Retail and Complete Journey of
which an item was hidden (`eval/LOG.md`)."""
TEXT_CANDIDATES = 100
"""Nearest texts that are candidates where no scorer ranks."""


Runs = tuple[Ints, Rows]
"""Item rows of each user: (indptr, item)."""


class ScoredPairs(NamedTuple):
    """Float32 (n_pairs,) each; logit = a * cosine + mlp, more for what completes the cart. The probability in (0, 1) is
    calibrated, and that without the cart. Without a scorer `mlp` and `probability` are NaN."""

    cosine: Floats
    mlp: Floats
    logit: Floats
    probability: Floats


class PairValue(NamedTuple):
    """What a pair is worth by an objective: factor * probability - offset. Float32 (n_pairs,) each."""

    factor: Floats
    offset: Floats

    def of(self, probability: Floats) -> Floats:
        """The value of each pair."""
        return np.asarray(self.factor * probability - self.offset, np.float32)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Best items of n people, best first. item: int32 (n, k), padded with -1. The others: (n, k), NaN or 0 there.

    sources: uint16 bits of `recllm.learn.features.candidates.SOURCES`; 0 where an explicit list was ranked.
    """

    item: Ints32
    logit: Floats
    cosine: Floats
    mlp: Floats
    probability: Floats
    sources: NDArray[np.uint16]

    def row(self, n: int) -> Ranked:
        """The list of user n alone, every field (k,)."""
        return Ranked(*(getattr(self, f.name)[n] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class UserInputs:
    """What n users are scored by."""

    histories: Events
    """n runs."""
    as_of: int
    """Epoch seconds; events at or after it do not count."""
    rows: Rows | None = None
    """Row of each in the dataset behind the statistics, so that a person is not their own neighbour; -1 for none."""
    basics: Floats | None = None
    """Emb(I), (n, dim)."""

    @property
    def n(self) -> int:
        return len(self.histories.indptr) - 1

    def batch(self, population: CollaborativeStatistics, rows_of_block: slice = slice(None)) -> UserBatch:
        """These users, or a part of them, ready for the features."""
        rows = None if self.rows is None else np.asarray(self.rows)[rows_of_block]
        basics = None if self.basics is None else self.basics[rows_of_block]
        return ask(
            population, self.histories.rows(np.arange(self.n)[rows_of_block]), self.as_of, user_rows=rows, basics=basics
        )


@dataclass(frozen=True, eq=False)
class ItemRanker:
    """Scores pairs of users and items, and finds the best items for users."""

    scorer: Scorer | None
    """None scores by counting and texts."""
    population: CollaborativeStatistics
    candidates: CandidateCounts = field(default_factory=CandidateCounts)
    projections: ItemProjections | None = None
    """Kept from one answer to the next; of another scorer or other vectors they are not used."""
    horizon_days: float | None = None
    """How far ahead the probability looks; None for as far as the rates of people in general."""

    def score(self, users: UserInputs, pairs: Pairs) -> ScoredPairs:
        """Score given pairs, e.g. of virtual histories."""
        return self.score_batch(users.batch(self.population), pairs)

    def rank(
        self,
        users: UserInputs,
        k: int,
        *,
        items: Rows | None = None,
        allowed: Mask | None = None,
        banned: Runs | None = None,
        repeats: bool = True,
        popularity_weight: float = 0.0,
        objective: Objective = Objective.PROBABILITY,
        margins: Floats | None = None,
        block: int = USERS_AT_ONCE,
    ) -> Ranked:
        """Top `k` for each user, of the whole catalogue or of `items`: new ones that never sold, or the caller's own.

        Where the sources propose fewer than `k`, popular items that pass the filters of `candidates` fill the list.
        popularity_weight: items are ordered by logit - weight * log(1 + people who ever bought them), so that more
        of the catalogue is shown, at a price in accuracy (`eval/catalogue_coverage.py`); the scores in the answer stay
        what they were. 1 ranks by how much more the user buys an item than people in general do.
        objective: see `Objective`; margins: what the shop earns by each item, (n_items,), for the margin.
        """
        if items is not None:
            items = np.unique(items).astype(np.int32)
            block = int(np.clip(BLOCK_PAIRS // max(len(items), 1), 1, USERS_AT_ONCE))
        wide, habits_lead = self._wide(k), k <= LIST_DEPTH and not popularity_weight
        habits_lead = habits_lead and objective is Objective.PROBABILITY

        def lists(rows: slice) -> Ranked:
            batch = users.batch(self.population, rows)
            hidden = None
            if banned is not None:
                indptr, item = banned[0][rows.start : rows.stop + 1], banned[1]
                hidden = (indptr - indptr[0], item[indptr[0] : indptr[-1]])
            if items is None:
                pairs = candidates(
                    batch, wide, allowed=allowed, banned=hidden, repeats=repeats, habits_lead=habits_lead
                )
            else:
                pairs = explicit(batch.n, items)
                pairs = pairs.select(_open(pairs, batch, hidden, repeats))
            scores = self.score_batch(batch, pairs)
            if objective is Objective.PROBABILITY or self.scorer is None:
                return self._top(scores, pairs, k, popularity_weight)
            pair_value = self.value(batch, pairs, objective, margins, discover=not repeats)
            return self._top(scores, pairs, k, value=pair_value.of(scores.probability))

        return _stack(map_blocks(lists, users.n, block), k)

    def rank_with_and_without_repeats(
        self,
        users: UserInputs,
        k: int,
        *,
        allowed: Mask | None = None,
        popularity_weight: float = 0.0,
    ) -> tuple[Ranked, Ranked]:
        """What `rank` gives with `repeats` and without, for one scoring."""
        wide = self._wide(k)

        def lists(rows: slice) -> tuple[Ranked, Ranked]:
            batch = users.batch(self.population, rows)
            pairs = candidates(batch, wide, allowed=allowed)
            scores = self.score_batch(batch, pairs)
            is_new = _open(pairs, batch, None, repeats=False)
            new_scores = ScoredPairs(*(column[is_new] for column in scores))
            with_repeats = self._top(scores, pairs, k, popularity_weight)
            return with_repeats, self._top(new_scores, pairs.select(is_new), k, popularity_weight)

        blocks = map_blocks(lists, users.n, USERS_AT_ONCE)
        return _stack([with_repeats for with_repeats, _ in blocks], k), _stack([new for _, new in blocks], k)

    def _wide(self, k: int) -> CandidateCounts:
        """A list is short only when the catalogue is: new items fill it through `popular`, others by `own_history`."""
        longer = {"popular": max(self.candidates.popular, k), "own_history": max(self.candidates.own_history, k)}
        longer |= {} if self.scorer else {"text_nearest": max(k, TEXT_CANDIDATES)}
        return replace(self.candidates, **longer)

    def score_batch(self, batch: UserBatch, pairs: Pairs) -> ScoredPairs:
        """The same for people who are prepared already."""
        population, scorer = self.population, self.scorer
        cosine = pair_cosine(batch, pairs)
        if scorer is None:
            unknown = np.full_like(cosine, np.nan)
            is_told = np.any(batch.vectors.user, axis=1)[pairs.user]  # of others all cosines are 0
            centred = cosine - population.text_centrality[pairs.item] * is_told
            features = pair_features(batch, pairs, narrow=True)
            is_new = features[:, FEATURE_NAMES.index("times")] == 0
            best_seller = sales(population.stats.buyers_28, population.stats.buyers_91).max(initial=0)
            logit = counting_score(features, FEATURE_NAMES, float(best_seller)) + TEXT_WEIGHT * centred * is_new
            logit += completes_cart(batch, pairs)
            return ScoredPairs(np.clip(cosine, -1, 1), unknown, logit, unknown)
        if scorer.config.features != FEATURE_NAMES:
            raise ModelError("the model was trained on other pair features than this version computes; train again")
        narrow = bool(scorer.config.sold_features) and set(scorer.config.sold_features) <= set(SOLD_FEATURES)
        features = pair_features(batch, pairs, narrow=narrow)
        users, projections = scorer.project(batch.vectors.user), self.projections
        if projections is None or not projections.fit(scorer, population.item_vectors):
            projections = ItemProjections(scorer, population.item_vectors)
        projected, row = projections.of(pairs.item)
        mlp, logit = score_in_chunks(scorer.score, users, projected, pairs.user, row, cosine, features)
        return ScoredPairs(cosine, mlp, logit + completes_cart(batch, pairs), scorer.probability(logit))

    def value(
        self,
        batch: UserBatch,
        pairs: Pairs,
        objective: Objective,
        margins: Floats | None = None,
        *,
        discover: bool = False,
    ) -> PairValue:
        """What pairs are worth by an objective; margins: as in `rank`.

        By lift the chance p less that of people in general, g; of what is new alone (`discover`) p * (1 - g), that the
        person buys it and another would not: there p - g is mostly the estimate of g, and its first items were bought
        less. General is how likely anybody who shops here buys the item: of what a user never bought, anybody to whom
        it is new, too. A rate of some days is taken for that of the horizon in proportion.
        """
        factor = np.ones(len(pairs.item), np.float32)
        offset = np.zeros(len(pairs.item), np.float32)
        if objective is Objective.LIFT:
            stats, is_owned = self.population.stats, batch.owned.occurs(pairs.user, pairs.item)
            rate = np.where(is_owned, stats.buying_rate[pairs.item], stats.first_buying_rate[pairs.item])
            general = np.asarray(rate * (self.horizon_days or WINDOW_DAYS) / WINDOW_DAYS, np.float32)
            if discover:
                factor = 1 - np.minimum(general, 1)
            else:
                offset = general
        elif objective is Objective.MARGIN and margins is not None:
            factor = np.asarray(margins[pairs.item], np.float32)
        return PairValue(factor, offset)

    def _top(
        self,
        scores: ScoredPairs,
        pairs: Candidates,
        k: int,
        popularity_weight: float = 0.0,
        *,
        value: Floats | None = None,
    ) -> Ranked:
        """Best k of each run by value, or by score; ties go to the lower item row, whose order is that of a hash."""
        user, n, score = pairs.user, len(pairs.indptr) - 1, scores.logit if value is None else value
        if popularity_weight:
            buyers = self.population.stats.buyers_ever
            score = score - (popularity_weight * np.log1p(buyers).astype(np.float32))[pairs.item]
        order = np.lexsort((pairs.item, -score, user))
        position = np.arange(len(order)) - pairs.indptr[user]
        in_list, at = order[position < k], (user[position < k], position[position < k])

        def table(column: Array, empty: float) -> Array:
            padded = np.full((n, k), empty, column.dtype)
            padded[at] = column[in_list]
            return padded

        return Ranked(
            table(pairs.item, -1),
            table(scores.logit, np.nan),
            table(scores.cosine, np.nan),
            table(scores.mlp, np.nan),
            table(scores.probability, np.nan),
            table(pairs.sources, 0),
        )


def completes_cart(batch: UserBatch, pairs: Pairs) -> Floats:
    """What each pair's logit gains by how well the item completes the user's cart, (n_pairs,)."""
    if batch.cart is None or batch.population.carts is None:
        return np.zeros(len(pairs.item), np.float32)
    _, share = batch.population.carts
    lift = batch.cart.at(pairs.item, pairs) - share[pairs.item]
    return np.asarray(CART_WEIGHT * np.maximum(lift, 0), np.float32)


def _open(pairs: Candidates, users: UserBatch, hidden: Runs | None, repeats: bool) -> Mask:
    is_open = np.ones(len(pairs.item), bool)
    if not repeats:
        is_open &= ~users.owned.occurs(pairs.user, pairs.item)
    if hidden is not None:
        n_items = users.owned.n_keys
        banned = np.repeat(np.arange(users.n), np.diff(hidden[0])) * n_items + hidden[1]
        is_open &= ~np.isin(pairs.user * n_items + pairs.item, banned)
    return is_open


def _stack(parts: list[Ranked], k: int) -> Ranked:
    if not parts:
        empty = np.zeros((0, k), np.float32)
        return Ranked(empty.astype(np.int32), empty, empty, empty, empty, empty.astype(np.uint16))
    return Ranked(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Ranked)))


def item_margins(items: pl.DataFrame) -> Floats:
    """What the shop earns by each item, (n_items,): its attribute `margin`, else price less `cost`, NaN unknown.

    Raises `UsageError` where no item says it.
    """
    amounts = {}
    for name, keys in (("margin", MARGIN_NAMES), ("cost", COST_NAMES)):
        texts = [items["attributes"].str.json_path_match(f'$["{key}"]') for key in keys]
        amounts[name] = pl.select(pl.coalesce(texts)).to_series().cast(pl.Float64, strict=False)
    earned = items["price"].cast(pl.Float64) - amounts["cost"]
    margins = pl.select(pl.coalesce(amounts["margin"], earned)).to_series().fill_null(np.nan).to_numpy()
    if not np.isfinite(margins).any():
        raise UsageError(
            "no item says what the shop earns by it: load the catalogue with an attribute margin, or with prices and "
            "an attribute cost"
        )
    return np.asarray(margins, np.float32)
