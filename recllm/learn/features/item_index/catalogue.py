"""An item index as the rows of a catalogue see it: opened when it is first needed, and done without where it is not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import RecllmError
from recllm.learn.features.item_index.rows import Floats, Ints, ItemIndex

RETRY_SECONDS = 30.0
"""An index that could not be opened, or did not answer, is tried again after so long."""

logger = logging.getLogger(__name__)


class CatalogueIndex:
    """Nearest items by the rows of a catalogue. Items that the index does not have are always among them; what it has
    besides is left out. Threads may share it."""

    def __init__(self, opening: Callable[[], ItemIndex], item_ids: pl.Series) -> None:
        """opening: opens the index, and raises a `RecllmError` where that cannot be. item_ids: of the catalogue's rows,
        (n_items,)."""
        self._opening, self._item_ids = opening, item_ids
        self._index: ItemIndex | None = None
        self._retry_at = 0.0
        self._lock = Lock()
        self._row_of: Ints = np.zeros(0, np.int64)
        """Row in the catalogue of each row of the index, -1 for none."""
        self._is_same = False
        """Whether the rows of the index are the first of the catalogue, in their order."""
        self._complaint = ""
        self._unlisted: Ints = np.zeros(0, np.int64)
        """Rows of the catalogue that the index does not have."""

    def nearest(self, queries: Floats, k: int, allowed: NDArray[np.bool_] | None = None) -> list[Ints] | None:
        """For each query, (n, dim), the rows of the `k` best items, best first, and behind them those that the
        index does not have; only allowed ones. None where there is no index to ask: then all items are to be compared.

        allowed: (n_items,), all items when None.
        """
        index = self._opened()
        if index is None:
            return None
        mask = None
        if allowed is not None or not self._is_same:
            is_open = np.ones(len(self._item_ids), bool) if allowed is None else np.asarray(allowed, bool)
            mask = is_open[: len(self._row_of)] if self._is_same else np.append(is_open, False)[self._row_of]
        unlisted = self._unlisted if allowed is None else self._unlisted[np.asarray(allowed, bool)[self._unlisted]]
        try:
            best_rows = index.search(queries, k, mask).rows
        except RecllmError as error:
            self._give_up(error)
            return None
        return [np.append(self._row_of[rows[rows >= 0]], unlisted) for rows in best_rows]

    def _opened(self) -> ItemIndex | None:
        with self._lock:
            if self._index is None and time.monotonic() >= self._retry_at:
                try:
                    index = self._opening()
                except RecllmError as error:
                    self._give_up(error)
                    return None
                self._map_rows(index)
                self._index = index
            return self._index

    def _give_up(self, error: RecllmError) -> None:
        """Until it is tried again."""
        if str(error) != self._complaint:  # not at each try
            logger.warning("all items are compared: %s", error)
        self._complaint = str(error)
        self._index, self._retry_at = None, time.monotonic() + RETRY_SECONDS

    def _map_rows(self, index: ItemIndex) -> None:
        listed = pl.DataFrame({"item_id": self._item_ids}).with_row_index("row")
        rows = pl.DataFrame({"item_id": index.item_ids}).join(listed, on="item_id", how="left", maintain_order="left")
        self._row_of = rows["row"].cast(pl.Int64).fill_null(-1).to_numpy()
        self._is_same = np.array_equal(self._row_of, np.arange(len(self._row_of)))
        is_listed = np.zeros(len(self._item_ids), bool)
        is_listed[self._row_of[self._row_of >= 0]] = True
        self._unlisted = np.flatnonzero(~is_listed)
