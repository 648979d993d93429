"""Groups that items belong to (type, category, department, brand, maker and within-type groups), and how they sell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Events
from recllm.data.interactions import Floats, Ints, Tally, matrix

GROUPINGS = (
    "type",
    "category",
    "department",
    "brand",
    "maker",
    "type_brand",
    "type_maker",
    "category_maker",
    "type_size",
)
"""Narrowest category path, the one above it, the first name of it, the brand, the maker, and brand, maker and size
within the type or the category."""

VOTED = ("type", "category", "maker")
"""Groupings in which the nearest people have a say."""

MAKER = ("manufacturer", "manufacturer_id", "maker", "producer", "supplier", "厂商", "厂家", "制造商", "供应商")
SIZE = ("size", "package_size", "pack_size", "规格", "尺寸", "净含量")
"""Attributes of an item that name its maker or its size, the first that is given."""

ARRIVAL_DAYS = 28.0
"""An item is an arrival for so long after its first sale."""


@dataclass(frozen=True, eq=False)
class Facets:
    """Codes of each item's groups, int32 (n_items,), -1 unknown. See `GROUPINGS`."""

    type: NDArray[np.int32]
    category: NDArray[np.int32]
    department: NDArray[np.int32]
    brand: NDArray[np.int32]
    maker: NDArray[np.int32]
    type_brand: NDArray[np.int32]
    type_maker: NDArray[np.int32]
    category_maker: NDArray[np.int32]
    type_size: NDArray[np.int32]

    @classmethod
    def of(cls, items: pl.DataFrame) -> Facets:
        path = pl.col("category")
        above = path.list.head(pl.max_horizontal(path.list.len() - 1, pl.lit(1)))
        names = items.select(
            path.list.join(" > ").alias("type"),
            above.list.join(" > ").alias("category"),
            path.list.first().alias("department"),
            pl.col("brand"),
        )
        told = [_attribute(items["attributes"], one) for one in (MAKER, SIZE)]
        kind, category, department, brand, maker, size = (_codes(column) for column in (*names.get_columns(), *told))
        within = (_both(kind, brand), _both(kind, maker), _both(category, maker), _both(kind, size))
        return cls(kind, category, department, brand, maker, *within)

    def each(self) -> dict[str, NDArray[np.int32]]:
        """Grouping name -> codes."""
        return {name: getattr(self, name) for name in GROUPINGS}


def _attribute(attributes: pl.Series, names: tuple[str, ...]) -> pl.Series:
    """The first of these attributes that each item has; a name is looked for only where those before are missing."""
    found = pl.Series([None], dtype=pl.String).new_from_index(0, len(attributes))
    for name in names:
        rows = (found.is_null() & attributes.is_not_null()).arg_true()
        found = found.scatter(rows, attributes.gather(rows).str.json_path_match(f'$["{name}"]'))
    return found


def _codes(names: pl.Series) -> NDArray[np.int32]:
    known = (names.fill_null("") != "").to_numpy()
    codes = np.unique(names.fill_null("").to_numpy().astype(str), return_inverse=True)[1]
    return np.where(known, codes, -1).astype(np.int32)


def _both(one: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32]:
    """Codes of the pairs that occur; -1 where either is unknown."""
    known = (one >= 0) & (other >= 0)
    pairs = one.astype(np.int64) * (int(other.max(initial=0)) + 1) + other
    out = np.full(len(one), -1, np.int32)
    out[known] = np.unique(pairs[known], return_inverse=True)[1]
    return out


def size_of(group: NDArray[np.int32]) -> int:
    """Number of groups that the codes name."""
    return int(group.max(initial=-1)) + 1


def per_group(group: NDArray[np.int32], value: NDArray[Any]) -> Floats:
    """Sum of `value` over each item's group, (n_items,), 0 where the group is unknown."""
    known = group >= 0
    total = np.bincount(group[known], value[known], minlength=max(size_of(group), 1))
    return np.where(known, total[np.maximum(group, 0)], 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class GroupCrowd:
    """How one grouping sells, float32 (n_items,) each, the value of the item's group.

    buyers_56: mean per person of log(1 + occasions in the last 56 days) on the group's items. arrivals: items of the
    group that arrived in the half year before the last 28 days. arrival_rate: mean buyers in their first 28 days,
    shrunk towards the shop's mean. votes: (n_pool, n_groups) sparse, log(1 + occasions in 56 days) of each neighbour.
    """

    buyers_56: Floats
    arrivals: Floats
    arrival_rate: Floats
    votes: Any


@dataclass(frozen=True, eq=False)
class Arrivals:
    """When items arrived. first (n_items,): first sale, epoch seconds, largest int64 for never sold.

    judged: bool, arrived long enough ago, and long enough after the log began, to say how an arrival does. young:
    bool, arrived after the log's first 28 days, so that the first sale is really an arrival. got: buyers in the first
    28 days of the judged items, 0 for others.
    """

    first: Ints
    judged: NDArray[np.bool_]
    young: NDArray[np.bool_]
    got: Floats

    @classmethod
    def of(cls, taken: Events, n_items: int, as_of: int) -> Arrivals:
        first = np.full(n_items, np.iinfo(np.int64).max)
        np.minimum.at(first, taken.item, taken.at)
        sold = first < np.iinfo(np.int64).max
        begin, span = int(taken.at.min(initial=as_of)), int(ARRIVAL_DAYS * DAY)
        young = sold & (first >= begin + span)
        judged = young & (first < as_of - span) & (first >= as_of - 182 * DAY)
        early = taken.at < np.where(sold, first, 0)[taken.item] + span
        pairs = Tally.of(taken.user[early], taken.item[early], n_items)
        got = np.bincount(pairs.key, minlength=n_items).astype(np.float32) * judged
        return cls(first, judged, young, got)

    def rate(self, group: NDArray[np.int32]) -> Floats:
        """Mean first-month buyers of the group's arrivals, (n_items,), shrunk by three arrivals of the shop's mean."""
        mean = self.got.sum() / max(self.judged.sum(), 1)
        return np.asarray((per_group(group, self.got) + 3 * mean) / (self.count(group) + 3), np.float32)

    def count(self, group: NDArray[np.int32]) -> Floats:
        """Arrivals of the group that could be judged, (n_items,)."""
        return per_group(group, self.judged.astype(np.float32))


def group_crowds(facets: Facets, arrivals: Arrivals, of_pool: Events, as_of: int) -> dict[str, GroupCrowd]:
    """Each grouping's figures; `of_pool`: what the neighbours took."""
    late = of_pool.select(of_pool.at >= as_of - 56 * DAY)
    out = {}
    for name, group in facets.each().items():
        votes = group_matrix(late, group)
        mean = np.append(np.asarray(votes.sum(0)).ravel() / max(votes.shape[0], 1), 0.0)
        out[name] = GroupCrowd(mean[group].astype(np.float32), arrivals.count(group), arrivals.rate(group), votes)
    return out


def group_matrix(events: Events, group: NDArray[np.int32]) -> Any:
    """Sparse (n_users, n_groups): log(1 + events) of each person on each group's items."""
    known = events.select(group[events.item] >= 0)
    rows = matrix(replace(known, item=group[known.item]), size_of(group), np.ones(len(known)))
    rows.data = np.log1p(rows.data)
    return rows
