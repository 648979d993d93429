"""Public logs in folders of parquet tables, and the windows that their sources define by a split of their own.

A shop's own files go through `ingest`, which checks each row and hides who people are; here the ids are those of a
public data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from recllm.base.errors import DataError
from recllm.base.schema import ACTIONS, Action
from recllm.recommend.evaluation.protocols import MASKED, UNMASKED, EvaluationWindow, held_out_window
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset
from recllm.shop.data.order import HORIZON_DAYS

ORDER_EPOCH = 1_000_000_000
"""Time of the first step in a log without times (2001-09-09 UTC); long ago, so that the log counts as replayed."""
WINDOWS = 13
"""Horizons of a median person's history, if it has enough steps: a year."""

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

    def dataset(self, events: pl.DataFrame | None = None) -> Dataset:
        """The whole log, or these events of it, with all people and items."""
        events = self.interactions if events is None else events
        data = Dataset.construct(events.drop("order", strict=False), self.users, self.items)
        return replace(data, step_seconds=self.step_seconds)


def read_folder(folder: str | Path) -> LogTables:
    """A folder of parquet tables: interactions (user_id, item_id, timestamp in epoch seconds or order, and where known
    event, split, quantity, price, basket_id); items, users and eval_rows where there are any.

    An order becomes time as `times_of_orders` says: a convention, by which recency is a number of steps. Item prices of
    the folder are dropped when the events carry prices, since they may be taken over the whole span. Raises `DataError`
    for what is missing or unknown.
    """
    path = Path(folder) / "interactions.parquet"
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a folder that holds it")
    others = {name: path.with_name(f"{name}.parquet") for name in ("items", "users", "eval_rows")}
    tables = {name: pl.read_parquet(other) if other.is_file() else None for name, other in others.items()}
    events, step_seconds = pl.read_parquet(path), None
    if "event" in events.columns:
        unknown = sorted(set(events["event"].drop_nulls().unique()) - set(EVENT_NAMES))
        if unknown:
            raise DataError(f"{path}: unknown event {unknown[0]!r}; known: {', '.join(EVENT_NAMES)}")
        actions = pl.col("event").fill_null("purchase").replace_strict(EVENT_NAMES, return_dtype=pl.String)
        events = events.with_columns(actions)
    if "timestamp" not in events.columns or not events["timestamp"].is_not_null().any():
        events = events.with_columns(pl.col("order").cast(pl.Int64))
        step_seconds = days_of_a_step(events) * DAY
        events = events.with_columns(timestamp=times_of_orders(events, step_seconds))
    items = tables["items"]
    if items is None:
        items = events.select(pl.col("item_id").unique().sort())
    if "price" in events.columns and events["price"].is_not_null().any() and "price" in items.columns:
        items = items.drop("price")
    return LogTables(
        name=path.parent.name,
        interactions=events,
        items=items,
        users=tables["users"],
        eval_rows=tables["eval_rows"],
        step_seconds=step_seconds,
    )


def column_split(
    tables: LogTables,
    *,
    test: str = "test",
    history: Iterable[str] = ("train", "valid"),
    slices: Sequence[str] = (UNMASKED, MASKED),
) -> EvaluationWindow:
    """The events whose `split` is `test` against those of the `history` parts.

    Only the train part may be learned from, as in the literature on leave-one-out, whose models see the valid item only
    as the end of the asked history. All items of the folder are ranked. The two slices differ only in whether a
    person's history is masked.
    """
    events = tables.interactions
    parts = events["split"].drop_nulls().unique().to_list() if "split" in events.columns else []
    if test not in parts:
        raise DataError(f"{tables.name}: no event has split {test!r}; found {', '.join(sorted(parts)) or 'none'}")
    log = tables.dataset()
    histories, fit_on, future = (_events_of(tables, log, parts) for parts in (history, ["train"], [test]))
    return held_out_window(f"{tables.name}-{test}", log, histories, fit_on, future.events, slices)


def row_split(tables: LogTables, *, test: str = "test", slices: Sequence[str] = (UNMASKED, MASKED)) -> EvaluationWindow:
    """Each published row of `eval_rows` (history, target) is a user of its own; all items are ranked.

    Learned from are the events of the train part alone, since a row's history holds other rows' targets. The last
    event of each history falls one step before the window.
    """
    if tables.eval_rows is None:
        raise DataError(f"{tables.name}: there is no eval_rows.parquet")
    rows = tables.eval_rows.filter(pl.col("split") == test)
    if not rows.height:
        raise DataError(f"{tables.name}: eval_rows has no row with split {test!r}")
    log = tables.dataset()
    fit_on = _events_of(tables, log, ["train"])
    rows = rows.with_columns(user=pl.format(test + "-{}", "row"))
    users = rows.select(user_id="user")
    length = pl.col("history").list.len().cast(pl.Int64)
    histories = rows.select("user", "history", age=pl.int_ranges(length, 0, -1)).explode("history", "age")
    past = histories.select(
        user_id="user", item_id="history", timestamp=fit_on.as_of - pl.col("age").cast(pl.Int64) * _step(tables)
    )
    targets = rows.select(user_id="user", item_id="target", timestamp=pl.lit(fit_on.as_of))
    dataset = Dataset.construct(past, users, log.items, as_of=fit_on.as_of)
    dataset = replace(dataset, step_seconds=tables.step_seconds)
    future = Dataset.construct(targets, users, log.items, as_of=fit_on.as_of + 1).events
    window = held_out_window(f"{tables.name}-{test}", log, dataset, fit_on, future, slices)
    return replace(window, fit_users=log.user_rows(rows["user_id"]))


def _events_of(tables: LogTables, log: Dataset, parts: Iterable[str]) -> Dataset:
    """The events of these parts, on the rows of `log`; a log without times ends one step after its last event."""
    events = tables.interactions.filter(pl.col("split").is_in(list(parts)))
    segment = replace(
        Dataset.construct(events.drop("order", strict=False), log.users, log.items), step_seconds=tables.step_seconds
    )
    return replace(segment, as_of=segment.as_of - 1 + _step(tables)) if tables.step_seconds is not None else segment


def _step(tables: LogTables) -> int:
    """Seconds between two events of a history without times."""
    return tables.step_seconds or HORIZON_DAYS * DAY


def days_of_a_step(events: pl.DataFrame) -> int:
    """One horizon of four weeks where histories are short; less where they are long, so that the log of a median
    person spans `WINDOWS` horizons."""
    steps = events.group_by(USER_COLUMN).agg(pl.col("order").n_unique())["order"]
    return max(1, HORIZON_DAYS // max(1, int(steps.median() or 0) // WINDOWS))  # type: ignore[arg-type]


def times_of_orders(events: pl.DataFrame, step_seconds: int) -> pl.Series:
    """Equal orders of a person are one step, and gaps mean nothing. Each person's last event of the train part falls on
    one day, `step_seconds` stand between two steps. What follows train must not move it: how many events a person has
    in valid and test says who goes on buying. Where no event belongs to train, all of them count as train; a person
    without one begins a step after that day."""
    has_train = "split" in events.columns and (events["split"] == "train").any()
    is_train = (pl.col("split") == "train").fill_null(False) if has_train else pl.lit(True)
    step = pl.col("order").rank("dense").over(USER_COLUMN).cast(pl.Int64)
    last = pl.col("step").filter(is_train).max().over(USER_COLUMN).fill_null(0)
    steps = events.with_columns(step=step).select(pl.col("step") - last).to_series()
    return ORDER_EPOCH + (steps - steps.min()) * step_seconds
