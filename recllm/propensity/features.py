"""What is known of a person's shopping as of a time, as numbers that a model can learn from.

Definitions
    trip        all purchases of a person at one instant; day: a distinct (UTC) day with a purchase.
    gap         days between two neighbouring days with a purchase.
    window of d days     as_of - d days <= time < as_of.
    trend       log((1 + last 28 days) / (1 + the 28 days before)).
    saved       1 - price / the item's usual price, which is the median unit price paid for it before `as_of`, at least
                0: what a shop's log tells of discounts when it has no column for them.

Nothing at or after `as_of` is read: the first thing that happens is that later events are dropped. Counts of a thing
that never happened are 0; times since it, and means over it, are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import DAY, USER_COLUMN, Dataset, Events
from recllm.data.interactions import of_actions
from recllm.propensity.table import Features
from recllm.schema import BROWSING, Action

Column = NDArray[np.float64]
Columns = dict[str, Column]
Ints = NDArray[np.int64]

WINDOWS = (7, 14, 28, 56, 91, 182)
"""Days of the windows in which trips are counted."""

_BASIC_VALUES = 12
"""Most frequent values of a basic that become columns; rarer ones have none."""


@dataclass(frozen=True, eq=False)
class Trips:
    """One entry per trip, people in runs, oldest first. user, day: int64; at: epoch seconds; spend, lines: float64."""

    n: int
    user: Ints
    at: Ints
    spend: Column
    lines: Column
    as_of: int

    @classmethod
    def of(cls, bought: Events, as_of: int) -> Trips:
        """Trips of purchases before `as_of`."""
        user, n = bought.user.astype(np.int64), len(bought.indptr) - 1
        fresh = np.ones(len(bought), bool)
        fresh[1:] = (np.diff(user) != 0) | (np.diff(bought.at) != 0)
        trip = np.cumsum(fresh) - 1
        count = int(fresh.sum())
        spend = np.bincount(trip, money(bought), minlength=count)
        lines = np.bincount(trip, minlength=count).astype(np.float64)
        return cls(n, user[fresh], bought.at[fresh], spend.astype(np.float64), lines, as_of)

    @property
    def age(self) -> Column:
        """Days before `as_of`, above 0."""
        return np.asarray((self.as_of - self.at) / DAY)

    def total(self, weight: NDArray[np.generic], kept: NDArray[np.bool_] | None = None) -> Column:
        """Sum of `weight` (n_trips,) per person, (n,)."""
        if kept is None:
            return np.bincount(self.user, weight, minlength=self.n).astype(np.float64)
        return np.bincount(self.user[kept], weight[kept], minlength=self.n).astype(np.float64)

    def within(self, newest: float, oldest: float) -> Column:
        """Trips per person whose age in days is above `newest` and at most `oldest`."""
        return self.total(np.ones(len(self.user)), (self.age > newest) & (self.age <= oldest))


def money(events: Events) -> Column:
    """What each event cost, float64 (n,); 0 where the price is unknown."""
    return np.asarray(np.nan_to_num(events.price.astype(np.float64)) * events.quantity)


def person_features(dataset: Dataset, as_of: int, *, basics: Basics | None = None) -> Features:
    """One row per person of `dataset.users`, from events before `as_of` (epoch seconds) alone.

    basics: which of the people's own answers become columns; none when None.
    """
    past = dataset.before(as_of)
    bought = past.events.of(Action.PURCHASE)
    trips = Trips.of(bought, as_of)
    groups = {
        **shopping(trips),
        "breadth": _breadth(past, bought),
        "discount": _discount(past, bought),
        "returns": _returns(past, trips),
        "browsing": _browsing(past),
    }
    made = Features.of(groups, dataset.n_users)
    return made if basics is None else made.beside(basics.features(dataset.users))


def target_features(dataset: Dataset, as_of: int, wanted: NDArray[np.bool_]) -> Features:
    """The shopping groups over the items in `wanted` (n_items,) alone, as one group "target"."""
    bought = dataset.before(as_of).events.of(Action.PURCHASE)
    groups = shopping(Trips.of(bought.select(wanted[bought.item]), as_of))
    share = _ratio(_per_person(bought, wanted[bought.item]), _per_person(bought))
    columns = {f"target_{name}": column for inner in groups.values() for name, column in inner.items()}
    return Features.of({"target": {**columns, "target_share": share}}, dataset.n_users)


def shopping(trips: Trips) -> dict[str, Columns]:
    """Recency, frequency, spend, tenure, rhythm, calendar and trend: group -> name -> (n,)."""
    rhythm, since = _rhythm(trips), _newest(trips)
    return {
        "recency": {"days_since": since},
        "frequency": _frequency(trips),
        "spend": _spend(trips),
        "tenure": {"tenure": _oldest(trips)},
        "rhythm": rhythm,
        "calendar": _calendar(trips),
        "trend": _trend(trips),
    }


def _newest(trips: Trips) -> Column:
    out = np.full(trips.n, np.nan)
    out[trips.user] = trips.age  # a run is in time order, so the newest is written last
    return out


def _oldest(trips: Trips) -> Column:
    out = np.full(trips.n, np.nan)
    out[trips.user[::-1]] = trips.age[::-1]
    return out


def _frequency(trips: Trips) -> Columns:
    counts = {f"trips_{days}": trips.within(0, days) for days in WINDOWS}
    since = np.maximum(_oldest(trips), 28)
    everything = trips.within(0, np.inf)
    return {
        **counts,
        "trips": everything,
        "trips_decayed": trips.total(np.exp2(-trips.age / 28)),
        "trips_per_28": everything * 28 / np.nan_to_num(since, nan=28.0),
    }


def _spend(trips: Trips) -> Columns:
    whole, n = trips.total(trips.spend), trips.within(0, np.inf)
    last = np.full(trips.n, np.nan)
    last[trips.user] = trips.spend
    return {
        "spend": whole,
        **{f"spend_{days}": trips.total(trips.spend, trips.age <= days) for days in (28, 91)},
        "spend_decayed": trips.total(trips.spend * np.exp2(-trips.age / 60)),
        "spend_per_trip": _ratio(whole, n),
        "last_trip_spend": last,
        "lines_per_trip": _ratio(trips.total(trips.lines), n),
    }


def _trend(trips: Trips) -> Columns:
    young, middle = trips.age <= 28, (trips.age > 28) & (trips.age <= 56)
    spent = [trips.total(trips.spend, kept) for kept in (young, middle)]
    count = [trips.within(0, 28), trips.within(28, 56)]
    usual = trips.within(28, 182) / 5.5
    return {
        "trend_trips": np.log1p(count[0]) - np.log1p(count[1]),
        "trend_spend": np.log1p(np.maximum(spent[0], 0)) - np.log1p(np.maximum(spent[1], 0)),
        "trend_usual": np.log1p(count[0]) - np.log1p(usual),
    }


def _rhythm(trips: Trips) -> Columns:
    """Gaps between days with a purchase, and how long it has been in terms of them."""
    day = (trips.as_of - 1) // DAY - trips.at // DAY  # whole days ago, 0 for the last day
    new = np.ones(len(day), bool)
    new[1:] = (np.diff(trips.user) != 0) | (np.diff(day) != 0)
    user, day = trips.user[new], day[new]
    same = np.diff(user) == 0
    owner, gap = user[1:][same], -np.diff(day)[same].astype(np.float64)
    stats = _of_gaps(owner, gap, trips.n)
    since = _newest(trips)
    share = np.full(trips.n, np.nan)
    beaten = np.bincount(owner, gap <= since[owner], minlength=trips.n)
    share = _ratio(beaten, np.bincount(owner, minlength=trips.n))
    return {
        **stats,
        "since_over_median": since / np.maximum(stats["gap_median"], 1),
        "since_over_mean": since / np.maximum(stats["gap_mean"], 1),
        "gaps_outlasted": share,
    }


def _of_gaps(owner: Ints, gap: Column, n: int) -> Columns:
    """Mean, median, standard deviation, largest and last of each person's gaps, NaN without one."""
    frame = (
        pl.DataFrame({"owner": owner, "gap": gap})
        .group_by("owner")
        .agg(
            pl.col("gap").mean().alias("gap_mean"),
            pl.col("gap").median().alias("gap_median"),
            pl.col("gap").std().alias("gap_std"),
            pl.col("gap").max().alias("gap_max"),
            pl.col("gap").last().alias("gap_last"),
        )
    )
    out = {name: np.full(n, np.nan) for name in frame.columns[1:]}
    for name, column in out.items():
        column[frame["owner"].to_numpy()] = frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return out


