"""The best hour for a message to a person: when they shop and browse, by the shop's clock.

share(person, hour) = (smoothed(person, hour) + PRIOR_DAYS * share(everybody, hour)) / (days + PRIOR_DAYS)

Each day on which a person did something at an hour counts once for it, and half for the neighbouring hours.
"""

from __future__ import annotations

from datetime import time
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.schema import ACTION_CODE, Action
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import distinct

PRIOR_DAYS = 30.0
"""Days of a person that the knowledge of everybody counts as."""

MAX_HOURS = 1 << 24
"""Hours since 1970 that an event may be at: a person and an hour in one number."""

NEIGHBOUR_WEIGHT = 0.5
"""Of an hour before or after."""

Shares = NDArray[np.float64]


def local_hours(at: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """Hour of the day, 0 to 23, of times in epoch seconds by the clocks of a zone; (n,)."""
    times = pl.Series(at * 1_000_000, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
    hours: NDArray[np.int64] = times.dt.convert_time_zone(ZoneInfo(timezone).key).dt.hour().to_numpy().astype(np.int64)
    return hours


def hour_shares(dataset: Dataset, timezone: str) -> Shares:
    """How a person's shopping and browsing is spread over the hours of the day, (n_users, 24); rows sum to 1.

    Of a log without times everybody has the same.
    """
    events, n = dataset.events, dataset.n_users
    did = events.action != ACTION_CODE[Action.SHOWN]  # what the shop did is no habit of a person
    user, at = events.user[did].astype(np.int64), events.at[did]
    moments = distinct(user * MAX_HOURS + at // 3_600)
    hours = local_hours(moments % MAX_HOURS * 3_600, timezone)
    counts = np.bincount(moments // MAX_HOURS * 24 + hours, minlength=n * 24).reshape(n, 24).astype(np.float64)
    kernel = np.array([NEIGHBOUR_WEIGHT, 1, NEIGHBOUR_WEIGHT]) / (1 + 2 * NEIGHBOUR_WEIGHT)
    smooth = sum(weight * np.roll(counts, shift, axis=1) for weight, shift in zip(kernel, (-1, 0, 1), strict=True))
    everybody = (smooth.sum(axis=0) + 1) / (smooth.sum() + 24)
    days = counts.sum(axis=1, keepdims=True)
    return np.asarray((smooth + PRIOR_DAYS * everybody) / (days + PRIOR_DAYS))


def is_quiet(local: time, start: time, end: time) -> bool:
    """Whether a local time lies in the quiet hours, which may reach over midnight; their end does not."""
    return start <= local < end if start < end else local >= start or local < end


def best_hours(shares: Shares, quiet: tuple[str, ...]) -> NDArray[np.int64]:
    """The hour of the largest share of each row outside of the quiet hours, (n,).

    quiet: two local times between which none lies, or nothing.
    """
    limits = [time.fromisoformat(hour) for hour in quiet]
    allowed = np.array([not limits or not is_quiet(time(hour), *limits) for hour in range(24)])
    return np.asarray(np.argmax(np.where(allowed, shares, -1.0), axis=1), np.int64)
