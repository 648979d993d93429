"""A feature table: one row per person, one named column per feature, columns in groups that a person can be told of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.errors import DataError

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Features:
    """values: float32 (n, n_features), NaN where a thing is not known. names, groups: one entry per column.

    A group is what a reason is about: columns of one group are taken away together.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: Floats

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, groups: Mapping[str, Mapping[str, NDArray[np.generic]]], n: int) -> Features:
        """From group -> name -> column (n,)."""
        columns = [(name, group, column) for group, inner in groups.items() for name, column in inner.items()]
        values = np.empty((n, len(columns)), np.float32)
        for place, (_, _, column) in enumerate(columns):
            values[:, place] = column
        return cls(tuple(c[0] for c in columns), tuple(c[1] for c in columns), values)

    def beside(self, other: Features) -> Features:
        """The same people with the columns of both. Raises `DataError` for a name that both have."""
        twice = set(self.names) & set(other.names)
        if twice or len(self) != len(other):
            raise DataError(f"feature tables of {len(self)} and {len(other)} rows, sharing {sorted(twice)}")
        joined = np.concatenate([self.values, other.values], axis=1)
        return Features(self.names + other.names, self.groups + other.groups, joined)

    def rows(self, which: NDArray[np.generic]) -> Features:
        """These rows only: a mask or row numbers."""
        return Features(self.names, self.groups, self.values[which])

    def column(self, name: str) -> Floats:
        """(n,). Raises `DataError` for an unknown one."""
        if name not in self.names:
            raise DataError(f"no feature {name!r}; there are: {', '.join(self.names)}")
        return np.asarray(self.values[:, self.names.index(name)])


def stacked(tables: Sequence[Features]) -> Features:
    """The rows of all tables, which have the same columns. Raises `DataError` where they do not."""
    first = tables[0]
    if any(table.names != first.names for table in tables):
        raise DataError("feature tables with different columns cannot be stacked")
    return Features(first.names, first.groups, np.concatenate([table.values for table in tables]))
