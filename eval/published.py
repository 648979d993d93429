"""The fixed protocols that figures carry the name of, each with a window to tune on beside the one to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from public_logs import ORDER_EPOCH, LogTables, column_split, read_folder, row_split

from recllm.base.errors import UsageError
from recllm.recommend.evaluation.benchmarks import cj_next28, complete_journey, with_quantity
from recllm.recommend.evaluation.protocols import (
    ALL,
    MASKED,
    NEW,
    NOHISTORY,
    UNMASKED,
    EvaluationWindow,
    next_purchases,
)
from recllm.shop.data.dataset import DAY, Dataset

BEAUTY_NOTE = (
    "Amazon Beauty 2014, 5-core, by order: learned from the train part; the asked history holds train and valid"
)
INDUSTRIAL_NOTE = (
    "Amazon 2018 Industrial and Scientific: about a third of the original train rows could be rebuilt, and nothing "
    "else was learned from"
)


def or_next28(dataset: Dataset, *, validation: bool = False) -> EvaluationWindow:
    """UCI Online Retail, from 2011-11-11 to the end of 2011-12-09 (validation: the 28 days before).

    The window has 29 calendar days: the last day of the log is part of it.
    """
    test = int(datetime(2011, 11, 11, tzinfo=UTC).timestamp())
    start, end = (test - 28 * DAY, test) if validation else (test, test + 29 * DAY)
    protocol, slices = _protocol_name("or-next28", validation), (ALL, NEW, NOHISTORY)
    return next_purchases(with_quantity(dataset), start=start, end=end, protocol=protocol, slices=slices)


def beauty_loo(tables: LogTables, *, validation: bool = False) -> EvaluationWindow:
    """Leave-one-out by order (Geng et al. 2022): the last item of each person, or for validation the one before it.

    Models learn from the train part only. The test query's histories hold train and valid, those of validation train
    alone. All items are ranked.
    """
    history, target = (("train",), "valid") if validation else (("train", "valid"), "test")
    window = column_split(tables, test=target, history=history, slices=(MASKED, UNMASKED))
    return replace(window, protocol=_protocol_name("beauty-loo", validation), note=BEAUTY_NOTE)


def industrial_time(tables: LogTables, *, validation: bool = False) -> EvaluationWindow:
    """The published rows of a global split by time: each (history of at most 10 items, next item) stands for itself.

    Models learn from the train events that could be rebuilt. Nothing is masked in the published figures.
    """
    window = row_split(tables, test="valid" if validation else "test", slices=(UNMASKED, MASKED))
    return replace(window, protocol=_protocol_name("industrial-time", validation), note=INDUSTRIAL_NOTE)


def or_carts(tables: LogTables, *, validation: bool = False) -> EvaluationWindow:
    """One cart an invoice, a random line of it hidden (UniSRec's set "OR"): the last in the source's own split, or for
    validation the one before. What is in the cart is not proposed; published systems may propose it.

    Learned from is the train part, each cart at one moment, in the order of the invoices' numbers over a year; each
    query is the cart of an unknown visitor.
    """
    invoices = tables.interactions["user_id"].rank("dense").cast(pl.Int64)
    moment = ORDER_EPOCH + invoices * (365 * DAY // invoices.n_unique())
    timed = replace(tables, interactions=tables.interactions.with_columns(timestamp=moment), step_seconds=None)
    history, target = (("train",), "valid") if validation else (("train", "valid"), "test")
    window = column_split(timed, test=target, history=history, slices=(MASKED,))
    return replace(window, protocol=_protocol_name("or-carts", validation), open_carts=True)


def _protocol_name(protocol: str, validation: bool) -> str:
    return f"{protocol}-validation" if validation else protocol


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A fixed way to measure."""

    name: str
    folder: str | None
    """Name of the data folder, None where a package brings the data."""
    k: int
    """Length of the lists."""
    make: Callable[..., EvaluationWindow]
    by_time: bool = True
    """The log has times; else the protocol needs the parts that the source defines."""

    def read(self, data: Path) -> LogTables | Dataset:
        """The tables, from `data / folder` or from the package."""
        return complete_journey() if self.folder is None else read_folder(data / self.folder)

    def log(self, data: Path) -> Dataset:
        """The whole log."""
        tables = self.read(data)
        return tables if isinstance(tables, Dataset) else tables.dataset()

    def window(self, data: LogTables | Dataset, *, validation: bool = False) -> EvaluationWindow:
        """The window to report on, or the one to tune on, of what `read` returns."""
        if self.by_time:
            return self.make(data if isinstance(data, Dataset) else data.dataset(), validation=validation)
        if isinstance(data, Dataset):
            raise UsageError(f"{self.name} needs the tables with their split column, not a dataset made of them")
        return self.make(data, validation=validation)


_INDUSTRIAL_FOLDER = "minionerec_Industrial_and_Scientific"

BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark(name="cj-next28", folder=None, k=20, make=cj_next28),
        Benchmark(name="or-next28", folder="online_retail_uci", k=20, make=or_next28),
        Benchmark(name="or-carts", folder="online_retail_baskets", k=10, make=or_carts, by_time=False),
        Benchmark(name="beauty-loo", folder="amazon_beauty_p5", k=10, make=beauty_loo, by_time=False),
        Benchmark(name="industrial-time", folder=_INDUSTRIAL_FOLDER, k=10, make=industrial_time, by_time=False),
    )
}
