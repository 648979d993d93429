"""Windows of any log: by time, by a `split` column, or by rows that a source publishes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from recllm.data.dataset import DAY, Dataset, Events, utc
from recllm.errors import DataError, UsageError
from recllm.evaluation.protocols import MASKED, TIMED, UNMASKED, Window, make_slices, next_purchases
from recllm.evaluation.tables import ORDER_STEP, Tables
from recllm.schema import Action


def split_tables(
    tables: Tables, *, split: str = "time", test_days: int = 28, slices: Sequence[str] | None = None
) -> Window:
    """A window of a folder's log: split "time", or "column", which takes published rows where the folder has them.

    Without `slices`: ALL, NEW, COLD and NOHISTORY by time, UNMASKED and MASKED by column.
    """
    if split == "time":
        if tables.by_order:
            raise UsageError(f"{tables.name}: this log has no times, only an order; split it by column")
        chosen = slices or TIMED
        return time_split(tables.dataset(), test_days=test_days, name=f"{tables.name}-last{test_days}", slices=chosen)
    if split != "column":
        raise UsageError(f"unknown split {split!r}; known: time, column")
    chosen = slices or (UNMASKED, MASKED)
    by_rows = tables.eval_rows is not None
    return row_split(tables, slices=chosen) if by_rows else column_split(tables, slices=chosen)


def time_split(dataset: Dataset, *, test_days: int = 28, name: str = "time", slices: Sequence[str] = TIMED) -> Window:
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
    tables: Tables,
    *,
    test: str = "test",
    history: Iterable[str] = ("train", "valid"),
    learn: Iterable[str] | None = None,
    slices: Sequence[str] = (UNMASKED, MASKED),
) -> Window:
    """The events whose `split` is `test` against those of the `history` parts.

    learn: the parts that may be learned from, all of the history when None; `learn=("train",)` is how the literature
    on leave-one-out does it, whose models see the valid item only as the end of the asked history. All items of the
    folder are ranked. The two slices differ only in whether a person's history is masked.
    """
    events = tables.interactions
    parts = set(events["split"].drop_nulls().unique()) if "split" in events.columns else set()
    if test not in parts:
        raise DataError(f"{tables.name}: no event has split {test!r}; found {', '.join(sorted(parts)) or 'none'}")
    whole = tables.dataset()
    known = _part(tables, whole, history)
    fit_on = known if learn is None else _part(tables, whole, learn)
    future = _part(tables, whole, [test]).events
    return _window(f"{tables.name}-{test}", asked=known, fit_on=fit_on, future=future, whole=whole, slices=slices)


def row_split(
    tables: Tables,
    *,
    test: str = "test",
    learn: Iterable[str] = ("train",),
    slices: Sequence[str] = (UNMASKED, MASKED),
) -> Window:
    """Each published row of `eval_rows` (history, target) is a person of its own; all items are ranked.

    Learned from are the events of the `learn` parts alone, since a row's history holds other rows' targets.
    """
    if tables.eval_rows is None:
        raise DataError(f"{tables.name}: there is no eval_rows.parquet")
    rows = tables.eval_rows.filter(pl.col("split") == test)
    if not rows.height:
        raise DataError(f"{tables.name}: eval_rows has no row with split {test!r}")
    whole = tables.dataset()
    fit_on = _part(tables, whole, learn)
    ids = [f"{test}-{row}" for row in rows["row"]]
    asked = _people(_histories(ids, rows["history"], fit_on.as_of), ids, whole, fit_on.as_of)
    targets = pl.DataFrame({"user_id": ids, "item_id": rows["target"]}).with_columns(timestamp=fit_on.as_of)
    future = _people(targets, ids, whole, fit_on.as_of + 1).events
    window = _window(f"{tables.name}-{test}", asked=asked, fit_on=fit_on, future=future, whole=whole, slices=slices)
    return replace(window, own=whole.user_rows(rows["user_id"]))


def _window(
    name: str, *, asked: Dataset, fit_on: Dataset, future: Events, whole: Dataset, slices: Sequence[str]
) -> Window:
    history = asked.events.of(Action.PURCHASE)
    sold = np.bincount(fit_on.events.of(Action.PURCHASE).item, minlength=whole.n_items) > 0
    made = make_slices(
        slices,
        past=history,
        future=future.of(Action.PURCHASE),
        asked=np.ones(asked.n_users, dtype=bool),
        sold=sold,
        offered=np.ones(whole.n_items, dtype=bool),
    )
    if not made:
        raise DataError(f"{name}: nobody has anything to find in {', '.join(slices)}")
    return Window(
        protocol=name,
        dataset=asked,
        fit_on=fit_on,
        slices=made,
        until=max(whole.as_of, asked.as_of),
        data_hash=whole.data_hash(),
    )


def _part(tables: Tables, whole: Dataset, parts: Iterable[str]) -> Dataset:
    """The events of these parts, on the rows of `whole`; a log without times ends one step after its last event."""
    events = tables.interactions.filter(pl.col("split").is_in(list(parts)))
    part = Dataset.construct(events, whole.users, whole.items)
    return replace(part, as_of=part.as_of - 1 + ORDER_STEP) if tables.by_order else part


def _people(events: pl.DataFrame, ids: list[str], whole: Dataset, as_of: int) -> Dataset:
    return Dataset.construct(events, pl.DataFrame({"user_id": ids}), whole.items, as_of=as_of)


def _histories(ids: list[str], histories: pl.Series, as_of: int) -> pl.DataFrame:
    """One event per item of a history, oldest first, the last of them one step before `as_of`."""
    frame = pl.DataFrame({"user_id": ids, "item_id": histories})
    age = (pl.col("item_id").list.len() - pl.int_ranges(pl.col("item_id").list.len())).alias("age")
    events = frame.with_columns(age).explode("item_id", "age")
    return events.select("user_id", "item_id", timestamp=as_of - pl.col("age").cast(pl.Int64) * ORDER_STEP)
