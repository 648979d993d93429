"""What a person, people alike and the crowd did within the item's groups: its type, category, department and brand.

An item that never sold has no figures of its own; these say what its kind means to the person.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recllm.base.arrays import Array, Floats, Ints, Mask, Rows, Values
from recllm.learn.features.collaborative import PURCHASE_HALF_LIFE_DAYS, UserBatch
from recllm.shop.data.catalogue import FIRST_SALES_DAYS, GROUPINGS, VOTED, size_of
from recllm.shop.data.dataset import DAY
from recllm.shop.data.interactions import Pairs, Tally, WeightedSums, decay, distinct, padded

NEVER_DAYS = 730.0  # stands for the days since something that never happened
LIFT_LIMIT = 4.0  # of log ratios of neighbours to all users
OVERDUE_LIMITS = (-4.0, 2.0)  # of log ratios of the days since a purchase to the usual interval

_WORDS = {
    "type": "type",
    "category": "category above the type",
    "department": "department",
    "brand": "brand",
    "maker": "maker",
    "type_brand": "brand within its type",
    "type_maker": "maker within its type",
    "category_maker": "maker within its category",
    "type_size": "size within its type",
}

_MEASURES = {
    "times": "log(1 + occasions decayed with half-life 120 days) in the item's {}",
    "affinity": "share of the person's decayed occasions in the item's {}, [0, 1]",
    "days_since": "log(1 + days since the person last took something of its {}); log(731) never",
    "items": "log(1 + distinct items of its {} that the person took)",
    "early": "log(1 + items of its {} that the person took within 28 days of their first sale)",
    "buyers": "log(1 + 100 x mean per person of log(1 + occasions in 56 days) in its {})",
    "arrivals": "log(1 + arrivals in its {} in the half year before the last 28 days)",
    "arrival_rate": "log(1 + mean first-month buyers of earlier arrivals in its {})",
}

GROUP_FEATURES: Mapping[str, str] = (
    {f"{name}_{measure}": words.format(_WORDS[name]) for name in GROUPINGS for measure, words in _MEASURES.items()}
    | {
        f"{name}_alike": f"log(1 + 10 x mean occasions in 56 days of the nearest people in its {name})"
        for name in VOTED
    }
    | {f"{name}_lift": "log ratio of that mean to everybody's, [-4, 4]; 0 where no one took any" for name in VOTED}
    | {
        "type_overdue": "log of days since over the person's mean interval in the type, [-4, 2]; 0 below two times",
        "type_loyalty": "the item's share of the person's decayed occasions in its type, [0, 1]",
        "type_lately": "log(1 + buyers of the type's items in the last 28 days); 0 without a type",
    }
)
"""Name and meaning of each column; a group that is not known has the value of a group without any event."""

_OWN = ("times", "affinity", "days_since", "items", "early")
"""The measures of the person's own dealings."""

Columns = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Dealings:
    """What the asked people did in the groups of some groupings."""

    tally: Tally
    """Of (person, group); the groups of one grouping follow those of another."""
    first_group: Mapping[str, int]
    measures: Mapping[str, Floats]
    """`_OWN`, as features, of each person and group, and last of a group without any event, (n_keys + 1,)."""
    weight: Floats
    """Decayed occasions of each person and group, and last 0, (n_keys + 1,)."""
    days: Values
    """Since the last of them, (n_keys,)."""
    spans: Values
    """From the first to the last, in days, (n_keys,)."""
    times: Ints
    """Distinct times, (n_keys,)."""


