"""What is measured, and on whom: queries with known answers.

An `EvaluationWindow` is one moment of a shop: what was known before it, which items could be offered, and slices of
users with what they really bought afterwards. A system only ever sees an `EvaluationQuery`.
`evaluation.benchmarks` makes the windows that published figures carry the name of; windows of any other log are
cut here, by time, by a `split` column, or by rows that a source publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError, UsageError
from recllm.base.schema import Action
from recllm.base.stats.ranking import Truth
from recllm.recommend.evaluation.tables import LogTables, leave_one_out
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, Events, utc
from recllm.shop.data.interactions import Pairs
from recllm.shop.data.order import HORIZON_DAYS

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
"""The slices of a window of time."""

N_HIDDEN_USERS = 200
"""Users in NOHISTORY at most, drawn with a fixed seed from those with basics and something to find."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationQuery:
    """Rank `items` for `users`, knowing only what happened before `dataset.as_of`."""

    dataset: Dataset
    """Holds the histories of `users`."""
    fit_on: Dataset
    """What may be counted or learned from. It has the item rows of `dataset`, and mostly it is the same object."""
    users: NDArray[np.int64]
    """Rows of `dataset.users`."""
    fit_users: NDArray[np.int64]
    """Rows of the same users in `fit_on.users`, -1 for those who are not in it."""
    items: NDArray[np.int32]
    """Rows of the items that may be offered, ascending."""
    k: int
    mask_seen: bool
    """Keep what a user has bought out of the user's list."""
    slice: str
    candidates: Pairs | None = None
    """Of each of `users` the items that are ranked, where a protocol gives them; None for all of `items`."""
    hidden_users: NDArray[np.int64] | None = None
    """Where a user's history is hidden although `fit_on` holds it, the row there, -1 elsewhere; None where nothing is
    hidden. A system that finds a user by other means than `fit_users`, e.g. by basics, must leave that row out."""

    @property
    def as_of(self) -> int:
        return self.dataset.as_of


class RankedLists(NamedTuple):
    """A system's answer to a query."""

    items: NDArray[np.int32]
    """Item rows (len(users), k), best first, -1 where a list is shorter."""
    probabilities: NDArray[np.float32] | None = None
    """That the user buys each item, NaN where the item is -1; a system that gives them is also measured by them."""
    figures: Mapping[str, float] = MappingProxyType({})
    """What else the system knows of itself, such as its accuracy on pairs that it held out."""

    def top(self, k: int) -> RankedLists:
        """The first k of each list."""
        probabilities = None if self.probabilities is None else self.probabilities[:, :k]
        return RankedLists(self.items[:, :k], probabilities, self.figures)


Ranker = Callable[[EvaluationQuery], RankedLists]


