"""The occasions of a day: one rule for each, over events, prices and stock before that day.

Each rule gives people with an item and the figures behind it. Their chance is measured on the past (`past_chances`);
for replenishment it is the model's probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.policy import Policy
from recllm.base.schema import ACTION_CODE, Action, Occasion
from recllm.learn.features.together import bought_together
from recllm.market.adcopy.suitability import title_codes
from recllm.market.occasions.replenishment import (
    HORIZON_DAYS,
    PAIR,
    ReplenishmentModel,
    figures_among,
    name_codes,
    purchase_days,
    repurchase_pairs,
)
from recllm.market.propensity.features import category_codes
from recllm.shop.data.catalogue import sensitive_items
from recllm.shop.data.dataset import DAY, Dataset
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
Cases: TypeAlias = pl.DataFrame
"""People for whom a day is an occasion. user and item: rows of the dataset, item null where there is none to speak of;
a person may have several. strength: of several items of a person the one with the largest comes first. chance: of the
purchase, null where the past had no such case; absent before it was measured. All other columns: what the words are
made of."""


def best_of_each(cases: Cases) -> Cases:
    """Of each person the strongest case, by person; the lower row of the catalogue where two are equally strong."""
    ordered = cases.sort("user", "strength", "item", descending=[False, True, False])
    return ordered.unique("user", keep="first", maintain_order=True)


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
    def of(cls, dataset: Dataset, states: pl.DataFrame, price_drop: float, policy: Policy) -> Shop:
        """states: as of `ItemStates.of`."""
        offered = dataset.item_index.on_offer(dataset.as_of) & ~sensitive_items(dataset.items, policy)
        return cls(dataset=dataset, states=ItemStates.of(states, dataset), price_drop=price_drop, offered=offered)

    def at(self, as_of: int) -> Shop:
        """The same shop at an earlier time. What is on offer now is taken to have been so then: of the past no
        catalogue is kept but prices and stock."""
        return replace(self, dataset=self.dataset.before(as_of), states=self.states.until(as_of))

    @property
    def now(self) -> int:
        return self.dataset.as_of

    def recent_changes(self) -> pl.DataFrame:
        """`ItemStates.latest_changes` of the last `CHANGE_DAYS` days."""
        return self.states.latest_changes().filter(pl.col("at") >= self.now - CHANGE_DAYS * DAY)

    def within(self, days: float, *actions: Action) -> pl.DataFrame:
        """user, item, at and action of the events of these kinds in the last days."""
        e = self.dataset.events
        e = e.select(np.isin(e.action, [ACTION_CODE[a] for a in actions]) & (e.at >= self.now - days * DAY))
        columns = {
            "user": e.user.astype(np.int64),
            "item": e.item.astype(np.int64),
            "at": e.at,
            "action": e.action,
        }
        return pl.DataFrame(columns)

    @property
    def is_offered(self) -> pl.Expr:
        """Whether the item of a row may be named."""
        return pl.col("item").is_in(pl.Series(np.flatnonzero(self.offered)).implode())


def is_action(action: Action) -> pl.Expr:
    return pl.col("action") == ACTION_CODE[action]


def abandoned(shop: Shop) -> Cases:
    """The latest thing that a person put into the cart, or else looked at `ABANDONED_VIEWS` times, and did not buy."""
    recent = shop.within(ABANDONED_DAYS, Action.CART, Action.VIEW, Action.PURCHASE)
    at = pl.col("at")
    last = {
        "carted": at.filter(is_action(Action.CART)).max(),
        "viewed": at.filter(is_action(Action.VIEW)).max(),
        "bought": at.filter(is_action(Action.PURCHASE)).max(),
    }
    pairs = recent.group_by(PAIR, maintain_order=True).agg(
        at.max(),
        views=is_action(Action.VIEW).sum(),
        **last,
    )
    viewed = pl.when(pl.col("views") >= ABANDONED_VIEWS).then("viewed")
    pairs = pairs.with_columns(left_at=pl.coalesce("carted", viewed), in_cart=pl.col("carted").is_not_null())
    # a person with a later event is still in the shop
    has_left = pl.col("at").max().over("user") <= shop.now - ABANDONED_HOURS * 3_600
    left = pairs.filter(pl.col("bought").fill_null(-1) < pl.col("left_at"), has_left, shop.is_offered)
    in_cart = pl.col("in_cart").cast(pl.Float64)
    days = (shop.now - pl.col("left_at")) / DAY
    return left.select(
        *PAIR,
        "views",
        strength=in_cart * 1e11 + pl.col("left_at"),
        in_cart=in_cart,
        days=days,
    )


def price_drop(shop: Shop) -> Cases:
    """Something of interest to the person whose price fell by `price_drop` at least; the largest fall comes first."""
    drops = shop.recent_changes().with_columns(strength=1 - pl.col("price") / pl.col("before"))
    drops = drops.filter(pl.col("strength") >= shop.price_drop)
    return _of_interest(shop, drops.select("item", "strength", "price", "before"))


def back_in_stock(shop: Shop) -> Cases:
    """Something of interest to the person that is for sale again."""
    back = shop.recent_changes().filter(pl.col("available") & ~pl.col("was_available"))
    days = (shop.now - pl.col("at")) / DAY
    return _of_interest(shop, back.select("item", strength=-days, days=days))


def _of_interest(shop: Shop, items: pl.DataFrame) -> Cases:
    """Who bought, carted, liked or viewed one of some items within `INTEREST_DAYS`; with the columns of the items."""
    events = shop.within(INTEREST_DAYS, Action.PURCHASE, Action.CART, Action.FAVOURITE, Action.VIEW)
    events = events.join(items, on="item", how="semi", maintain_order="left")
    pairs = events.group_by(PAIR, maintain_order=True).agg(bought=is_action(Action.PURCHASE).any())
    return pairs.filter(shop.is_offered).join(items, on="item", maintain_order="left")


def new_arrival(shop: Shop) -> Cases:
    """A new item of a type that the person bought `ARRIVAL_PURCHASES` times; the type bought most comes first."""
    codes = category_codes(shop.dataset.items, -1)
    types = pl.DataFrame({"item": np.arange(len(codes)), "type": codes}).filter(pl.col("type") >= 0)
    arrived = shop.states.arrivals().filter(pl.col("at") >= shop.now - CHANGE_DAYS * DAY, shop.is_offered)
    arrived = arrived.select("item").join(types, on="item")
    bought = shop.within(INTEREST_DAYS, Action.PURCHASE).join(types, on="item")
    likes = bought.group_by("user", "type").agg(times=pl.len()).filter(pl.col("times") >= ARRIVAL_PURCHASES)
    ever = shop.within(np.inf, Action.PURCHASE).join(arrived, on="item", how="semi")
    cases = likes.join(arrived, on="type").join(ever, on=PAIR, how="anti")
    return cases.select(*PAIR, "times", strength=pl.col("times").cast(pl.Float64))


def win_back(shop: Shop) -> Cases:
    """Who has lapsed (`recllm.shop.data.rhythm`)."""
    bought = shop.dataset.events.of(Action.PURCHASE)
    days = ShoppingDays.of(bought.user, bought.at, shop.dataset.n_users, shop.now)
    people = np.flatnonzero(days.lapsed)
    figures = {"user": people, "days": days.since[people], "usual": days.usual_gap[people]}
    return pl.DataFrame(figures).with_columns(
        item=pl.lit(None, pl.Int64), strength=pl.col("days") / pl.max_horizontal("usual", 1)
    )


def welcome(shop: Shop) -> Cases:
    """Who bought for the first time within `WELCOME_DAYS`, and never since."""
    bought = shop.within(np.inf, Action.PURCHASE)
    people = bought.group_by("user", maintain_order=True).agg(
        first=pl.col("at").min(),
        last=pl.col("at").max(),
    )
    people = people.filter(
        pl.col("last") - pl.col("first") < DAY,
        pl.col("first") >= shop.now - WELCOME_DAYS * DAY,
        # at the log's own beginning no customer is new
        pl.col("first") > pl.lit(bought["at"].min(), pl.Int64) + 28 * DAY,
    )
    days = (shop.now - pl.col("first")) / DAY
    return people.select("user", days=days, item=pl.lit(None, pl.Int64), strength=pl.lit(1.0))


Rule = Callable[[Shop], Cases]
RULES: Mapping[Occasion, tuple[Rule, str]] = {
    Occasion.ABANDONED: (abandoned, "in_cart"),
    Occasion.PRICE_DROP: (price_drop, "bought"),
    Occasion.BACK_IN_STOCK: (back_in_stock, "bought"),
    Occasion.NEW_ARRIVAL: (new_arrival, "times"),
    Occasion.WIN_BACK: (win_back, "days"),
    Occasion.WELCOME: (welcome, "days"),
}
"""Of all occasions but replenishment, which is a model's; each with the column by which chances differ: more or less of
it may make a purchase likelier."""
ABOUT_ANYTHING = (Occasion.WIN_BACK, Occasion.WELCOME)
"""Occasions whose chance is that of any purchase, and not of the item's."""


