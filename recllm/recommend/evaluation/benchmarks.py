"""The window of the Complete Journey log that published figures, and the demonstration, are measured on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from recllm.recommend.evaluation.protocols import EvaluationWindow, next_purchases
from recllm.shop.data.dataset import DAY, Dataset

CJ_LEFT_OUT = ("FUEL", "MISCELLANEOUS", "COUPON")
CJ_NOTE = "Complete Journey: simulated from real shopping patterns, by its package's own word; not real customers"


def cj_next28(dataset: Dataset, *, validation: bool = False) -> EvaluationWindow:
    """Complete Journey, four weeks from 2017-12-01 (validation: from 2017-11-03).

    Rows with quantity above 0 on products with a known product category, outside of the departments FUEL,
    MISCELLANEOUS and COUPON. The category path of an item must be (department, product category, ...), cut at the
    first unknown name. Local times stand in the log without a zone and are read as UTC.
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
