"""What is known of a person's shopping as of a time, as numbers that a model can learn from.

    trip        all purchases of a person at one instant; day and gap: see `recllm.shop.data.rhythm`.
    window of d days     as_of - d days <= time < as_of.
    trend       log((1 + last 28 days) / (1 + the 28 days before)).
    saved       1 - price / the item's usual price, the median unit price paid for it before `as_of`, at least 0.

Nothing at or after `as_of` is read. Counts of a thing that never happened are 0; times since it, and means over it, are
NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.schema import BROWSING, Action
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.shop.data.interactions import of_actions
from recllm.shop.data.rhythm import ShoppingDays

Floats = NDArray[np.float32]

Column = NDArray[np.float64]
Columns = dict[str, Column]
Ints = NDArray[np.int64]

WINDOWS = (7, 14, 28, 56, 91, 182)
"""Days of the windows in which trips are counted."""


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """One row per person, one named column per feature, columns in groups that are taken away together in a reason."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    """One entry per column, as in `names`."""
    values: Floats
    """(n, n_features), NaN where a thing is not known."""

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, groups: Mapping[str, Mapping[str, NDArray[np.generic] | float]], n: int) -> FeatureTable:
        """From group -> name -> column (n,), or one number for all."""
        columns = [(name, group, column) for group, inner in groups.items() for name, column in inner.items()]
        values = np.empty((n, len(columns)), np.float32)
        for number, (_, _, column) in enumerate(columns):
            values[:, number] = column
        return cls(tuple(name for name, _, _ in columns), tuple(group for _, group, _ in columns), values)

    @classmethod
    def stacked(cls, tables: Sequence[FeatureTable]) -> FeatureTable:
        """The rows of all tables. Raises `DataError` where their columns differ."""
        first = tables[0]
        if any(table.names != first.names for table in tables):
            raise DataError("feature tables with different columns cannot be stacked")
        return cls(first.names, first.groups, np.concatenate([table.values for table in tables]))

    def with_columns(self, table: FeatureTable) -> FeatureTable:
        """The same people with the columns of both. Raises `DataError` for a name that both have."""
        twice = set(self.names) & set(table.names)
        if twice or len(self) != len(table):
            raise DataError(f"feature tables of {len(self)} and {len(table)} rows, sharing {sorted(twice)}")
        joined = np.concatenate([self.values, table.values], axis=1)
        return FeatureTable(self.names + table.names, self.groups + table.groups, joined)

    def rows(self, which: NDArray[np.generic]) -> FeatureTable:
        """These rows only: a mask or row numbers."""
        return FeatureTable(self.names, self.groups, self.values[which])

    def column(self, name: str) -> Floats:
        """(n,). Raises `DataError` for an unknown one."""
        if name not in self.names:
            raise DataError(f"no feature {name!r}; there are: {', '.join(self.names)}")
        return np.asarray(self.values[:, self.names.index(name)])


@dataclass(frozen=True, eq=False)
class Trips:
    """One entry per trip, people in runs, oldest first."""

    n_users: int
    user: Ints
    at: Ints
    """Epoch seconds."""
    spend: Column
    lines: Column
    age: Column
    """Days before `as_of`, above 0."""
    as_of: int

    @classmethod
    def of(cls, bought: Events, as_of: int) -> Trips:
        """Trips of purchases before `as_of`."""
        user, n_users = bought.user.astype(np.int64), len(bought.indptr) - 1
        first = np.ones(len(bought), bool)
        first[1:] = (np.diff(user) != 0) | (np.diff(bought.at) != 0)
        trip, n_trips = np.cumsum(first) - 1, int(first.sum())
        spend, lines = count(trip, n_trips, money(bought)), count(trip, n_trips)
        at = bought.at[first]
        return cls(n_users, user[first], at, spend, lines, (as_of - at) / DAY, as_of)

    def total(self, weight: NDArray[np.generic], mask: NDArray[np.bool_] | slice = slice(None)) -> Column:
        """Sum of `weight` (n_trips,) over the trips in the mask, per person."""
        return count(self.user[mask], self.n_users, weight[mask])

    def within(self, newest: float, oldest: float) -> Column:
        """Trips per person whose age in days is above `newest` and at most `oldest`."""
        return count(self.user[(self.age > newest) & (self.age <= oldest)], self.n_users)

    def latest(self, value: Column) -> Column:
        """`value` (n_trips,) of each person's latest trip, NaN without one."""
        values = np.full(self.n_users, np.nan)
        values[self.user] = value  # a run is in time order, so the latest is written last
        return values

    @property
    def tenure(self) -> Column:
        """Days since each person's first trip, NaN without one."""
        days = np.full(self.n_users, np.nan)
        days[self.user[::-1]] = self.age[::-1]
        return days


