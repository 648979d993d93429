"""Past windows of the log as pairs to learn from.

Each window stands at an earlier time: the crowd and the histories are cut there, and what people took in the horizon
after it is the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset
from recllm.data.interactions import Floats, Ints, Tally, of_actions
from recllm.data.item_groups import Facets
from recllm.errors import DataError
from recllm.features.candidates import Candidates, candidates, explicit
from recllm.features.collaborative import Asked, Population, ask
from recllm.features.pair_features import pair_cosine, pair_features
from recllm.schema import Action
from recllm.settings import CandidateSettings, CollaborativeSettings, ScorerTrainingSettings

if TYPE_CHECKING:
    from recllm.models.sequence.serve import Interests

LEAST_ARRIVALS = 30
"""Fewer arrivals, or people who took one, teach nothing."""


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
    fit = [s for s in starts if s - first >= (horizon / 2 if s == starts[0] else max(half, horizon / 2))]
    if fit:
        return fit
    days = (dataset.as_of - first) / DAY
    raise DataError(
        f"the log spans {days:.0f} days; training with horizon_days={args.horizon_days} needs "
        f"{1.5 * args.horizon_days:.0f}: load a longer log or pass horizon_days={max(1, int(days // 3))}"
    )


@dataclass(frozen=True, eq=False)
class Window:
    """Pairs to learn from. Rows of person u are indptr[u]:indptr[u + 1].

    label: taken in the window. seen: taken before. correction: log of how many candidates a sampled negative stands
    for. truth, truth_new: how many items the person took in the window in all, and of those new to them.
    """

    indptr: Ints
    item: NDArray[np.int32]
    label: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    correction: Floats
    features: Floats
    cosine: Floats
    users: Floats
    truth: Ints
    truth_new: Ints
    weight: float = 1.0
    """Of its people in the loss."""

    @property
    def n(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def takes(self) -> NDArray[np.bool_]:
        """Who took any of their items, (n,)."""
        return self._any(self.label)

    @cached_property
    def takes_new(self) -> NDArray[np.bool_]:
        """Who took any of their items that is new to them, (n,)."""
        return self._any(self.label & ~self.seen)

    def _any(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        found = np.concatenate([[0], np.cumsum(mask)])[self.indptr]
        return np.asarray(np.diff(found) > 0)


@dataclass(frozen=True, eq=False)
class Past:
    """What every window is cut from. `basics`: Emb(I) of the people, (n_users, dim), or None."""

    dataset: Dataset
    item_vectors: Floats
    basics: Floats | None
    args: ScorerTrainingSettings
    population: CollaborativeSettings
    settings: CandidateSettings

    @cached_property
    def facets(self) -> Facets:
        """The items' groups, which are the same at every start."""
        return Facets.of(self.dataset.items)

    def crowd(self, start: int, interests: Interests | None = None) -> Population:
        """The population as it was at `start`."""
        past = self.dataset.before(start)
        return Population.fit(past, self.item_vectors, self.population, self.basics, interests, self.facets)

    def window(self, crowd: Population, *, judge: int = 0) -> tuple[Window, Window | None]:
        """The window after `crowd`, sampled, and its judges: `judge` people with all their candidates.

        Learned from are people who took something; judges may have taken nothing, as anybody may, or else the
        probability would be that of people who are known to come back.
        """
        args, start = self.args, crowd.as_of
        past = self.dataset.before(start)
        truth = self._truth(start)
        allowed = crowd.stats.buyers_ever > 0 if args.timed else np.ones(past.n_items, bool)
        rng = np.random.default_rng([args.seed, start])
        people = np.unique(truth.user[allowed[truth.key]])
        known = np.union1d(people, np.flatnonzero(np.diff(past.events.indptr)))
        judge = min(judge, len(known) // 5)
        judges = np.sort(rng.permutation(known)[:judge])
        learned = np.sort(rng.permutation(np.setdiff1d(people, judges))[: args.users_per_window])

        window = self._listed(crowd, learned, truth, allowed, args, rng)
        return window, self._listed(crowd, judges, truth, allowed, None, rng) if judge else None

    def newcomers(self, crowd: Population) -> Window | None:
        """People who took something in the window, shown as if they had only told their basics; None without any."""
        args, truth = self.args, self._truth(crowd.as_of)
        allowed = crowd.stats.buyers_ever > 0
        rng = np.random.default_rng([args.seed, crowd.as_of, 2])
        people = np.unique(truth.user[allowed[truth.key]])
        told = people if self.basics is None else people[np.any(self.basics[people], axis=1)]
        chosen = rng.permutation(told if len(told) else people)[: args.new_users_per_window]
        return self._listed(crowd, np.sort(chosen), truth, allowed, args, rng, blank=True) if len(chosen) else None

    def _listed(
        self,
        crowd: Population,
        rows: Ints,
        truth: Tally,
        allowed: NDArray[np.bool_],
        sample: ScorerTrainingSettings | None,
        rng: np.random.Generator,
        *,
        blank: bool = False,
    ) -> Window:
        """People with their candidates, sampled or all. blank: without their history."""
        past, parts = self.dataset.before(crowd.as_of), []
        for block in np.split(rows, range(256, len(rows), 256)):
            events = past.events.rows(block)
            events = events.select(np.full(len(events), not blank))
            told = None if self.basics is None else self.basics[block]
            asked = ask(crowd, events, crowd.as_of, own=block, basics=told)
            parts.append(_block(crowd, asked, block, truth, allowed, self.settings, sample, rng))
        return _join(parts)

    def arrivals(self, crowd: Population) -> Window | None:
        """The window's arrivals, scored among themselves for the people who took any; None where there are too few.

        An arrival has no sales, so what is learned here is what its kind and its text mean to a person.
        """
        args, truth = self.args, self._truth(crowd.as_of)
        arrived = np.zeros(self.dataset.n_items, bool)
        arrived[truth.key[crowd.stats.buyers_ever[truth.key] == 0]] = True
        hits = arrived[truth.key]
        rows, rng = np.flatnonzero(arrived), np.random.default_rng([args.seed, crowd.as_of, 1])
        history = self.dataset.before(crowd.as_of).events
        people = np.unique(truth.user[hits])
        people = np.sort(rng.permutation(people[np.diff(history.indptr)[people] > 0])[: args.users_per_window])
        if len(rows) < LEAST_ARRIVALS or len(people) < LEAST_ARRIVALS:
            return None
        parts = []
        for block in np.split(people, range(256, len(people), 256)):
            told = None if self.basics is None else self.basics[block]
            asked = ask(crowd, history.rows(block), crowd.as_of, own=block, basics=told)
            pairs = explicit(len(block), rows)
            parts.append(_pairs(crowd, asked, block, pairs, truth, arrived, (0, args.new_item_negatives), rng))
        return replace(_join(parts), weight=args.new_item_weight)

    def _truth(self, start: int) -> Tally:
        """What people took in the window."""
        e = self.dataset.events
        after = e.select((e.at >= start) & (e.at < start + self.args.horizon_days * DAY))
        after = of_actions(after, self.population.target)
        return Tally.of(after.user, after.item, self.dataset.n_items)


def _block(
    crowd: Population,
    asked: Asked,
    rows: Ints,
    truth: Tally,
    allowed: NDArray[np.bool_],
    settings: CandidateSettings,
    sample: ScorerTrainingSettings | None,
    rng: np.random.Generator,
) -> Window:
    pairs = candidates(crowd, asked, settings, allowed=allowed)
    negatives = None if sample is None else (sample.repeat_negatives, sample.discovery_negatives)
    return _pairs(crowd, asked, rows, pairs, truth, allowed, negatives, rng)


def _pairs(
    crowd: Population,
    asked: Asked,
    rows: Ints,
    pairs: Candidates,
    truth: Tally,
    allowed: NDArray[np.bool_],
    negatives: tuple[int, int] | None,
    rng: np.random.Generator,
) -> Window:
    """Labels and features of pairs; with `negatives` all positives and so many negatives, (taken before, new)."""
    label = truth.find(rows[pairs.user], pairs.item) < len(truth.keys)
    seen = asked.owned.find(pairs.user, pairs.item) < len(asked.owned.keys)
    correction = np.zeros(len(label), np.float32)
    if negatives is not None:
        kept, correction = _sample(pairs, label, seen, negatives, rng)
        pairs, label, seen, correction = pairs.select(kept), label[kept], seen[kept], correction[kept]
    total, fresh = _truth_sizes(truth, rows, asked, allowed)
    return Window(
        pairs.indptr,
        pairs.item,
        label,
        seen,
        correction,
        pair_features(crowd, asked, pairs, narrow=True),
        pair_cosine(crowd.item_vectors, asked.vectors.user, pairs),
        asked.vectors.user,
        total,
        fresh,
    )


def _sample(
    pairs: Candidates, label: NDArray[np.bool_], seen: NDArray[np.bool_], negatives: tuple[int, int], rng: Any
) -> tuple[NDArray[np.bool_], Floats]:
    """All positives, and per person and kind a uniform sample of the negatives with the log of its inverse rate."""
    keep, correction = label.copy(), np.zeros(len(label), np.float32)
    draw = rng.random(len(label))
    for kind, wanted in zip((seen, ~seen), negatives, strict=True):
        rows = np.flatnonzero(kind & ~label)
        for run in np.split(rows, np.searchsorted(rows, pairs.indptr[1:-1])):
            chosen = run if len(run) <= wanted else run[np.argpartition(draw[run], wanted)[:wanted]]
            keep[chosen] = True
            correction[chosen] = np.log(len(run) / max(len(chosen), 1)) if len(run) else 0
    return keep, correction


def _truth_sizes(truth: Tally, rows: Ints, asked: Asked, allowed: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    place = np.full(int(max(truth.user.max(initial=0), rows.max(initial=0))) + 1, -1)
    place[rows] = np.arange(len(rows))
    user, item = place[truth.user], truth.key
    fit = (user >= 0) & allowed[item]
    user, item = user[fit], item[fit]
    fresh = asked.owned.find(user, item) == len(asked.owned.keys)
    return np.bincount(user, minlength=len(rows)), np.bincount(user[fresh], minlength=len(rows))


def _join(parts: list[Window]) -> Window:
    lengths = np.concatenate([np.diff(p.indptr) for p in parts])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    names = ("item", "label", "seen", "correction", "features", "cosine", "users", "truth", "truth_new")
    columns: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    return Window(indptr, **columns)