def dealings(users: UserBatch, groupings: Sequence[str], item: Rows) -> dict[str, Dealings]:
    """Of each grouping, in the groups of these items; all share one account."""
    population, purchases, owned, as_of = users.population, users.purchases, users.owned, users.as_of
    arrived, facets = population.arrived, population.facets.each()
    sizes = [size_of(facets[name]) for name in groupings]
    first_group = dict(zip(groupings, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))

    def groups_of(item: Rows) -> tuple[Ints, Mask]:
        codes = np.stack([facets[name][item] for name in groupings]).astype(np.int64)
        return codes + np.array(list(first_group.values()))[:, None], codes >= 0

    group, has_group = groups_of(distinct(item))
    is_asked = np.zeros(sum(sizes) + 1, bool)  # of the last, nothing is asked
    is_asked[group[has_group]] = True

    def in_each(column: Array, which: Mask) -> Array:
        return np.broadcast_to(column, which.shape)[which]

    group, has_group = groups_of(purchases.item)
    weights = decay(purchases.at, as_of, PURCHASE_HALF_LIFE_DAYS)
    everything = np.stack([np.bincount(purchases.user[of], weights[of], minlength=users.n) for of in has_group], axis=1)
    fits = has_group & is_asked[np.where(has_group, group, -1)]
    at = in_each(purchases.at, fits)
    tally = Tally.of(in_each(purchases.user, fits), group[fits], max(sum(sizes), 1))
    weight = tally.total(in_each(weights, fits))
    grouping = np.searchsorted(list(first_group.values()), tally.key, side="right") - 1
    last = tally.largest(at)
    days = (as_of - last) / DAY

    # of the distinct items, those that the person took while they were new
    since = owned.smallest(purchases.at)
    is_early = arrived.young[owned.key] & (since < arrived.first[owned.key] + int(FIRST_SALES_DAYS * DAY))
    group, has_group = groups_of(owned.key)
    fits = has_group & is_asked[np.where(has_group, group, -1)]
    item_row = tally.find(in_each(owned.user, fits), group[fits])
    early = np.bincount(item_row, in_each(is_early, fits), minlength=len(tally.keys))

    # occasions at distinct times
    span = as_of - int(at.min(initial=as_of)) + 1
    moments = distinct(tally.group * span + at - (as_of + 1 - span))
    by_group = {
        "times": np.log1p(weight),
        "affinity": weight / np.maximum(everything[tally.user, grouping], 1e-9),
        "days_since": np.log1p(np.maximum(days, 0)),
        "items": np.log1p(np.bincount(item_row, minlength=len(tally.keys))),
        "early": np.log1p(early),
    }
    never = dict.fromkeys(by_group, 0.0) | {"days_since": float(np.log1p(NEVER_DAYS))}
    account = Dealings(
        tally,
        first_group,
        {measure: padded(value, never[measure]) for measure, value in by_group.items()},
        padded(weight, 0),
        days,
        (last - tally.smallest(at)) / DAY,
        np.bincount(moments // span, minlength=len(tally.keys)),
    )
    return dict.fromkeys(groupings, account)


def group_columns(
    users: UserBatch,
    pairs: Pairs,
    names: Collection[str] = tuple(GROUP_FEATURES),
    accounts: Mapping[str, Dealings] | None = None,
) -> Columns:
    """These features of `GROUP_FEATURES` at the pairs, (n_pairs,) each. accounts: `dealings`, where the caller has
    them already."""
    population, names, item = users.population, frozenset(names), pairs.item
    limit = LIFT_LIMIT
    dealt_in = groupings_of(names)
    accounts = dealings(users, dealt_in, item) if accounts is None else accounts
    columns: Columns = {}
    for name, codes in population.facets.each().items():
        sales, group = population.group_statistics[name], codes[item]
        by_item = {
            "buyers": (sales.buyers_56, 100),
            "arrivals": (sales.arrivals, 1),
            "arrival_rate": (sales.arrival_rate, 1),
        }
        for measure, (value, factor) in by_item.items():
            if f"{name}_{measure}" in names:
                columns[f"{name}_{measure}"] = np.log1p(factor * value[item])
        if name in dealt_in:
            columns |= _own_columns(users, pairs, name, group, accounts[name], names)
        if name in VOTED and f"{name}_alike" in names:
            alike = WeightedSums(users.neighbour_weights, sales.votes).at(group, pairs)
            lift = np.log((alike + 1e-2) / (sales.buyers_56[item] + 1e-2))
            columns[f"{name}_alike"] = np.log1p(10 * alike)
            columns[f"{name}_lift"] = np.clip(lift, -limit, limit)
    if "type_lately" in names:
        columns["type_lately"] = np.log1p(population.stats.type_buyers_28[item])
    return columns


def groupings_of(names: Collection[str]) -> list[str]:
    """Groupings in which some of these features tell of the person's own dealings."""
    return [name for name in GROUPINGS if any(f"{name}_{measure}" in names for measure in _OWN)]


def _own_columns(
    users: UserBatch,
    pairs: Pairs,
    name: str,
    group: Rows,
    account: Dealings,
    names: Collection[str],
) -> Columns:
    """group: of each pair's item, -1 unknown."""
    tally = account.tally
    row = tally.find(pairs.user, np.where(group >= 0, group + account.first_group[name], -1))
    measures = {f"{name}_{measure}": value for measure, value in account.measures.items()}
    columns: Columns = {column: value[row] for column, value in measures.items() if column in names}
    if "type_overdue" in names and name == "type":
        interval = account.spans / np.maximum(account.times - 1, 1)
        late = overdue(account.days, interval, account.times, OVERDUE_LIMITS)
        columns["type_overdue"] = padded(late, 0)[row]
    if "type_loyalty" in names and name == "type":
        own_weight = padded(users.habits, 0)[users.owned.find(pairs.user, pairs.item)]
        type_weight = account.weight[row]
        loyalty = np.clip(own_weight / np.maximum(type_weight, 1e-9), 0, 1)
        columns["type_loyalty"] = loyalty * (type_weight > 0)
    return columns


def overdue(days: Array, interval: Array, times: Array, limits: tuple[float, float]) -> Array:
    """Log of the days since over the mean interval, within the limits; 0 below two times."""
    ratio = np.log((days + 0.5) / (np.maximum(interval, 0) + 0.5))
    return np.where(times > 1, np.clip(ratio, *limits), 0)
