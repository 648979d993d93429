"""The occasions of a day: one rule for each, over events, prices and stock before that day.

Each rule gives people with an item and the figures behind it. Their chance is measured on the past: by the same rule as
of the weeks before, and the purchases of the item (for win-back and welcome of anything) in the next `HORIZON_DAYS`
days; for replenishment it is the model's probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.policy import Policy
from recllm.base.schema import ACTION_CODE, Action, Occasion
from recllm.learn.features.together import bought_together
from recllm.market.occasions.replenishment import (
    HORIZON_DAYS,
    Column,
    Ints,
    ReplenishmentModel,
    name_codes,
    purchase_days,
    repurchase_pairs,
)
from recllm.market.propensity.features import category_codes
from recllm.shop.data.catalogue import sensitive_items
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.shop.data.rhythm import ShoppingDays

DUE_PROBABILITY, DUE_SHARE, DUE_INTERVAL_DAYS = 0.2, 0.75, 5.0
"""An item is due again from this chance of a purchase within a week on, when this share of the person's usual interval
has passed. A shorter interval needs no reminder."""
ABANDONED_DAYS, ABANDONED_HOURS, ABANDONED_VIEWS = 3.0, 1.0, 2
"""An item in the cart, or viewed this often, within these days and not bought is abandoned after these hours."""
INTEREST_DAYS = 91.0
"""A person who bought, viewed or carted an item within these days hears of its price and its return."""
CHANGE_DAYS = 7.0
"""Age of a price, a return to stock or a new arrival at most."""
ARRIVAL_PURCHASES = 3
"""Purchases in an item's type within `INTEREST_DAYS` that make it one that the person likes."""
WELCOME_DAYS = 7.0
"""A person who bought for the first time within these days, and never since, is welcomed."""

PAST_WEEKS = 8
"""Weeks on which the chances are measured."""

