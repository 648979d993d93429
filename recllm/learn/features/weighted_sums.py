"""Sums of the rows of a sparse matrix, weighed by users: what people alike bought, what goes with what one has.

The product of two sparse matrices is as long as the catalogue for each user. A few users' sums, or the sums of a few
columns, are had for a fraction of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.shop.data.interactions import Floats, Pairs, distinct

FEW_COLUMNS = 256
"""The sums of at most this many columns, as a list or its reasons need, are computed for themselves."""

DENSE_BLOCK = 2**18
"""Numbers of a dense block that stays in the cache."""


@dataclass(frozen=True, eq=False)
class WeightedSums:
    """weights @ rows, (n, n_columns), float32, computed as far as needed."""

    weights: Any
    """Sparse (n, n_rows): what each user gives to each row."""
    rows: Any
    """Sparse (n_rows, n_columns)."""

    @cached_property
    def _single(self) -> Floats:
        """Of the only user, (n_columns,)."""
        indptr, used = self.rows.indptr, self.weights.indices
        lengths = indptr[used + 1] - indptr[used]
        ends = np.cumsum(lengths)
        entry = np.arange(ends[-1] if len(ends) else 0) + np.repeat(indptr[used + 1] - ends, lengths)
        values = self.rows.data[entry] * np.repeat(self.weights.data, lengths)
        sums = np.bincount(self.rows.indices[entry], values, minlength=self.rows.shape[1])
        return sums.astype(np.float32)

    @cached_property
    def _product(self) -> Any:
        return self.weights @ self.rows

    def of(self, user: int) -> tuple[NDArray[np.integer], Floats]:
        """The columns in which a user has a sum, in no order, and the sums."""
        if self.weights.shape[0] == 1:
            columns = np.flatnonzero(self._single != 0)  # of booleans it is ten times as fast as of numbers
            return columns, self._single[columns]
        span = slice(self._product.indptr[user], self._product.indptr[user + 1])
        return self._product.indices[span], self._product.data[span]

    def at(self, column: NDArray[np.integer], pairs: Pairs) -> Floats:
        """The sum of each pair's user in a column of each pair, (n_pairs,); 0 for the column -1."""
        n, n_columns = self.weights.shape[0], self.rows.shape[1]
        if not len(column) or not n_columns:
            return np.zeros(len(column), np.float32)
        if n == 1:
            return np.where(column >= 0, self._single[column], np.float32(0))
        columns, number = np.unique(column, return_inverse=True)
        if len(columns) <= FEW_COLUMNS and "_product" not in vars(self):
            used = distinct(self.weights.indices)
            sums = self.weights[:, used] @ self.rows[used][:, np.maximum(columns, 0)].toarray()
            return np.where(column >= 0, sums[pairs.user, number], np.float32(0))
        values = np.zeros(len(column), np.float32)
        step = max(1, DENSE_BLOCK // n_columns)
        for start in range(0, n, step):
            block = self._product[start : start + step].toarray()
            span = slice(pairs.indptr[start], pairs.indptr[min(start + step, n)])
            values[span] = block[pairs.user[span] - start, column[span]]
        return np.where(column >= 0, values, np.float32(0))
