"""Counts over a file in bounded memory: ids that nearly collide, heavy users, odd prices, commonest values."""

from __future__ import annotations

import numpy as np
import polars as pl

_MAX_IDS = 4_000_000


class IdTally:
    """Rows per id, by hash: 20 bytes an id. Above four million ids it stops growing and says nothing more."""

    def __init__(self) -> None:
        self._ids = pl.DataFrame(schema={"id": pl.UInt64, "folded": pl.UInt64, "rows": pl.UInt32})
        self._full = False

    def add(self, ids: pl.Series) -> None:
        """Nulls are left out."""
        if self._full or ids.is_empty():
            return
        count = ids.drop_nulls().alias("text").value_counts(name="rows")
        folded = pl.col("text").str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s", "")
        new = count.select(id=pl.col("text").hash(), folded=folded.hash(), rows=pl.col("rows").cast(pl.UInt32))
        self._ids = pl.concat([self._ids, new]).group_by("id").agg(pl.first("folded"), pl.sum("rows"))
        self._full = self._ids.height > _MAX_IDS

    def n_near(self) -> int:
        """How many ids differ from another one only in case, spaces or width."""
        twins = self._ids["folded"].value_counts(name="n").filter(pl.col("n") > 1)
        return int(twins["n"].sum() or 0)

    def n_heavy(self, share: float) -> int:
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
        positive = prices.drop_nulls().to_numpy()
        positive = positive[positive > 0]
        if len(positive):
            step = ((np.log2(positive) - self._LOWEST) * self._STEPS).astype(np.int64)
            self._bins += np.bincount(np.clip(step, 0, len(self._bins) - 1), minlength=len(self._bins))

    def n_outliers(self) -> int:
        """How many lie above 100 times the 99.9th percentile, to the nearest step; 0 below 1,000 prices."""
        total = int(self._bins.sum())
        if total < 1_000:
            return 0
        limit = int(np.searchsorted(np.cumsum(self._bins), 0.999 * total)) + int(np.log2(100) * self._STEPS)
        return int(self._bins[limit + 1 :].sum())


class MostCommon:
    """Items or users out of a log: many rows become one per id, every field its most common value.

    Counts values per id and field over all chunks; the memory is that of the distinct pairs.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._schema: dict[str, pl.DataType] = {}
        self._counts: dict[str, pl.DataFrame] = {}
        self._n_rows = 0

    def add(self, rows: pl.DataFrame) -> None:
        self._schema = dict(rows.schema)
        numbered = rows.with_row_index("first", offset=self._n_rows).with_columns(rows=pl.lit(1, pl.UInt32))
        self._n_rows += rows.height
        for column in rows.columns:
            group = list(dict.fromkeys([self._key, column]))
            pairs = numbered.filter(pl.col(column).is_not_null()).select(*group, "first", "rows")
            if column in self._counts:
                pairs = pl.concat([self._counts[column], pairs])
            self._counts[column] = pairs.group_by(group).agg(pl.min("first"), pl.sum("rows"))

    def rows(self) -> pl.DataFrame:
        """One row per id in the order of their first rows; of equally common values the one met first."""
        if not self._schema:
            return pl.DataFrame()
        merged = self._counts[self._key].sort("first").select(self._key)
        for column in self._schema:
            if column != self._key:
                commonest = self._counts[column].sort(["rows", "first"], descending=[True, False])
                commonest = commonest.unique(self._key, keep="first", maintain_order=True).select(self._key, column)
                merged = merged.join(commonest, on=self._key, how="left", maintain_order="left")
        return merged.select(pl.col(column).cast(dtype) for column, dtype in self._schema.items())
