"""What is measured, and on whom: queries with known answers.

An `EvaluationWindow` is one moment of a shop: what was known before it, which items could be offered, and slices of
users with what they really bought afterwards. A system only ever sees an `EvaluationQuery`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from recllm.base.arrays import Floats, Ints, Ints32, Mask
from recllm.base.errors import DataError, UsageError
from recllm.base.schema import ACTION_CODE, Action
from recllm.base.stats.ranking import Truth
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, Events, utc

OURS = "recllm"
"""Name of our system in a comparison."""

ALL, NEW, COLD, NOHISTORY, MASKED, UNMASKED = "ALL", "NEW", "COLD", "NOHISTORY", "MASKED", "UNMASKED"

SLICES = {
    ALL: "what the person buys in the window, history not masked",
    NEW: "only items that the person never bought before, history masked",
    COLD: "items first sold in the window, ranked among themselves",
    UNMASKED: "the held-out items, history not masked",
    MASKED: "the held-out items, history masked",
    NOHISTORY: "what people buy of whom only their basics are shown, their history hidden",
}

TIME_SLICES = (ALL, NEW, COLD, NOHISTORY)

N_HIDDEN_USERS = 200
"""Users in NOHISTORY at most, drawn with a fixed seed from those with basics and something to find."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationQuery:
    """Rank `items` for `users`, knowing only what happened before `dataset.as_of`."""

    dataset: Dataset
    """Holds the histories of `users`."""
    fit_on: Dataset
    """What may be counted or learned from.
    It has the item rows of `dataset`, and mostly it is the same object."""
    users: Ints
    """Rows of `dataset.users`."""
    fit_users: Ints
    """Rows of the same users in `fit_on.users`, -1 for those who are not in it."""
    items: Ints32
    """Rows of the items that may be offered, ascending."""
    k: int
    mask_seen: bool
    """Keep what a user has bought out of the user's list."""
    slice: str
    open_carts: bool = False
    """Each history is the cart of a visitor, who has not paid yet."""
    hidden_users: Ints | None = None
    """Where a user's history is hidden although `fit_on` holds it, the row there, -1 elsewhere; None where nothing is
    hidden. A system that finds a user by other means than `fit_users`, e.g. by basics, must leave that row out."""

    @property
    def as_of(self) -> int:
        return self.dataset.as_of


class RankedLists(NamedTuple):
    """A system's answer to a query."""

    items: Ints32
    """Item rows (len(users), k), best first, -1 where a list is shorter."""
    probabilities: Floats | None = None
    """That the user buys each item, NaN where the item is -1; a system that gives them is also measured by them."""

    def top(self, k: int) -> RankedLists:
        probabilities = None if self.probabilities is None else self.probabilities[:, :k]
        return RankedLists(self.items[:, :k], probabilities)


Ranker = Callable[[EvaluationQuery], RankedLists]


@dataclass(frozen=True, eq=False, kw_only=True)
class System:
    rank: Ranker
    slices: frozenset[str] | None = None
    """The slices on which it is measured, None for all."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it was made with, for the record."""
    note: str = ""
    """What a reader of its figures should know."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice:
    """Users, what they can be offered and what they bought."""

    name: str
    users: Ints
    items: Ints32
    truth: Truth
    """One run per person of `users`, all non-empty."""
    mask_seen: bool
    hidden: bool = False
    """The query shows no event of these users."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationWindow:
    """One moment of a shop and what came after it. `EvaluationQuery` explains the two datasets."""

    protocol: str
    dataset: Dataset
    fit_on: Dataset
    fit_users: Ints | None = None
    """Row in `fit_on.users` of each person of `dataset.users`; None where both have the same rows."""
    slices: tuple[Slice, ...]
    until: int
    """The end of the window, epoch seconds."""
    data_hash: str
    open_carts: bool = False
    note: str = ""

    def slice(self, name: str) -> Slice:
        for segment in self.slices:
            if segment.name == name:
                return segment
        raise DataError(f"{self.protocol} has no slice {name}; it has {', '.join(s.name for s in self.slices)}")

    def only(self, names: Iterable[str]) -> EvaluationWindow:
        """The same moment with these slices only, in the order given."""
        return replace(self, slices=tuple(self.slice(n) for n in names))

    def query(self, segment: Slice, k: int) -> EvaluationQuery:
        dataset = self.dataset
        rows = segment.users if self.fit_users is None else self.fit_users[segment.users]
        if segment.hidden:
            visible = ~np.isin(dataset.events.user, segment.users)
            dataset = replace(dataset, events=dataset.events.select(visible))
        return EvaluationQuery(
            dataset=dataset,
            fit_on=self.fit_on,
            users=segment.users,
            fit_users=np.full_like(rows, -1) if segment.hidden else rows,
            items=segment.items,
            k=k,
            mask_seen=segment.mask_seen,
            slice=segment.name,
            open_carts=self.open_carts,
            hidden_users=rows if segment.hidden else None,
        )


