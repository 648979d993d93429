"""When a person orders next, by their usual gap between days with an order.

A gap divided by its person's usual gap is a ratio that people have in common. Of the shop's ratios those count that the
person has not outlived yet:

    ratio > days since the last order / usual gap
    days ahead = ratio * usual gap - days since the last order

The date is the median of these days, none beyond the horizon; the interval goes from their 15th to their 85th
percentile, which as whole days hold about 80 % of the orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.market.propensity.examples import Cohort, Examples
from recllm.market.propensity.features import count, money
from recllm.market.propensity.model import Values
from recllm.shop.data.dataset import DAY, utc
from recllm.shop.data.rhythm import KNOWN_DAYS, ShoppingDays

QUANTILES = (0.15, 0.5, 0.85)
"""Of the earliest, the expected and the latest day: days are whole, so the interval holds four fifths of the orders."""


def days_until(cohort: Cohort, start: int, end: int) -> Values:
    """Days until the first purchase, infinite without one, (n_users,)."""
    purchases = cohort.purchases(start, end)
    days = np.full(cohort.dataset.n_users, np.inf)
    np.minimum.at(days, purchases.user, (purchases.at - start) / DAY)
    return days


def spent(cohort: Cohort, start: int, end: int) -> Values:
    """Money, (n_users,)."""
    purchases = cohort.purchases(start, end)
    return count(purchases.user, cohort.dataset.n_users, money(purchases))


def order_days(cohort: Cohort, now: int) -> ShoppingDays:
    """The days with an order before `now`, epoch seconds."""
    orders = cohort.purchases(0, now)
    return ShoppingDays.of(orders.user, orders.at, cohort.dataset.n_users, now)


@dataclass(frozen=True, eq=False)
class OrderDates:
    """How far gaps are from the usual ones, learned from the people of a shop."""

    ratios: Values
    """Gaps divided by their person's usual gap, ascending."""
    usual_gap: float
    """Days, of people whose own is not known: the median of the others."""

    @classmethod
    def learn(cls, past: ShoppingDays) -> OrderDates:
        owner, gap = past.gaps
        is_known = past.n_days >= KNOWN_DAYS
        ratios = (gap / past.usual_gap[owner])[is_known[owner]]
        return cls(np.sort(ratios), float(np.median(past.usual_gap[is_known])) if is_known.any() else np.inf)

    def days(self, past: ShoppingDays) -> NDArray[np.float64]:
        """Days ahead of each person's next order by `QUANTILES`, (3, n_users); infinite where nothing is known."""
        usual = np.where(past.n_days >= KNOWN_DAYS, past.usual_gap, self.usual_gap)
        n, since, ratios = len(self.ratios), past.since, np.append(self.ratios, np.inf)
        with np.errstate(invalid="ignore"):  # infinite days by an infinite gap
            first = np.searchsorted(self.ratios, since / usual, side="right")
            position = [first + ((n - first) * quantile).astype(np.int64) for quantile in QUANTILES]
            days = ratios[np.stack(position)] * usual - since - 0.5  # an order counts for the middle of its day
        return np.nan_to_num(np.maximum(days, 0), nan=np.inf, posinf=np.inf)

    def answers(
        self, past: ShoppingDays, rows: NDArray[np.int64], horizon_days: int, now: int
    ) -> tuple[Values, dict[str, list[Any]]]:
        """What the people of `rows` are ranked by, soonest highest, and their dates by field of `UserPrediction`."""
        days, moment = self.days(past)[:, rows], utc(now)
        dates = [[(moment + timedelta(days=n)).date() if n <= horizon_days else None for n in c] for c in days.tolist()]
        # without a date those come first who ordered last
        soonest = np.where(np.isfinite(days[1]), -days[1], -1e6 - np.minimum(past.since[rows], 1e6))
        return soonest, dict(zip(("earliest", "date", "latest"), dates, strict=True))

    def figures(self, past: ShoppingDays, validation: Examples, horizon_days: int) -> dict[str, float]:
        """Of people who ordered within the horizon: days by which the date is off. within_80: how often an order fell
        into the interval."""
        days = self.days(past)[:, validation.person]
        came, horizon = np.isfinite(validation.label), float(horizon_days)
        off = np.abs(np.minimum(days[1], horizon) - validation.label)[came]
        return {"mae_days": float(off.mean()), "within_80": float(covered(days, validation, horizon).mean())}


def covered(days: NDArray[np.float64], people: Examples, horizon_days: float) -> NDArray[np.bool_]:
    """Whose order came on a date from the first to the last of `days`, (3, n), as of `OrderDates.days`; (n,)."""
    days = np.where(days <= horizon_days, days, np.inf)
    day, start, end = (np.floor(people.cut % DAY / DAY + d) for d in (people.label, days[0], days[2]))
    return np.asarray(np.where(np.isfinite(people.label), (day >= start) & (day <= end), np.isinf(days[2])))
