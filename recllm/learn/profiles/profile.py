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
    order only  where the log knows only an order, days and intervals are None: a step is no number of days.
    browsing    views, carts, favourites and clicks. What was shown to a person, and what they dismissed or rated, is
                not part of H.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.schema import ACTION_CODE, ACTIONS, BROWSING, Action, HistoryLine, Profile, Share
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, utc

HALF_LIFE_DAYS = 120.0  # of a purchase
BROWSING_HALF_LIFE_DAYS = 30.0  # of browsing, which shows a shorter-lived wish
MAX_FAVOURITES = 8  # of categories, and of brands, per user


def build_profile(dataset: Dataset, user_row: int) -> Profile:
    """The profile of one person; see `build_profiles`."""
    return build_profiles(dataset, [user_row])[0]


def build_profiles(dataset: Dataset, user_rows: Iterable[int] | NDArray[np.integer]) -> list[Profile]:
    """One profile per row of `dataset.users` in `user_rows`, in that order, as of the dataset's time.

    Someone without events, or without basics, gets a profile with empty parts. Only these people's events are looked
    at, and no other person's or item's changes the result: a dataset of one person and the items of their history gives
    the same profile. Raises `DataError` for a row that does not exist.
    """
    rows = np.asarray(user_rows if isinstance(user_rows, np.ndarray) else list(user_rows), dtype=np.int64)
    wrong = rows[(rows < 0) | (rows >= dataset.n_users)]
    if len(wrong):
        raise DataError(f"no user row {wrong[0]}: the dataset has {dataset.n_users} people; look up ids with user_rows")
    n = len(rows)
    log = dataset.events.rows(rows)
    log = log.select(log.at < dataset.as_of)
    # `user` is the position in `rows`, `price` is null where unknown, `age` is in days
    events = pl.DataFrame(
        {
            "user": log.user,
            "item": log.item,
            "action": log.action,
            "at": log.at,
            "age": (dataset.as_of - log.at) / DAY,
            "quantity": log.quantity.astype(np.float64),
            "price": log.price.astype(np.float64),
            "basket": log.basket,
        }
    ).with_columns(pl.col("price").fill_nan(None))
    bought = events.filter(pl.col("action") == ACTION_CODE[Action.PURCHASE])
    browsed = events.filter(pl.col("action").is_in([ACTION_CODE[action] for action in BROWSING]))
    returned = events.filter(pl.col("action") == ACTION_CODE[Action.RETURN])
    lines = _without_returns(_lines(bought, HALF_LIFE_DAYS), returned)
    purchases = _history(dataset, lines, n)
    browsing = _history(dataset, _lines(browsed, BROWSING_HALF_LIFE_DAYS), n)
    categories = _favourites(lines, dataset.items["category"], n, MAX_FAVOURITES)
    brands = _favourites(lines, dataset.items["brand"], n, MAX_FAVOURITES)
    visits = _visits(bought)
    if dataset.step_seconds is not None:  # how long ago, or how often, is not known
        purchases, browsing = (
            [[replace(line, days_since=None, interval_days=None) for line in lines] for lines in lists]
            for lists in (purchases, browsing)
        )
        unknown = {"basket_interval_days": None, "days_since_last_purchase": None}
        visits = {position: fields | unknown for position, fields in visits.items()}
    profiles = []
    for position, basics in enumerate(dataset.users[rows].to_dicts()):
        profiles.append(
            Profile(
                user_id=basics.pop(USER_COLUMN),
                as_of=utc(dataset.as_of),
                basics={name: str(value) for name, value in basics.items() if value is not None and str(value).strip()},
                purchases=tuple(purchases[position]),
                browsing=tuple(browsing[position]),
                favourite_categories=tuple(categories[position]),
                favourite_brands=tuple(brands[position]),
                **visits.get(position, {}),
            )
        )
    return profiles


