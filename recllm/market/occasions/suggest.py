"""What a shop could write about: the occasions of today with their people, the coming days of the calendar with
their goods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from itertools import zip_longest

import numpy as np
import polars as pl

from recllm.base.arrays import Mask
from recllm.base.documents import plain
from recllm.base.errors import PolicyError, UsageError
from recllm.base.questions import SearchRequest
from recllm.base.schema import Action, Occasion
from recllm.base.words.sentences import section
from recllm.base.words.words import Figure
from recllm.market.adcopy.lexicon import fold, table
from recllm.market.adcopy.naming import name_and_size, written_out
from recllm.market.occasions.calendar import (
    CalendarDay,
    ComingDay,
    day_words,
    is_of_other_day,
    named_days,
    profile_of,
    season_lifts,
    upcoming_days,
)
from recllm.market.occasions.day import cases_of, open_shop_at, reachable_on
from recllm.market.occasions.detect import Shop
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.search import VECTORS, search
from recllm.shop.data.catalogue import SENSITIVE_TARGET, in_category, known_rows, sensitive_items
from recllm.shop.data.dataset import USER_COLUMN, Dataset, utc
from recllm.shop.data.rhythm import ShoppingDays
from recllm.shop.workspace.workspace import Workspace, present
from recllm.text.encoder.batches import encode_once
from recllm.text.word_index import WordIndex, terms_of

THEME_WEIGHT = 3.0
"""Of the nearest by meaning against those by words: a text is more often "a winter breakfast" than a name."""
WIDER = 6
"""Multiple of the wanted items that is searched: sizes of one item count once."""
MOST_GOODS = 20
"""Goods of a day, each with texts of its own."""
BUYER_DAYS = 365
"""Messages for a day go to those who bought within these days."""


class GoodsSource(StrEnum):
    """How the goods of a day are known."""

    SALES = "sales"
    """They sold more before the day in earlier years, or are named after it."""
    TEXT = "text"
    """They are gifts, or what else people buy for it, by their names or categories."""
    NONE = "none"


def goods_of_day(workspace: Workspace, dataset: Dataset, coming: ComingDay) -> tuple[tuple[str, ...], GoodsSource]:
    """Ids of goods on offer of no sensitive category that name no other day, the strongest first; of those that differ
    in size alone that one. Everyday goods are none: where nothing is known of the day, the shop chooses."""
    items = dataset.items
    titles = items["title"].fill_null("")
    texts = (titles + " > " + items["category"].list.join(" > ").fill_null("")).str.to_lowercase().to_list()
    named = [named_days(text) for text in texts]
    kinds = day_words("kinds").get(coming.day)
    is_of_kind = np.array([kinds is not None and kinds.search(text) is not None for text in texts], bool)
    is_named = np.array([coming.day in days for days in named], bool)
    is_of_other = np.array([is_of_other_day(days, coming.day) for days in named], bool)
    offered = dataset.item_index.on_offer(dataset.as_of) & ~sensitive_items(items, workspace.policy) & ~is_of_other
    lifts = season_lifts(dataset, coming, workspace.settings)
    n_bought = np.bincount(dataset.events.of(Action.PURCHASE).item, minlength=dataset.n_items)
    order = np.lexsort((-n_bought, -lifts))
    for source, is_of_day in ((GoodsSource.SALES, is_named | (lifts > 0)), (GoodsSource.TEXT, is_of_kind)):
        rows = order[(is_of_day & offered)[order]].tolist()
        names = [name_and_size(written_out(title))[0] for title in titles.gather(rows)]
        kept_rows = [row for n, row in enumerate(rows) if names.index(names[n]) == n]
        if kept_rows:
            return tuple(items["item_id"].gather(kept_rows[:MOST_GOODS]).to_list()), source
    return (), GoodsSource.NONE


def goods_note(n: int, source: GoodsSource, name: str) -> str:
    """How the n goods of a day were found, in words."""
    return section("campaigns.goods", "en")[source].format(n=Figure(n), name=name)


def send_time(workspace: Workspace, coming: ComingDay) -> datetime | None:
    """When messages for a day go out: some days before it; None for now."""
    on = coming.on - timedelta(days=profile_of(coming.day, workspace.settings).write_before)
    send = datetime.combine(on, time(9), workspace.settings.zone)
    return send if send > utc(present(workspace)) else None


def fitting_items(recommender: Recommender, text: str, category: str | None, *, limit: int) -> list[str]:
    """Ids of the items on offer that fit the text best by meaning and by words, of one category where it is named; only
    of those that hold all of its words, where some do: no mask for "face cream". Of things that differ in size alone
    the best one is there before any other has a second.

    Raises `UsageError` where none fits, `PolicyError` for a sensitive text.
    """
    if recommender.policy.is_sensitive((*(category or "").split(">"), text)):
        raise PolicyError(SENSITIVE_TARGET)
    data = recommender.dataset
    query = words_that_name(text)
    vectors = encode_once(recommender.encoder, [query], kind="query")
    exclude: tuple[str, ...] = ()
    if category is not None:
        outside = ~np.asarray(in_category(data.items, category))
        exclude = tuple(data.items["item_id"].gather(np.flatnonzero(outside)).to_list())
    request = SearchRequest(query=query, k=WIDER * limit, exclude=exclude)
    slate = search(recommender, WordIndex.of(data.items), request, vectors[0], vectors_weight=THEME_WEIGHT)
    if not slate.items:
        where = f" in the category {category!r}" if category else ""
        raise UsageError(f"no item on offer fits the text {text!r}{where}; name items or a category instead")
    rows = known_rows(data, [item.item_id for item in slate.items]).tolist()
    categories = data.items["category"].gather(rows).to_list()
    asked_terms = set(terms_of(query))
    pairs = zip(slate.items, categories, strict=True)
    holding = [item for item, names in pairs if asked_terms <= {*terms_of(" ".join((item.title, *(names or ()))))}]
    items = holding or slate.items
    names = [name_and_size(written_out(item.title))[0] for item in items]
    is_twin = [names.index(name) < position for position, name in enumerate(names)]
    order = sorted(range(len(names)), key=lambda n: (VECTORS not in items[n].served_by, is_twin[n]))
    return [items[n].item_id for n in order[:limit]]


def words_that_name(text: str) -> str:
    """A text without the words that only join others: "something for a picnic" would find "sauce for pasta"."""
    joining = set(str(table("neutral.en.toml")["function"]).split())
    return " ".join(word for word in text.split() if fold(word).strip(".,") not in joining) or text


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedPerson:
    """One customer of a suggestion; None where the past does not say."""

    user_id: str
    item_id: str | None
    days_since: float | None
    """Days since their last purchase."""
    usual_days: float | None
    """Median days between two of their shopping days."""
    probability: float | None
    """Of a purchase within seven days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OccasionSuggestion:
    """An occasion of today, or a day of the calendar that comes."""

    occasion: Occasion | CalendarDay
    people: tuple[SuggestedPerson, ...]
    """The likeliest first."""
    item_ids: tuple[str, ...]
    """The item of most people first; of a day its goods."""
    coming: ComingDay | None = None
    """Of a day of the calendar."""
    source: GoodsSource = GoodsSource.NONE


