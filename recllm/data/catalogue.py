"""Which items may be shown: on offer, in the caller's lists, and under the caller's condition."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.errors import UsageError

COLUMNS = ("item_id", "title", "category", "brand", "price", "currency")


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
    table = items.select(COLUMNS).with_columns(pl.col("category").list.join(" > ").fill_null(""))
    try:
        fits = table.select(pl.sql_expr(where).alias("fit"))["fit"]
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"--where {where!r} cannot be read: {_first_line(error)}; columns: {', '.join(COLUMNS)}"
        ) from None
    if fits.dtype != pl.Boolean or len(fits) != items.height:
        raise UsageError(f"--where {where!r} is not a condition; write e.g. \"price < 50 AND brand = 'Acme'\"")
    return fits.fill_null(False).to_numpy()


def known_rows(dataset: Dataset, item_ids: Iterable[str]) -> NDArray[np.int64]:
    """Row of each item. Raises `UsageError` for an id that the catalogue does not have."""
    ids = list(item_ids)
    rows = dataset.item_rows(ids)
    if (rows < 0).any():
        unknown = ids[int(np.flatnonzero(rows < 0)[0])]
        raise UsageError(f"no item {unknown!r} in the catalogue")
    return rows


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
