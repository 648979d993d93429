"""Profiles: User = (I, B, H) as of a time, counted from the log. Pure: equal input, equal profile, and no future.

Definitions
    as of t     only events strictly before t.
    occasion    one person, one item, one action, one instant: two lines of a product in one basket are one occasion.
    weight      decayed count: sum over occasions of 2 ** (-age / half-life), age = (t - time of the occasion) in days.
    interval    median number of days between the distinct (UTC) days on which the person bought the item.
    return      a return takes back its share of the line: with q bought and r returned, count (rounded up), quantity,
                spent and weight keep the share 1 - r / q; a line returned in full disappears.
    favourite   share of the person's weight in purchases; of a category path, the narrowest name counts, because a
                wide one ("grocery") is everybody's favourite and says nothing about a person.
    browsing    views, carts, favourites and clicks. What was shown to a person, and what they dismissed or rated, is
                not part of H.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import DAY, USER_COLUMN, Dataset, Events, utc
from recllm.errors import DataError
from recllm.schema import ACTION_CODE, ACTIONS, BROWSING, Action, HistoryLine, Profile, Share
from recllm.settings import ProfileSettings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


DEFAULTS = ProfileSettings()


def build_profile(
    dataset: Dataset, user_row: int, as_of: int | datetime | None = None, settings: ProfileSettings = DEFAULTS
) -> Profile:
    """The profile of one person; see `build_profiles`."""
    return build_profiles(dataset, [user_row], as_of, settings)[0]


def build_profiles(
    dataset: Dataset,
    user_rows: Iterable[int] | NDArray[np.integer],
    as_of: int | datetime | None = None,
    settings: ProfileSettings = DEFAULTS,
) -> list[Profile]:
    """One profile per row of `dataset.users` in `user_rows`, in that order.

    `as_of`: epoch seconds or an aware datetime; the dataset's own time when None. Someone without events, or without
    basics, gets a profile with empty parts. Raises `DataError` for a row that does not exist or a naive time.
    """
    rows = _checked_rows(dataset, user_rows)
    limit = _epoch(dataset.as_of if as_of is None else as_of)
    events = dataset.events.rows(rows)
    events = events.select(events.at < limit)
    bought = events.of(Action.PURCHASE)
    lines = _without_returns(_lines(bought, limit, settings.half_life_days, len(rows)), events.of(Action.RETURN))
    seen = events.select(np.isin(events.action, [ACTION_CODE[a] for a in BROWSING]))
    return _assemble(dataset, rows, limit, settings, bought, lines, seen)


def _assemble(
    dataset: Dataset, rows: Ints, limit: int, settings: ProfileSettings, bought: Events, lines: _Lines, seen: Events
) -> list[Profile]:
    n = len(rows)
    purchases = _history(dataset, lines, n, settings.max_lines)
    browsing = _history(dataset, _lines(seen, limit, settings.browsing_half_life_days, n), n, settings.max_lines)
    categories = _favourites(lines, dataset.items["category"], n, settings.favourites)
    brands = _favourites(lines, dataset.items["brand"], n, settings.favourites)
    visits, moment = _visits(bought, limit), utc(limit)
    bands = _price_bands(bought)
    return [
        Profile(
            user_id=user_id,
            as_of=moment,
            basics=basics,
            purchases=purchases[u],
            browsing=browsing[u],
            favourite_categories=categories[u],
            favourite_brands=brands[u],
            price_band=bands[u],
            n_baskets=visits.baskets[u],
            basket_interval_days=visits.interval[u],
            days_since_last_purchase=visits.since[u],
        )
        for u, (user_id, basics) in enumerate(_basics(dataset.users, rows))
    ]


def _checked_rows(dataset: Dataset, user_rows: Iterable[int] | NDArray[np.integer]) -> Ints:
    rows = np.asarray(user_rows if isinstance(user_rows, np.ndarray) else list(user_rows), dtype=np.int64)
    wrong = rows[(rows < 0) | (rows >= dataset.n_users)]
    if len(wrong):
        raise DataError(f"no user row {wrong[0]}: the dataset has {dataset.n_users} people; look up ids with user_rows")
    return rows


def _epoch(as_of: int | datetime) -> int:
    if not isinstance(as_of, datetime):
        return int(as_of)
    if as_of.tzinfo is None:
        raise DataError(f"as_of {as_of.isoformat()} has no time zone; give an aware datetime")
    return int(as_of.timestamp() // 1)


def _basics(users: pl.DataFrame, rows: Ints) -> list[tuple[str, dict[str, str]]]:
    found = []
    for row in users[rows].to_dicts():
        user_id = row.pop(USER_COLUMN)
        found.append((user_id, {name: str(v) for name, v in row.items() if v is not None and str(v).strip()}))
    return found


# --- history lines -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Lines:
    """One entry per (person, item, action), ascending; all arrays of shape (n,). `last`: epoch seconds."""

    user: Ints
    item: Ints
    action: Ints
    count: Ints
    quantity: Floats
    spent: Floats
    weight: Floats
    since: Floats
    interval: Floats
    """Days; NaN below two days of purchase."""

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> _Lines:
        return _Lines(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def _lines(events: Events, limit: int, half_life_days: float, n_users: int) -> _Lines:
    user, item = events.user.astype(np.int64), events.item.astype(np.int64)
    action = events.action.astype(np.int64)
    order = np.lexsort((events.at, action, item, user))
    user, item, action, at = user[order], item[order], action[order], events.at[order]
    start = _changes(user, item, action)
    group = np.cumsum(start) - 1
    occasion = start | _changes(at)
    age = (limit - at) / DAY
    quantity, price = events.quantity[order].astype(np.float64), events.price[order].astype(np.float64)
    n = int(start.sum())

    def total(values: NDArray[np.generic]) -> Floats:
        return np.asarray(np.bincount(group, values, minlength=n), dtype=np.float64)

    return _Lines(
        user=user[start],
        item=item[start],
        action=action[start],
        count=total(occasion).astype(np.int64),
        quantity=total(quantity),
        spent=total(quantity * np.nan_to_num(price)),
        weight=total(np.exp2(-age / half_life_days) * occasion),
        since=age[_ends(start)],
        interval=_median_gap(group, at // DAY, n),
    )


def _without_returns(lines: _Lines, returns: Events) -> _Lines:
    """Each return takes its share of the matching line; returns of what was never bought are ignored."""
    if not len(returns) or not len(lines.user):
        return lines
    width = 1 + max(int(lines.item.max()), int(returns.item.max()))
    keys = lines.user * width + lines.item
    wanted = returns.user.astype(np.int64) * width + returns.item
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = keys[place] == wanted
    back = np.bincount(place[known], np.abs(returns.quantity[known]), minlength=len(keys))
    kept = np.clip(1 - back / np.maximum(lines.quantity, 1e-9), 0, 1)
    fewer = replace(
        lines,
        count=np.ceil(lines.count * kept - 1e-6).astype(np.int64),
        quantity=lines.quantity * kept,
        spent=lines.spent * kept,
        weight=lines.weight * kept,
    )
    return fewer.take(kept > 1e-9)


def _history(dataset: Dataset, lines: _Lines, n_users: int, limit: int | None) -> list[tuple[HistoryLine, ...]]:
    """The lines of each person, heaviest first; ties by the more recent, then by the item's row."""
    lines = lines.take(np.lexsort((lines.item, lines.since, -lines.weight, lines.user)))
    bounds = np.searchsorted(lines.user, np.arange(n_users + 1))
    if limit is not None:
        rank = np.arange(len(lines.user)) - bounds[lines.user]
        lines = lines.take(rank < limit)
        bounds = np.searchsorted(lines.user, np.arange(n_users + 1))
    ids = dataset.items["item_id"].gather(lines.item).to_list()
    columns = (lines.count, lines.quantity, lines.spent, lines.weight, lines.since, lines.action)
    entries = [
        HistoryLine(
            item_id=item_id,
            count=count,
            quantity=quantity,
            spent=spent,
            weight=weight,
            days_since=since,
            interval_days=interval,
            action=ACTIONS[action],
        )
        for item_id, interval, count, quantity, spent, weight, since, action in zip(
            ids, _optional(lines.interval), *(c.tolist() for c in columns), strict=True
        )
    ]
    return [tuple(entries[a:b]) for a, b in pairwise(bounds)]


