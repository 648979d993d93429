"""What is known of a person and an item that they bought on several days: when, how often, on how many of their trips.

A purchase day is (person, item, day): lines of one day count once. Days are counted back from the time asked about, so
a day is any 24 hours before it. Features come in groups:

pair       the days on which this person bought this item, and the gaps between them
hazard     of everybody's gaps, and spells that still last, longer than this one: the share that ended within the next
           `HORIZON_DAYS` days, for the item, its name, its type and its category (Kaplan and Meier 1958), and for the
           person's own gaps, which the item's rate is mixed into
trips      on how many of the person's shopping days the item was bought, and how many have passed without it
person     how often the person shops, and how much of what they buy repeatedly they bought lately
item       how much everybody buys it lately, and at which price against the usual one
name, type, category   the person's purchases among items of the same name, type and category: what was bought instead
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.schema import Action
from recllm.market.propensity.features import FeatureTable, category_codes, count
from recllm.shop.data.dataset import DAY, Dataset

HORIZON_DAYS = 7
"""Days ahead that a repurchase is asked about."""

MIN_DAYS = 2
"""Purchase days of a pair from which on a gap is known."""

WINDOWS = (7, 14, 28, 56, 91, 182)
"""Days within which purchases are counted."""

PRIOR_DAYS = 60
"""Days of one person with an item that everybody's knowledge of it counts as."""

_WIDTH = 1 << 20
"""More than there are days in any log: two numbers in one, the second of them a day or a gap."""

Ints = NDArray[np.int64]
Column = NDArray[np.float64]
Columns = dict[str, Column]


@dataclass(frozen=True, eq=False)
class RepurchasePairs:
    """Pairs of a person and an item bought on at least two days, ascending by person, then item."""

    user: Ints
    """(n,), rows of the dataset's users."""
    item: Ints
    """(n,), rows of its items."""
    features: FeatureTable
    """(n, n_features)."""

    def __len__(self) -> int:
        return len(self.user)

    def select(self, which: NDArray[np.generic]) -> RepurchasePairs:
        """These pairs only: a mask or row numbers."""
        return RepurchasePairs(self.user[which], self.item[which], self.features.rows(which))

    def column(self, name: str) -> NDArray[np.float32]:
        return self.features.column(name)


def bought_again(dataset: Dataset, pairs: RepurchasePairs, start: int, days: float = HORIZON_DAYS) -> Column:
    """1 for each pair whose item the person buys with start <= time < start + days, else 0; (n,)."""
    bought = dataset.between(start, start + int(days * DAY))
    keys = np.unique(bought.user.astype(np.int64) * dataset.n_items + bought.item)
    return np.isin(pairs.user * dataset.n_items + pairs.item, keys).astype(np.float64)


def repurchase_pairs(dataset: Dataset, as_of: int) -> RepurchasePairs:
    """The pairs and their features, of purchases before `as_of` (epoch seconds) alone. A day ends at this time."""
    days = PurchaseDays.of(dataset, as_of)
    with np.errstate(invalid="ignore", divide="ignore"):  # unknown stays NaN
        groups = {
            "pair": days.own_gaps(),
            "hazard": {**(hazards := days.hazards()), **days.own_hazard(hazards["item_hazard"])},
            "trips": days.on_trips(),
            "person": days.of_person(),
            "item": days.of_item(),
            **{name: days.among(code, name) for name, code in days.kinds.items()},
        }
    table = FeatureTable.of(groups, days.n_pairs)
    repeated = days.n_days >= MIN_DAYS
    return RepurchasePairs(days.pair_user[repeated], days.pair_item[repeated], table.rows(repeated))


