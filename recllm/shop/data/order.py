"""Logs that know in which order each person did things, and not when.

How an order becomes time: only the order of a person's own numbers counts. Equal numbers are one step, as the lines of
a basket are, and gaps between numbers mean nothing, so a number per person and a number over the whole log are read
alike. The last step of everybody falls on one day, `ORDER_EPOCH`, and the others so many days before it as
`days_of_a_step` says: one horizon of four weeks where histories are short, so that the latest window to learn from
holds a step of everybody; less where they are long, so that a window holds several steps and the log of a median person
spans `WINDOWS` windows. What needs real time (seasons, intervals, "two weeks ago") is then not learned and not said.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError, UsageError

ORDER_EPOCH = 1_000_000_000
"""Where the time line of a log without times is pinned (2001-09-09 UTC): everybody's last step falls on it. Long ago,
so that a workspace counts the log as replayed."""
HORIZON_DAYS = 28
WINDOWS = 13
"""Horizons that a median person's history spans at least, where it has the steps for it: a year of them."""
MAX_STEPS = 10_000
"""Steps before the last one that stand apart; what is older counts as one step. Nobody buys that often."""
_EPOCH_1990 = 631_152_000
STEP_HINT = "whole numbers from 0, as 0, 1, 2 ... in each person's order"


def days_of_a_step(steps_per_person: NDArray[np.integer]) -> int:
    """How many days one step counts, from the number of distinct steps of each person, (n_people,)."""
    median = int(np.median(steps_per_person)) if len(steps_per_person) else 0
    return max(1, HORIZON_DAYS // max(1, median // WINDOWS))


def order_steps(user: pl.Series, order: pl.Series, is_train: pl.Series | None = None) -> NDArray[np.int64]:
    """Steps of each event from its person's last one, (n,): 0 for the last, -1 for the one before it.

    is_train: the last step among these counts as 0, and what follows it is above; of a person with none of them the
    first step is 1.
    """
    train = pl.repeat(True, len(order), eager=True) if is_train is None else is_train
    frame = pl.DataFrame({"user": user, "order": order, "train": train})
    rank = pl.col("order").rank("dense").over("user").cast(pl.Int64)
    ranked = frame.with_columns(rank=rank)
    last = pl.col("rank").filter(pl.col("train").fill_null(False)).max().over("user")
    return ranked.select(pl.col("rank") - last.fill_null(0)).to_series().to_numpy().astype(np.int64)


def steps_of_people(user: pl.Series, order: pl.Series) -> NDArray[np.int64]:
    """How many distinct steps each person has, (n_people,)."""
    pairs = pl.DataFrame({"user": user, "order": order}).unique()
    return pairs.group_by("user").len()["len"].to_numpy().astype(np.int64)


def times_of_steps(steps: NDArray[np.int64], step_days: int) -> NDArray[np.int64]:
    """Epoch seconds of steps as `order_steps` gives them without a train part, (n,)."""
    return ORDER_EPOCH + np.maximum(steps, -MAX_STEPS) * step_days * 86_400


def checked_orders(column: pl.Series, name: str) -> pl.Series:
    """The orders as int64. Raises `DataError` for what is empty, no whole number or below 0, with the first row."""
    numbers = whole_numbers(column)
    wrong = numbers.is_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise DataError(
            f"{name}: {column[row]!r} in row {row} is no step ({int(wrong.sum())} such rows); orders are {STEP_HINT}"
        )
    return numbers


def whole_numbers(column: pl.Series) -> pl.Series:
    """Numbers or their texts as int64, null where one is no whole number from 0 that a float can tell from the next."""
    texts = column.str.strip_chars() if column.dtype == pl.String else column
    numbers = texts.cast(pl.Float64, strict=False)
    is_whole = numbers.is_finite() & (numbers == numbers.round(0)) & numbers.is_between(0, 2**53)
    return numbers.set(~is_whole.fill_null(False), None).cast(pl.Int64)


def looks_like_steps(at: NDArray[np.int64], indptr: NDArray[np.int64]) -> bool:
    """Whether times were made from step numbers: none is of a web shop's years, or all lie whole days or more apart and
    most people begin, or most end, at one moment.

    at: epoch seconds, ascending within each run of `indptr`. A log of dates alone has whole days too, and people who
    begin on any of them.
    """
    lengths = np.diff(indptr)
    begins, ends = at[indptr[:-1][lengths > 1]], at[indptr[1:][lengths > 1] - 1]
    if len(begins) < 10:
        return False
    times = np.unique(at)
    if times[-1] < _EPOCH_1990:  # seconds so small are numbers of steps
        return True
    if len(times) < 3 or int(np.gcd.reduce(np.diff(times))) < 86_400:
        return False
    return any(float((edge == value).mean()) > 0.5 for edge, value in ((begins, times[0]), (ends, times[-1])))


def refuse_steps(step_seconds: int | None, what: str) -> None:
    """Raises `UsageError` for what needs real times, where the log has none; step_seconds: as `Dataset` has it."""
    if step_seconds is not None:
        raise UsageError(
            f"{what} need to know when things happened, and this log knows only in which order; load a log with times "
            "into a workspace of its own"
        )