# --- what is summed up over lines ----------------------------------------------------------------------------------


def _favourites(lines: _Lines, names: pl.Series, n_users: int, limit: int) -> list[tuple[Share, ...]]:
    """The heaviest names of each person with their share of all the person's weight; ties in order of the name."""
    names = names.gather(lines.item)
    if isinstance(names.dtype, pl.List):
        names = names.list.last()
    known = ((names != "") & names.is_not_null()).to_numpy()
    names, user, weight = names.filter(pl.Series(known)), lines.user[known], lines.weight[known]
    words = names.unique().sort()
    code = names.rank("dense").to_numpy().astype(np.int64) - 1
    keys, group = np.unique(user * max(len(words), 1) + code, return_inverse=True)
    user, code = np.divmod(keys, max(len(words), 1))
    all_weight = np.bincount(lines.user, lines.weight, minlength=n_users)
    share = np.bincount(group, weight, minlength=len(keys)) / all_weight[user]
    order = np.lexsort((code, -share, user))
    bounds = np.searchsorted(user, np.arange(n_users + 1))
    best = order[np.arange(len(order)) - bounds[user[order]] < limit]
    bounds = np.searchsorted(user[best], np.arange(n_users + 1))
    pairs = zip(words.gather(code[best]).to_list(), np.minimum(share[best], 1.0).tolist(), strict=True)
    entries = [Share(name=name, share=value) for name, value in pairs]
    return [tuple(entries[a:b]) for a, b in pairwise(bounds)]