def _runs(events: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """The events by `keys` and time, with the number of their `run` of equal keys.

    gap: days since the run's last earlier day with an event, null on its first day and for a second event of a day.
    """
    days = (pl.col("at") // DAY).diff()
    events = events.sort(*keys, "at", maintain_order=True).with_columns(run=pl.struct(keys).rle_id().cast(pl.Int64))
    return events.with_columns(gap=pl.when((pl.col("run").diff() == 0) & (days > 0)).then(days))


def _lines(events: pl.DataFrame, half_life_days: float) -> pl.DataFrame:
    """One row per (person, item, action): count, quantity, spent, weight, days_since and interval_days."""
    events = _runs(events, "user", "item", "action")
    occasion = (pl.col("run").diff().fill_null(1) != 0) | (pl.col("at").diff() != 0)
    decay = pl.Series(np.exp2(-events["age"].to_numpy() / half_life_days))
    events = events.with_columns(occasion=occasion, spent=pl.col("quantity") * pl.col("price").fill_null(0.0))
    events = events.with_columns(weight=decay * events["occasion"])
    lines = events.group_by("run", maintain_order=True).agg(
        pl.col("user", "item", "action").first(),
        count=pl.col("occasion").sum().cast(pl.Int64),
        days_since=pl.col("age").last(),
        interval_days=pl.col("gap").median(),
    )
    return lines.with_columns(_sums(events, "quantity", "spent", "weight"))


def _sums(events: pl.DataFrame, *columns: str) -> list[pl.Series]:
    """Sums of each run, added up in the order of the rows.

    So a person's figures are the same to the last bit in any company; polars adds up in blocks that depend on it.
    """
    run = events["run"].to_numpy()
    return [pl.Series(name, np.bincount(run, events[name].to_numpy())) for name in columns]


def _without_returns(lines: pl.DataFrame, returned: pl.DataFrame) -> pl.DataFrame:
    """Each return takes its share of the matching line; returns of what was never bought are ignored."""
    back = returned.group_by("user", "item").agg(back=pl.col("quantity").abs().sum())
    left = (1 - pl.col("back").fill_null(0.0) / pl.max_horizontal("quantity", 1e-9)).clip(0, 1)
    return (
        lines.join(back, on=["user", "item"], how="left", maintain_order="left")
        .with_columns(left=left)
        .filter(pl.col("left") > 1e-9)
        .with_columns(
            (pl.col("count") * pl.col("left") - 1e-6).ceil().cast(pl.Int64),
            pl.col("quantity", "spent", "weight") * pl.col("left"),
        )
    )


def _history(dataset: Dataset, lines: pl.DataFrame, n: int) -> list[list[HistoryLine]]:
    """The lines of each person, heaviest first; ties by the more recent, then by the item's row."""
    lines = lines.sort("user", "weight", "days_since", "item", descending=[False, True, False, False])
    lines = lines.with_columns(item_id=dataset.items["item_id"].gather(lines["item"]))
    history: list[list[HistoryLine]] = [[] for _ in range(n)]
    names = ("item_id", "count", "quantity", "spent", "weight", "days_since", "interval_days")
    for user, action, *values in lines.select("user", "action", *names).iter_rows():
        history[user].append(HistoryLine(**dict(zip(names, values, strict=True)), action=ACTIONS[action]))
    return history


def _favourites(lines: pl.DataFrame, names: pl.Series, n: int, limit: int) -> list[list[Share]]:
    """The heaviest names of each person with their share of all the person's weight; ties in order of the name."""
    names = names.gather(lines["item"])
    if isinstance(names.dtype, pl.List):
        names = names.list.last()
    named = lines.select("user", "weight", name=names).filter(pl.col("name").is_not_null() & (pl.col("name") != ""))
    named = named.sort("user", "name", maintain_order=True).with_columns(run=pl.struct("user", "name").rle_id())
    shares = named.unique("run", keep="first", maintain_order=True).with_columns(_sums(named, "weight"))
    all_weight = np.bincount(lines["user"].to_numpy(), lines["weight"].to_numpy(), minlength=n)
    share = pl.Series("share", shares["weight"].to_numpy() / all_weight[shares["user"].to_numpy()])
    shares = shares.with_columns(share).sort("user", "share", "name", descending=[False, True, False])
    shares = shares.filter(pl.int_range(pl.len()).over("user") < limit)
    favourites: list[list[Share]] = [[] for _ in range(n)]
    for user, name, share in shares.select("user", "name", "share").iter_rows():
        favourites[user].append(Share(name=name, share=min(share, 1.0)))
    return favourites


def _visits(bought: pl.DataFrame) -> dict[int, dict[str, Any]]:
    """By position of a person: fields of the profile about baskets, the days between and since them, and prices.

    Without a basket id, a day is a basket. A price of zero (a gift, a mistake) is left out.
    """
    basket = pl.when(pl.col("basket") >= 0).then(pl.col("basket")).otherwise(-1 - pl.col("at") // DAY)
    paid = pl.col("price").filter(pl.col("price") > 0)
    quartiles = {f"price_{q}": paid.quantile(q, "linear") for q in (0.25, 0.5, 0.75)}
    visits = (
        _runs(bought, "user")
        .group_by("user", maintain_order=True)
        .agg(basket.n_unique(), interval=pl.col("gap").median(), since=pl.col("age").last(), **quartiles)
    )
    fields = {}
    for user, n_baskets, interval, since, *prices in visits.iter_rows():
        fields[user] = {
            "price_band": None if prices[0] is None else tuple(prices),
            "n_baskets": n_baskets,
            "basket_interval_days": interval,
            "days_since_last_purchase": since,
        }
    return fields
