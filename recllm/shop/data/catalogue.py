"""Which items are meant: on offer, in the caller's lists, of a category, sensitive, under the caller's condition."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import UnknownIdError, UsageError
from recllm.base.policy import Policy
from recllm.shop.data.dataset import Dataset, utc

COLUMNS = ("item_id", "title", "category", "brand", "price", "currency")

CATEGORY_SEPARATOR = " > "
"""Between the names of a category's path, widest first, wherever a path is written as one text."""

MAX_CONDITION = 2_000  # characters
SENSITIVE_TARGET = "nobody is targeted for products of a sensitive category; see sensitive_categories in [policy]"


def allowed_items(
    dataset: Dataset,
    allow: Iterable[str] | None = None,
    deny: Iterable[str] = (),
    where: str | None = None,
) -> NDArray[np.bool_]:
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


def on_offer(items: pl.DataFrame, as_of: int) -> NDArray[np.bool_]:
    """Which items are on sale at `as_of`, epoch seconds: available, and `available_until` is to come; (n_items,).

    Items that are only known from events, or were taken off the catalogue, are not available.
    """
    running = (pl.col("available_until") > utc(as_of)).fill_null(True)
    return items.select(pl.col("available") & running).to_series().to_numpy().copy()


def catalogue_rows(dataset: Dataset, item_ids: Iterable[str]) -> NDArray[np.int64]:
    """Row of each item of the catalogue, on offer or not.

    Raises `UnknownIdError` for an unknown id, and for an item of which events alone tell: one that was never in the
    catalogue or was taken off it has no title and is not available.
    """
    ids = list(item_ids)
    rows = known_rows(dataset, ids)
    described = dataset.items[rows.tolist()].select(pl.col("available") | pl.col("title").is_not_null()).to_series()
    if not described.all():
        raise UnknownIdError(f"no item {ids[int((~described).arg_max() or 0)]!r} in the catalogue")
    return rows


def matching(items: pl.DataFrame, where: str) -> NDArray[np.bool_]:
    """Which items meet an SQL condition on `COLUMNS`; `category` is the path, "a > b > c". Unknown values do not.

    Comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, ILIKE, IS NULL, LOWER and UPPER are understood and nothing else: a
    condition may come from outside, and SQL as such can read files. Raises `UsageError` for any other.
    """
    import sqlglot

    if len(where) > MAX_CONDITION:
        raise UsageError(f"the condition on items has {len(where):,} characters; write at most {MAX_CONDITION:,}")
    table = items.select(COLUMNS).with_columns(pl.col("category").list.join(CATEGORY_SEPARATOR).fill_null(""))
    try:
        trees = sqlglot.parse(where)
        if len(trees) != 1 or trees[0] is None:
            raise ValueError("it is not one condition")
        condition, kind = _translated(trees[0])
        if kind != "condition":
            raise ValueError(f"it is a {kind} and not a condition; write e.g. \"price < 50 AND brand = 'Acme'\"")
        fits = table.select(condition.alias("fit"))["fit"]
    except (sqlglot.errors.SqlglotError, pl.exceptions.PolarsError, ValueError, RecursionError) as error:
        # sqlglot underlines the place with control codes; RecursionError says nothing of use
        reason = str(error) if type(error) is ValueError else "it is no SQL condition"
        raise UsageError(f"--where {where[:200]!r} cannot be read: {reason}; columns: {', '.join(COLUMNS)}") from None
    if len(fits) != items.height:  # no column occurs in it
        return np.full(items.height, bool(fits[0]))
    return fits.fill_null(False).to_numpy()


_UNDERSTOOD = {"this", "expression", "expressions", "low", "high", "negate", "is_string"}
"""Parts of an expression. One with another part means something else than its name says."""


