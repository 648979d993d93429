"""What the scorer sees of a (person, item) pair besides the vectors.

`pair_features` is a pure function of people and pairs. Everything about the person comes from the histories handed in,
everything about the crowd from the population. Counts, days and amounts enter as log(1 + x).
A value that cannot be known (no price, no category, never bought) has the neutral value named in `FEATURES`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recllm.base.arrays import Array, Floats, Ints, Values
from recllm.base.schema import ACTION_CODE, BROWSING, Action
from recllm.learn.features.collaborative import LONG_WINDOW_DAYS, SHORT_WINDOW_DAYS, WINDOW_DAYS, UserBatch
from recllm.learn.features.group_features import (
    GROUP_FEATURES,
    LIFT_LIMIT,
    NEVER_DAYS,
    OVERDUE_LIMITS,
    Columns,
    dealings,
    group_columns,
    groupings_of,
    overdue,
)
from recllm.shop.data.catalogue import GROUPINGS
from recllm.shop.data.dataset import DAY
from recllm.shop.data.interactions import Pairs, Tally, decay, of_actions, padded, visits

BROWSING_HALF_LIFE_DAYS = 14.0  # of an event in the features of views: such wishes are short-lived
NOVELTY_WINDOW_DAYS = 56.0  # a user's share of first purchases is counted in it
PRICE_GAP_LIMIT = 3.0  # of log ratios of a price to the user's usual one
PRICE_CHANGE_LIMIT = 2.0  # of log ratios of today's price to the item's usual one
ITEM_ITEM_LIMITS = (-1.0, 3.0)  # of the scores of what goes with what
TEXT_ITEMS = 100  # heaviest items of a user whose texts are compared with an item's

FEATURES: Mapping[str, str] = {
    # the person's own dealings with the item
    "times": "log(1 + occasions on which the person took the item); 0 never",
    "count_120": "log(1 + those occasions decayed with half-life 120 days); 0 never",
    "count_30": "the same, half-life 30 days",
    "count_10": "the same, half-life 10 days",
    "days_since": "log(1 + days since the person last took it); log(731) never",
    "days_since_first": "log(1 + days since the person first took it); log(731) never",
    "visits_since": "log(1 + shopping trips since the one on which the person last took it); log(1 + all trips) never",
    "visit_rate": "share of the trips since the first time on which the person took it, [0, 1]; 0 never",
    "overdue": "log of days since last time over the person's mean interval, [-4, 2]; 0 below two times",
    "interval": "log(1 + mean days between the person's occasions); 0 below two times",
    "quantity": "log(1 + units per occasion); 0 never",
    # people alike, and items bought by the same people
    "neighbours_recent": "weighted share of the nearest people who took it in the last 28 days, log(1 + 100 x)",
    "neighbours_decayed": "the same with purchases decayed over 120 days, log(1 + 100 x)",
    "neighbours_lift": "neighbours_recent against the share of everybody, log ratio, [-4, 4]; 0 where no one took it",
    "item_item": "EASE score of the item from the person's items of late (half-life 120 days), clipped to [-1, 3]",
    # the item in the crowd
    "buyers_7": "log(1 + distinct buyers in the last 7 days), of an item that is new what a second week confirms",
    "buyers_28": "log(1 + distinct buyers in the last 28 days)",
    "buyers_91": "log(1 + distinct buyers in the last 91 days)",
    "buyers_ever": "log(1 + distinct buyers ever)",
    "trend": "log of (4 x buyers in 7 days + 1) over (buyers in 28 days + 1)",
    "trend_long": "log of (3.25 x buyers in 28 days + 1) over (buyers in 91 days + 1)",
    "repeat_rate": "share of the item's buyers who came back for it, [0, 1]",
    "item_days_since_sold": "log(1 + days since anybody took it); 0 never sold",
    "item_age": "log(1 + days since anybody first took it); 0 never sold",
    "type_share": "the item's share of its type's buyers in the last 28 days, [0, 1]; 0 without a type",
    # prices
    "price": "log(1 + unit price); 0 unknown",
    "price_gap": "that minus the person's mean of it, [-3, 3]; 0 unknown",
    "price_gap_type": "that minus the person's mean in the item's category, [-3, 3]; 0 unknown",
    "price_now": "log ratio of the last 14 days' price to the usual one; below 0 is cheaper lately",
    # the item's groups
    **GROUP_FEATURES,
    # the person
    "visits": "log(1 + shopping trips)",
    "visits_28": "log(1 + trips in the last 28 days)",
    "days_since_visit": "log(1 + days since the last trip); log(731) never",
    "items": "log(1 + distinct items taken)",
    "events": "log(1 + events of any kind)",
    "novelty": "share of the last 56 days' (person, item) pairs that were first times, [0, 1]; 0.5 unknown",
    # text
    "text_nearest": "largest cosine of the item's text with the person's 100 heaviest other items', [0, 1]; 0 none",
    "text_set": "their weighted mean of cosine to the eighth power, [0, 1]; 0 none",
    # the sequence
    "interest": "logit of the item as the next new thing by the sequence model; 0 without one",
    # browsing
    "views": "log(1 + browsing events on the item decayed with half-life 14 days)",
    "days_since_view": "log(1 + days since the last of them); log(731) never",
    "carted": "1 if put in the cart since it was last taken, else 0",
    "favourite": "1 if marked as a favourite, else 0",
    "type_views": "share of the person's decayed browsing in the item's type, [0, 1]",
}
"""Name and meaning of each column of `pair_features`, in order."""

FEATURE_NAMES: tuple[str, ...] = tuple(FEATURES)

SALES = "buyers_ever"
"""The feature that is 0 for an item that never sold."""

HISTORY = "events"
"""The feature that is 0 for a person who has done nothing yet."""

NEWCOMER_FEATURES = ("buyers_28", "neighbours_recent", "neighbours_lift")
"""What the score reads of a person who has done nothing yet: how an item sells, and how it sells to people alike. More
of an item's own features separated the past windows and were worse in the next one (`eval/LOG.md`)."""