def with_items(shop: Shop, occasion: Occasion, cases: Cases) -> Cases:
    """The cases of win-back with what each person bought on most days, lately more; those of welcome with what others
    buy with the person's items, and that one as `companion`."""
    if occasion is Occasion.WIN_BACK:
        data = shop.dataset
        lapsed = np.isin(np.arange(shop.dataset.n_users), cases["user"].to_numpy())
        of_people = replace(data, events=data.events.select(lapsed[data.events.user] & shop.offered[data.events.item]))
        # a day is halved in worth every 91 days
        decayed = (-pl.col("age") / 91 * np.log(2)).exp().sum()
        pairs = purchase_days(of_people, shop.now).group_by(PAIR).agg(decayed=decayed).sort("decayed", "item")
        best = pairs.unique("user", keep="last").select(PAIR)
    elif occasion is Occasion.WELCOME and len(cases):
        best = _goes_with(shop, cases["user"].to_list())
    else:
        return cases
    return cases.drop("item").join(best, on="user", how="left", maintain_order="left")


def _goes_with(shop: Shop, people: list[int]) -> pl.DataFrame:
    """user, item and companion: for each of these people the offered item that goes best with one of theirs
    (`features.together`), and that one."""
    items, bought = shop.dataset.items, shop.dataset.events.of(Action.PURCHASE)
    together = bought_together(bought, len(items), category_codes(items, -1))
    name, rows = name_codes(items), []
    for person in people:
        first_rows = np.unique(bought.item[bought.indptr[person] : bought.indptr[person + 1]])
        pairs = together[first_rows].tocoo()
        usable = shop.offered[pairs.col] & ~np.isin(name[pairs.col], name[first_rows])
        source, target, z = first_rows[pairs.row[usable]], pairs.col[usable], pairs.data[usable]
        if len(z):
            best = np.lexsort((target, -z))[0]
            rows.append((person, int(target[best]), int(source[best])))
    return pl.DataFrame(rows, schema=dict.fromkeys((*PAIR, "companion"), pl.Int64), orient="row")


