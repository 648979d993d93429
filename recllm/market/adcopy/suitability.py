"""Which items do not suit a customer: what they have and need once, sizes that another one has replaced, and things
made for others than they buy for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import polars as pl

from recllm.base.arrays import Ints, Mask
from recllm.base.schema import Action, Intent
from recllm.learn.features.collaborative import ItemStatistics
from recllm.market.adcopy.frames import REGRET_DAYS, is_kept, is_used_up
from recllm.market.adcopy.lexicon import WEARERS, pattern, wearer_of
from recllm.market.adcopy.naming import animals_in, goods_of
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.catalogue import PRIOR_BUYERS
from recllm.shop.data.dataset import DAY, Events
from recllm.shop.data.interactions import Pairs, Tally, padded
from recllm.text.domains import SHOP, domain_of

LEAST_EXPECTED, RARE_SHARE = 2.5, 0.25
"""Buyers expected back by the shop's mean, and the share of these that is too few."""
DEAR, DEAR_BUYERS = 3, 2
"""Times the shop's median price, and buyers none of whom came back: one purchase is enough."""
DEAR_DAYS = 3 * 365
"""For so long the buyer of a dear thing that stays needs no other of its category."""


@dataclass(frozen=True, eq=False)
class Suitability:
    """Whom the items of a recommender suit, as the intent of an offer asks."""

    recommender: Recommender
    intent: Intent = Intent.MIXED
    gifts: bool = False
    """What is offered is for others, too."""

    @cached_property
    def names(self) -> list[tuple[str, ...]]:
        """Title and categories of each item."""
        items = self.recommender.dataset.items
        return [(title or "", *(path or ())) for title, path in items.select("title", "category").iter_rows()]

    @cached_property
    def wearer(self) -> Ints:
        """For whom each item is made, (n_items,): 0 for all, else 1 and on as in `WEARERS`."""
        texts = pl.Series(map(" > ".join, self.names), dtype=pl.String).str.to_lowercase()
        # few of a large catalogue
        named = texts.str.contains(pattern("naming.wearers").pattern).arg_true()
        wearers = ("", *WEARERS)
        codes = np.zeros(len(texts), np.int64)
        codes[named] = [wearers.index(wearer_of(self.names[item])) for item in named]
        return codes

    @cached_property
    def codes(self) -> dict[str, Ints]:
        """Of each item its title, that without sizes, and its narrowest category, (n_items,) each; 0 for none."""
        titles = self.recommender.dataset.items["title"]
        category = self.recommender.population.facets.type
        return {
            "title": title_codes(titles),
            "line": title_codes(titles, sizes=False),
            "category": category.astype(np.int64) + 1,
        }

    @cached_property
    def comes_back(self) -> list[bool | None]:
        return repurchased(self.recommender.population.stats, self.codes["category"])

    def unsuited(self, histories: Events, pairs: Pairs) -> Mask:
        """Pairs of n customers, whose histories these are, and items that do not suit them, (n_pairs,)."""
        bought = histories.of(Action.PURCHASE)
        has_it = self.has_it(bought, pairs)
        if self.gifts:
            return has_it
        counts = np.zeros((len(bought.indptr) - 1, len(WEARERS) + 1), np.int64)
        np.add.at(counts, (bought.user, self.wearer[bought.item]), 1)
        wearer = self.wearer[pairs.item]
        buys_for_adults = counts[:, 1:3].sum(axis=1) > 0
        is_for_others = (wearer > 0) & (counts[pairs.user, wearer] == 0)
        return np.asarray(has_it | (is_for_others & buys_for_adults[pairs.user]))

    def has_it(self, bought: Events, pairs: Pairs) -> Mask:
        """Pairs of an item that the customer has; a dear thing also stands for others of its category."""
        user, item, n_keys = pairs.user, pairs.item, len(self.names) + 1
        title, line, category = self.codes.values()
        of_title = Tally.of(bought.user, title[bought.item], n_keys)
        of_line = Tally.of(bought.user, line[bought.item], n_keys)
        row = of_title.find(user, title[item])
        first = padded(of_title.smallest(bought.at), 0)[row]
        last = padded(of_title.largest(bought.at), 0)[row]
        last_of_line = padded(of_line.largest(bought.at), 0)[of_line.find(user, line[item])]
        is_owned = (row < len(of_title.keys)) & (title[item] > 0)
        mask = is_owned & (line[item] > 0) & (last_of_line > last)
        is_of_shop = domain_of(self.recommender.locale) == SHOP
        if self.intent in (Intent.REMIND, Intent.WIN_BACK) or not is_of_shop:
            return mask
        as_of = self.recommender.dataset.as_of
        dear = is_dear(self.recommender.population.stats) & (category > 0)
        is_of_dear = dear[bought.item] & (bought.at >= as_of - DEAR_DAYS * DAY)
        of_dear = bought.select(is_of_dear)
        owned_kinds = Tally.of(of_dear.user, category[of_dear.item], n_keys)
        has_alike = owned_kinds.occurs(user, category[item]) & dear[item] & ~is_owned
        is_once = is_owned & (last - first < DAY)
        is_recent = last >= as_of - REGRET_DAYS * DAY
        for n in np.flatnonzero(~mask & (is_once | has_alike)).tolist():
            mask[n] = is_enough(
                self.names[item[n]],
                self.comes_back[item[n]],
                is_once=bool(is_once[n]),
                is_recent=bool(is_recent[n]),
                gifts=self.gifts,
            )
        return mask


