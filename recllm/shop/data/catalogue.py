"""Selection of items: on offer, in the caller's lists, of a category, sensitive, under the caller's condition."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import UnknownIdError, UsageError
from recllm.base.policy import Policy
from recllm.shop.data.dataset import Dataset, ItemLookup

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
    return ItemLookup(items).on_offer(as_of)


def catalogue_rows(dataset: Dataset, item_ids: Iterable[str]) -> NDArray[np.int64]:
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


def matching(items: pl.DataFrame, where: str) -> NDArray[np.bool_]:
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
    # few texts have such a word; of ASCII letters the policy only changes the case
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
