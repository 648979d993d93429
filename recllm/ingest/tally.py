"""Counts over a whole file in bounded memory: ids that nearly collide, heavy users, prices out of all proportion."""

from __future__ import annotations

import numpy as np
import polars as pl

_MOST_IDS = 4_000_000


class IdTally:
    """Rows per id, by hash: 20 bytes an id. Above four million ids it stops growing and says nothing more."""

    def __init__(self) -> None:
        self._ids = pl.DataFrame(schema={"id": pl.UInt64, "folded": pl.UInt64, "rows": pl.UInt32})
        self._full = False

    def add(self, ids: pl.Series) -> None:
        if self._full or ids.is_empty():
            return
        count = ids.drop_nulls().alias("text").value_counts(name="rows")
        folded = pl.col("text").str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s", "")
        new = count.select(id=pl.col("text").hash(), folded=folded.hash(), rows=pl.col("rows").cast(pl.UInt32))
        self._ids = pl.concat([self._ids, new]).group_by("id").agg(pl.first("folded"), pl.sum("rows"))
        self._full = self._ids.height > _MOST_IDS

    def near(self) -> int:
        """How many ids differ from another one only in case, spaces or width."""
        twins = self._ids["folded"].value_counts(name="n").filter(pl.col("n") > 1)
        return int(twins["n"].sum() or 0)

    def heavy(self, share: float) -> int:
        """How many ids have at least this share of all rows; nothing is said of fewer than 1,000 rows."""
        total = int(self._ids["rows"].sum() or 0)
        return int((self._ids["rows"] >= share * total).sum()) if total >= 1_000 else 0


class PriceTally:
    """A histogram of prices in steps of about 1 %, from 1e-9 to 1e19."""

    _STEPS = 64
    _LOWEST = -30

    def __init__(self) -> None:
        self._bins = np.zeros(94 * self._STEPS, np.int64)

    def add(self, prices: pl.Series) -> None:
        known = prices.drop_nulls().to_numpy()
        known = known[known > 0]
        if len(known):
            step = ((np.log2(known) - self._LOWEST) * self._STEPS).astype(np.int64)
            self._bins += np.bincount(np.clip(step, 0, len(self._bins) - 1), minlength=len(self._bins))

    def outliers(self) -> int:
        """How many lie above 100 times the 99.9th percentile, to the nearest step; 0 below 1,000 prices."""
        total = int(self._bins.sum())
        if total < 1_000:
            return 0
        limit = int(np.searchsorted(np.cumsum(self._bins), 0.999 * total)) + int(np.log2(100) * self._STEPS)
        return int(self._bins[limit + 1 :].sum())