@dataclass(frozen=True, eq=False, kw_only=True)
class System:
    """A system in a comparison."""

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
    users: NDArray[np.int64]
    items: NDArray[np.int32]
    truth: Truth
    """One run per person of `users`, all non-empty."""
    mask_seen: bool
    hidden: bool = False
    """The query shows no event of these users."""
    candidates: Pairs | None = None
    """One run per person of `users`: the items that are ranked for them; None for all of `items`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationWindow:
    """One moment of a shop and what came after it. `EvaluationQuery` explains the two datasets."""

    protocol: str
    dataset: Dataset
    fit_on: Dataset
    fit_users: NDArray[np.int64] | None = None
    """Row in `fit_on.users` of each person of `dataset.users`; None where both have the same rows."""
    slices: tuple[Slice, ...]
    until: int
    """The end of the window, epoch seconds."""
    data_hash: str
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
            candidates=segment.candidates,
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
    users: NDArray[np.bool_],
    sold: NDArray[np.bool_],
    offered: NDArray[np.bool_],
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


def split_tables(
    tables: LogTables, *, split: str = "time", test_days: int = 28, slices: Sequence[str] | None = None
) -> EvaluationWindow:
    """A window of a folder's log: split "time", "leave-one-out", or "column", which takes published rows where the
    folder has them.

    Without `slices`: ALL, NEW, COLD and NOHISTORY by time, UNMASKED and MASKED by the others.
    """
    if split == "time":
        if tables.by_order:
            raise UsageError(
                f"{tables.name}: this log has no times, only an order; split it by column, or with leave-one-out"
            )
        name = f"{tables.name}-last{test_days}"
        return time_split(tables.dataset(), test_days=test_days, name=name, slices=slices or TIME_SLICES)
    if split == "leave-one-out":
        window = column_split(leave_one_out(tables), slices=slices or (UNMASKED, MASKED))
        return replace(window, protocol=f"{tables.name}-leave-one-out")
    if split != "column":
        raise UsageError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    cut = column_split if tables.eval_rows is None else row_split
    return cut(tables, slices=slices or (UNMASKED, MASKED))


SPLITS = ("time", "column", "leave-one-out")


def with_candidates(window: EvaluationWindow, table: pl.DataFrame, source: str) -> EvaluationWindow:
    """The window with lists of items, of each user those that are ranked: what a protocol with given candidates asks.

    table: item_id, and user_id, or row where the window is of published rows (`row_split`). source: what the table is
    called in messages. Raises `DataError` for an unknown item, a user without a list, and lists without anything that
    was bought.
    """
    dataset = window.dataset
    key = "row" if "row" in table.columns else USER_COLUMN
    missing = [name for name in (key, "item_id") if name not in table.columns]
    if missing:
        raise DataError(f"{source}: missing column {', '.join(missing)}; it needs user_id (or row) and item_id")
    item = dataset.item_rows(table["item_id"].cast(pl.String))
    if (unknown := item < 0).any():
        row = int(np.argmax(unknown))
        raise DataError(
            f"{source}: {int(unknown.sum())} rows name items that the log does not know, first "
            f"{table['item_id'][row]!r} in row {row}; add them to items, or take them out"
        )
    names = table[key].cast(pl.String)
    names = ("test-" + names) if key == "row" else names
    user = dataset.user_rows(names)
    digest = sha256(np.unique(user * dataset.n_items + item).tobytes()).hexdigest()[:8]
    parts, n_missing, n_wanted = [], 0, 0
    for segment in window.slices:
        position = np.full(dataset.n_users + 1, -1)
        position[segment.users] = np.arange(len(segment.users))
        rows = position[user]
        pairs = np.unique(rows[rows >= 0] * dataset.n_items + item[rows >= 0])
        lengths = np.bincount(pairs // dataset.n_items, minlength=len(segment.users))
        if (lengths == 0).any():
            raise DataError(
                f"{source}: {int((lengths == 0).sum())} of the {len(segment.users)} users of {segment.name} have no "
                "candidates; give each of them a list, or leave their events out of the test part"
            )
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        lists = Pairs(indptr, (pairs % dataset.n_items).astype(np.int32))
        truth = np.repeat(np.arange(len(segment.users)), segment.truth.sizes) * dataset.n_items + segment.truth.item
        n_wanted, n_missing = n_wanted + len(truth), n_missing + int((~np.isin(truth, pairs)).sum())
        parts.append(replace(segment, candidates=lists, items=np.unique(lists.item)))
    if n_missing == n_wanted:
        raise DataError(
            f"{source}: no list holds anything that its user bought; are these the candidates of this split?"
        )
    note = f"{n_missing / n_wanted:.1%} of what was bought is in no list and counts as missed" if n_missing else ""
    return replace(
        window,
        slices=tuple(parts),
        protocol=f"{window.protocol}-candidates-{digest}",
        note="; ".join(filter(None, (window.note, f"ranked are the candidates of {source}", note))),
    )


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


def column_split(
    tables: LogTables,
    *,
    test: str = "test",
    history: Iterable[str] = ("train", "valid"),
    slices: Sequence[str] = (UNMASKED, MASKED),
) -> EvaluationWindow:
    """The events whose `split` is `test` against those of the `history` parts.

    Only the train part may be learned from, as in the literature on leave-one-out, whose models see the valid item only
    as the end of the asked history. All items of the folder are ranked. The two slices differ only in whether a
    person's history is masked.
    """
    events = tables.interactions
    parts = events["split"].drop_nulls().unique().to_list() if "split" in events.columns else []
    if test not in parts:
        raise DataError(f"{tables.name}: no event has split {test!r}; found {', '.join(sorted(parts)) or 'none'}")
    log = tables.dataset()
    histories, fit_on, future = (_events_of(tables, log, parts) for parts in (history, ["train"], [test]))
    return _window(f"{tables.name}-{test}", log, histories, fit_on, future.events, slices)


def row_split(tables: LogTables, *, test: str = "test", slices: Sequence[str] = (UNMASKED, MASKED)) -> EvaluationWindow:
    """Each published row of `eval_rows` (history, target) is a user of its own; all items are ranked.

    Learned from are the events of the train part alone, since a row's history holds other rows' targets. The last
    event of each history falls one step before the window.
    """
    if tables.eval_rows is None:
        raise DataError(f"{tables.name}: there is no eval_rows.parquet")
    rows = tables.eval_rows.filter(pl.col("split") == test)
    if not rows.height:
        raise DataError(f"{tables.name}: eval_rows has no row with split {test!r}")
    log = tables.dataset()
    fit_on = _events_of(tables, log, ["train"])
    rows = rows.with_columns(user=pl.format(test + "-{}", "row"))
    users = rows.select(user_id="user")
    length = pl.col("history").list.len().cast(pl.Int64)
    histories = rows.select("user", "history", age=pl.int_ranges(length, 0, -1)).explode("history", "age")
    past = histories.select(
        user_id="user", item_id="history", timestamp=fit_on.as_of - pl.col("age").cast(pl.Int64) * _step(tables)
    )
    targets = rows.select(user_id="user", item_id="target", timestamp=pl.lit(fit_on.as_of))
    dataset = Dataset.construct(past, users, log.items, as_of=fit_on.as_of)
    dataset = replace(dataset, step_seconds=tables.step_seconds)
    future = Dataset.construct(targets, users, log.items, as_of=fit_on.as_of + 1).events
    window = _window(f"{tables.name}-{test}", log, dataset, fit_on, future, slices)
    return replace(window, fit_users=log.user_rows(rows["user_id"]))


def _window(
    name: str, log: Dataset, dataset: Dataset, fit_on: Dataset, future: Events, slices: Sequence[str]
) -> EvaluationWindow:
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


def _events_of(tables: LogTables, log: Dataset, parts: Iterable[str]) -> Dataset:
    """The events of these parts, on the rows of `log`; a log without times ends one step after its last event."""
    events = tables.interactions.filter(pl.col("split").is_in(list(parts)))
    segment = replace(
        Dataset.construct(events.drop("order", strict=False), log.users, log.items), step_seconds=tables.step_seconds
    )
    return replace(segment, as_of=segment.as_of - 1 + _step(tables)) if tables.by_order else segment


def _step(tables: LogTables) -> int:
    """Seconds between two events of a history without times."""
    return tables.step_seconds or HORIZON_DAYS * DAY