_SOLD_KIND = (
    "type_times",
    "type_affinity",
    "type_days_since",
    "type_overdue",
    "type_items",
    "type_loyalty",
    "type_lately",
    "type_arrival_rate",
    "category_affinity",
    "category_days_since",
    "category_items",
    "brand_affinity",
)
SOLD_FEATURES: tuple[str, ...] = tuple(n for n in FEATURES if n in _SOLD_KIND or n not in GROUP_FEATURES)
"""What the score of an item reads that sold before. Its own sales tell most; reading all groups as well made no
difference beyond chance on Complete Journey (`eval/LOG.md`)."""

TIMED = frozenset(
    {
        "neighbours_recent",
        "neighbours_lift",
        "buyers_7",
        "buyers_28",
        "buyers_91",
        "trend",
        "trend_long",
        "item_days_since_sold",
        "item_age",
        "type_share",
        "type_lately",
        "type_arrival_rate",
        "price_now",
        "novelty",
    }
)
"""Features that compare times of different people: they say nothing where a log knows only each person's order."""


def pair_features(users: UserBatch, pairs: Pairs, *, narrow: bool = False) -> Floats:
    """Float32 (n_pairs, len(FEATURE_NAMES)), finite, in the order of `pairs`.

    narrow: of items that sold before only `SOLD_FEATURES`, and 0 in the other columns, which the scorer does not read
    there; it spares most of the work on groups.
    """
    population, n_pairs = users.population, len(pairs.item)
    never_sold = np.flatnonzero(population.stats.buyers_ever[pairs.item] == 0)
    narrow = narrow and len(never_sold) < n_pairs
    groups, of_never_sold = _narrow_groups(users, pairs, never_sold) if narrow else (group_columns(users, pairs), {})
    columns: Columns = {
        **_own(users, pairs),
        **_alike(users, pairs),
        **_crowd(users, pairs),
        **_prices(users, pairs),
        **groups,
        **_person(users, pairs),
        **_text(users, pairs),
        **_browsing(users, pairs),
        "interest": np.zeros(n_pairs, np.float32),
    }
    if population.interests is not None and users.interests is not None:
        columns["interest"] = population.interests.score(users.interests, pairs)
    table = np.zeros((n_pairs, len(FEATURE_NAMES)), np.float32)
    numbers = {name: number for number, name in enumerate(FEATURE_NAMES)}
    for start in range(0, n_pairs, 1024):  # some rows at a time, so that they are written while in the cache
        rows = slice(start, start + 1024)
        for name, column in columns.items():
            table[rows, numbers[name]] = column[rows]
    for name, column in of_never_sold.items():
        table[never_sold, numbers[name]] = column
    return table