@dataclass(frozen=True, eq=False)
class PurchaseDays:
    """Purchase days in runs of pairs, oldest first within a pair; pairs ascending by person, then item."""

    n_users: int
    n_items: int
    user: Ints
    item: Ints
    age: Ints
    """(n_rows,), whole days before `as_of`, 0 for the last 24 hours."""
    quantity: Column
    price: Column
    """Lowest unit price of the day, NaN where unknown."""
    kinds: dict[str, Ints]
    """By name a code for each item, (n_items,), -1 for none: items of one code replace each other."""

    @classmethod
    def of(cls, dataset: Dataset, as_of: int) -> PurchaseDays:
        bought = dataset.before(as_of).events.of(Action.PURCHASE)
        bought = bought.select(bought.quantity > 0)
        user, item = bought.user.astype(np.int64), bought.item.astype(np.int64)
        age = (as_of - 1 - bought.at) // DAY
        order = np.lexsort((-age, item, user))
        user, item, age = user[order], item[order], age[order]
        first = np.flatnonzero(_is_first(user, item, age))
        quantity, price = bought.quantity[order].astype(np.float64), bought.price[order].astype(np.float64)
        if len(first):
            quantity = np.add.reduceat(quantity, first)
            price = np.fmin.reduceat(np.where(price > 0, price, np.nan), first)
        kinds = {
            "name": name_codes(dataset.items),
            "type": category_codes(dataset.items, -1),
            "category": category_codes(dataset.items, 1),
        }
        rows = (user[first], item[first], age[first], quantity, price)
        return cls(dataset.n_users, dataset.n_items, *rows, kinds=kinds)

    # --- pairs ------------------------------------------------------------------------------------------------------

    @cached_property
    def _first(self) -> Ints:
        """Row of the first day of each pair, (n_pairs,)."""
        return np.flatnonzero(_is_first(self.user, self.item))

    @property
    def n_pairs(self) -> int:
        return len(self._first)

    @cached_property
    def n_days(self) -> Ints:
        """Purchase days of each pair."""
        return np.diff(np.append(self._first, len(self.user)))

    @cached_property
    def _last(self) -> Ints:
        return self._first + self.n_days - 1

    @cached_property
    def pair_user(self) -> Ints:
        return self.user[self._first]

    @cached_property
    def pair_item(self) -> Ints:
        return self.item[self._first]

    @cached_property
    def _pair(self) -> Ints:
        """Pair of each row."""
        return np.repeat(np.arange(self.n_pairs), self.n_days)

    @cached_property
    def _since(self) -> Ints:
        """Days since each pair's last purchase day."""
        return self.age[self._last]

    @cached_property
    def _tenure(self) -> Column:
        """Days since its first."""
        return self.age[self._first].astype(np.float64)

    @cached_property
    def _gap_rows(self) -> Ints:
        """Rows with an earlier day of the same pair."""
        return np.flatnonzero(~_is_first(self.user, self.item))

    @cached_property
    def _gap(self) -> Ints:
        """Days between each of `_gap_rows` and the day before it."""
        return self.age[self._gap_rows - 1] - self.age[self._gap_rows]

    def _per_pair(self, weight: NDArray[np.generic] | None = None, rows: NDArray[np.generic] | None = None) -> Column:
        return count(self._pair if rows is None else self._pair[rows], self.n_pairs, weight)

    # --- features ---------------------------------------------------------------------------------------------------

    def own_gaps(self) -> Columns:
        gaps, since = self._gap.astype(np.float64), self._since.astype(np.float64)
        n_gaps, pair = np.maximum(self.n_days - 1, 1), self._pair[self._gap_rows]
        mean = self._per_pair(gaps, self._gap_rows) / n_gaps
        spread = np.sqrt(np.maximum(self._per_pair(gaps**2, self._gap_rows) / n_gaps - mean**2, 0))
        order = np.lexsort((gaps, pair))
        start, has_gap = np.searchsorted(pair[order], np.arange(self.n_pairs)), self.n_days > 1
        median = np.full(self.n_pairs, np.nan)
        low, high = (start[has_gap] + (self.n_days[has_gap] - shift) // 2 for shift in (2, 1))
        median[has_gap] = (gaps[order][low] + gaps[order][high]) / 2
        latest = np.full(self.n_pairs, np.nan)
        latest[pair] = gaps  # a run is in time order, so the latest is written last
        units = self._per_pair(self.quantity)
        lasting = self.quantity[self._last] * self._tenure / np.maximum(units - self.quantity[self._last], 1e-9)
        return {
            "days": self.n_days.astype(np.float64),
            "since": since,
            "tenure": self._tenure,
            "gap_mean": mean,
            "gap_median": median,
            "gap_std": spread,
            "gap_last": latest,
            "since_over_mean": since / np.maximum(mean, 1),
            "since_over_median": since / np.maximum(median, 1),
            "gaps_outlasted": self._per_pair(gaps <= since[pair], self._gap_rows) / n_gaps,
            **{f"days_{window}": self._per_pair(self.age < window) for window in WINDOWS},
            **{f"decayed_{half}": self._per_pair(np.exp2(-self.age / half)) for half in (10, 28, 91, 182)},
            "per_28": self.n_days * 28 / np.maximum(self._tenure, 28),
            "last_units": self.quantity[self._last],
            "last_units_over_mean": self.quantity[self._last] / (units / self.n_days),
            # days that the last purchase lasts, at the units that the person used a day until then
            "since_over_lasting": since / np.maximum(lasting, 0.5),
        }

    def hazards(self) -> Columns:
        """Of all gaps and open spells longer than this one, the share that ends within the horizon."""
        gap, since = np.sort(self._gap), np.sort(self._since)
        now, then = self._since, self._since + HORIZON_DAYS
        passed, ended = np.searchsorted(gap, now, "right"), np.searchsorted(gap, then, "right")
        open_ = len(since) - np.searchsorted(since, now, "right")
        columns = {"hazard": (ended - passed) / np.maximum(len(gap) - passed + open_, 1)}
        for name, code in {"item": np.arange(self.n_items), **self.kinds}.items():
            columns[f"{name}_hazard"] = self._hazard(code, columns["hazard"])
        return columns

    def _hazard(self, code: Ints, prior: Column) -> Column:
        """That of the items of the same code, as if ten of them had been seen at the rate of `prior`."""
        of_pair, at_gap = code[self.pair_item], code[self.item[self._gap_rows]]
        gaps = np.sort((at_gap * _WIDTH + self._gap)[at_gap >= 0])
        spells = np.sort((of_pair * _WIDTH + self._since)[of_pair >= 0])
        rows = np.flatnonzero((of_pair >= 0) & (self.n_days >= MIN_DAYS))
        days = (self._since[rows], self._since[rows] + HORIZON_DAYS, _WIDTH - 1)
        edges = [of_pair[rows] * _WIDTH + day for day in days]
        passed, ended, all_ = (np.searchsorted(gaps, edge, "right") for edge in edges)
        open_ = np.searchsorted(spells, edges[2], "right") - np.searchsorted(spells, edges[0], "right")
        hazard = np.full(self.n_pairs, np.nan)
        hazard[rows] = (ended - passed + 10 * prior[rows]) / (all_ - passed + open_ + 10)
        return hazard

    def own_hazard(self, everybody: Column) -> Columns:
        """The same of the pair's own gaps, as if three of them had been seen at the item's rate, `everybody`."""
        since, gap = self._since[self._pair[self._gap_rows]], self._gap
        rate = (self.n_days - 1 + everybody * PRIOR_DAYS / HORIZON_DAYS) / (self._tenure + PRIOR_DAYS)
        ended = self._per_pair((gap > since) & (gap <= since + HORIZON_DAYS), self._gap_rows)
        longer = self._per_pair(gap > since, self._gap_rows)
        return {
            "own_hazard": (ended + 3 * everybody) / (longer + 1 + 3),
            # a Poisson rate with a gamma prior around the item's
            "poisson_gamma": -np.expm1(-HORIZON_DAYS * rate),
        }

    @cached_property
    def _shopping_days(self) -> tuple[Ints, Ints, Column]:
        """Person, age and lines of each day with a purchase, oldest first within a person."""
        order = np.lexsort((-self.age, self.user))
        user, age = self.user[order], self.age[order]
        first = np.flatnonzero(_is_first(user, age))
        return user[first], age[first], np.diff(np.append(first, len(user))).astype(np.float64)

    def on_trips(self) -> Columns:
        user, age, _ = self._shopping_days
        key = user * _WIDTH - age  # ascending
        at = np.searchsorted(key, self.user * _WIDTH - self.age)
        end = np.searchsorted(user, self.user, "right")
        later = end - 1 - at  # shopping days after each row's
        pair, rows = self._pair[self._gap_rows], self._gap_rows
        gaps = (at[rows] - at[rows - 1]).astype(np.float64)
        mean = self._per_pair(gaps, rows) / np.maximum(self.n_days - 1, 1)
        latest = np.full(self.n_pairs, np.nan)
        latest[pair] = gaps
        since, possible = later[self._last].astype(np.float64), later[self._first] + 1.0
        n_91 = count(user[age < 91], self.n_users)[self.pair_user]
        n_28 = count(user[age < 28], self.n_users)[self.pair_user]
        return {
            "trips_since": since,
            "trip_share": self.n_days / possible,
            "trip_share_91": self._per_pair(self.age < 91) / np.maximum(n_91, 1),
            "trip_share_28": self._per_pair(self.age < 28) / np.maximum(n_28, 1),
            "trip_gap_mean": mean,
            "trip_gap_last": latest,
            "trips_since_over_mean": since / np.maximum(mean, 1),
            **{f"trips_decayed_{half}": self._per_pair(np.exp2(-later / half)) for half in (2, 5, 12)},
            **{f"among_last_{n}": self._per_pair(later < n) for n in (1, 2, 3, 5, 8)},
        }

    def of_person(self) -> Columns:
        user, age, lines = self._shopping_days
        n_days, n = count(user, self.n_users), self.n_users
        since, first = np.full(n, np.nan), np.full(n, np.nan)
        since[user] = age
        first[user[::-1]] = age[::-1]
        weeks = np.unique(user * 12 + np.minimum(age // 7, 11))
        week, of_week = weeks % 12, weeks // 12
        repeated = self.n_days >= MIN_DAYS
        n_repeated = count(self.pair_user[repeated], n)
        columns = {
            **{f"trips_{window}": count(user[age < window], n) for window in (7, 14, 28, 91)},
            "days_since_trip": since,
            "trip_gap": (first - since) / np.maximum(n_days - 1, 1),
            "lines_per_trip": count(user, n, lines) / np.maximum(n_days, 1),
            "lines_28": count(user[age < 28], n, lines[age < 28]),
            "weeks": count(of_week[week < 11], n),
            "weeks_decayed": count(of_week[week < 11], n, 0.7 ** week[week < 11].astype(np.float64)),
            "repeated_items": n_repeated,
        }
        for window in (7, 14, 28):
            lately = repeated & (self._since < window)
            columns[f"repeated_lately_{window}"] = count(self.pair_user[lately], n) / np.maximum(n_repeated, 1)
        return {name: column[self.pair_user] for name, column in columns.items()}

    def of_item(self) -> Columns:
        n, item = self.n_items, self.item
        sold = {window: count(item[self.age < window], n) for window in (2, 3, 7, 28, 91)}
        repeated = self.n_days >= MIN_DAYS
        n_repeated = count(self.pair_item[repeated], n)
        repurchases = count(item[self._gap_rows], n)
        columns = {
            "sold_7": np.log1p(sold[7]),
            "sold_28": np.log1p(sold[28]),
            **{f"trend_{days}": (sold[days] + 1) / (sold[28] * days / 28 + 1) for days in (2, 3, 7)},
            "trend_28": (sold[28] + 1) / (sold[91] * 28 / 91 + 1),
            "repeat_share": (repurchases + 1) / (repurchases + count(self.pair_item, n) + 3),
            "item_gap": (count(item[self._gap_rows], n, self._gap) + 30 * self._gap.mean()) / (repurchases + 30)
            if len(self._gap)
            else np.full(n, np.nan),
            "repeaters": np.log1p(n_repeated),
        }
        for window in (7, 14, 28):
            lately = repeated & (self._since < window)
            rate = lately.sum() / max(int(repeated.sum()), 1)
            columns[f"repeaters_lately_{window}"] = (count(self.pair_item[lately], n) + 10 * rate) / (n_repeated + 10)
        paid = np.isfinite(self.price)
        prices = pl.DataFrame({"item": item[paid], "price": self.price[paid], "age": self.age[paid]})
        price, age = pl.col("price"), pl.col("age")
        windows = {"3": age < 3, "7": age < 7, "14": (age >= 7) & (age < 14), "28": age < 28}
        medians = prices.group_by("item").agg(
            price.median().alias("usual"), *(price.filter(mask).median().alias(name) for name, mask in windows.items())
        )
        table = {name: np.full(n, np.nan) for name in medians.columns[1:]}
        for name, column in table.items():
            column[medians["item"].to_numpy()] = medians[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        usual = table["usual"]
        for name in windows:
            columns[f"price_{name}"] = table[name] / usual
        columns["usual_price"] = usual
        cheap = (self.price < 0.9 * usual[item]).astype(np.float64)
        return {
            **{name: column[self.pair_item] for name, column in columns.items()},
            "last_price": self.price[self._last] / usual[self.pair_item],
            "cheap_share": self._per_pair(cheap) / self.n_days,
        }

    def among(self, code: Ints, name: str) -> Columns:
        """The person's purchases among the items of the same code."""
        of_row = code[self.item]
        inside, width = of_row >= 0, int(code.max(initial=0)) + 1
        keys = np.sort(((self.user * width + of_row) * _WIDTH - self.age)[inside])
        rows = np.flatnonzero((code[self.pair_item] >= 0) & (self.n_days >= MIN_DAYS))
        kind = code[self.pair_item[rows]]
        group = (self.pair_user[rows] * width + kind) * _WIDTH
        end, start = (np.searchsorted(keys, group + shift, "right") for shift in (0, -_WIDTH + 1))

        def since(age: Ints | int) -> Column:
            """Purchases among them that are no older, in days."""
            return (end - np.searchsorted(keys, group - age)).astype(np.float64)

        latest = (group - keys[end - 1]).astype(np.float64)
        total, days_91 = (end - start).astype(np.float64), since(90)
        gap = self._tenure[rows] / np.maximum(total, 1)
        sold = {days: count(of_row[inside & (self.age < days)], width) for days in (7, 28, 91)}
        columns = {
            "after": since(self._since[rows] - 1),
            "since": latest,
            "since_over_gap": latest / np.maximum(gap, 1),
            "share": self.n_days[rows] / np.maximum(total, 1),
            "share_91": self._per_pair(self.age < 91)[rows] / np.maximum(days_91, 1),
            "days_28": since(27),
            "days_91": days_91,
            "trend_7": ((sold[7] + 1) / (sold[28] / 4 + 1))[kind],
            "trend_28": ((sold[28] + 1) / (sold[91] * 28 / 91 + 1))[kind],
        }
        table = {f"{name}_{feature}": np.full(self.n_pairs, np.nan) for feature in columns}
        for values, column in zip(table.values(), columns.values(), strict=True):
            values[rows] = column
        return table


def name_codes(items: pl.DataFrame) -> Ints:
    """A number for the title of each item, -1 without one; (n_items,)."""
    return items["title"].rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1


def _is_first(*columns: Ints) -> NDArray[np.bool_]:
    """Which rows differ from the one before them, (n,)."""
    first = np.ones(len(columns[0]), bool)
    first[1:] = np.logical_or.reduce([np.diff(column) != 0 for column in columns])
    return first