MIN_GRADED = 200
"""Past cases of an occasion from which on their chances differ by grade."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cases:
    """People for whom a day is an occasion, with an item each; one person may have several."""

    occasion: Occasion
    user: Ints
    """(n,), rows of the dataset's users."""
    item: Ints
    """(n,), rows of its items; -1 where there is none to speak of."""
    strength: Column
    """(n,), of several items of a person the one with the largest comes first."""
    grade: str
    """Name of the fact by which chances differ: more or less of it may make a purchase likelier."""
    facts: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Name -> (n,): what the words about it are made of."""
    probability: Column | None = None
    """(n,), NaN where the past had no such case; None before it was asked for."""

    def __len__(self) -> int:
        return len(self.user)

    def select(self, which: NDArray[np.generic]) -> Cases:
        """These rows only: a mask or row numbers."""
        return replace(
            self,
            user=self.user[which],
            item=self.item[which],
            strength=self.strength[which],
            facts={name: column[which] for name, column in self.facts.items()},
            probability=None if self.probability is None else self.probability[which],
        )

    def best_of_each(self) -> Cases:
        """Of each person the strongest case; the lower row of the catalogue where two are equally strong."""
        order = np.lexsort((self.item, -self.strength, self.user))
        return self.select(order[np.unique(self.user[order], return_index=True)[1]])


@dataclass(frozen=True, eq=False)
class ItemStates:
    """What items cost and whether they were for sale, by load of the catalogue; see `StoreReader.item_states`."""

    frame: pl.DataFrame
    """item (row of a dataset's items), at (epoch seconds, with fractions, from which the state holds), price (null
    where unknown) and available; by item, oldest first."""

    @classmethod
    def of(cls, frame: pl.DataFrame, dataset: Dataset) -> ItemStates:
        """frame: item_id, at, price (decimal text), available, in the order of time."""
        states = frame.select(
            item=pl.Series(dataset.item_rows(frame["item_id"])),
            at=pl.col("at").dt.epoch("us") / 1e6,
            price=pl.col("price").cast(pl.Float64, strict=False),
            available="available",
        )
        return cls(states.filter(pl.col("item") >= 0).sort("item", maintain_order=True))

    def until(self, as_of: int) -> ItemStates:
        """Those that held in the second `as_of` or before."""
        return ItemStates(self.frame.filter(pl.col("at") < as_of + 1))

    @property
    def is_history(self) -> bool:
        """Whether any item has a second state, or one from after the first load."""
        return self.frame["at"].n_unique() > 1

    def latest_changes(self) -> pl.DataFrame:
        """The latest state of each item that had another one, with before and was_available, the one before it."""
        earlier = {"before": pl.col("price").shift(1), "was_available": pl.col("available").shift(1)}
        changed = self.frame.with_columns(**{name: column.over("item") for name, column in earlier.items()})
        return changed.group_by("item", maintain_order=True).last().drop_nulls("was_available")

    def arrivals(self) -> pl.DataFrame:
        """The first state of each item that was not among the first ones of all."""
        first = self.frame.group_by("item", maintain_order=True).first()
        return first.filter(pl.col("at") > pl.col("at").min())


@dataclass(frozen=True, eq=False, kw_only=True)
class Shop:
    """What the rules read, as of a day."""

    dataset: Dataset
    """Events before `dataset.as_of`, and no later ones."""
    states: ItemStates
    price_drop: float
    """Least fall of a price, as a share of the price before it."""
    offered: NDArray[np.bool_]
    """(n_items,), items that may be named: on offer, and of no sensitive category."""

    @classmethod
    def of(cls, dataset: Dataset, states: ItemStates, price_drop: float, policy: Policy) -> Shop:
        offered = dataset.item_index.on_offer(dataset.as_of) & ~sensitive_items(dataset.items, policy)
        return cls(dataset=dataset, states=states, price_drop=price_drop, offered=offered)

    def at(self, as_of: int) -> Shop:
        """The same shop at an earlier time. What is on offer now is taken to have been so then: of the past no
        catalogue is kept but prices and stock."""
        return replace(self, dataset=self.dataset.before(as_of), states=self.states.until(as_of))

    @property
    def now(self) -> int:
        return self.dataset.as_of

    def within(self, days: float, *actions: Action) -> Events:
        """Events of these kinds in the last days."""
        e = self.dataset.events
        mask = np.isin(e.action, [ACTION_CODE[action] for action in actions])
        return e.select(mask & (e.at >= self.now - days * DAY))


def abandoned(shop: Shop) -> Cases:
    """The latest thing that a person put into the cart, or else looked at `ABANDONED_VIEWS` times, and did not buy."""
    recent = shop.within(ABANDONED_DAYS, Action.CART, Action.VIEW, Action.PURCHASE)
    width, user = shop.dataset.n_items, recent.user.astype(np.int64)
    keys, pair = np.unique(user * width + recent.item, return_inverse=True)
    n = len(keys)

    def last(action: Action) -> Ints:
        at, is_action = np.full(n, -1, np.int64), recent.action == ACTION_CODE[action]
        np.maximum.at(at, pair[is_action], recent.at[is_action])
        return at

    carted, viewed, bought = (last(action) for action in (Action.CART, Action.VIEW, Action.PURCHASE))
    views = np.bincount(pair[recent.action == ACTION_CODE[Action.VIEW]], minlength=n)
    left_at = np.where(carted >= 0, carted, np.where(views >= ABANDONED_VIEWS, viewed, -1))
    item = keys % width
    # a person with a later event is still in the shop
    active = np.full(shop.dataset.n_users, -1, np.int64)
    np.maximum.at(active, user, recent.at)
    rested = active[keys // width] <= shop.now - ABANDONED_HOURS * 3_600
    left = (left_at >= 0) & (bought < left_at) & rested & shop.offered[item]
    in_cart = (carted >= 0).astype(np.float64)
    cases = Cases(
        occasion=Occasion.ABANDONED,
        grade="in_cart",
        user=keys // width,
        item=item,
        strength=in_cart * 1e11 + left_at,
        facts={"in_cart": in_cart, "views": views, "days": (shop.now - left_at) / DAY},
    )
    return cases.select(left)


def price_drop(shop: Shop) -> Cases:
    """Something of interest to the person whose price fell by `price_drop` at least; the largest fall comes first."""
    fell = 1 - pl.col("price") / pl.col("before")
    drops = shop.states.latest_changes().with_columns(fell=fell)
    drops = drops.filter(pl.col("fell") >= shop.price_drop, pl.col("at") >= shop.now - CHANGE_DAYS * DAY)
    item, fell_by, price, before = (drops[name].to_numpy() for name in ("item", "fell", "price", "before"))
    return _of_interest(shop, Occasion.PRICE_DROP, item, fell_by, price=price, before=before)


def back_in_stock(shop: Shop) -> Cases:
    """Something of interest to the person that is for sale again."""
    is_back = pl.col("available") & ~pl.col("was_available") & (pl.col("at") >= shop.now - CHANGE_DAYS * DAY)
    back = shop.states.latest_changes().filter(is_back)
    days = (shop.now - back["at"].to_numpy()) / DAY
    return _of_interest(shop, Occasion.BACK_IN_STOCK, back["item"].to_numpy(), -days, days=days)


def _of_interest(shop: Shop, occasion: Occasion, item: Ints, strength: Column, **facts: Column) -> Cases:
    """Who bought, carted, liked or viewed one of some items within `INTEREST_DAYS`; columns are of the items."""
    position_of = np.full(shop.dataset.n_items, -1, np.int64)
    position_of[item] = np.arange(len(item))
    position_of[~shop.offered] = -1
    events = shop.within(INTEREST_DAYS, Action.PURCHASE, Action.CART, Action.FAVOURITE, Action.VIEW)
    events = events.select(position_of[events.item] >= 0)
    keys = np.unique(events.user.astype(np.int64) * shop.dataset.n_items + events.item)
    user, position = keys // shop.dataset.n_items, position_of[keys % shop.dataset.n_items]
    bought = events.select(events.action == ACTION_CODE[Action.PURCHASE])
    is_bought = np.isin(keys, bought.user.astype(np.int64) * shop.dataset.n_items + bought.item)
    return Cases(
        occasion=occasion,
        grade="bought",
        user=user,
        item=keys % shop.dataset.n_items,
        strength=strength[position],
        facts={"bought": is_bought, **{name: column[position] for name, column in facts.items()}},
    )


def new_arrival(shop: Shop) -> Cases:
    """A new item of a type that the person bought `ARRIVAL_PURCHASES` times; the type bought most comes first."""
    arrived = shop.states.arrivals().filter(pl.col("at") >= shop.now - CHANGE_DAYS * DAY)
    item = arrived["item"].to_numpy()
    item = item[shop.offered[item]]
    code = category_codes(shop.dataset.items, -1)
    item = item[code[item] >= 0]
    bought = shop.within(INTEREST_DAYS, Action.PURCHASE)
    of_row = code[bought.item]
    bought, of_row = bought.select(np.isin(of_row, code[item])), of_row[np.isin(of_row, code[item])]
    width = int(code.max(initial=0)) + 1
    keys, times = np.unique(bought.user.astype(np.int64) * width + of_row, return_counts=True)
    liked = times >= ARRIVAL_PURCHASES
    likes = pl.DataFrame({"user": keys[liked] // width, "type": keys[liked] % width, "times": times[liked]})
    joined = likes.join(pl.DataFrame({"item": item, "type": code[item]}), on="type")
    is_new = np.zeros(shop.dataset.n_items, bool)
    is_new[item] = True
    ever = shop.dataset.events.of(Action.PURCHASE)
    ever = ever.select(is_new[ever.item])
    already = ever.user.astype(np.int64) * shop.dataset.n_items + ever.item
    user, arrival = joined["user"].to_numpy(), joined["item"].to_numpy()
    cases = Cases(
        occasion=Occasion.NEW_ARRIVAL,
        grade="times",
        user=user,
        item=arrival,
        strength=joined["times"].to_numpy().astype(np.float64),
        facts={"times": joined["times"].to_numpy()},
    )
    return cases.select(~np.isin(user * shop.dataset.n_items + arrival, already))


def win_back(shop: Shop, *, items: bool = True) -> Cases:
    """Who has lapsed (`recllm.shop.data.rhythm`); with what they bought on most days, lately more.

    items: False leaves the items out, which takes longer to find than the people.
    """
    bought = shop.dataset.events.of(Action.PURCHASE)
    days = ShoppingDays.of(bought.user, bought.at, shop.dataset.n_users, shop.now)
    people = np.flatnonzero(days.lapsed)
    return Cases(
        occasion=Occasion.WIN_BACK,
        grade="days",
        user=people,
        item=_favourites(shop, days.lapsed)[people] if items else np.full(len(people), -1),
        strength=days.since[people] / np.maximum(days.usual_gap[people], 1),
        facts={"days": days.since[people], "usual": days.usual_gap[people]},
    )


def _favourites(shop: Shop, people: NDArray[np.bool_]) -> Ints:
    """Of each of these people the offered item that they bought on most days, halved in worth every 91 days; -1 for
    none. (n_users,)."""
    data, favourite = shop.dataset, np.full(shop.dataset.n_users, -1, np.int64)
    of_people = replace(data, events=data.events.select(people[data.events.user] & shop.offered[data.events.item]))
    decayed = (-pl.col("age") / 91 * np.log(2)).exp().sum()
    pairs = purchase_days(of_people, shop.now).group_by("user", "item").agg(decayed=decayed)
    pairs = pairs.sort("decayed", "item")  # the best is written last
    favourite[pairs["user"].to_numpy()] = pairs["item"].to_numpy()
    return favourite


def welcome(shop: Shop, *, items: bool = True) -> Cases:
    """Who bought for the first time within `WELCOME_DAYS`, and never since; with what others buy with it.

    items: as in `win_back`.
    """
    bought = shop.dataset.events.of(Action.PURCHASE)
    user, n = bought.user.astype(np.int64), shop.dataset.n_users
    first, last = np.full(n, np.iinfo(np.int64).max), np.full(n, -1, np.int64)
    np.minimum.at(first, user, bought.at)
    np.maximum.at(last, user, bought.at)
    once = (last >= 0) & (last - first < DAY) & (first >= shop.now - WELCOME_DAYS * DAY)
    began = int(bought.at.min()) if len(bought) else 0
    once &= first > began + 28 * DAY  # at the log's own beginning no customer is new
    people = np.flatnonzero(once)
    item = companion = np.full(len(people), -1)
    if items:
        item, companion = _goes_with(shop, bought, people)
    return Cases(
        occasion=Occasion.WELCOME,
        grade="days",
        user=people,
        item=item,
        strength=np.ones(len(people)),
        facts={"days": (shop.now - first[people]) / DAY, "companion": companion},
    )


def _goes_with(shop: Shop, bought: Events, people: Ints) -> tuple[Ints, Ints]:
    """For each of these people the offered item that goes best with one of theirs (`features.together`), and
    that one; -1 for none."""
    item, companion = (np.full(len(people), -1, np.int64) for _ in range(2))
    if not len(people):
        return item, companion
    items = shop.dataset.items
    together = bought_together(bought, len(items), category_codes(items, -1))
    name = name_codes(items)
    for position, person in enumerate(people):
        first_rows = np.unique(bought.item[bought.indptr[person] : bought.indptr[person + 1]])
        pairs = together[first_rows].tocoo()
        usable = shop.offered[pairs.col] & ~np.isin(name[pairs.col], name[first_rows])
        source, target, z = first_rows[pairs.row[usable]], pairs.col[usable], pairs.data[usable]
        if len(z):
            best = np.lexsort((target, -z))[0]
            item[position], companion[position] = target[best], source[best]
    return item, companion


Rule = Callable[[Shop], Cases]
ABOUT_ANYTHING = {Occasion.WIN_BACK: win_back, Occasion.WELCOME: welcome}
"""Occasions whose chance is that of any purchase, and not of the item's."""