def _narrow_groups(users: UserBatch, pairs: Pairs, never_sold: Ints) -> tuple[Columns, Columns]:
    """The groups' columns in `SOLD_FEATURES`, and the others of the pairs `never_sold` alone, of which only they are
    read."""
    sold_groupings = groupings_of(_SOLD_KIND)
    accounts = dealings(users, sold_groupings, pairs.item)
    columns = group_columns(users, pairs, _SOLD_KIND, accounts)
    if not len(never_sold):
        return columns, {}
    mask = np.zeros(len(pairs.item), bool)
    mask[never_sold] = True
    arrivals = pairs.select(mask)
    others = [name for name in GROUPINGS if name not in sold_groupings]
    accounts |= dealings(users, others, arrivals.item)
    return columns, group_columns(users, arrivals, set(GROUP_FEATURES) - set(_SOLD_KIND), accounts)


def pair_cosine(users: UserBatch, pairs: Pairs) -> Floats:
    cosines = np.zeros(len(pairs.item), np.float32)
    for user, vector in enumerate(users.vectors.user):
        span = slice(pairs.indptr[user], pairs.indptr[user + 1])
        cosines[span] = users.population.item_vectors[pairs.item[span]] @ vector
    return cosines


def _log(value: Array) -> Array:
    return np.asarray(np.log1p(np.maximum(value, 0)))


def _own(users: UserBatch, p: Pairs) -> Columns:
    purchases, tally = users.purchases, users.owned
    row = tally.find(p.user, p.item)
    times = tally.total()
    days = (users.as_of - tally.largest(purchases.at)) / DAY
    first = (users.as_of - tally.smallest(purchases.at)) / DAY
    ordinal, trips = visits(purchases)
    since = trips[tally.user] - 1 - tally.largest(ordinal)
    rate = times / np.maximum(trips[tally.user] - tally.smallest(ordinal), 1)
    interval = (first - days) / np.maximum(times - 1, 1)
    columns = {
        "times": padded(_log(times), 0)[row],
        "days_since": _log(padded(days, NEVER_DAYS)[row]),
        "days_since_first": _log(padded(first, NEVER_DAYS)[row]),
        "visits_since": _log(np.where(row < len(times), padded(since, 0)[row], trips[p.user])),
        "visit_rate": padded(rate, 0)[row],
        "overdue": padded(overdue(days, interval, times, OVERDUE_LIMITS), 0)[row],
        "interval": padded(np.where(times > 1, _log(interval), 0), 0)[row],
        "quantity": padded(_log(tally.total(purchases.quantity) / np.maximum(times, 1)), 0)[row],
    }
    for half_life in (120, 30, 10):
        columns[f"count_{half_life}"] = padded(_log(tally.total(decay(purchases.at, users.as_of, half_life))), 0)[row]
    return columns