def next_purchases(
    dataset: Dataset, *, start: int, end: int, protocol: str, slices: Iterable[str] = TIME_SLICES, note: str = ""
) -> EvaluationWindow:
    """Everything before `start` against the purchases with start <= at < end (epoch seconds).

    Users: those with a purchase before `start`. ALL and NEW rank the items sold before `start`; COLD ranks the items
    first sold in the window; NOHISTORY asks for some users of ALL as if only their basics were known.
    Slices without anything to find are left out. Raises `DataError` when none is left, with the span of
    the log.
    """
    before = dataset.before(start)
    past, future = before.events.of(Action.PURCHASE), dataset.between(start, end)
    sold, buys = np.bincount(past.item, minlength=dataset.n_items) > 0, np.diff(past.indptr) > 0
    cut = make_slices(slices, past=past, future=future, users=buys, sold=sold, offered=sold, basics=before.users)
    if not cut:
        raise DataError(f"{protocol}: no customer known before {utc(start):%Y-%m-%d} buys before {utc(end):%Y-%m-%d}")
    return EvaluationWindow(
        protocol=protocol,
        dataset=before,
        fit_on=before,
        slices=cut,
        until=end,
        note=note,
        data_hash=dataset.before(end).data_hash(),
    )


def make_slices(
    names: Iterable[str],
    *,
    past: Events,
    future: Events,
    users: Mask,
    sold: Mask,
    offered: Mask,
    basics: pl.DataFrame | None = None,
) -> tuple[Slice, ...]:
    """The named slices of what happened in `future`, those without anybody left out.

    past: purchases of the same users before it. users: (n_users,), who may be in a slice. sold, offered: (n_items,),
    sold before the window, and may be recommended in the slices other than COLD. basics: the users' table, for
    NOHISTORY, which is left out without it. Raises `UsageError` for an unknown name.
    """
    n_items = len(sold)
    slices = []
    for name in names:
        if name not in SLICES:
            raise UsageError(f"unknown slice {name!r}; known: {', '.join(SLICES)}")
        counts = users[future.user] & (~sold[future.item] if name == COLD else offered[future.item])
        if name == NEW:
            bought, pairs = (e.user.astype(np.int64) * n_items + e.item for e in (past, future))
            counts &= ~np.isin(pairs, np.unique(bought))
        if name == NOHISTORY:
            hidden = np.zeros(len(users), dtype=bool)
            columns = [] if basics is None else [c for c in basics.columns if c != USER_COLUMN]
            if basics is not None and columns:
                told_any = basics.select(pl.any_horizontal(pl.col(columns).is_not_null())).to_series().to_numpy()
                candidates = np.flatnonzero((np.diff(future.select(counts).indptr) > 0) & told_any)
                hidden[np.random.default_rng(0).permutation(candidates)[:N_HIDDEN_USERS]] = True
            counts &= hidden[future.user]
        items = np.unique(future.item[~sold[future.item]]) if name == COLD else np.flatnonzero(offered)
        events = future.select(counts)
        truth = Truth.from_pairs(events.user, events.item, len(users))
        rows = np.flatnonzero(truth.sizes > 0)
        segment = Slice(
            name=name,
            users=rows,
            items=items.astype(np.int32),
            truth=truth.rows(rows),
            mask_seen=name in (NEW, MASKED),
            hidden=name == NOHISTORY,
        )
        slices += [segment] if len(rows) else []
    return tuple(slices)