RULES: Mapping[Occasion, Rule] = {
    Occasion.ABANDONED: abandoned,
    Occasion.PRICE_DROP: price_drop,
    Occasion.BACK_IN_STOCK: back_in_stock,
    Occasion.NEW_ARRIVAL: new_arrival,
    **ABOUT_ANYTHING,
}
"""All occasions but replenishment, which is a model's."""


def replenish(shop: Shop, model: ReplenishmentModel) -> Cases:
    """What is due again. Of several items of a person that one comes first which they are likelier to buy now than
    the others who buy it repeatedly: everybody's daily bread needs no message."""
    pairs = repurchase_pairs(shop.dataset, shop.now)
    waited = pairs.column("since_over_median") >= DUE_SHARE
    waited &= pairs.column("gap_median") >= DUE_INTERVAL_DAYS
    pairs = pairs.select(waited & shop.offered[pairs.item])
    probability = model.probability(pairs.features)
    names = {"times": "days", "every": "gap_median", "days": "since"}
    cases = Cases(
        occasion=Occasion.REPLENISH,
        grade="times",
        user=pairs.user,
        item=pairs.item,
        strength=probability - pairs.column("repeaters_lately_7"),
        facts={name: pairs.column(column) for name, column in names.items()},
        probability=probability,
    )
    return cases.select(probability >= DUE_PROBABILITY)


