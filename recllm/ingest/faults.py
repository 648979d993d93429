"""Rows that fail, by position in their chunk. The first fault of a row is the one that is told."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Fault:
    column: str
    code: str
    message: str


@dataclass(slots=True)
class Faults:
    """`bad`: bool (n,). Exempt rows are bad and do not count towards the reject limit."""

    bad: NDArray[np.bool_]
    why: dict[int, Fault] = field(default_factory=dict)
    exempt: set[int] = field(default_factory=set)

    @classmethod
    def none_of(cls, n: int) -> Faults:
        return cls(np.zeros(n, bool))

    def mark(
        self,
        mask: pl.Series | NDArray[np.bool_],
        column: str,
        code: str,
        message: str,
        values: pl.Series | None = None,
        *,
        exempt: bool = False,
    ) -> None:
        """Mark the rows where `mask`; with `values` the message begins with the row's value in quotes."""
        hits = (mask.fill_null(False).to_numpy() if isinstance(mask, pl.Series) else mask) & ~self.bad
        for row in np.flatnonzero(hits).tolist():
            text = message if values is None else f"{shown(values[row])} {message}"
            self.why[row] = Fault(column, code, text)
            if exempt:
                self.exempt.add(row)
        self.bad |= hits

    def good(self) -> pl.Series:
        """Boolean (n,): rows without a fault so far."""
        return pl.Series(~self.bad)


def shown(value: object) -> str:
    """A value as a message shows it: quoted, short, on one line."""
    return "an empty cell" if value is None else repr(str(value)[:60])
