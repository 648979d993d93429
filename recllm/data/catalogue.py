"""Which items are meant: on offer, in the caller's lists, of a category, sensitive, under the caller's condition."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.errors import UnknownIdError, UsageError
from recllm.policy import Policy

COLUMNS = ("item_id", "title", "category", "brand", "price", "currency")

CATEGORY_SEPARATOR = " > "
"""Between the names of a category's path, widest first, wherever a path is written as one text."""

SENSITIVE_TARGET = "nobody is targeted for products of a sensitive category; see sensitive_categories in [policy]"


def allowed_items(
    dataset: Dataset,
    allow: Iterable[str] | None = None,
    deny: Iterable[str] = (),
    where: str | None = None,
) -> NDArray[np.bool_]:
    """Boolean (n_items,). Raises `UsageError` for an unknown item id or a condition that cannot be read."""
    allowed = dataset.items["available"].to_numpy().copy()
    if allow is not None:
        listed = np.zeros(dataset.n_items, bool)
        listed[known_rows(dataset, allow)] = True
        allowed &= listed
    allowed[known_rows(dataset, deny)] = False
    return allowed & matching(dataset.items, where) if where else allowed


def matching(items: pl.DataFrame, where: str) -> NDArray[np.bool_]:
    """Which items meet an SQL condition on `COLUMNS`; `category` is the path, "a > b > c". Unknown values do not."""
    table = items.select(COLUMNS).with_columns(pl.col("category").list.join(CATEGORY_SEPARATOR).fill_null(""))
    try:
        fits = table.select(pl.sql_expr(where).alias("fit"))["fit"]
    except pl.exceptions.PolarsError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"--where {where!r} cannot be read: {reason}; columns: {', '.join(COLUMNS)}") from None
    if fits.dtype != pl.Boolean or len(fits) != items.height:
        raise UsageError(f"--where {where!r} is not a condition; write e.g. \"price < 50 AND brand = 'Acme'\"")
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
    described = zip(items["category"].to_list(), items["title"].to_list(), strict=True)
    return np.array([policy.is_sensitive((*(path or ()), title or "")) for path, title in described], bool)


def known_rows(dataset: Dataset, item_ids: Iterable[str]) -> NDArray[np.int64]:
    """Row of each item. Raises `UnknownIdError` for an id that the catalogue does not have."""
    ids = list(item_ids)
    rows = dataset.item_rows(ids)
    if (rows < 0).any():
        unknown = ids[int(np.flatnonzero(rows < 0)[0])]
        raise UnknownIdError(f"no item {unknown!r} in the catalogue")
    return rows
