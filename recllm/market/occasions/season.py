"""The goods of a calendar day: what sold more before it in earlier years."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.schema import Action
from recllm.base.settings import Settings
from recllm.market.occasions.calendar import ComingDay, country_of, profile_of
from recllm.shop.data.dataset import DAY, Dataset, utc

SEASON_DAYS = 14
"""Days before a day in which its goods are bought, the day among them."""
LEAST_YEAR_DAYS = 330
"""A shorter log does not show how an item sells in the rest of the year."""
LEAST_BOUGHT, LEAST_LIFT, LEAST_FALL = 8, 2.5, 1.5
"""Of an item of the day: purchases before it, their share against that of all items in the item's category as well,
and purchases before against those after it. Without the last two, a promotion of those weeks would make one."""
_PRIOR = 20.0
"""Purchases that the category's share counts for."""


def season_lifts(dataset: Dataset, coming: ComingDay, settings: Settings) -> NDArray[np.float64] | None:
    """How much larger the share of each item's purchases, (n_items,), that lies before the day is than that of all
    items, smoothed towards its category's; 0 for items that are none of the day's. None where the log holds no such
    weeks of an earlier year, or no whole year.

    Days are those of UTC: a few hours do not matter.
    """
    bought, profile = dataset.events.of(Action.PURCHASE), profile_of(coming.day, settings)
    if not len(bought) or np.ptp(bought.at) < LEAST_YEAR_DAYS * DAY:
        return None
    first, weeks = int(bought.at.min()), SEASON_DAYS * DAY
    is_before, is_after = np.zeros(len(bought), bool), np.zeros(len(bought), bool)
    for year in range(utc(first).year, coming.on.year):
        last = profile.date_in(year, country_of(settings))
        end = int(datetime(last.year, last.month, last.day, tzinfo=UTC).timestamp()) + int(DAY)
        if first <= end - weeks and end <= dataset.as_of:
            is_before |= (bought.at >= end - weeks) & (bought.at < end)
            is_after |= (bought.at >= end) & (bought.at < end + weeks)
    if not is_before.any():
        return None
    n_all, n_before, n_after = (
        np.bincount(bought.item[mask], minlength=dataset.n_items) for mask in (slice(None), is_before, is_after)
    )
    share, group = float(is_before.mean()), _deepest_categories(dataset)
    of_group = (np.bincount(group, n_before) + _PRIOR * share) / (np.bincount(group, n_all) + _PRIOR)
    lift = (n_before + _PRIOR * of_group[group]) / (n_all + _PRIOR) / share
    has_category = dataset.items["category"].list.len().fill_null(0).to_numpy() > 0
    of_category = np.where(has_category, of_group[group] / share, np.inf)
    is_of_day = (n_before >= LEAST_BOUGHT) & (np.minimum(lift, of_category) >= LEAST_LIFT)
    if not profile.is_season:
        is_of_day &= n_before >= LEAST_FALL * n_after
    return np.where(is_of_day, lift, 0.0)


def _deepest_categories(dataset: Dataset) -> NDArray[np.int64]:
    """A number for the whole category path of each item."""
    path = dataset.items["category"].list.join(" > ").fill_null("")
    return path.rank("dense").cast(pl.Int64).to_numpy() - 1
