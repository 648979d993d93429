"""Past windows of the log as pairs to learn from.

Each window stands at an earlier time: the population and the histories are those of that time, and what users bought
in the horizon after it is the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.arrays import Floats, Ints, Mask
from recllm.base.errors import DataError
from recllm.base.schema import Action
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.base.stats.ranking import Truth, average, ndcg
from recllm.learn.features.candidates import CandidateCounts, Candidates, candidates, explicit
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.pair_features import FEATURE_NAMES, SALES, pair_cosine, pair_features
from recllm.learn.features.sampled_people import sample_statistics
from recllm.shop.data.catalogue import ItemGroups
from recllm.shop.data.dataset import DAY, Dataset, row_starts
from recllm.shop.data.interactions import Pairs, Tally, of_actions

if TYPE_CHECKING:
    from recllm.learn.models.sequence import SequenceModel

SMALL_SHOP = 1_000
"""Below this number of people counting scores what sold, corrected by trees (`eval/LOG.md`), which all users of the
latest window judge, as a fifth says nothing."""
USERS_PER_WINDOW = 4_000  # users drawn per window: beyond that its cost stays the same
REPEAT_NEGATIVES = 60  # per user, from what they bought before and did not buy in the window
DISCOVERY_NEGATIVES = 90  # per user, from the candidates that are new to them
NEW_USERS_PER_WINDOW = 400
"""Users of each window, those with basics where the shop has any, who are learned from once more with their history
hidden: what to offer to a user who has done nothing yet."""
NEW_ITEM_NEGATIVES = 150  # per user, from the window's new items
MIN_NEW_ITEMS = 30  # a window with fewer, or fewer users who bought one, shows nothing about them

USER_BLOCK = 256
"""Users whose candidates and features are computed at once."""


def choose_target(dataset: Dataset, args: ScorerTrainingSettings) -> tuple[tuple[Action, ...], tuple[str, ...]]:
    """Purchases where there are enough; else carts and favourites with them; else all browsing as well."""
    ladder = (
        (Action.PURCHASE,),
        (Action.PURCHASE, Action.CART, Action.FAVOURITE),
        (Action.PURCHASE, Action.CART, Action.FAVOURITE, Action.CLICK, Action.VIEW),
    )
    counts = [len(of_actions(dataset.events, actions)) for actions in ladder]
    for actions, count in zip(ladder, counts, strict=True):
        if count >= args.min_actions:
            note = f"only {counts[0]} purchases: learned to predict {', '.join(actions)}"
            return actions, () if actions is ladder[0] else (note,)
    raise DataError(
        f"the log holds {counts[0]} purchases and {counts[-1]} purchases, carts, favourites, clicks and views in all; "
        f"training needs {args.min_actions}: load more events"
    )


def window_starts(
    dataset: Dataset, target: tuple[Action, ...], args: ScorerTrainingSettings, n_windows: int | None = None
) -> list[int]:
    """Starts of the windows, latest first, back to back.

    The latest needs half a horizon of history before it. The others need half of the whole log: counts over a much
    shorter history look unlike those that the model will serve (on Complete Journey, windows beyond that cost .002).
    """
    at = of_actions(dataset.events, target).at
    first, horizon = int(at.min()), args.horizon_days * DAY
    starts = [dataset.as_of - horizon * i for i in range(1, (n_windows or args.n_windows) + 1)]
    half = (dataset.as_of - first) / 2
    starts = [s for s in starts if s - first >= (horizon / 2 if s == starts[0] else max(half, horizon / 2))]
    if starts:
        return starts
    days = (dataset.as_of - first) / DAY
    raise DataError(
        f"the log spans {days:.0f} days; training with horizon_days={args.horizon_days} needs "
        f"{1.5 * args.horizon_days:.0f}: load a longer log or pass horizon_days={max(1, int(days // 3))}"
    )


@dataclass(frozen=True, eq=False)
class Window(Pairs):
    """Pairs of users and items to learn from."""

    as_of: int
    """Its start, epoch seconds."""
    label: Mask
    """Bought in the window; (n_pairs,), as are all down to `cosine`."""
    bought_before: Mask
    correction: Floats
    """Log of how many candidates a sampled negative stands for."""
    features: Floats
    """(n_pairs, n_features)."""
    cosine: Floats
    user_vectors: Floats
    """(n_users, dim)."""
    bought: Truth
    """What the users bought in the window, among the pairs or not."""
    discovered: Truth
    """What of it was new to them."""
    vector_items: Ints
    """Ascending rows of the items that occur, (m,)."""
    item_vectors: Floats
    """Their vectors as of the window's start, (m, dim)."""

    @property
    def n(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def vector_row(self) -> Ints:
        """Row of each pair's item in `item_vectors`, (n_pairs,)."""
        return np.searchsorted(self.vector_items, self.item)

    @property
    def is_of_new_items(self) -> bool:
        return not self.features[:, FEATURE_NAMES.index(SALES)].any()

    @property
    def n_buyers(self) -> int:
        """Users who bought something: only their lists can be right or wrong."""
        return int((self.bought.sizes > 0).sum())

    @cached_property
    def has_positive(self) -> Mask:
        """Users who bought any of their items, and any that was new to them, (2, n)."""
        masks = (self.label, self.label & ~self.bought_before)
        return np.stack([np.diff(row_starts(mask)[self.indptr]) > 0 for mask in masks])

    def buyers_among(self, users: Ints) -> tuple[int, int]:
        """How many of these users are of either kind of `has_positive`."""
        buyers, discoverers = self.has_positive[:, users].sum(axis=1).tolist()
        return buyers, discoverers


@dataclass(frozen=True, eq=False)
class PastWindows:
    """What every window is made from."""

    dataset: Dataset
    item_vectors: Floats
    """As of the dataset's time, (n_items, dim)."""
    basics: Floats | None
    """Emb(I) of the users, (n_users, dim), or None."""
    args: ScorerTrainingSettings
    collaborative: CollaborativeSettings
    candidates: CandidateCounts
    vectors_before: Callable[[int], Floats] | None = None
    """Item vectors as they were known before a time (epoch seconds).
    None: `item_vectors` hold at all times."""
    users_per_window: int = USERS_PER_WINDOW
    new_users_per_window: int = NEW_USERS_PER_WINDOW
    negatives: tuple[int, int] = (REPEAT_NEGATIVES, DISCOVERY_NEGATIVES)

    @cached_property
    def facets(self) -> ItemGroups:
        return ItemGroups.of(self.dataset.items)

    def vectors_at(self, time: int) -> Floats:
        """(n_items, dim)."""
        return self.item_vectors if self.vectors_before is None else np.asarray(self.vectors_before(time), np.float32)

    def population(self, start: int, interests: SequenceModel | None = None) -> CollaborativeStatistics:
        past, vectors = self.dataset.before(start), self.vectors_at(start)
        return sample_statistics(past, vectors, self.collaborative, self.basics, interests, self.facets)

    def window(
        self, population: CollaborativeStatistics, *, n_validation: int = 0, overlap: bool = False
    ) -> tuple[Window, Window | None]:
        """The window after `population`, sampled, and `n_validation` other users of it with all their candidates.

        Users to learn from bought something. Validation users may have bought nothing, as anybody may, or else the
        probability would be that of users who are known to come back. They are a fifth of all at most; with `overlap`
        they may be all, and users to learn from as well.
        """
        args, start = self.args, population.as_of
        past, truth = self.dataset.before(start), self._truth(start)
        allowed = population.stats.buyers_ever > 0 if args.timed else np.ones(past.n_items, bool)
        rng = np.random.default_rng([args.seed, start])
        buyers = np.unique(truth.user[allowed[truth.key]])
        everybody = np.union1d(buyers, np.flatnonzero(np.diff(past.events.indptr)))
        n_validation = n_validation if overlap else min(n_validation, len(everybody) // 5)
        validation = np.sort(rng.permutation(everybody)[:n_validation])
        buyers = buyers if overlap else np.setdiff1d(buyers, validation)
        learned = np.sort(rng.permutation(buyers)[: self.users_per_window])
        window = self._pairs(population, learned, truth, allowed, self.negatives, rng)
        return window, self._pairs(population, validation, truth, allowed, None, rng) if len(validation) else None

    def new_users(self, population: CollaborativeStatistics) -> Window | None:
        """Users who bought something in the window, without their history but with their basics; None without any."""
        args, truth = self.args, self._truth(population.as_of)
        allowed = population.stats.buyers_ever > 0
        rng = np.random.default_rng([args.seed, population.as_of, 2])
        buyers = np.unique(truth.user[allowed[truth.key]])
        with_basics = buyers if self.basics is None else buyers[np.any(self.basics[buyers], axis=1)]
        rows = rng.permutation(with_basics if len(with_basics) else buyers)[: self.new_users_per_window]
        if not len(rows):
            return None
        return self._pairs(population, np.sort(rows), truth, allowed, self.negatives, rng, history=False)

    def new_items(self, population: CollaborativeStatistics) -> Window | None:
        """The items first sold in the window, ranked among themselves for the users who bought any; None of too few.

        Such an item has no sales, so what is learned here is what its kind and its text mean to a user.
        """
        args, truth = self.args, self._truth(population.as_of)
        is_new = np.zeros(self.dataset.n_items, bool)
        is_new[truth.key[population.stats.buyers_ever[truth.key] == 0]] = True
        items, rng = np.flatnonzero(is_new), np.random.default_rng([args.seed, population.as_of, 1])
        buyers = np.unique(truth.user[is_new[truth.key]])
        has_history = np.diff(self.dataset.before(population.as_of).events.indptr)[buyers] > 0
        users = np.sort(rng.permutation(buyers[has_history])[: self.users_per_window])
        if len(items) < MIN_NEW_ITEMS or len(users) < MIN_NEW_ITEMS:
            return None
        return self._pairs(population, users, truth, is_new, (0, NEW_ITEM_NEGATIVES), rng, items=items)

    def _pairs(
        self,
        population: CollaborativeStatistics,
        users: Ints,
        truth: Tally,
        allowed: Mask,
        negatives: tuple[int, int] | None,
        rng: np.random.Generator,
        *,
        items: Ints | None = None,
        history: bool = True,
    ) -> Window:
        """Users with `items`, or with their candidates: all, or the positives and `negatives` (bought before, new)."""
        past, parts = self.dataset.before(population.as_of), []
        # what the users bought in all, whether it is among the pairs or not
        user_row = np.full(self.dataset.n_users, -1)
        user_row[users] = np.arange(len(users))
        of_users = (user_row[truth.user] >= 0) & allowed[truth.key]
        buyer, bought = user_row[truth.user][of_users], truth.key[of_users]
        for start in range(0, max(len(users), 1), USER_BLOCK):
            block = users[start : start + USER_BLOCK]
            events = past.events.rows(block)
            events = events if history else events.select(np.zeros(len(events), bool))
            basics = None if self.basics is None else self.basics[block]
            state = ask(population, events, population.as_of, user_rows=block, basics=basics)
            if items is None:
                pairs = candidates(state, self.candidates, allowed=allowed)
            else:
                pairs = explicit(len(block), items)
            label = truth.occurs(block[pairs.user], pairs.item)
            bought_before = state.owned.occurs(pairs.user, pairs.item)
            correction = np.zeros(len(label), np.float32)
            if negatives is not None:
                sample, correction = sample_negatives(pairs, label, bought_before, negatives, rng)
                pairs, correction = pairs.select(sample), correction[sample]
                label, bought_before = label[sample], bought_before[sample]
            features = pair_features(state, pairs, narrow=True)
            cosine = pair_cosine(state, pairs)
            of_block = slice(*np.searchsorted(buyer, [start, start + len(block)]))
            is_new = ~state.owned.occurs(buyer[of_block] - start, bought[of_block])
            per_pair = (pairs.item, label, bought_before, correction, features, cosine)
            parts.append((np.diff(pairs.indptr), *per_pair, state.vectors.user, is_new))
        columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        lengths, item, label, bought_before, correction, features, cosine, user_vectors, is_new = columns
        vector_items = np.unique(item).astype(np.int64)
        return Window(
            indptr=row_starts(lengths),
            item=item,
            as_of=population.as_of,
            label=label,
            bought_before=bought_before,
            correction=correction,
            features=features,
            cosine=cosine,
            user_vectors=user_vectors,
            bought=Truth.from_pairs(buyer, bought, len(users)),
            discovered=Truth.from_pairs(buyer[is_new], bought[is_new], len(users)),
            vector_items=vector_items,
            item_vectors=population.item_vectors[vector_items],
        )

    def _truth(self, start: int) -> Tally:
        e = self.dataset.events
        in_window = e.select((e.at >= start) & (e.at < start + self.args.horizon_days * DAY))
        after = of_actions(in_window, self.collaborative.target)
        return Tally.of(after.user, after.item, self.dataset.n_items)


def list_quality(logit: Floats, window: Window) -> dict[str, float]:
    """Mean NDCG@20 over users, of the window's candidates in the order of these scores, (n_pairs,), against everything
    that a user bought ("all") and what of it is new to the user ("new"), where there is any; else 0."""
    k, figures = 20, {}
    new_logit = np.where(window.bought_before, -np.inf, logit)
    for name, score, truth in (("all", logit, window.bought), ("new", new_logit, window.discovered)):
        order = np.lexsort((window.item, -score, window.user))
        rank = np.arange(len(order)) - window.indptr[window.user]
        listed = (rank < k) & np.isfinite(score[order])
        lists = np.full((window.n, k), -1, np.int32)
        lists[window.user[listed], rank[listed]] = window.item[order[listed]]
        figures[f"ndcg@20_{name}"] = float(np.nan_to_num(average(ndcg(lists, truth, k))))
    return figures


def sample_negatives(
    pairs: Candidates,
    label: Mask,
    bought_before: Mask,
    negatives: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Mask, Floats]:
    """Mask of all positives and, per user, these numbers of negatives bought before and of new ones, (n_pairs,).

    Negatives are drawn uniformly; with the mask comes the log of how many each stands for, 0 for positives.
    """
    sample, correction = label.copy(), np.zeros(len(label), np.float32)
    draw = rng.random(len(label))
    for kind, size in zip((bought_before, ~bought_before), negatives, strict=True):
        rows = np.flatnonzero(kind & ~label)
        for of_user in np.split(rows, np.searchsorted(rows, pairs.indptr[1:-1])):
            drawn = of_user if len(of_user) <= size else of_user[np.argpartition(draw[of_user], size)[:size]]
            sample[drawn] = True
            correction[drawn] = np.log(len(of_user) / max(len(drawn), 1)) if len(of_user) else 0
    return sample, correction
