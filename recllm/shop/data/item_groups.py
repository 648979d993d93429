"""Groups that items belong to (type, category, department, brand, maker and within-type groups), and how they sell."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.shop.data.dataset import DAY, Events
from recllm.shop.data.interactions import Floats, Ints, Tally, matrix

GROUP_WINDOW_DAYS = 56.0  # purchases of an item group are counted in it
FIRST_SALES_DAYS = 28.0  # how a new item sold is counted over them, from its first sale
FIRST_SALES_WINDOW_DAYS = 182.0  # new items of this window say how those of a group sell
PRIOR_BUYERS = 3.0  # buyers, or new items, of the prior that draws shares to the mean

VOTED = ("type", "category", "maker")
"""Groupings in which the nearest people vote."""

MAKER = ("manufacturer", "manufacturer_id", "maker", "producer", "supplier", "厂商", "厂家", "制造商", "供应商")
SIZE = ("size", "package_size", "pack_size", "规格", "尺寸", "净含量")
"""Attributes of an item with its maker or its size; the first one counts."""

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """Codes of each item's groups, int32 (n_items,), -1 unknown.

    Narrowest category path, the one above it, the first name of it, the brand, the maker, and brand, maker and size
    within the type or the category.
    """

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
    def of(cls, items: pl.DataFrame) -> ItemGroups:
        names = _names(items)
        attributes = [_attribute(items["attributes"], names_of) for names_of in (MAKER, SIZE)]
        kind, category, department, brand, maker, size = (
            _codes(column) for column in (*names.get_columns(), *attributes)
        )
        within = (_both(kind, brand), _both(kind, maker), _both(category, maker), _both(kind, size))
        return cls(kind, category, department, brand, maker, *within)

    def with_new_items(self, items: pl.DataFrame) -> ItemGroups:
        """Codes of a catalogue that has further items behind these; known groups keep their codes.

        items: `Dataset.items`, those of these codes first, of which only the groups of new ones are read.
        """
        n_items = len(self.type)
        rows = _sharing(items[:n_items], items[n_items:])
        codes = {}
        for name, of_part in ItemGroups.of(pl.concat([items[rows], items[n_items:]])).each().items():
            own_codes = getattr(self, name)
            code_of = np.full(size_of(of_part) + 1, -1, np.int32)  # the last is looked up for an unknown group
            code_of[of_part[: len(rows)]] = own_codes[rows]
            code_of[-1] = -1
            of_new = of_part[len(rows) :]
            unseen = np.unique(of_new[(of_new >= 0) & (code_of[of_new] < 0)])
            code_of[unseen] = size_of(own_codes) + np.arange(len(unseen))
            codes[name] = np.concatenate([own_codes, code_of[of_new]])
        return ItemGroups(**codes)

    def each(self) -> dict[str, NDArray[np.int32]]:
        """Grouping name -> codes."""
        return {name: getattr(self, name) for name in GROUPINGS}


GROUPINGS = tuple(field.name for field in fields(ItemGroups))


def _names(items: pl.DataFrame) -> pl.DataFrame:
    path = pl.col("category")
    above = path.list.head(pl.max_horizontal(path.list.len() - 1, pl.lit(1)))
    return items.select(
        path.list.join(" > ").alias("type"),
        above.list.join(" > ").alias("category"),
        path.list.first().alias("department"),
        pl.col("brand"),
    )


def _sharing(items: pl.DataFrame, new: pl.DataFrame) -> NDArray[np.int64]:
    """Rows of items, ascending, with one of each known group of new items: all of their categories, and the first of
    each department, brand and maker."""
    names, of_new = _names(items), _names(new)
    is_part = names["category"].is_in(of_new["category"].unique().implode()).fill_null(False).to_numpy().copy()
    makers = _attribute(new["attributes"], MAKER)
    written = [json.dumps(maker, ensure_ascii=False) for maker in makers.unique().drop_nulls()]
    may_have = items["attributes"].str.contains("\\", literal=True)
    if written:
        may_have |= items["attributes"].str.contains_any(written)
    of_a_maker = may_have.fill_null(False).arg_true()
    attributes = items["attributes"].gather(of_a_maker)
    every_row = pl.Series(np.arange(items.height), dtype=pl.UInt32)
    for rows, column, values in (
        (every_row, names["department"], of_new["department"]),
        (every_row, names["brand"], of_new["brand"]),
        (of_a_maker, _attribute(attributes, MAKER), makers),
    ):
        is_first = column.is_first_distinct() & column.is_in(values.unique().implode())
        is_part[rows.filter(is_first.fill_null(False)).to_numpy()] = True
    return np.flatnonzero(is_part)


def _attribute(attributes: pl.Series, names: tuple[str, ...]) -> pl.Series:
    values = pl.repeat(None, len(attributes), dtype=pl.String, eager=True)
    is_escaped = attributes.str.contains("\\", literal=True)  # a name may be written in escapes
    for name in names:
        may_have = is_escaped | attributes.str.contains(f'"{name}"', literal=True)
        rows = (values.is_null() & may_have).arg_true()
        values = values.scatter(rows, attributes.gather(rows).str.json_path_match(f'$["{name}"]'))
    return values


def _codes(names: pl.Series) -> NDArray[np.int32]:
    """Of the names in order; where some are unknown, the known ones begin at 1."""
    stated = names.replace("", None)
    ranks = stated.rank("dense").cast(pl.Int32) - (0 if stated.has_nulls() else 1)
    return ranks.fill_null(-1).to_numpy()


def _both(first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.int32]:
    """Codes of the pairs that occur; -1 where either is unknown."""
    stated = (first >= 0) & (second >= 0)
    pairs = first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second
    codes = np.full(len(first), -1, np.int32)
    codes[stated] = np.unique(pairs[stated], return_inverse=True)[1]
    return codes


def size_of(group: NDArray[np.int32]) -> int:
    """Number of groups that the codes name."""
    return int(group.max(initial=-1)) + 1


def per_group(group: NDArray[np.int32], value: NDArray[Any]) -> Floats:
    """Sum of `value` over each item's group, (n_items,), 0 where the group is unknown."""
    in_group = group >= 0
    total = np.bincount(group[in_group], value[in_group], minlength=max(size_of(group), 1))
    return np.where(in_group, total[np.maximum(group, 0)], 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class GroupStatistics:
    """How one grouping sells, float32 (n_items,) each, the value of the item's group.

    The windows are those of `CollaborativeSettings`.
    """

    buyers_56: Floats
    """Mean per user of log(1 + purchases in `GROUP_WINDOW_DAYS`) of the group's items."""
    arrivals: Floats
    """Items of the group that were new within `FIRST_SALES_WINDOW_DAYS`, long enough ago to be judged."""
    arrival_rate: Floats
    """Mean buyers of these in their `FIRST_SALES_DAYS`, drawn towards the shop's mean."""
    votes: Any
    """Sparse (n_pool, n_groups): log(1 + purchases in `GROUP_WINDOW_DAYS`) of each neighbour."""


@dataclass(frozen=True, eq=False)
class NewItems:
    """When items were new, (n_items,) each."""

    first: Ints
    """First sale, epoch seconds; `NEVER` for an item that never sold."""
    judged: NDArray[np.bool_]
    """New long enough ago, and long enough after the log began, to show how new items sell."""
    young: NDArray[np.bool_]
    """First sold after the log's first `FIRST_SALES_DAYS`, so that the item was really new then."""
    got: Floats
    """Buyers of the judged items in their `FIRST_SALES_DAYS`; 0 for others."""

    @classmethod
    def of(cls, purchases: Events, n_items: int, as_of: int) -> NewItems:
        began = int(purchases.at.min(initial=as_of))
        arrived = cls.since(first_sales(purchases, n_items), began, as_of)
        return replace(arrived, got=arrived.first_buyers(purchases).astype(np.float32))

    @classmethod
    def since(cls, first: Ints, began: int, as_of: int) -> NewItems:
        """By first sales; `began`: the first purchase of all. `got` is zero."""
        sold = first < NEVER
        span = int(FIRST_SALES_DAYS * DAY)
        young = sold & (first >= began + span)
        judged = young & (first < as_of - span) & (first >= as_of - FIRST_SALES_WINDOW_DAYS * DAY)
        return cls(first, judged, young, np.zeros(len(first), np.float32))

    def first_buyers(self, purchases: Events) -> Ints:
        """How many of these people bought each judged item in its `FIRST_SALES_DAYS`, (n_items,)."""
        n_items, span = len(self.first), int(FIRST_SALES_DAYS * DAY)
        early = purchases.at < (np.where(self.judged, self.first, 0) + span)[purchases.item]
        early &= self.judged[purchases.item]
        pairs = Tally.of(purchases.user[early], purchases.item[early], n_items)
        return np.asarray(np.bincount(pairs.key, minlength=n_items))

    def rate(self, group: NDArray[np.int32], prior: float) -> Floats:
        """Mean first buyers of the group's new items, (n_items,), towards the mean of all as if by `prior` items."""
        mean = self.got.sum() / max(self.judged.sum(), 1)
        total, count = per_group(group, self.got), self.count(group)
        return np.asarray((total + prior * mean) / (count + prior), np.float32)

    def count(self, group: NDArray[np.int32]) -> Floats:
        """New items of the group that could be judged, (n_items,)."""
        return per_group(group, self.judged.astype(np.float32))


def first_sales(purchases: Events, n_items: int) -> Ints:
    """Of each item, epoch seconds, (n_items,); `NEVER` where there is none."""
    first = np.full(n_items, NEVER)
    np.minimum.at(first, purchases.item, purchases.at)
    return first


def group_statistics(facets: ItemGroups, arrivals: NewItems, of_pool: Events, as_of: int) -> dict[str, GroupStatistics]:
    """Each grouping's figures; `of_pool`: what the neighbours bought."""
    late = of_pool.select(of_pool.at >= as_of - GROUP_WINDOW_DAYS * DAY)
    sales = {}
    for name, group in facets.each().items():
        in_group = late.select(group[late.item] >= 0)
        votes = matrix(replace(in_group, item=group[in_group.item]), size_of(group), np.ones(len(in_group)))
        votes.data = np.log1p(votes.data)
        mean = np.append(np.asarray(votes.sum(0)).ravel() / max(votes.shape[0], 1), 0.0)
        rate = arrivals.rate(group, PRIOR_BUYERS)
        sales[name] = GroupStatistics(mean[group].astype(np.float32), arrivals.count(group), rate, votes)
    return sales
