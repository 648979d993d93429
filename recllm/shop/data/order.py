"""Logs without times, which have only the order of each person's events.

How an order becomes time: only the order of a person's own numbers counts. Equal numbers are one step, like the lines
of a basket, and gaps have no meaning, so numbers per person and over the whole log are read alike. Each person's last
step falls on one day, `ORDER_EPOCH`, and the others `days_of_a_step` apart before it: one horizon of four weeks where
histories are short, so that the latest window to learn from holds a step of each person; less where they are long, so
that the log of a median person spans `WINDOWS` windows. What needs real time (seasons, intervals, "two weeks ago") is
neither learned nor said.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError, UsageError

ORDER_EPOCH = 1_000_000_000
"""Time of each person's last step in a log without times (2001-09-09 UTC); long ago, so that the log counts as
replayed."""
HORIZON_DAYS = 28
WINDOWS = 13
"""Horizons of a median person's history, if it has enough steps: a year."""
MAX_STEPS = 10_000
"""Steps before the last one; older ones count as one step."""
STEP_HINT = "whole numbers from 0, as 0, 1, 2 ... in each person's order"


def days_of_a_step(steps_per_person: NDArray[np.integer]) -> int:
    """Days of one step, from the number of distinct steps of each person, (n_people,)."""
    median = int(np.median(steps_per_person)) if len(steps_per_person) else 0
    return max(1, HORIZON_DAYS // max(1, median // WINDOWS))


def order_steps(user: pl.Series, order: pl.Series, is_train: pl.Series | None = None) -> NDArray[np.int64]:
    """Steps of each event from its person's last one, (n,): 0 for the last, -1 for the one before it.

    is_train: the last step among these is 0, and later ones are above; a person with none of them begins at 1.
    """
    train = pl.repeat(True, len(order), eager=True) if is_train is None else is_train
    frame = pl.DataFrame({"user": user, "order": order, "train": train})
    rank = pl.col("order").rank("dense").over("user").cast(pl.Int64)
    ranked = frame.with_columns(rank=rank)
    last = pl.col("rank").filter(pl.col("train").fill_null(False)).max().over("user")
    return ranked.select(pl.col("rank") - last.fill_null(0)).to_series().to_numpy().astype(np.int64)


def steps_of_people(user: pl.Series, order: pl.Series) -> NDArray[np.int64]:
    """Number of distinct steps of each person, (n_people,)."""
    pairs = pl.DataFrame({"user": user, "order": order}).unique()
    return pairs.group_by("user").len()["len"].to_numpy().astype(np.int64)


def times_of_steps(steps: NDArray[np.int64], step_days: int) -> NDArray[np.int64]:
    """Epoch seconds of steps as `order_steps` gives them without a train part, (n,)."""
    return ORDER_EPOCH + np.maximum(steps, -MAX_STEPS) * step_days * 86_400


def checked_orders(column: pl.Series, name: str) -> pl.Series:
    """The orders as int64. Raises `DataError` for an empty one or no whole number from 0, with the first row."""
    numbers = whole_numbers(column)
    wrong = numbers.is_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise DataError(
            f"{name}: {column[row]!r} in row {row} is no step ({int(wrong.sum())} such rows); orders are {STEP_HINT}"
        )
    return numbers


def whole_numbers(column: pl.Series) -> pl.Series:
    """Numbers or their texts as int64, null where one is no whole number from 0 to 2**53."""
    texts = column.str.strip_chars() if column.dtype == pl.String else column
    numbers = texts.cast(pl.Float64, strict=False)
    is_whole = numbers.is_finite() & (numbers == numbers.round(0)) & numbers.is_between(0, 2**53)
    return numbers.set(~is_whole.fill_null(False), None).cast(pl.Int64)


def refuse_steps(step_seconds: int | None, what: str) -> None:
    """Raises `UsageError` in a log without times. step_seconds: of the `Dataset`. what: the subject, in the plural."""
    if step_seconds is not None:
        raise UsageError(
            f"{what} need times, and this log has only an order; load a log with times into a workspace of its own"
        )