@lru_cache(maxsize=1 << 16)
def is_enough(
    names: tuple[str, ...],
    comes_back: bool | None,
    *,
    is_once: bool,
    is_recent: bool,
    gifts: bool,
) -> bool:
    """Whether a customer needs no such item: they bought it once, or another dear thing of its category.
    Of tents a household has one, and of coats several."""
    goods = goods_of(names)
    if not is_once:
        return "durable" in goods and "apparel" not in goods and not comes_back
    is_for_day = gifts and "seasonal" in goods
    is_needed = is_used_up(goods, comes_back) and not is_recent
    stays = is_kept(goods, comes_back, is_recent)
    return stays and not (is_for_day or is_needed)


def title_codes(titles: pl.Series, *, sizes: bool = True) -> Ints:
    """A number for each title, if need be without sizes, (n_items,); 0 for none."""
    names = titles.str.to_lowercase()
    names = names if sizes else names.str.replace_all(pattern("naming.sizes_of_line").pattern, "")
    names = names.str.replace_all(r"\s+", " ").str.strip_chars().replace("", None)
    return names.rank("dense").fill_null(0).to_numpy().astype(np.int64)


def item_codes(catalogue: pl.DataFrame, broad: Collection[tuple[str, ...]] = ()) -> Mapping[str, Ints]:
    """What makes items one thing to a customer: title, narrowest category, brand; each (n,).
    broad: paths of categories that hold most of what is bought, and say nothing of a customer."""
    keys = catalogue.select(
        title=pl.col("title").str.strip_chars().str.to_lowercase().replace("", None),
        category=pl.col("category").list.join("\x1f").replace(dict.fromkeys(["", *map("\x1f".join, broad)])),
        brand=pl.col("brand").str.to_lowercase(),
    )
    titles = keys["title"].drop_nulls().unique().to_list()
    animals = {title: " ".join(sorted(animals_in(title))) for title in titles}
    of_title = pl.col("title").replace_strict(animals, default="", return_dtype=pl.String)
    keys = keys.with_columns(animals=of_title)
    named = pl.col("animals").replace("", None).drop_nulls()
    of_several = named.n_unique().over("category") > 1
    of_animal = pl.concat_str("category", "animals", separator="\x1f")
    category = pl.when(of_several).then(of_animal).otherwise("category")
    keys = keys.with_columns(category=category)
    return {name: _codes(keys[name]) for name in ("title", "category", "brand")}


def is_dear(stats: ItemStatistics) -> Mask:
    """Items of `DEAR` times the shop's median price, (n_items,)."""
    prices = stats.log_price[np.isfinite(stats.log_price)]
    return np.asarray(stats.log_price > (np.median(prices) + np.log(DEAR) if len(prices) else np.inf))


def repurchased(stats: ItemStatistics, category: Ints) -> list[bool | None]:
    """Whether customers come back for each item, or others of its category unless it is dear and none came back for
    itself; None where unknown. category: its code, (n_items,), below 0 for none."""
    mean, buyers = stats.mean_repeat_rate, stats.buyers_ever.astype(np.float64)
    returned = np.rint(stats.repeat_rate * (buyers + PRIOR_BUYERS) - mean * PRIOR_BUYERS)
    code = np.maximum(category, 0)
    of_category = [np.where(code > 0, np.bincount(code, n)[code], 0) for n in (returned, buyers)]
    is_seen, is_rare = np.zeros(len(code), bool), is_dear(stats) & (returned == 0) & (buyers >= DEAR_BUYERS)
    for n_returned, n_buyers in ((returned, buyers), of_category):
        is_seen |= n_returned > 0
        is_rare |= (n_buyers * mean >= LEAST_EXPECTED) & (n_returned < RARE_SHARE * mean * n_buyers)
    pairs = zip(is_rare.tolist(), is_seen.tolist(), strict=True)
    return [False if rare else bought or None for rare, bought in pairs]


def _codes(keys: pl.Series) -> Ints:
    """One number for each key; a number of its own for each null."""
    codes = keys.rank("dense").cast(pl.Int64).fill_null(0).to_numpy().copy()
    missing = np.flatnonzero(codes == 0)
    codes[missing] = -1 - missing
    return codes
