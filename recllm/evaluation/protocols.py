"""What is measured, and on whom: questions with known answers.

A `Window` is one moment of a shop: what was known before it, which items could be offered, and slices of people with
what they really did afterwards. Systems only ever see a `Question`. `cj_next28` and `or_next28` are the two fixed
windows that published figures carry the name of; `recllm.evaluation.splits` makes windows of any other log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import DAY, USER_COLUMN, Dataset, Events, utc
from recllm.errors import DataError, UsageError
from recllm.metrics import Truth
from recllm.schema import Action

ALL, NEW, COLD, MASKED, UNMASKED = "ALL", "NEW", "COLD", "MASKED", "UNMASKED"
NOHISTORY = "NOHISTORY"

SLICES = {
    ALL: "what the person buys in the window, history not masked",
    NEW: "only items that the person never bought before, history masked",
    COLD: "items first sold in the window, ranked among themselves",
    UNMASKED: "the held-out items, history not masked",
    MASKED: "the held-out items, history masked",
    NOHISTORY: "what people buy of whom only their basics are shown, their history hidden",
}

NEWCOMERS = 200
"""People in NOHISTORY at most, drawn with a fixed seed from those with basics and something to find."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """Rank `items` for `users`, knowing only what happened before `dataset.as_of`.

    `dataset` holds the histories of those who ask, `fit_on` what may be counted or learned from; both have the same
    item rows, and in most windows they are one object. users: rows of `dataset.users`. own: the same people's rows in
    `fit_on.users`, -1 for people who are not in it. items: int32, ascending, the rows that may be offered. `mask_seen`
    keeps what a person has bought out of the person's list. hidden: where a person's history is hidden although
    `fit_on` holds it, the row there, -1 elsewhere; None where nothing is hidden. A system that finds a person by other
    means than `own`, e.g. by basics, must leave that row out.
    """

    dataset: Dataset
    fit_on: Dataset
    users: NDArray[np.int64]
    own: NDArray[np.int64]
    items: NDArray[np.int32]
    k: int
    mask_seen: bool
    slice: str
    hidden: NDArray[np.int64] | None = None

    @property
    def as_of(self) -> int:
        return self.dataset.as_of


class Judged(NamedTuple):
    """Lists with the probability that the person takes each item, float32 (len(users), k), NaN beside a -1.

    `figures`: what else the system knows of itself, such as its accuracy on pairs that it held out.
    """

    items: NDArray[np.int32]
    probability: NDArray[np.float32]
    figures: Mapping[str, float] = MappingProxyType({})


System = Callable[[Question], NDArray[np.int32] | Judged]
"""Answers a question with item rows, int32 (len(users), k), best first, -1 where a list is shorter; a system that
gives probabilities as well is also measured by them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice:
    """People, what they can be offered and what they did. truth: one run per person of `users`, all non-empty.

    hidden: the question shows no event of these people.
    """

    name: str
    users: NDArray[np.int64]
    items: NDArray[np.int32]
    truth: Truth
    mask_seen: bool
    hidden: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Window:
    """One moment of a shop and what came after it, up to `until` (epoch seconds). `Question` explains the datasets."""

    protocol: str
    dataset: Dataset
    fit_on: Dataset
    own: NDArray[np.int64] | None = None
    """Row in `fit_on.users` of each person of `dataset.users`; None where both have the same rows."""
    slices: tuple[Slice, ...]
    until: int
    data_hash: str
    note: str = ""
    retained: int | None = None
    """People known before who buy anything in the window; None where the log has no times."""

    def slice(self, name: str) -> Slice:
        for one in self.slices:
            if one.name == name:
                return one
        raise DataError(f"{self.protocol} has no slice {name}; it has {', '.join(s.name for s in self.slices)}")

    def only(self, names: Iterable[str]) -> Window:
        """The same moment with these slices only, in the order given."""
        return replace(self, slices=tuple(self.slice(n) for n in names))

    def ask(self, one: Slice, k: int) -> Question:
        own = one.users if self.own is None else self.own[one.users]
        return Question(
            dataset=_blank(self.dataset, one.users) if one.hidden else self.dataset,
            fit_on=self.fit_on,
            users=one.users,
            own=np.full_like(own, -1) if one.hidden else own,
            items=one.items,
            k=k,
            mask_seen=one.mask_seen,
            slice=one.name,
            hidden=own if one.hidden else None,
        )


def _blank(dataset: Dataset, users: NDArray[np.int64]) -> Dataset:
    """The same without the events of these people."""
    return replace(dataset, events=dataset.events.select(~np.isin(dataset.events.user, users)))


TIMED = (ALL, NEW, COLD, NOHISTORY)
"""The slices of a window of time."""


def next_purchases(
    dataset: Dataset, *, start: int, end: int, protocol: str, slices: Iterable[str] = TIMED, note: str = ""
) -> Window:
    """Everything before `start` against the purchases with start <= at < end (epoch seconds).

    People: those with a purchase before `start`. ALL and NEW rank the items sold before `start`; COLD ranks the items
    first sold in the window; NOHISTORY asks for some people of ALL as if they were newcomers who told their basics.
    Slices in which nobody has anything to find are left out. Raises `DataError` when none is left, with the span of
    the log.
    """
    before = dataset.before(start)
    past, future = before.events.of(Action.PURCHASE), dataset.between(start, end)
    sold, known = np.bincount(past.item, minlength=dataset.n_items) > 0, np.diff(past.indptr) > 0
    made = make_slices(
        slices, past=past, future=future, asked=known, sold=sold, offered=sold, told=with_basics(dataset.users)
    )
    if not made:
        raise DataError(f"{protocol}: nobody known before {utc(start):%Y-%m-%d} buys before {utc(end):%Y-%m-%d}")
    digest = dataset.before(end).data_hash()
    return Window(
        protocol=protocol,
        dataset=before,
        fit_on=before,
        slices=made,
        until=end,
        note=note,
        data_hash=digest,
        retained=int((known & (np.diff(future.indptr) > 0)).sum()),
    )


