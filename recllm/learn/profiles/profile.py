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
from dataclasses import replace
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
Lines = list[tuple[int, HistoryLine]]
"""Of a history, each with the row of its item."""


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
    purchases = _without_returns(_lines(dataset, bought, HALF_LIFE_DAYS), log.of(Action.RETURN))
    items = dataset.items[[item for item, _ in purchases]]
    basics = dataset.users.row(user_row, named=True)
    return Profile(
        user_id=basics.pop(USER_COLUMN),
        as_of=utc(dataset.as_of),
        basics={name: str(value) for name, value in basics.items() if value is not None and str(value).strip()},
        purchases=_history(dataset, purchases),
        browsing=_history(dataset, _lines(dataset, browsed, BROWSING_HALF_LIFE_DAYS)),
        favourite_categories=_favourites(purchases, items["category"].list.last()),
        favourite_brands=_favourites(purchases, items["brand"]),
        **_visits(bought, dataset),
    )


def _lines(dataset: Dataset, events: Events, half_life_days: float) -> Lines:
    """A line for each item and action, in the order of the items."""
    age, lines = (dataset.as_of - events.at) / DAY, []
    rows_of: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(events.item.tolist(), events.action.tolist(), strict=True)):
        rows_of[key].append(row)
    decay = np.exp2(-age / half_life_days)
    spent = events.quantity.astype(np.float64) * np.nan_to_num(events.price.astype(np.float64))
    item_ids = dataset.item_ids([item for item, _ in sorted(rows_of)])
    for ((item, action), rows), item_id in zip(sorted(rows_of.items()), item_ids, strict=True):
        occasions = np.unique(events.at[rows], return_index=True)[1]
        line = HistoryLine(
            item_id=item_id,
            action=ACTIONS[action],
            count=len(occasions),
            quantity=float(events.quantity[rows].sum(dtype=np.float64)),
            spent=float(spent[rows].sum()),
            weight=float(decay[rows][occasions].sum()),
            days_since=float(age[rows[-1]]),
            interval_days=_interval(events.at[rows]),
        )
        lines.append((item, line))
    return lines


def _interval(at: NDArray[np.integer]) -> float | None:
    """Median of the days between the distinct days of these times; None where there is one."""
    gaps = np.diff(np.unique(at // DAY)).tolist()
    return float(median(gaps)) if gaps else None


def _without_returns(lines: Lines, returned: Events) -> Lines:
    """Each return takes its share of the matching line; returns of what was never bought are ignored."""
    back: defaultdict[int, float] = defaultdict(float)
    for item, quantity in zip(returned.item.tolist(), returned.quantity.tolist(), strict=True):
        back[item] += abs(quantity)
    remaining = []
    for item, line in lines:
        left = min(max(1 - back[item] / max(line.quantity, 1e-9), 0.0), 1.0)
        if left > 1e-9:
            shares: dict[str, Any] = {name: getattr(line, name) * left for name in ("quantity", "spent", "weight")}
            line = replace(line, count=int(np.ceil(line.count * left - 1e-6)), **shares)
            remaining.append((item, line))
    return remaining


def _history(dataset: Dataset, lines: Lines) -> tuple[HistoryLine, ...]:
    """The lines, heaviest first; ties by the more recent, then by the item's row."""
    lines = sorted(lines, key=lambda pair: (-pair[1].weight, pair[1].days_since or 0.0, pair[0]))
    # in an order alone how long ago, or how often, is not known
    unknown: dict[str, Any] = {} if dataset.step_seconds is None else {"days_since": None, "interval_days": None}
    return tuple(replace(line, **unknown) for _, line in lines)


def _favourites(lines: Lines, names: Iterable[str | None]) -> tuple[Share, ...]:
    """The heaviest names with their share of all the weight; ties in order of the name."""
    weights: defaultdict[str, float] = defaultdict(float)
    for (_, line), name in zip(lines, names, strict=True):
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