def _alike(users: UserBatch, p: Pairs) -> Columns:
    population = users.population
    sold, nothing = population.stats.buyers_ever[p.item].any(), np.zeros(len(p.item), np.float32)
    recent = users.neighbour_recent.at(p.item, p) if sold else nothing
    decayed = users.neighbour_decayed.at(p.item, p) if sold else nothing
    item_item = users.item_item.at(p.item, p) if sold else nothing
    everybody = population.stats.buyers_28[p.item] / max(len(population.pool), 1)
    lift = np.log((recent + 1e-3) / (everybody + 1e-3))
    return {
        "neighbours_recent": np.log1p(100 * recent),
        "neighbours_decayed": np.log1p(100 * decayed),
        "neighbours_lift": np.clip(lift, -LIFT_LIMIT, LIFT_LIMIT),
        "item_item": np.clip(item_item, *ITEM_ITEM_LIMITS),
    }


def _crowd(users: UserBatch, p: Pairs) -> Columns:
    s, item = users.population.stats, p.item
    buyers_7, buyers_28, buyers_91 = s.buyers_7[item], s.buyers_28[item], s.buyers_91[item]
    is_young, confirmation_days = users.population.arrived.young[item], users.population.settings.confirmation_days
    is_unconfirmed = is_young & (s.days_since_arrival[item] < confirmation_days)
    buyers_7 = np.where(is_unconfirmed, np.minimum(buyers_7, s.buyers_7_before[item]), buyers_7)
    return {
        "buyers_7": _log(buyers_7),
        "buyers_28": _log(buyers_28),
        "buyers_91": _log(buyers_91),
        "buyers_ever": _log(s.buyers_ever[item]),
        "trend": np.log((WINDOW_DAYS / SHORT_WINDOW_DAYS * buyers_7 + 1) / (buyers_28 + 1)),
        "trend_long": np.log((LONG_WINDOW_DAYS / WINDOW_DAYS * buyers_28 + 1) / (buyers_91 + 1)),
        "repeat_rate": s.repeat_rate[item],
        "item_days_since_sold": _log(s.days_since_sold[item]),
        "item_age": _log(s.days_since_arrival[item]),
        "type_share": s.type_share[item],
    }


def _prices(users: UserBatch, p: Pairs) -> Columns:
    population, s, purchases = users.population, users.population.stats, users.purchases
    price = s.log_price[p.item]
    paid = np.where(np.isfinite(purchases.price), np.log1p(np.maximum(purchases.price, 0)), s.log_price[purchases.item])
    priced = np.isfinite(paid)
    count = np.bincount(purchases.user[priced], minlength=users.n)
    mean = np.bincount(purchases.user[priced], paid[priced], minlength=users.n) / np.maximum(count, 1)
    gap = np.where(count[p.user] > 0, price - mean[p.user], 0)
    group = population.facets.category
    is_usable = priced & (group[purchases.item] >= 0)
    tally = Tally.of(purchases.user[is_usable], group[purchases.item[is_usable]], int(group.max(initial=0)) + 1)
    category_mean = tally.total(paid[is_usable]) / np.maximum(tally.total(), 1)
    category_gap = price - padded(category_mean, np.nan)[tally.find(p.user, group[p.item])]
    limit, change_limit = PRICE_GAP_LIMIT, PRICE_CHANGE_LIMIT
    return {
        "price": np.nan_to_num(price),
        "price_gap": np.clip(np.nan_to_num(gap), -limit, limit),
        "price_gap_type": np.clip(np.nan_to_num(category_gap), -limit, limit),
        "price_now": np.clip(s.price_now[p.item], -change_limit, change_limit),
    }