def suggest(workspace: Workspace) -> list[OccasionSuggestion]:
    """The days of the calendar that come, the next one first, and the occasions of now, that of most customers first.

    Who gets no message now is left out, see `reachable_on`. Learns when things are due, where no model of
    that is there yet. Raises `DataError` for a log without times.
    """
    shop = open_shop_at(workspace, present(workspace))
    item_ids = shop.dataset.items["item_id"]
    reachable, lately, days = customers_of(workspace, shop)
    suggestions = []
    for occasion, found_cases in cases_of(workspace, shop, tuple(Occasion))[0].items():
        cases = found_cases.filter((reachable & ~lately)[found_cases["user"].to_numpy()])
        cases = cases.sort(pl.col("chance").fill_null(0.0), "user", descending=[True, False])
        rows, counts = np.unique(cases["item"].drop_nulls().to_numpy(), return_counts=True)
        by_people = item_ids.gather(rows[np.argsort(-counts, kind="stable")]).to_list()
        people = suggested_people(shop, days, *(cases[column].to_list() for column in ("user", "item", "chance")))
        suggestions.append(OccasionSuggestion(occasion=occasion, people=people, item_ids=tuple(by_people)))
    of_now = sorted((s for s in suggestions if s.people), key=lambda s: -len(s.people))
    return [*coming_days(workspace, shop, reachable, days), *of_now]


def coming_days(
    workspace: Workspace,
    shop: Shop,
    reachable: Mask,
    days: ShoppingDays,
) -> list[OccasionSuggestion]:
    """The days of the calendar that come, the next one first, with its goods and all who may be written to and bought
    within `BUYER_DAYS`, the latest buyers first. reachable, days: see `customers_of`."""
    today = utc(shop.now).astimezone(workspace.settings.zone).date()
    since = np.where(reachable, days.since, np.inf)
    latest = np.argsort(since, kind="stable")[: int((since <= BUYER_DAYS).sum())]
    people = suggested_people(shop, days, latest.tolist())
    in_order = upcoming_days(workspace.settings, today) if people else []
    goods = [(coming, *goods_of_day(workspace, shop.dataset, coming)) for coming in in_order]
    return [
        OccasionSuggestion(occasion=coming.day, people=people, item_ids=item_ids, coming=coming, source=source)
        for coming, item_ids, source in goods
    ]


def customers_of(workspace: Workspace, shop: Shop) -> tuple[Mask, Mask, ShoppingDays]:
    """Who may get a message, (n_users,), who got one lately, and when each shops."""
    data = shop.dataset
    _, masks = reachable_on(workspace, data)
    lately = masks.pop("contacted_lately")
    reachable = ~np.logical_or.reduce(list(masks.values()))
    bought = data.events.of(Action.PURCHASE)
    return reachable, lately, ShoppingDays.of(bought.user, bought.at, data.n_users, shop.now)


def suggested_people(
    shop: Shop,
    days: ShoppingDays,
    user_rows: Sequence[int],
    items: Sequence[int | None] = (),
    chances: Sequence[float | None] = (),
) -> tuple[SuggestedPerson, ...]:
    """items: rows of the catalogue."""
    ids, item_ids = shop.dataset.users[USER_COLUMN].to_list(), shop.dataset.items["item_id"]
    return tuple(
        SuggestedPerson(
            user_id=ids[user],
            item_id=None if item is None else item_ids[item],
            days_since=plain(float(days.since[user])),
            usual_days=plain(float(days.usual_gap[user])),
            probability=chance,
        )
        for user, item, chance in zip_longest(user_rows, items, chances)
    )
