"""Items: which are on offer, allowed or sensitive, the groups that they belong to, and how these groups sell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl

from recllm.base.arrays import Array, Floats, Ints, Ints32, Mask
from recllm.base.errors import UnknownIdError, UsageError
from recllm.base.policy import Policy
from recllm.shop.data.dataset import DAY, Dataset, Events, ItemLookup
from recllm.shop.data.interactions import Tally, matrix

COLUMNS = ("item_id", "title", "category", "brand", "price", "currency")

CATEGORY_SEPARATOR = " > "
"""Between the names of a category's path, widest first, wherever a path is written as one text."""

MAX_CONDITION = 2_000  # characters
_EXPRESSIONS = {
    "Paren", "And", "Or", "Not", "Column", "Identifier", "Literal", "Neg", "Lower", "Upper", "In", "Between", "Like",
    "ILike", "Is", "Null", "EQ", "NEQ", "LT", "LTE", "GT", "GTE",
}  # fmt: skip
"""Names of sqlglot's expressions that a condition may consist of."""
_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)

SENSITIVE_TARGET = "products of a sensitive category have no target group; see sensitive_categories in [policy]"


def allowed_items(
    dataset: Dataset,
    allow: Iterable[str] | None = None,
    deny: Iterable[str] = (),
    where: str | None = None,
) -> Mask:
    """Boolean (n_items,): on offer at the dataset's time, and in the caller's lists.

    Raises `UsageError` for an unknown item id or a condition that cannot be read.
    """
    allowed = dataset.item_index.on_offer(dataset.as_of)
    if allow is not None:
        listed = np.zeros(dataset.n_items, bool)
        listed[known_rows(dataset, allow)] = True
        allowed &= listed
    allowed[known_rows(dataset, deny)] = False
    return allowed & matching(dataset.items, where) if where else allowed


def on_offer(items: pl.DataFrame, as_of: int) -> Mask:
    """Which items are on sale at `as_of`, epoch seconds: available, and `available_until` is to come; (n_items,).

    Items that are only known from events, or were taken off the catalogue, are not available.
    """
    return ItemLookup(items).on_offer(as_of)


def catalogue_rows(dataset: Dataset, item_ids: Iterable[str]) -> Ints:
    """Row of each item of the catalogue, on offer or not.

    Raises `UnknownIdError` for an unknown id, and for an item that is only known from events or was taken off the
    catalogue: it has no title and is not available.
    """
    ids = list(item_ids)
    rows = known_rows(dataset, ids)
    described = dataset.items[rows.tolist()].select(pl.col("available") | pl.col("title").is_not_null()).to_series()
    if not described.all():
        raise UnknownIdError(f"no item {ids[int((~described).arg_max() or 0)]!r} in the catalogue")
    return rows


def matching(items: pl.DataFrame, where: str) -> Mask:
    """Which items meet an SQL condition on `COLUMNS`; `category` is the path, "a > b > c". Unknown values do not.

    Only `_EXPRESSIONS` are accepted: a condition may come from outside, and SQL as such can read files. Raises
    `UsageError` for any other.
    """
    import sqlglot
    from sqlglot import exp

    if len(where) > MAX_CONDITION:
        raise UsageError(f"the condition on items has {len(where):,} characters; write at most {MAX_CONDITION:,}")
    table = items.select(COLUMNS).with_columns(pl.col("category").list.join(CATEGORY_SEPARATOR).fill_null(""))
    try:
        trees = sqlglot.parse(where)
        if len(trees) != 1 or trees[0] is None:
            raise ValueError("it is not one condition")
        for node in trees[0].walk():
            is_column = isinstance(node, exp.Column)
            if type(node).__name__ not in _EXPRESSIONS or (
                is_column and (node.args.get("table") or node.name.lower() not in COLUMNS)
            ):
                raise ValueError(f"{node.sql()[:80]!r} is not accepted")
            if is_column:
                node.this.set("this", node.name.lower())
        fits = table.select(pl.sql_expr(trees[0].sql("postgres")).alias("fit"))["fit"]
        if fits.dtype != pl.Boolean:
            raise ValueError("it is a value and not a condition; write e.g. \"price < 50 AND brand = 'Acme'\"")
    except (sqlglot.errors.SqlglotError, *_POLARS_ERRORS, ValueError, RecursionError) as error:
        # sqlglot underlines the error with control codes; RecursionError has no useful text
        reason = str(error) if type(error) is ValueError else "it is no SQL condition"
        raise UsageError(f"--where {where[:200]!r} cannot be read: {reason}; columns: {', '.join(COLUMNS)}") from None
    if len(fits) != items.height:  # no column occurs in it
        return np.full(items.height, bool(fits[0]))
    return fits.fill_null(False).to_numpy()


def in_category(items: pl.DataFrame, category: str) -> Mask:
    """Which items' paths begin with "a > b", or for a single name hold it, in any case; boolean (n_items,)."""
    names = [name.strip().casefold() for name in category.split(CATEGORY_SEPARATOR.strip())]
    paths = items["category"].list.eval(pl.element().str.to_lowercase()).to_list()
    if len(names) == 1:
        return np.array([path is not None and names[0] in path for path in paths], bool)
    return np.array([path is not None and path[: len(names)] == names for path in paths], bool)