def _person(users: UserBatch, p: Pairs) -> Columns:
    purchases, owned = users.purchases, users.owned
    late = purchases.select(purchases.at >= users.as_of - WINDOW_DAYS * DAY)
    last = np.full(users.n, users.as_of - int(NEVER_DAYS * DAY))
    full = np.diff(purchases.indptr) > 0
    last[full] = purchases.at[purchases.indptr[1:][full] - 1]
    # of the items taken lately, those taken for the first time
    cut = users.as_of - NOVELTY_WINDOW_DAYS * DAY
    lately = np.bincount(owned.user[owned.largest(purchases.at) >= cut], minlength=users.n)
    first_times = np.bincount(owned.user[owned.smallest(purchases.at) >= cut], minlength=users.n)
    per_person = {
        "visits": _log(visits(purchases)[1]),
        "visits_28": _log(visits(late)[1]),
        "days_since_visit": _log((users.as_of - last) / DAY),
        "items": _log(np.bincount(owned.user, minlength=users.n)),
        "events": _log(np.diff(users.histories.indptr)),
        "novelty": np.where(lately > 0, first_times / np.maximum(lately, 1), 0.5).astype(np.float32),
    }
    return {name: value[p.user] for name, value in per_person.items()}


def _text(users: UserBatch, p: Pairs) -> Columns:
    """Texts of the person's heaviest items against the item's; the item itself is left out."""
    population = users.population
    owned, vectors, weight = users.owned, population.item_vectors, users.habits
    ends = owned.starts(users.n)
    nearest, mean = np.zeros(len(p.item), np.float32), np.zeros(len(p.item), np.float32)
    is_first = np.zeros(len(p.item) + 1, bool)
    is_first[p.indptr] = True
    ascending = bool(((np.diff(p.item) > 0) | is_first[1:-1]).all())  # as those of candidates are
    for user in range(users.n):
        span, own_part = slice(p.indptr[user], p.indptr[user + 1]), slice(ends[user], ends[user + 1])
        heavy = np.argsort(-weight[own_part], kind="stable")[:TEXT_ITEMS]
        rows, w = owned.key[own_part][heavy], weight[own_part][heavy]
        if not len(rows) or span.start == span.stop:
            continue
        cosines = np.maximum(vectors[p.item[span]] @ vectors[rows].T, 0)
        if ascending:
            at = np.minimum(np.searchsorted(p.item[span], rows), span.stop - span.start - 1)
            same = np.flatnonzero(p.item[span][at] == rows)
            cosines[at[same], same] = 0
        else:
            cosines[p.item[span][:, None] == rows[None, :]] = 0
        nearest[span] = cosines.max(axis=1)
        for _ in range(3):  # the eighth power, so that the nearest texts count most; squares cost a tenth of a power
            cosines *= cosines
        mean[span] = cosines @ w / max(w.sum(), 1e-30)  # purchases of long ago weigh nothing at all
    return {"text_nearest": nearest, "text_set": mean}


def _browsing(users: UserBatch, p: Pairs) -> Columns:
    population = users.population
    views = of_actions(users.histories, BROWSING)
    tally = Tally.of(views.user, views.item, population.n_items)
    row = tally.find(p.user, p.item)
    weight = decay(views.at, users.as_of, BROWSING_HALF_LIFE_DAYS)
    days = (users.as_of - tally.largest(views.at)) / DAY

    def last(action: Action) -> Values:
        which = views.action == ACTION_CODE[action]
        latest = np.full(len(tally.keys) + 1, -np.inf)
        np.maximum.at(latest, tally.group[which], views.at[which])
        return latest[row]

    bought = np.append(users.owned.largest(users.purchases.at).astype(float), -np.inf)[users.owned.find(p.user, p.item)]
    kind = population.facets.type
    typed = kind[views.item] >= 0
    types = Tally.of(views.user[typed], kind[views.item[typed]], int(kind.max(initial=0)) + 1)
    of_type = types.total(weight[typed])
    everything = np.bincount(types.user, of_type, minlength=users.n)
    share = of_type / np.maximum(everything[types.user], 1e-9)
    return {
        "views": padded(_log(tally.total(weight)), 0)[row],
        "days_since_view": _log(padded(days, NEVER_DAYS)[row]),
        "carted": last(Action.CART) > bought,
        "favourite": last(Action.FAVOURITE) > -np.inf,
        "type_views": padded(share, 0)[types.find(p.user, kind[p.item])],
    }