def _calendar(trips: Trips) -> Columns:
    """Share of trips on Saturdays and Sundays, and trips in the 28 days that began a year before `as_of`."""
    weekday = (trips.at // DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    n = trips.within(0, np.inf)
    known = np.nan_to_num(_oldest(trips)) >= 365
    return {
        "weekend_share": _ratio(trips.total((weekday >= 5).astype(np.float64)), n),
        "trips_a_year_ago": np.where(known, trips.within(365 - 28, 365), np.nan),
    }


def _breadth(past: Dataset, bought: Events) -> Columns:
    """Distinct items and categories (widest and narrowest name), in the last 91 days and before, and repeats."""
    late = bought.select(bought.at >= past.as_of - 91 * DAY)
    lines = _per_person(late)
    items = _distinct(late, np.arange(past.n_items))
    return {
        "items_91": items,
        "repeats_91": _ratio(lines - items, lines),
        "areas": _distinct(bought, _codes(past.items, 0)),
        "categories_91": _distinct(late, _codes(past.items, -1)),
    }


def _codes(items: pl.DataFrame, level: int) -> Ints:
    """A number for the category of each item at this level of its path, -1 without one."""
    name = items["category"].list.get(level, null_on_oob=True)
    return name.rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1


def _distinct(events: Events, key: Ints) -> Column:
    """Distinct keys per person; keys of -1 do not count."""
    mine, width = key[events.item], int(key.max(initial=0)) + 1
    pairs = np.unique((events.user.astype(np.int64) * width + mine)[mine >= 0])
    return np.bincount(pairs // width, minlength=len(events.indptr) - 1).astype(np.float64)


def _discount(past: Dataset, bought: Events) -> Columns:
    paid = bought.select(np.isfinite(bought.price) & (bought.price > 0))
    usual = np.full(past.n_items, np.nan)
    median = pl.DataFrame({"item": paid.item, "price": paid.price}).group_by("item").median()
    usual[median["item"].to_numpy()] = median["price"].to_numpy()
    saved = np.clip(1 - paid.price / usual[paid.item], 0, 1)
    young = past.as_of - paid.at <= 91 * DAY
    return {
        "saved": _ratio(_per_person(paid, saved), _per_person(paid)),
        "saved_91": _ratio(_per_person(paid, saved * young), _per_person(paid, young)),
        "cheap_share": _ratio(_per_person(paid, saved >= 0.1), _per_person(paid)),
    }


def _returns(past: Dataset, trips: Trips) -> Columns:
    back = past.events.of(Action.RETURN)
    young = past.as_of - back.at <= 91 * DAY
    return {
        "returned": _ratio(_per_person(back), trips.total(trips.lines)),
        "returned_91": _per_person(back, young),
    }


def _browsing(past: Dataset) -> Columns:
    seen = of_actions(past.events, BROWSING)
    age = (past.as_of - seen.at) / DAY
    since = np.full(past.n_users, np.nan)
    since[seen.user] = age
    carts = past.events.of(Action.CART)
    return {
        "browsed_7": _per_person(seen, age <= 7),
        "browsed_28": _per_person(seen, age <= 28),
        "carts_28": _per_person(carts, past.as_of - carts.at <= 28 * DAY),
        "days_since_browsing": since,
    }


def _per_person(events: Events, weight: NDArray[np.generic] | None = None) -> Column:
    values = None if weight is None else weight.astype(np.float64)
    return np.bincount(events.user, values, minlength=len(events.indptr) - 1).astype(np.float64)


def _ratio(above: NDArray[np.generic], below: NDArray[np.generic]) -> Column:
    """NaN where there is nothing to divide by."""
    return np.asarray(above / np.where(below == 0, np.nan, below), np.float64)


# --- what people told of themselves -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Basics:
    """Which answers become columns, one of 0 and 1 for each (name, value); a person who told nothing has NaN.

    Decided once, on the people learned from, so that every table has the same columns.
    """

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, users: pl.DataFrame) -> Basics:
        """The most frequent values of each basic of `users`, at least ten people each."""
        pairs = []
        for name in sorted(set(users.columns) - {USER_COLUMN}):
            counts = (
                users[name].cast(pl.String).drop_nulls().value_counts().sort(["count", name], descending=[True, False])
            )
            frequent = counts.filter(pl.col("count") >= 10)[name].head(_BASIC_VALUES).to_list()
            pairs += [(name, value) for value in sorted(frequent)]
        return cls(tuple(pairs))

    def features(self, users: pl.DataFrame) -> Features:
        groups: dict[str, Columns] = {}
        for name, value in self.pairs:
            told = (
                users[name].cast(pl.String)
                if name in users.columns
                else pl.Series([None] * users.height, dtype=pl.String)
            )
            column = (told == value).cast(pl.Float64).to_numpy() if told.null_count() == 0 else _holed(told, value)
            groups.setdefault(f"basics:{name}", {})[f"{name}={value}"] = column
        return Features.of(groups, users.height)


def _holed(told: pl.Series, value: str) -> Column:
    return np.asarray((told == value).cast(pl.Float64).fill_null(np.nan).to_numpy(), np.float64)