def _translated(node: Any) -> tuple[pl.Expr, str]:
    """An expression that sqlglot parsed for polars, and its kind: text, number or condition. Raises `ValueError`."""
    from sqlglot import exp

    def operands(*parts: Any, kind: str | None = None) -> list[pl.Expr]:
        """All of one kind, any unless it is given."""
        values = [_translated(part) for part in parts]
        kinds = {value_kind for _, value_kind in values}
        if kinds != {kind or values[0][1]}:
            raise ValueError(f"{node.sql()!r} compares {' with '.join(sorted(kinds | {kind or values[0][1]}))}")
        return [value for value, _ in values]

    unexpected = {name for name, value in node.args.items() if value} - _UNDERSTOOD
    if unexpected:
        raise ValueError(f"{node.sql()[:80]!r} is not understood")
    if node.args.get("negate"):  # NOT LIKE
        positive = node.copy()
        positive.set("negate", False)
        return ~_translated(positive)[0], "condition"
    comparisons = {exp.EQ: "eq", exp.NEQ: "ne", exp.LT: "lt", exp.LTE: "le", exp.GT: "gt", exp.GTE: "ge"}
    match node:
        case exp.Paren():
            return _translated(node.this)
        case exp.And() | exp.Or():
            left, right = operands(node.left, node.right, kind="condition")
            return (left & right if isinstance(node, exp.And) else left | right), "condition"
        case exp.Not():
            return ~operands(node.this, kind="condition")[0], "condition"
        case exp.Column(table="") if node.name.lower() in COLUMNS:
            return pl.col(node.name.lower()), "number" if node.name.lower() == "price" else "text"
        case exp.Literal():
            return (pl.lit(node.name), "text") if node.is_string else (pl.lit(float(node.name)), "number")
        case exp.Neg():
            return -operands(node.this, kind="number")[0], "number"
        case exp.Lower() | exp.Upper():
            text = operands(node.this, kind="text")[0].str
            return (text.to_lowercase() if isinstance(node, exp.Lower) else text.to_uppercase()), "text"
        case exp.In(args={"expressions": list(choices)}) if choices and not node.args.get("query"):
            value, *listed = operands(node.this, *choices)
            return pl.any_horizontal(value == choice for choice in listed), "condition"
        case exp.Between():
            value, low, high = operands(node.this, node.args["low"], node.args["high"])
            return (value >= low) & (value <= high), "condition"
        case exp.Like(expression=exp.Literal(is_string=True)) | exp.ILike(expression=exp.Literal(is_string=True)):
            pattern = re.escape(node.expression.name).replace("%", ".*").replace("_", ".")
            flags = "(?is)" if isinstance(node, exp.ILike) else "(?s)"
            return operands(node.this, kind="text")[0].str.contains(f"{flags}^{pattern}$"), "condition"
        case exp.Is(expression=exp.Null(), this=exp.Column()):
            return _translated(node.this)[0].is_null(), "condition"
        case _ if type(node) in comparisons:
            left, right = operands(node.left, node.right)
            return getattr(left, comparisons[type(node)])(right), "condition"
    raise ValueError(f"{node.sql()[:80]!r} is not understood")


def in_category(items: pl.DataFrame, category: str) -> NDArray[np.bool_]:
    """Which items' paths begin with "a > b", or for a single name hold it, in any case; boolean (n_items,)."""
    names = [name.strip().casefold() for name in category.split(CATEGORY_SEPARATOR.strip())]
    paths = items["category"].list.eval(pl.element().str.to_lowercase()).to_list()
    if len(names) == 1:
        return np.array([path is not None and names[0] in path for path in paths], bool)
    return np.array([path is not None and path[: len(names)] == names for path in paths], bool)


def sensitive_items(items: pl.DataFrame, policy: Policy) -> NDArray[np.bool_]:
    """Whose category path or title names something that the policy calls sensitive, boolean (n_items,)."""
    path = pl.col("category").list.join(CATEGORY_SEPARATOR).fill_null("")
    texts = items.select((path + CATEGORY_SEPARATOR + pl.col("title").fill_null("")).alias("text"))["text"]
    # few texts hold such a word at all; lower case is all that the policy does to letters of ASCII
    ascii_words = [word.rstrip("*") for word in policy.sensitive_categories if word.isascii()]
    suspect = texts.str.len_bytes() != texts.str.len_chars()
    if ascii_words:
        suspect |= texts.str.to_lowercase().str.contains_any(ascii_words)
    mask = suspect.to_numpy().copy()
    mask[mask] = [policy.is_sensitive((text,)) for text in texts.filter(suspect)]
    return mask


def known_rows(dataset: Dataset, item_ids: Iterable[str]) -> NDArray[np.int64]:
    """Row of each item. Raises `UnknownIdError` for an id that the catalogue does not have."""
    ids = list(item_ids)
    rows = dataset.item_rows(ids)
    if (rows < 0).any():
        unknown = ids[int(np.flatnonzero(rows < 0)[0])]
        raise UnknownIdError(f"no item {unknown!r} in the catalogue")
    return rows