@dataclass(frozen=True)
class _Visits:
    baskets: list[int]
    interval: list[float | None]
    since: list[float | None]


def _visits(bought: Events, limit: int) -> _Visits:
    """Baskets, days between days of purchase, and days since the last. Without a basket id, a day is a basket."""
    n, user, day = len(bought.indptr) - 1, bought.user.astype(np.int64), bought.at // DAY
    basket = np.where(bought.basket >= 0, bought.basket, -1 - day)
    order = np.lexsort((basket, user))
    fresh = _changes(user[order], basket[order])
    baskets = np.bincount(user[order][fresh], minlength=n)
    since = np.full(n, np.nan)
    some = np.diff(bought.indptr) > 0
    since[some] = (limit - bought.at[bought.indptr[1:][some] - 1]) / DAY
    return _Visits(baskets.tolist(), _optional(_median_gap(user, day, n)), _optional(since))


def _price_bands(bought: Events) -> list[tuple[float, float, float] | None]:
    """Quartiles of the unit prices paid; a price of zero (a gift, a mistake) is left out."""
    n, priced = len(bought.indptr) - 1, np.nan_to_num(bought.price) > 0
    user, price = bought.user[priced].astype(np.int64), bought.price[priced].astype(np.float64)
    quartiles = _quantiles(user, price, n, (0.25, 0.5, 0.75))
    return [
        (low, mid, high) if mid == mid else None for low, mid, high in quartiles.tolist()
    ]  # NaN differs from itself


def _median_gap(group: Ints, day: Ints, n: int) -> Floats:
    """Median days between the distinct days of each group, NaN below two. Sorted by group, then day; shape (n,)."""
    fresh = _changes(group, day)
    group, day = group[fresh], day[fresh]
    same = group[1:] == group[:-1]
    return _quantiles(group[1:][same], np.diff(day)[same].astype(np.float64), n, (0.5,))[:, 0]


def _quantiles(group: Ints, values: Floats, n: int, levels: Sequence[float]) -> Floats:
    """Quantiles of each group's values with linear interpolation, NaN for an empty group. Shape (n, len(levels))."""
    order = np.lexsort((values, group))
    values, size = values[order], np.bincount(group, minlength=n)
    some = size > 0
    place = (np.cumsum(size) - size)[some, None] + np.asarray(levels) * (size[some, None] - 1)
    low, high = np.floor(place).astype(np.int64), np.ceil(place).astype(np.int64)
    out = np.full((n, len(levels)), np.nan)
    out[some] = values[low] + (place - low) * (values[high] - values[low])
    return out


def _changes(*columns: Ints) -> NDArray[np.bool_]:
    """True where a row differs from the one before it, and in the first row. Shape (n,)."""
    start = np.ones(len(columns[0]), dtype=bool)
    if len(start):
        start[1:] = np.logical_or.reduce([c[1:] != c[:-1] for c in columns])
    return start


def _ends(start: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The last row of each run whose first rows are `start`."""
    return np.append(start[1:], True)[: len(start)]


def _optional(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else v for v in values.tolist()]
