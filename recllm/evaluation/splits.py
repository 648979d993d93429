"""Windows of any log: by time, by a `split` column, or by rows that a source publishes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from recllm.data.dataset import DAY, Dataset, Events, utc
from recllm.errors import DataError, UsageError
from recllm.evaluation.protocols import MASKED, TIME_SLICES, UNMASKED, EvaluationWindow, make_slices, next_purchases
from recllm.evaluation.tables import ORDER_STEP, LogTables
from recllm.schema import Action


def split_tables(
    tables: LogTables, *, split: str = "time", test_days: int = 28, slices: Sequence[str] | None = None
) -> EvaluationWindow:
    """A window of a folder's log: split "time", or "column", which takes published rows where the folder has them.

    Without `slices`: ALL, NEW, COLD and NOHISTORY by time, UNMASKED and MASKED by column.
    """
    if split == "time":
        if tables.by_order:
            raise UsageError(f"{tables.name}: this log has no times, only an order; split it by column")
        name = f"{tables.name}-last{test_days}"
        return time_split(tables.dataset(), test_days=test_days, name=name, slices=slices or TIME_SLICES)
    if split != "column":
        raise UsageError(f"unknown split {split!r}; known: time, column")
    cut = column_split if tables.eval_rows is None else row_split
    # valid rows are asked with, as the end of a history, and not learned from
    return cut(tables, learn=("train",), slices=slices or (UNMASKED, MASKED))


def time_split(
    dataset: Dataset, *, test_days: int = 28, name: str = "time", slices: Sequence[str] = TIME_SLICES
) -> EvaluationWindow:
    """The last `test_days` whole days (UTC) of the log against everything before them.

    Raises `UsageError` when the days reach back to or before the first purchase.
    """
    at = dataset.events.of(Action.PURCHASE).at
    if not len(at):
        raise DataError(f"{name}: the log has no purchases to predict")
    end = (int(at.max()) // DAY + 1) * DAY
    start = end - test_days * DAY
    if test_days < 1 or start <= int(at.min()):
        raise UsageError(
            f"{name}: {test_days} test days do not fit into the log, {utc(int(at.min())):%Y-%m-%d} to "
            f"{utc(int(at.max())):%Y-%m-%d}; give between 1 and {max(1, (end - int(at.min()) - 1) // DAY)}"
        )
    return next_purchases(dataset, start=start, end=end, protocol=name, slices=slices)


def column_split(
    tables: LogTables,
    *,
    test: str = "test",
    history: Iterable[str] = ("train", "valid"),
    learn: Iterable[str] | None = None,
    slices: Sequence[str] = (UNMASKED, MASKED),
) -> EvaluationWindow:
    """The events whose `split` is `test` against those of the `history` parts.

    learn: the parts that may be learned from, all of the history when None; `learn=("train",)` is how the literature
    on leave-one-out does it, whose models see the valid item only as the end of the asked history. All items of the
    folder are ranked. The two slices differ only in whether a person's history is mhistories_of_rows.
    """
    events = tables.interactions
    parts = set(events["split"].drop_nulls().unique()) if "split" in events.columns else set()
    if test not in parts:
        raise DataError(f"{tables.name}: no event has split {test!r}; found {', '.join(sorted(parts)) or 'none'}")
    log = tables.dataset()
    histories = _events_of(tables, log, history)
    fit_on = histories if learn is None else _events_of(tables, log, learn)
    future = _events_of(tables, log, [test]).events
    return _window(f"{tables.name}-{test}", log, histories, fit_on, future, slices)


def row_split(
    tables: LogTables,
    *,
    test: str = "test",
    learn: Iterable[str] = ("train",),
    slices: Sequence[str] = (UNMASKED, MASKED),
) -> EvaluationWindow:
    """Each published row of `eval_rows` (history, target) is a user of its own; all items are ranked.

    Learned from are the events of the `learn` parts alone, since a row's history holds other rows' targets. The last
    event of each history falls one step before the window.
    """
    if tables.eval_rows is None:
        raise DataError(f"{tables.name}: there is no eval_rows.parquet")
    rows = tables.eval_rows.filter(pl.col("split") == test)
    if not rows.height:
        raise DataError(f"{tables.name}: eval_rows has no row with split {test!r}")
    log = tables.dataset()
    fit_on = _events_of(tables, log, learn)
    rows = rows.with_columns(user=pl.format(test + "-{}", "row"))
    users = rows.select(user_id="user")
    length = pl.col("history").list.len().cast(pl.Int64)
    histories = rows.select("user", "history", age=pl.int_ranges(length, 0, -1)).explode("history", "age")
    past = histories.select(
        user_id="user", item_id="history", timestamp=fit_on.as_of - pl.col("age").cast(pl.Int64) * ORDER_STEP
    )
    targets = rows.select(user_id="user", item_id="target", timestamp=pl.lit(fit_on.as_of))
    dataset = Dataset.construct(past, users, log.items, as_of=fit_on.as_of)
    future = Dataset.construct(targets, users, log.items, as_of=fit_on.as_of + 1).events
    window = _window(f"{tables.name}-{test}", log, dataset, fit_on, future, slices)
    return replace(window, fit_users=log.user_rows(rows["user_id"]))


def _window(
    name: str, log: Dataset, dataset: Dataset, fit_on: Dataset, future: Events, slices: Sequence[str]
) -> EvaluationWindow:
    cut = make_slices(
        slices,
        past=dataset.events.of(Action.PURCHASE),
        future=future.of(Action.PURCHASE),
        users=np.ones(dataset.n_users, dtype=bool),
        sold=np.bincount(fit_on.events.of(Action.PURCHASE).item, minlength=log.n_items) > 0,
        offered=np.ones(log.n_items, dtype=bool),
    )
    if not cut:
        raise DataError(f"{name}: nobody has anything to find in {', '.join(slices)}")
    return EvaluationWindow(
        protocol=name,
        dataset=dataset,
        fit_on=fit_on,
        slices=cut,
        until=max(log.as_of, dataset.as_of),
        data_hash=log.data_hash(),
    )


def _events_of(tables: LogTables, log: Dataset, parts: Iterable[str]) -> Dataset:
    """The events of these parts, on the rows of `log`; a log without times ends one step after its last event."""
    events = tables.interactions.filter(pl.col("split").is_in(list(parts)))
    part = Dataset.construct(events, log.users, log.items)
    return replace(part, as_of=part.as_of - 1 + ORDER_STEP) if tables.by_order else part