def sensitive_items(items: pl.DataFrame, policy: Policy) -> Mask:
    """Whose category path or title names something that the policy calls sensitive, boolean (n_items,)."""
    path = pl.col("category").list.join(CATEGORY_SEPARATOR).fill_null("")
    texts = items.select((path + CATEGORY_SEPARATOR + pl.col("title").fill_null("")).alias("text"))["text"]
    # few texts have such a word; of ASCII letters the policy only changes the case
    ascii_words = [word.rstrip("*") for word in policy.sensitive_categories if word.isascii()]
    suspect = texts.str.len_bytes() != texts.str.len_chars()
    if ascii_words:
        suspect |= texts.str.to_lowercase().str.contains_any(ascii_words)
    mask = suspect.to_numpy().copy()
    mask[mask] = [policy.is_sensitive((text,)) for text in texts.filter(suspect)]
    return mask


def known_rows(dataset: Dataset, item_ids: Iterable[str]) -> Ints:
    """Row of each item. Raises `UnknownIdError` for an id that the catalogue does not have."""
    ids = list(item_ids)
    rows = dataset.item_rows(ids)
    if (rows < 0).any():
        unknown = ids[int(np.flatnonzero(rows < 0)[0])]
        raise UnknownIdError(f"no item {unknown!r} in the catalogue")
    return rows


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

    type: Ints32
    category: Ints32
    department: Ints32
    brand: Ints32
    maker: Ints32
    type_brand: Ints32
    type_maker: Ints32
    category_maker: Ints32
    type_size: Ints32

    @classmethod
    def of(cls, items: pl.DataFrame) -> ItemGroups:
        path = pl.col("category")
        above = path.list.head(pl.max_horizontal(path.list.len() - 1, pl.lit(1)))
        joined = (path.list.join(" > ").alias("type"), above.list.join(" > ").alias("category"))
        names = items.select(*joined, path.list.first().alias("department"), "brand")
        attributes = [attribute_values(items["attributes"], names_of) for names_of in (MAKER, SIZE)]
        kind, category, department, brand, maker, size = (
            codes_of_names(column) for column in (*names.get_columns(), *attributes)
        )
        within = (
            codes_of_pairs(kind, brand),
            codes_of_pairs(kind, maker),
            codes_of_pairs(category, maker),
            codes_of_pairs(kind, size),
        )
        return cls(kind, category, department, brand, maker, *within)

    def with_new_items(self, items: pl.DataFrame) -> ItemGroups:
        """Codes of a catalogue that has further items behind these; known groups keep their codes.

        items: `Dataset.items`, those of these codes first.
        """
        n_items, codes = len(self.type), {}
        for name, of_all in ItemGroups.of(items).each().items():
            own_codes = getattr(self, name)
            code_of = np.full(size_of(of_all) + 1, -1, np.int32)  # the last is looked up for an unknown group
            code_of[of_all[:n_items]] = own_codes
            code_of[-1] = -1
            of_new = of_all[n_items:]
            unseen = np.unique(of_new[(of_new >= 0) & (code_of[of_new] < 0)])
            code_of[unseen] = size_of(own_codes) + np.arange(len(unseen))
            codes[name] = np.concatenate([own_codes, code_of[of_new]])
        return ItemGroups(**codes)

    def each(self) -> dict[str, Ints32]:
        """Grouping name -> codes."""
        return {name: getattr(self, name) for name in GROUPINGS}


GROUPINGS = tuple(field.name for field in fields(ItemGroups))


def attribute_values(attributes: pl.Series, names: tuple[str, ...]) -> pl.Series:
    values = pl.repeat(None, len(attributes), dtype=pl.String, eager=True)
    is_escaped = attributes.str.contains("\\", literal=True)  # a name may be written in escapes
    for name in names:
        may_have = is_escaped | attributes.str.contains(f'"{name}"', literal=True)
        rows = (values.is_null() & may_have).arg_true()
        values = values.scatter(rows, attributes.gather(rows).str.json_path_match(f'$["{name}"]'))
    return values


def codes_of_names(names: pl.Series) -> Ints32:
    """Of the names in order; where some are unknown, the known ones begin at 1."""
    stated = names.replace("", None)
    ranks = stated.rank("dense").cast(pl.Int32) - (0 if stated.has_nulls() else 1)
    return ranks.fill_null(-1).to_numpy()


def codes_of_pairs(first: Ints32, second: Ints32) -> Ints32:
    """Codes of the pairs that occur; -1 where either is unknown."""
    stated = (first >= 0) & (second >= 0)
    pairs = first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second
    codes = np.full(len(first), -1, np.int32)
    codes[stated] = np.unique(pairs[stated], return_inverse=True)[1]
    return codes


def size_of(group: Ints32) -> int:
    """Number of groups that the codes name."""
    return int(group.max(initial=-1)) + 1


def per_group(group: Ints32, value: Array) -> Floats:
    """Sum of `value` over each item's group, (n_items,), 0 where the group is unknown."""
    in_group = group >= 0
    total = np.bincount(group[in_group], value[in_group], minlength=max(size_of(group), 1))
    return np.where(in_group, total[np.maximum(group, 0)], 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class GroupStatistics:
    """How one grouping sells, float32 (n_items,) each, the value of the item's group."""

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
    judged: Mask
    """New long enough ago, and long enough after the log began, to show how new items sell."""
    young: Mask
    """First sold after the log's first `FIRST_SALES_DAYS`, so that the item was really new then."""
    got: Floats
    """Buyers of the judged items in their `FIRST_SALES_DAYS`; 0 for others."""

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

    def rate(self, group: Ints32, prior: float) -> Floats:
        """Mean first buyers of the group's new items, (n_items,), towards the mean of all as if by `prior` items."""
        mean = self.got.sum() / max(self.judged.sum(), 1)
        total, count = per_group(group, self.got), self.count(group)
        return np.asarray((total + prior * mean) / (count + prior), np.float32)

    def count(self, group: Ints32) -> Floats:
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
