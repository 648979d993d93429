"""Profiles: User = (I, B, H) as of a time, counted from the log. Pure: equal input, equal profile, and no future.

Definitions
    as of t     only events strictly before t.
    occasion    one person, one item, one action, one instant: two lines of a product in one basket are one occasion.
    weight      decayed count: sum over occasions of 2 ** (-age / half-life), age = (t - time of the occasion) in days.
    interval    median number of days between the distinct (UTC) days on which the person bought the item.
    return      a return takes back its share of the line: with q bought and r returned, count (rounded up), quantity,
                spent and weight keep the share 1 - r / q; a line returned in full disappears.
    favourite   share of the person's weight in purchases; of a category path, the narrowest name counts.
    order only  where the log knows only an order, days and intervals are None: a step is no number of days.
    browsing    views, carts, favourites and clicks, but not what was shown, dismissed or rated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.schema import ACTION_CODE, ACTIONS, BROWSING, Action, HistoryLine, Profile, Share
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, Events, utc

HALF_LIFE_DAYS = 120.0  # of a purchase
BROWSING_HALF_LIFE_DAYS = 30.0  # of browsing, which shows a shorter-lived wish
MAX_FAVOURITES = 8  # of categories, and of brands, per user


def build_profile(dataset: Dataset, user_row: int) -> Profile:
    """The profile of one person, by their row of `dataset.users`, as of the dataset's time.

    Someone without events, or without basics, gets a profile with empty parts. No other person's or item's events
    change it: a dataset of this person and the items of their history gives the same profile. Raises `DataError` for a
    row that does not exist.
    """
    if not 0 <= user_row < dataset.n_users:
        raise DataError(f"no user row {user_row}: the dataset has {dataset.n_users} people; look up ids with user_rows")
    log = dataset.events.rows(np.array([user_row]))
    log = log.select(log.at < dataset.as_of)
    bought, browsed = log.of(Action.PURCHASE), log.select(np.isin(log.action, [ACTION_CODE[a] for a in BROWSING]))
    purchases = _without_returns(_lines(bought, dataset.as_of, HALF_LIFE_DAYS), log.of(Action.RETURN))
    items = dataset.items[[line.item for line in purchases]]
    basics = dataset.users.row(user_row, named=True)
    return Profile(
        user_id=basics.pop(USER_COLUMN),
        as_of=utc(dataset.as_of),
        basics={name: str(value) for name, value in basics.items() if value is not None and str(value).strip()},
        purchases=_history(dataset, purchases),
        browsing=_history(dataset, _lines(browsed, dataset.as_of, BROWSING_HALF_LIFE_DAYS)),
        favourite_categories=_favourites(purchases, items["category"].list.last()),
        favourite_brands=_favourites(purchases, items["brand"]),
        **_visits(bought, dataset),
    )


@dataclass(slots=True)
class _Line:
    """Everything of one kind with one item."""

    item: int
    action: int
    count: int
    quantity: float
    spent: float
    weight: float
    days_since: float
    interval_days: float | None


def _lines(events: Events, as_of: int, half_life_days: float) -> list[_Line]:
    """A line for each item and action, in the order of the items."""
    age, lines = (as_of - events.at) / DAY, []
    rows_of: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(events.item.tolist(), events.action.tolist(), strict=True)):
        rows_of[key].append(row)
    decay = np.exp2(-age / half_life_days)
    spent = events.quantity.astype(np.float64) * np.nan_to_num(events.price.astype(np.float64))
    for (item, action), rows in sorted(rows_of.items()):
        occasions = np.unique(events.at[rows], return_index=True)[1]
        lines.append(
            _Line(
                item,
                action,
                len(occasions),
                float(events.quantity[rows].sum(dtype=np.float64)),
                float(spent[rows].sum()),
                float(decay[rows][occasions].sum()),
                float(age[rows[-1]]),
                _interval(events.at[rows]),
            )
        )
    return lines


def _interval(at: NDArray[np.integer]) -> float | None:
    """Median of the days between the distinct days of these times; None where there is one."""
    gaps = np.diff(np.unique(at // DAY)).tolist()
    return float(median(gaps)) if gaps else None


def _without_returns(lines: list[_Line], returned: Events) -> list[_Line]:
    """Each return takes its share of the matching line; returns of what was never bought are ignored."""
    back: defaultdict[int, float] = defaultdict(float)
    for item, quantity in zip(returned.item.tolist(), returned.quantity.tolist(), strict=True):
        back[item] += abs(quantity)
    remaining = []
    for line in lines:
        left = min(max(1 - back[line.item] / max(line.quantity, 1e-9), 0.0), 1.0)
        if left > 1e-9:
            line.count = int(np.ceil(line.count * left - 1e-6))
            line.quantity, line.spent, line.weight = line.quantity * left, line.spent * left, line.weight * left
            remaining.append(line)
    return remaining


def _history(dataset: Dataset, lines: list[_Line]) -> tuple[HistoryLine, ...]:
    """The lines, heaviest first; ties by the more recent, then by the item's row."""
    lines = sorted(lines, key=lambda line: (-line.weight, line.days_since, line.item))
    is_timed = dataset.step_seconds is None  # else how long ago, or how often, is not known
    return tuple(
        HistoryLine(
            item_id=item_id,
            action=ACTIONS[line.action],
            count=line.count,
            quantity=line.quantity,
            spent=line.spent,
            weight=line.weight,
            days_since=line.days_since if is_timed else None,
            interval_days=line.interval_days if is_timed else None,
        )
        for line, item_id in zip(lines, dataset.item_ids([line.item for line in lines]), strict=True)
    )


def _favourites(lines: list[_Line], names: Iterable[str | None]) -> tuple[Share, ...]:
    """The heaviest names with their share of all the weight; ties in order of the name."""
    weights: defaultdict[str, float] = defaultdict(float)
    for line, name in zip(lines, names, strict=True):
        weights[name or ""] += line.weight
    everything = sum(weights.values())
    weights.pop("", None)
    heaviest = sorted(weights.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_FAVOURITES]
    return tuple(Share(name=name, share=min(weight / everything, 1.0)) for name, weight in heaviest)


def _visits(bought: Events, dataset: Dataset) -> dict[str, Any]:
    """Fields of the profile about baskets, the days between and since them, and prices.

    Without a basket id, a day is a basket. A price of zero (a gift, a mistake) is left out.
    """
    if not len(bought):
        return {}
    paid, is_timed = bought.price[bought.price > 0].astype(np.float64), dataset.step_seconds is None
    return {
        "price_band": tuple(np.quantile(paid, (0.25, 0.5, 0.75)).tolist()) if len(paid) else None,
        "n_baskets": len(np.unique(np.where(bought.basket >= 0, bought.basket, -1 - bought.at // DAY))),
        "basket_interval_days": _interval(bought.at) if is_timed else None,
        "days_since_last_purchase": (dataset.as_of - int(bought.at[-1])) / DAY if is_timed else None,
    }