def count(row: NDArray[np.integer], n: int, weight: NDArray[np.generic] | None = None) -> Column:
    """How often each of n rows occurs, or the sum of its weights."""
    return np.bincount(row, None if weight is None else weight.astype(np.float64), minlength=n).astype(np.float64)


def money(events: Events) -> Column:
    """What each event cost, float64 (n,); 0 where the price is unknown."""
    return np.asarray(np.nan_to_num(events.price.astype(np.float64)) * events.quantity)


def category_codes(items: pl.DataFrame, level: int) -> Ints:
    """A number for the category of each item at this level of its path, -1 without one."""
    name = items["category"].list.get(level, null_on_oob=True)
    return name.rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1


def person_features(dataset: Dataset, as_of: int) -> FeatureTable:
    """One row per person of `dataset.users`, from events before `as_of` (epoch seconds) alone."""
    past = dataset.before(as_of)
    bought, returns = past.events.of(Action.PURCHASE), past.events.of(Action.RETURN)
    trips = Trips.of(bought, as_of)
    groups = {
        **_shopping(trips),
        "breadth": _breadth(past, bought),
        "discount": _discount(past, bought),
        "returns": {
            "returned": _ratio(count(returns.user, past.n_users), trips.total(trips.lines)),
            "returned_91": count(returns.user[past.as_of - returns.at <= 91 * DAY], past.n_users),
        },
        "browsing": _browsing(past),
    }
    return FeatureTable.of(groups, dataset.n_users)


def target_features(dataset: Dataset, as_of: int, target: NDArray[np.bool_]) -> FeatureTable:
    """The shopping groups over the items of `target` (n_items,) alone, as one group "target"."""
    bought = dataset.before(as_of).events.of(Action.PURCHASE)
    on_target = bought.select(target[bought.item])
    groups = _shopping(Trips.of(on_target, as_of))
    columns = {f"target_{name}": column for inner in groups.values() for name, column in inner.items()}
    share = _ratio(count(on_target.user, dataset.n_users), count(bought.user, dataset.n_users))
    return FeatureTable.of({"target": {**columns, "target_share": share}}, dataset.n_users)


