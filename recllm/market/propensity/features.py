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
        """The rows of all tables, which have the same columns."""
        return cls(tables[0].names, tables[0].groups, np.concatenate([table.values for table in tables]))

    def with_columns(self, table: FeatureTable) -> FeatureTable:
        """The same people with the columns of both, whose names differ."""
        joined = np.concatenate([self.values, table.values], axis=1)
        return FeatureTable(self.names + table.names, self.groups + table.groups, joined)

    def rows(self, which: NDArray[np.generic]) -> FeatureTable:
        """These rows only: a mask or row numbers."""
        return FeatureTable(self.names, self.groups, self.values[which])

    def column(self, name: str) -> Floats:
        """(n,)"""
        return np.asarray(self.values[:, self.names.index(name)])


def count(
    row: NDArray[np.integer] | pl.Series,
    n: int,
    weight: NDArray[np.generic] | None = None,
) -> Column:
    """How often each of n rows occurs, or the sum of its weights."""
    return np.bincount(row, None if weight is None else weight.astype(np.float64), minlength=n).astype(np.float64)


def money(events: Events) -> Column:
    """What each event cost, float64 (n,); 0 where the price is unknown."""
    return np.asarray(np.nan_to_num(events.price.astype(np.float64)) * events.quantity)


def category_codes(items: pl.DataFrame, level: int) -> Ints:
    """A number for the category of each item at this level of its path, -1 without one."""
    name = items["category"].list.get(level, null_on_oob=True)
    return name.rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1


def rows_of(events: Events, as_of: int) -> pl.DataFrame:
    """user, item, at, price and spend of each event, and its age in days before `as_of`."""
    columns = {
        "user": events.user.astype(np.int64),
        "item": events.item.astype(np.int64),
        "at": events.at,
        "price": events.price,
        "spend": money(events),
        "age": (as_of - events.at) / DAY,
    }
    return pl.DataFrame(columns)


def of_each(
    rows: pl.DataFrame,
    n_users: int,
    **figures: pl.Expr,
) -> Columns:
    """Figures of the rows of each user, (n_users,) each: NaN where unknown, such as 0 of no rows."""
    nothing = rows.clear().select(**figures).row(0, named=True)
    people = pl.DataFrame({"user": np.arange(n_users)})
    table = people.join(rows.group_by("user").agg(**figures), on="user", how="left", maintain_order="left")
    values = {name: np.nan if value is None else float(value) for name, value in nothing.items()}
    return {name: table[name].cast(pl.Float64).fill_null(value).to_numpy() for name, value in values.items()}


def within(days: float) -> pl.Expr:
    """The number of rows of the last days."""
    return (pl.col("age") <= days).sum()


def person_features(dataset: Dataset, as_of: int) -> FeatureTable:
    """One row per person of `dataset.users`, from events before `as_of` (epoch seconds) alone."""
    past, n = dataset.before(as_of).events, dataset.n_users
    bought = rows_of(past.of(Action.PURCHASE), as_of)
    returned = rows_of(past.of(Action.RETURN), as_of)
    carted = rows_of(past.of(Action.CART), as_of)
    browsed = rows_of(of_actions(past, BROWSING), as_of)
    groups = {
        **_shopping(bought, n, as_of),
        "breadth": _breadth(bought, dataset),
        "discount": _discount(bought, n),
        "returns": {
            "returned": _ratio(count(returned["user"], n), count(bought["user"], n)),
            **of_each(returned, n, returned_91=within(91)),
        },
        "browsing": {
            **of_each(browsed, n, browsed_7=within(7), browsed_28=within(28)),
            **of_each(carted, n, carts_28=within(28)),
            **of_each(browsed, n, days_since_browsing=pl.col("age").min()),
        },
    }
    return FeatureTable.of(groups, n)


def target_features(dataset: Dataset, as_of: int, target: NDArray[np.bool_]) -> FeatureTable:
    """The shopping groups over the items of `target` (n_items,) alone, as one group "target"."""
    bought = dataset.before(as_of).events.of(Action.PURCHASE)
    on_target, n = bought.select(target[bought.item]), dataset.n_users
    groups = _shopping(rows_of(on_target, as_of), n, as_of)
    columns = {f"target_{name}": column for inner in groups.values() for name, column in inner.items()}
    share = _ratio(count(on_target.user, n), count(bought.user, n))
    return FeatureTable.of({"target": {**columns, "target_share": share}}, n)


