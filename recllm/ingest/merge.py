"""Items or users out of a log: many rows become one per id, every field its most common value."""

from __future__ import annotations

import polars as pl


class MostCommon:
    """Counts values per id and field over all chunks; the memory is that of the distinct pairs."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._columns: list[str] = []
        self._schema: dict[str, pl.DataType] = {}
        self._counts: dict[str, pl.DataFrame] = {}
        self._rows = 0

    def add(self, rows: pl.DataFrame) -> None:
        self._columns = rows.columns
        self._schema = dict(rows.schema)
        numbered = rows.with_row_index("first", offset=self._rows)
        self._rows += rows.height
        for column in rows.columns:
            if column == self._key:
                pairs = numbered.select(self._key, "first", rows=pl.lit(1, pl.UInt32))
            else:
                pairs = numbered.filter(pl.col(column).is_not_null()).select(
                    self._key, column, "first", rows=pl.lit(1, pl.UInt32)
                )
            known = [self._counts[column]] if column in self._counts else []
            by = [self._key] if column == self._key else [self._key, column]
            self._counts[column] = (
                pl.concat([*known, pairs.select(*by, "first", "rows")])
                .group_by(by)
                .agg(pl.min("first"), pl.sum("rows"))
            )

    def rows(self) -> pl.DataFrame:
        """One row per id in the order of their first rows; of equally common values the one seen first."""
        if not self._columns:
            return pl.DataFrame()
        found = self._counts[self._key].sort("first").select(self._key)
        for column in self._columns:
            if column == self._key:
                continue
            best = (
                self._counts[column]
                .sort(["rows", "first"], descending=[True, False])
                .unique(self._key, keep="first", maintain_order=True)
                .select(self._key, column)
            )
            found = found.join(best, on=self._key, how="left", maintain_order="left")
        return found.select(pl.col(c).cast(self._schema[c]) for c in self._columns)