def with_basics(users: pl.DataFrame) -> NDArray[np.bool_]:
    """Who told the shop anything about themselves, (n_users,)."""
    columns = [c for c in users.columns if c != USER_COLUMN]
    if not columns:
        return np.zeros(users.height, dtype=bool)
    return users.select(pl.any_horizontal(pl.col(columns).is_not_null())).to_series().to_numpy()


def make_slices(
    names: Iterable[str],
    *,
    past: Events,
    future: Events,
    asked: NDArray[np.bool_],
    sold: NDArray[np.bool_],
    offered: NDArray[np.bool_],
    told: NDArray[np.bool_] | None = None,
) -> tuple[Slice, ...]:
    """The named slices of what happened in `future`, those without anybody left out.

    past: purchases of the same people before it. asked: (n_users,), who may be in a slice. sold, offered: (n_items,),
    sold before the window, and may be recommended in the slices other than COLD. told: (n_users,), who has basics, for
    NOHISTORY. Raises `UsageError` for an unknown name.
    """
    n_items = len(sold)
    made = []
    for name in names:
        if name not in SLICES:
            raise UsageError(f"unknown slice {name!r}; known: {', '.join(SLICES)}")
        arrived = np.unique(future.item[~sold[future.item]])
        counts = asked[future.user] & (~sold[future.item] if name == COLD else offered[future.item])
        if name == NEW:
            counts &= ~np.isin(_pair(future, n_items), np.unique(_pair(past, n_items)))
        if name == NOHISTORY:
            counts &= _drawn(future.select(counts), told)[future.user]
        items = arrived if name == COLD else np.flatnonzero(offered)
        made.append(_slice(name, future.select(counts), items))
    return tuple(one for one in made if len(one.users))


def _slice(name: str, events: Events, items: NDArray[np.integer]) -> Slice:
    spent = np.nan_to_num(events.price.astype(np.float64)) * events.quantity
    truth = Truth.from_pairs(events.user, events.item, len(events.indptr) - 1, spent)
    users = np.flatnonzero(truth.sizes > 0)
    rows = items.astype(np.int32)
    return Slice(
        name=name,
        users=users,
        items=rows,
        truth=truth.rows(users),
        mask_seen=name in (NEW, MASKED),
        hidden=name == NOHISTORY,
    )


def _drawn(events: Events, told: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """At most `NEWCOMERS` of the people with basics and an event, (n_users,)."""
    out = np.zeros(len(events.indptr) - 1, dtype=bool)
    fit = np.flatnonzero((np.diff(events.indptr) > 0) & (False if told is None else told))
    out[np.random.default_rng(0).permutation(fit)[:NEWCOMERS]] = True
    return out


def _pair(events: Events, n_items: int) -> NDArray[np.int64]:
    return events.user.astype(np.int64) * n_items + events.item


# --- the fixed windows ---------------------------------------------------------------------------------------------

CJ_LEFT_OUT = ("FUEL", "MISCELLANEOUS", "COUPON")
CJ_NOTE = "Complete Journey: simulated from real shopping patterns, by its package's own word; not real customers"


def cj_next28(dataset: Dataset, *, validation: bool = False) -> Window:
    """Complete Journey, four weeks from 2017-12-01 (validation: from 2017-11-03).

    Rows with quantity above 0 on products with a known product category, outside of the departments FUEL,
    MISCELLANEOUS and COUPON. The category path of an item must be (department, product category, ...), cut at the
    first unknown name. Local times stand in the log without a zone and are read as UTC.
    """
    path = dataset.items["category"]
    usable = (path.list.len().fill_null(0) >= 2) & ~path.list.first().is_in(CJ_LEFT_OUT).fill_null(True)
    kept = _positive(dataset).with_items(usable.to_numpy())
    start = _midnight(2017, 11, 3) if validation else _midnight(2017, 12, 1)
    return next_purchases(
        kept, start=start, end=start + 28 * DAY, protocol=named("cj-next28", validation), note=CJ_NOTE
    )


def or_next28(dataset: Dataset, *, validation: bool = False) -> Window:
    """UCI Online Retail, from 2011-11-11 to the end of 2011-12-09 (validation: the 28 days before).

    The window has 29 calendar days: the last day of the log is part of it.
    """
    start = _midnight(2011, 10, 14) if validation else _midnight(2011, 11, 11)
    end = _midnight(2011, 11, 11) if validation else _midnight(2011, 12, 10)
    return next_purchases(
        _positive(dataset), start=start, end=end, protocol=named("or-next28", validation), slices=(ALL, NEW, NOHISTORY)
    )


def _positive(dataset: Dataset) -> Dataset:
    return replace(dataset, events=dataset.events.select(dataset.events.quantity > 0))


def _midnight(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


def named(protocol: str, validation: bool) -> str:
    return f"{protocol}-validation" if validation else protocol