def time_split(
    dataset: Dataset, *, test_days: int = 28, name: str = "time", slices: Sequence[str] = TIME_SLICES
) -> EvaluationWindow:
    """The last `test_days` whole days (UTC) of the log against everything before them.

    Raises `UsageError` when the days reach back to or before the first purchase.
    """
    at = dataset.events.of(Action.PURCHASE).at
    if not len(at):
        raise DataError(f"{name}: the log has no purchases to predict")
    end = (int(at.max()) // DAY + 1) * DAY
    start = end - test_days * DAY
    if test_days < 1 or start <= int(at.min()):
        raise UsageError(
            f"{name}: {test_days} test days do not fit into the log, {utc(int(at.min())):%Y-%m-%d} to "
            f"{utc(int(at.max())):%Y-%m-%d}; give between 1 and {max(1, (end - int(at.min()) - 1) // DAY)}"
        )
    return next_purchases(dataset, start=start, end=end, protocol=name, slices=slices)


def leave_one_out(dataset: Dataset, *, slices: Sequence[str] = (UNMASKED, MASKED)) -> EvaluationWindow:
    """Each person's last purchase against what came before it; learned from is what came before the one before it.

    A person with fewer than three purchases is only learned from; of purchases at one time the later row is the last.
    In a log without times what is learned from ends on one day for all people.
    """
    events, step = dataset.events, dataset.step_seconds
    is_purchase = events.action == ACTION_CODE[Action.PURCHASE]
    purchases = np.append(0, np.cumsum(is_purchase))
    later = purchases[events.indptr[1:]][events.user] - purchases[1:]
    is_enough = (np.diff(purchases[events.indptr]) >= 3)[events.user]
    is_learned, is_last = ~is_enough | (later > 1), is_enough & is_purchase & (later == 0)
    if not is_last.any():
        raise DataError("no customer has three purchases, one each to learn from, to choose by and to predict")
    if step is not None:
        learned_until = np.zeros(dataset.n_users, np.int64)
        np.maximum.at(learned_until, events.user[is_learned], events.at[is_learned])
        events = replace(events, at=events.at + (learned_until.max() - learned_until)[events.user])

    def of_events(mask: Mask) -> Dataset:
        selected = events.select(mask)
        return replace(dataset, events=selected, as_of=int(selected.at.max()) + (step or 1))

    parts = of_events(is_learned | (later > 0)), of_events(is_learned), events.select(is_last)
    return held_out_window("leave-one-out", of_events(np.ones(len(events), bool)), *parts, slices)


def held_out_window(
    name: str, log: Dataset, dataset: Dataset, fit_on: Dataset, future: Events, slices: Sequence[str]
) -> EvaluationWindow:
    """Some events held out of a log, on its rows: `future`, what the people of `dataset` bought after their histories
    there. Learned from is `fit_on` alone; all items are ranked. Raises `DataError` where there is nothing to find."""
    cut = make_slices(
        slices,
        past=dataset.events.of(Action.PURCHASE),
        future=future.of(Action.PURCHASE),
        users=np.ones(dataset.n_users, dtype=bool),
        sold=np.bincount(fit_on.events.of(Action.PURCHASE).item, minlength=log.n_items) > 0,
        offered=np.ones(log.n_items, dtype=bool),
    )
    if not cut:
        raise DataError(f"{name}: there is nothing to find in {', '.join(slices)}")
    return EvaluationWindow(
        protocol=name,
        dataset=dataset,
        fit_on=fit_on,
        slices=cut,
        until=max(log.as_of, dataset.as_of),
        data_hash=log.data_hash(),
    )