def replenish(shop: Shop, model: ReplenishmentModel) -> Cases:
    """What is due again, first what a person is likelier to buy than its other repeat buyers; not what they have since
    bought in another size."""
    is_due = (pl.col("since_over_median") >= DUE_SHARE) & (pl.col("gap_median") >= DUE_INTERVAL_DAYS)
    pairs, days = repurchase_pairs(shop.dataset, shop.now), purchase_days(shop.dataset, shop.now)
    line = title_codes(shop.dataset.items["title"], sizes=False)
    pairs = pairs.with_columns(figures_among(days, pairs, line, "line"))
    pairs = pairs.filter(is_due, shop.is_offered, pl.col("line_after") == 0)
    chance = pl.Series("chance", model.probability(pairs), pl.Float64)
    cases = pairs.with_columns(chance).select(
        *PAIR,
        "chance",
        strength=pl.col("chance") - pl.col("repeaters_lately_7"),
        times="days",
        every="gap_median",
        days="since",
    )
    return cases.filter(pl.col("chance") >= DUE_PROBABILITY)


def past_chances(shop: Shop, occasion: Occasion, cases: Cases) -> Cases:
    """The cases with their chance: the share of past ones, strongest of each person, that bought the item, or anything,
    within `HORIZON_DAYS` days.

    Cases of the last `PAST_WEEKS` weeks, from `MIN_GRADED` of them on in four parts by their grade, each with a beta
    prior of one half and one half (Jeffreys).
    """
    (rule, graded_by), key = RULES[occasion], ["user"] if occasion in ABOUT_ANYTHING else list(PAIR)
    bought, past = shop.within(np.inf, Action.PURCHASE), []
    first = shop.dataset.events.at.min(initial=shop.now)
    for week in range(1, PAST_WEEKS + 1):
        start = shop.now - week * HORIZON_DAYS * DAY
        if start <= first:
            break
        is_within = pl.col("at").is_between(start, start + HORIZON_DAYS * DAY, closed="left")
        hits = bought.filter(is_within).select(*key, hit=pl.lit(True)).unique()
        of_week = best_of_each(rule(shop.at(start))).select(*key, grade=pl.col(graded_by).cast(pl.Float64))
        past.append(of_week.join(hits, on=key, how="left"))
    if not any(map(len, past)):
        return cases.with_columns(chance=pl.lit(None, pl.Float64))
    grade, hit = pl.concat(past)["grade"].to_numpy(), pl.concat(past)["hit"].is_not_null().to_numpy()
    edges = np.unique(np.quantile(grade, (0.25, 0.5, 0.75))) if len(grade) >= MIN_GRADED else np.zeros(0)
    quarter = np.searchsorted(edges, grade)
    n_cases, n_hits = (np.bincount(quarter, weight, len(edges) + 1) for weight in (None, hit.astype(np.float64)))
    rate = (n_hits + 0.5) / (n_cases + 1)
    return cases.with_columns(chance=pl.Series(rate[np.searchsorted(edges, cases[graded_by].cast(pl.Float64))]))