def past_chances(shop: Shop, cases: Cases) -> Column:
    """The share of past cases, strongest of each person, that bought within the horizon; (n,), NaN without any.

    Cases of the last `PAST_WEEKS` weeks, from `MIN_GRADED` of them on in four parts by their grade, each with a beta
    prior of one half and one half (Jeffreys).
    """
    events, occasion = shop.dataset.events, cases.occasion
    rule: Rule = partial(ABOUT_ANYTHING[occasion], items=False) if occasion in ABOUT_ANYTHING else RULES[occasion]
    grades, hits = [np.zeros(0)], [np.zeros(0, bool)]
    for week in range(1, PAST_WEEKS + 1):
        start = shop.now - week * HORIZON_DAYS * DAY
        if not len(events) or start <= int(events.at.min()):
            break
        past = rule(shop.at(start)).best_of_each()
        bought = shop.dataset.between(start, start + HORIZON_DAYS * DAY)
        buyers = bought.user.astype(np.int64)
        if occasion in ABOUT_ANYTHING:
            hits.append(np.isin(past.user, buyers))
        else:
            width = shop.dataset.n_items
            hits.append(np.isin(past.user * width + past.item, buyers * width + bought.item))
        grades.append(past.facts[past.grade].astype(np.float64))
    grade, hit = np.concatenate(grades), np.concatenate(hits)
    if not len(grade):
        return np.full(len(cases), np.nan)
    edges = np.unique(np.quantile(grade, (0.25, 0.5, 0.75))) if len(grade) >= MIN_GRADED else np.zeros(0)
    quarter = np.searchsorted(edges, grade)
    n_cases, n_hits = (np.bincount(quarter, weight, len(edges) + 1) for weight in (None, hit.astype(np.float64)))
    rate = (n_hits + 0.5) / (n_cases + 1)
    return np.asarray(rate[np.searchsorted(edges, cases.facts[cases.grade].astype(np.float64))])