def _shopping(trips: Trips) -> dict[str, Columns]:
    """Recency, frequency, spend, tenure, rhythm, calendar and trend: group -> name -> (n_users,)."""
    age, n_trips, tenure = trips.age, trips.within(0, np.inf), trips.tenure
    spend = trips.total(trips.spend)
    weekday = (trips.at // DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    n_recent, four_weeks = np.log1p(trips.within(0, 28)), (age <= 28, (age > 28) & (age <= 56))
    spent = [np.log1p(np.maximum(trips.total(trips.spend, weeks), 0)) for weeks in four_weeks]
    return {
        "recency": {"days_since": trips.latest(age)},
        "frequency": {
            **{f"trips_{days}": trips.within(0, days) for days in WINDOWS},
            "trips": n_trips,
            "trips_decayed": trips.total(np.exp2(-age / 28)),
            "trips_per_28": n_trips * 28 / np.nan_to_num(np.maximum(tenure, 28), nan=28.0),
        },
        "spend": {
            "spend": spend,
            **{f"spend_{days}": trips.total(trips.spend, age <= days) for days in (28, 91)},
            "spend_decayed": trips.total(trips.spend * np.exp2(-age / 60)),
            "spend_per_trip": _ratio(spend, n_trips),
            "last_trip_spend": trips.latest(trips.spend),
            "lines_per_trip": _ratio(trips.total(trips.lines), n_trips),
        },
        "tenure": {"tenure": tenure},
        "rhythm": _rhythm(trips),
        "calendar": {
            "weekend_share": _ratio(trips.total((weekday >= 5).astype(np.float64)), n_trips),
            # the 28 days that began a year before `as_of`
            "trips_a_year_ago": np.where(np.nan_to_num(tenure) >= 365, trips.within(365 - 28, 365), np.nan),
        },
        "trend": {
            "trend_trips": n_recent - np.log1p(trips.within(28, 56)),
            "trend_spend": spent[0] - spent[1],
            "trend_usual": n_recent - np.log1p(trips.within(28, 182) / 5.5),  # of 28 days
        },
    }


def _rhythm(trips: Trips) -> Columns:
    """Gaps between days with a purchase, and how long it has been in terms of them; NaN without a gap."""
    days = ShoppingDays.of(trips.user, trips.at, trips.n_users, trips.as_of)
    owner, gap = days.gaps
    gaps = days.of_gaps("mean", "median", "std", "max", "last")
    since = trips.latest(trips.age)
    outlasted = count(owner, trips.n_users, gap <= since[owner])
    return {
        **{f"gap_{name}": column for name, column in gaps.items()},
        "since_over_median": since / np.maximum(gaps["median"], 1),
        "since_over_mean": since / np.maximum(gaps["mean"], 1),
        "gaps_outlasted": _ratio(outlasted, count(owner, trips.n_users)),
    }


def _breadth(past: Dataset, bought: Events) -> Columns:
    """Distinct items and categories (widest and narrowest name), in the last 91 days and before, and repeats."""
    recent = bought.select(bought.at >= past.as_of - 91 * DAY)
    lines, items = count(recent.user, past.n_users), _distinct(recent, np.arange(past.n_items))
    return {
        "items_91": items,
        "repeats_91": _ratio(lines - items, lines),
        "areas": _distinct(bought, category_codes(past.items, 0)),
        "categories_91": _distinct(recent, category_codes(past.items, -1)),
    }


def _distinct(events: Events, key: Ints) -> Column:
    """Distinct keys per person; keys of -1 do not count."""
    keys, width = key[events.item], int(key.max(initial=0)) + 1
    pairs = np.unique((events.user.astype(np.int64) * width + keys)[keys >= 0])
    return count(pairs // width, len(events.indptr) - 1)


def _discount(past: Dataset, bought: Events) -> Columns:
    paid, n = bought.select(np.isfinite(bought.price) & (bought.price > 0)), past.n_users
    usual = np.full(past.n_items, np.nan)
    median = pl.DataFrame({"item": paid.item, "price": paid.price}).group_by("item").median()
    usual[median["item"].to_numpy()] = median["price"].to_numpy()
    saved = np.clip(1 - paid.price / usual[paid.item], 0, 1)
    recent = past.as_of - paid.at <= 91 * DAY
    lines = count(paid.user, n)
    return {
        "saved": _ratio(count(paid.user, n, saved), lines),
        "saved_91": _ratio(count(paid.user, n, saved * recent), count(paid.user[recent], n)),
        "cheap_share": _ratio(count(paid.user, n, saved >= 0.1), lines),
    }


def _browsing(past: Dataset) -> Columns:
    browsed, carts = of_actions(past.events, BROWSING), past.events.of(Action.CART)
    age = (past.as_of - browsed.at) / DAY
    since = np.full(past.n_users, np.nan)
    since[browsed.user] = age
    return {
        "browsed_7": count(browsed.user[age <= 7], past.n_users),
        "browsed_28": count(browsed.user[age <= 28], past.n_users),
        "carts_28": count(carts.user[past.as_of - carts.at <= 28 * DAY], past.n_users),
        "days_since_browsing": since,
    }


def _ratio(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Column:
    """NaN where there is nothing to divide by."""
    return np.asarray(numerator / np.where(denominator == 0, np.nan, denominator), np.float64)
