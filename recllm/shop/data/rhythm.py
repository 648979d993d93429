"""Shopping days, and the people who have lapsed by their own rhythm.

day     24 hours, counted back from `as_of`: 0 is the last of them.
gap     days between two neighbouring days with a purchase; a person's usual gap is their median. It is known from
        `KNOWN_DAYS` days on.
lapsed  `LAPSED_GAPS` usual gaps have passed, and `LAPSED_DAYS` days at least, but not `LOST_DAYS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Ints, Mask, Rows, Values
from recllm.shop.data.dataset import DAY
from recllm.shop.data.interactions import distinct

KNOWN_DAYS, LAPSED_GAPS, LAPSED_DAYS, LOST_DAYS = 3, 3.0, 14.0, 182.0

MAX_DAYS = 1 << 20
"""More than in any log, to put a person and a day in one number."""

Days = Values


@dataclass(frozen=True, eq=False)
class ShoppingDays:
    """Each day with a purchase once, people in runs, oldest first."""

    n_users: int
    user: Ints
    """(n_days,), person of each day."""
    age: Ints
    """(n_days,), whole days ago."""

    @classmethod
    def of(cls, user: Rows, at: NDArray[np.integer], n_users: int, as_of: int) -> ShoppingDays:
        """Of purchases before `as_of`, in any order. user: (n,), rows; at: (n,), epoch seconds."""
        age = (as_of - 1 - at.astype(np.int64)) // DAY
        days = distinct(user.astype(np.int64) * MAX_DAYS + MAX_DAYS - 1 - age)
        return cls(n_users, days // MAX_DAYS, MAX_DAYS - 1 - days % MAX_DAYS)

    @cached_property
    def gaps(self) -> tuple[Ints, Days]:
        """Person and days of each gap, oldest first within a person."""
        follows = np.diff(self.user) == 0
        return self.user[1:][follows], -np.diff(self.age)[follows].astype(np.float64)

    def of_gaps(self, *statistics: str) -> dict[str, Days]:
        """Statistics of each person's gaps by name (`polars.Expr`), (n_users,); NaN without a gap."""
        owner, gap = self.gaps
        aggregates = [getattr(pl.col("gap"), name)().cast(pl.Float64).alias(name) for name in statistics]
        frame = pl.DataFrame({"owner": owner, "gap": gap}).group_by("owner").agg(aggregates)
        columns = {name: np.full(self.n_users, np.nan) for name in statistics}
        for name, column in columns.items():
            column[frame["owner"].to_numpy()] = frame[name].fill_null(np.nan).to_numpy()
        return columns

    @cached_property
    def usual_gap(self) -> Days:
        """(n_users,), NaN for a person with one day or none."""
        return self.of_gaps("median")["median"]

    @cached_property
    def since(self) -> Days:
        """Days since each person's last day, (n_users,), infinite without one."""
        since = np.full(self.n_users, np.inf)
        since[self.user] = self.age  # the last of a run is written last
        return since

    @cached_property
    def n_days(self) -> Ints:
        return np.bincount(self.user, minlength=self.n_users)

    @property
    def lapsed(self) -> Mask:
        """(n_users,)"""
        since = self.since
        is_away = (since >= LAPSED_GAPS * self.usual_gap) & (since >= LAPSED_DAYS) & (since < LOST_DAYS)
        return is_away & (self.n_days >= KNOWN_DAYS)