def _shopping(bought: pl.DataFrame, n_users: int, as_of: int) -> dict[str, Columns]:
    """Recency, frequency, spend, tenure, rhythm, calendar and trend: group -> name -> (n_users,)."""
    age, spend, lines, n_trips = pl.col("age"), pl.col("spend"), pl.col("lines"), pl.len()
    weekday = (pl.col("at") // DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    is_recent, is_before = age <= 28, age.is_between(28, 56, closed="right")
    n_recent, tenure = within(28).log1p(), age.max()
    groups = {
        "recency": {"days_since": age.min()},
        "frequency": {
            **{f"trips_{days}": within(days) for days in WINDOWS},
            "trips": n_trips,
            "trips_decayed": (age * (-np.log(2) / 28)).exp().sum(),
            "trips_per_28": n_trips * 28 / pl.max_horizontal(tenure, 28),
        },
        "spend": {
            "spend": spend.sum(),
            **{f"spend_{days}": spend.filter(age <= days).sum() for days in (28, 91)},
            "spend_decayed": (spend * (age * (-np.log(2) / 60)).exp()).sum(),
            "spend_per_trip": spend.mean(),
            "last_trip_spend": spend.sort_by("at").last(),
            "lines_per_trip": lines.mean(),
        },
        "tenure": {"tenure": tenure},
        "rhythm": dict[str, pl.Expr](),
        "calendar": {
            "weekend_share": (weekday >= 5).mean(),
            # the 28 days that began a year before `as_of`
            "trips_a_year_ago": pl.when(tenure >= 365).then(age.is_between(365 - 28, 365, closed="right").sum()),
        },
        "trend": {
            "trend_trips": n_recent - is_before.sum().log1p(),
            "trend_spend": _log_sum(spend.filter(is_recent)) - _log_sum(spend.filter(is_before)),
            # of 28 days
            "trend_usual": n_recent - (age.is_between(28, 182, closed="right").sum() / 5.5).log1p(),
        },
    }
    trips = bought.group_by("user", "at").agg(age.first(), spend.sum(), lines=pl.len())
    columns = of_each(trips, n_users, **{name: figure for group in groups.values() for name, figure in group.items()})
    named = {group: {name: columns[name] for name in figures} for group, figures in groups.items()}
    return named | {"rhythm": _rhythm(bought, n_users, as_of, columns["days_since"])}


def _log_sum(amounts: pl.Expr) -> pl.Expr:
    return amounts.sum().clip(0).log1p()


def _rhythm(bought: pl.DataFrame, n_users: int, as_of: int, since: Column) -> Columns:
    """Gaps between days with a purchase, and how long it has been in terms of them; NaN without a gap."""
    days = ShoppingDays.of(bought["user"].to_numpy(), bought["at"].to_numpy(), n_users, as_of)
    owner, gap = days.gaps
    gaps = days.of_gaps("mean", "median", "std", "max", "last")
    outlasted = count(owner, n_users, gap <= since[owner])
    return {
        **{f"gap_{name}": column for name, column in gaps.items()},
        "since_over_median": since / np.maximum(gaps["median"], 1),
        "since_over_mean": since / np.maximum(gaps["mean"], 1),
        "gaps_outlasted": _ratio(outlasted, count(owner, n_users)),
    }


def _breadth(bought: pl.DataFrame, dataset: Dataset) -> Columns:
    """Distinct items and categories (widest and narrowest name), in the last 91 days and before, and repeats."""
    item, is_recent = bought["item"].to_numpy(), pl.col("age") <= 91
    codes = {
        "area": category_codes(dataset.items, 0)[item],
        "category": category_codes(dataset.items, -1)[item],
    }
    items = pl.col("item").filter(is_recent).n_unique()
    return of_each(
        bought.with_columns(pl.Series(name, code) for name, code in codes.items()),
        dataset.n_users,
        items_91=items,
        repeats_91=1 - items / within(91),
        areas=pl.col("area").filter(pl.col("area") >= 0).n_unique(),
        categories_91=pl.col("category").filter(is_recent, pl.col("category") >= 0).n_unique(),
    )


def _discount(bought: pl.DataFrame, n_users: int) -> Columns:
    """How much below the usual price of their items people buy."""
    price, saved = pl.col("price"), pl.col("saved")
    paid = bought.filter(price.is_finite(), price > 0)
    return of_each(
        paid.with_columns(saved=(1 - price / price.median().over("item")).clip(0, 1)),
        n_users,
        saved=saved.mean(),
        saved_91=saved.filter(pl.col("age") <= 91).mean(),
        cheap_share=(saved >= 0.1).mean(),
    )


def _ratio(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Column:
    """NaN where there is nothing to divide by."""
    return np.asarray(numerator / np.where(denominator == 0, np.nan, denominator), np.float64)
