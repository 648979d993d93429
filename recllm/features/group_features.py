"""What a person, people alike and the crowd did within the item's groups: its type, category, department and brand.

An item that never sold has no figures of its own; these say what its kind means to the person.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY
from recllm.data.interactions import Floats, Ints, Pairs, Tally, decay, padded
from recllm.data.item_groups import GROUPINGS, VOTED, size_of
from recllm.features.collaborative import CollaborativeStatistics, UserBatch

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
    | {f"{name}_lift": "log ratio of that mean to everybody's, [-4, 4]; 0 where nobody took any" for name in VOTED}
    | {
        "type_overdue": "log of days since over the person's mean interval in the type, [-4, 2]; 0 below two times",
        "type_loyalty": "the item's share of the person's decayed occasions in its type, [0, 1]",
        "type_lately": "log(1 + buyers of the type's items in the last 28 days); 0 without a type",
    }
)
"""Name and meaning of each column; a group that is not known has the value of a group that nobody touched."""

_OWN = ("times", "affinity", "days_since", "items", "early")
"""The measures of the person's own dealings."""

Columns = dict[str, NDArray[Any]]


def group_columns(
    population: CollaborativeStatistics, users: UserBatch, pairs: Pairs, names: Collection[str] = tuple(GROUP_FEATURES)
) -> Columns:
    """The `wanted` features of `GROUP_FEATURES` at the pairs, (n_pairs,) each."""
    user, item, names = pairs.user, pairs.item, frozenset(names)
    columns: Columns = {}
    for name, group in population.facets.each().items():
        columns |= {column: value[item] for column, value in _crowd(population, name).items() if column in names}
        if any(f"{name}_{measure}" in names for measure in _OWN):
            columns |= _dealings(population, users, name, group, user, item)
        if name in VOTED and f"{name}_alike" in names:
            columns |= _alike(population, users, name, user, item, pairs.indptr)
    columns["type_lately"] = np.log1p(population.stats.type_buyers_28[item])
    return {name: value for name, value in columns.items() if name in names}


def _dealings(
    population: CollaborativeStatistics,
    users: UserBatch,
    name: str,
    group: NDArray[np.int32],
    user: Ints,
    item: NDArray[np.int32],
) -> Columns:
    """What the asked people did in one grouping."""
    dealings = _Group.of(population, users, group)
    row = dealings.tally.find(user, group[item])
    columns: Columns = {
        f"{name}_{measure}": padded(value, dealings.never[measure])[row] for measure, value in dealings.columns.items()
    }
    if name == "type":
        own_weight = padded(
            users.owned.total(decay(users.purchases.at, users.as_of, population.settings.purchase_half_life_days)), 0
        )[users.owned.find(user, item)]
        weight = padded(dealings.weight, 0)[row]
        columns["type_overdue"] = padded(_overdue(dealings.tally, users, group), 0)[row]
        columns["type_loyalty"] = np.clip(own_weight / np.maximum(weight, 1e-9), 0, 1) * (weight > 0)
    return columns


def _crowd(population: CollaborativeStatistics, name: str) -> Columns:
    """How one grouping sells, (n_items,) each."""
    crowd = population.group_statistics[name]
    return {
        f"{name}_buyers": np.log1p(100 * crowd.buyers_56),
        f"{name}_arrivals": np.log1p(crowd.arrivals),
        f"{name}_arrival_rate": np.log1p(crowd.arrival_rate),
    }


def _alike(
    population: CollaborativeStatistics, users: UserBatch, name: str, user: Ints, item: NDArray[np.int32], indptr: Ints
) -> Columns:
    """How often the nearest people took something of the grouping lately, beside everybody."""
    votes = users.neighbour_weights @ population.group_statistics[name].votes
    alike = _at(votes, getattr(population.facets, name)[item], user, indptr)
    limit = population.settings.lift_limit
    everybody = population.group_statistics[name].buyers_56[item]
    return {
        f"{name}_alike": np.log1p(10 * alike),
        f"{name}_lift": np.clip(np.log((alike + 1e-2) / (everybody + 1e-2)), -limit, limit),
    }


def _at(votes: Any, group: NDArray[np.int32], user: Ints, indptr: Ints) -> Floats:
    """Entries of a sparse (n, n_groups) matrix at the pairs, 0 for an unknown group; some people dense at a time."""
    values = np.zeros(len(group), np.float32)
    step = max(1, 2**22 // max(votes.shape[1], 1))
    for start in range(0, votes.shape[0], step):
        block = votes[start : start + step].toarray()
        part = slice(indptr[start], indptr[min(start + step, votes.shape[0])])
        if block.shape[1]:
            values[part] = np.where(group[part] >= 0, block[user[part] - start, np.maximum(group[part], 0)], 0)
    return values


@dataclass(frozen=True, eq=False)
class _Group:
    """What the asked people did within groups, per (person, group) of `tally`; `never`: the value of absent pairs."""

    tally: Tally
    weight: Floats
    columns: Columns
    never: Mapping[str, float]

    @classmethod
    def of(cls, population: CollaborativeStatistics, users: UserBatch, group: NDArray[np.int32]) -> _Group:
        settings = population.settings
        purchases, as_of = users.purchases, users.as_of
        in_group = group[purchases.item] >= 0
        at = purchases.at[in_group]
        tally = Tally.of(purchases.user[in_group], group[purchases.item[in_group]], max(size_of(group), 1))
        weight = tally.total(decay(at, as_of, settings.purchase_half_life_days))
        everything = np.bincount(tally.user, weight, minlength=users.n)
        items, early = _item_counts(population, users, group, tally)
        columns = {
            "times": np.log1p(weight),
            "affinity": weight / np.maximum(everything[tally.user], 1e-9),
            "days_since": np.log1p(np.maximum((as_of - tally.largest(at)) / DAY, 0)),
            "items": np.log1p(items),
            "early": np.log1p(early),
        }
        return cls(
            tally,
            weight,
            columns,
            {name: 0.0 for name in columns} | {"days_since": float(np.log1p(settings.never_days))},
        )


def _overdue(tally: Tally, users: UserBatch, group: NDArray[np.int32]) -> NDArray[Any]:
    at = users.purchases.at[group[users.purchases.item] >= 0]
    days = (users.as_of - tally.largest(at)) / DAY
    span = (users.as_of - tally.smallest(at)) / DAY - days
    times = np.bincount(_distinct_times(tally, at), minlength=len(tally.keys))
    return overdue(days, span / np.maximum(times - 1, 1), times, users.population.settings.overdue_limits)


def _item_counts(
    population: CollaborativeStatistics, users: UserBatch, group: NDArray[np.int32], tally: Tally
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Per row of `tally`: distinct items, and those of them taken while they were new."""
    owned, arrivals = users.owned, population.arrived
    in_group = group[owned.key] >= 0
    item, since = owned.key[in_group], owned.smallest(users.purchases.at)[in_group]
    row, n = tally.find(owned.user[in_group], group[item]), len(tally.keys)
    first = np.where(arrivals.young[item], arrivals.first[item], np.iinfo(np.int64).min)
    young = (first > np.iinfo(np.int64).min) & (since < first + int(population.settings.first_sales_days * DAY))
    return np.bincount(row, minlength=n), np.bincount(row, young, minlength=n)


def overdue(
    days: NDArray[Any], interval: NDArray[Any], times: NDArray[Any], limits: tuple[float, float]
) -> NDArray[Any]:
    """Log of the days since over the mean interval, within the limits; 0 below two times."""
    ratio = np.log((days + 0.5) / (np.maximum(interval, 0) + 0.5))
    return np.where(times > 1, np.clip(ratio, *limits), 0)


def _distinct_times(tally: Tally, at: Ints) -> Ints:
    """Group of each distinct (group, time)."""
    order = np.lexsort((at, tally.group))
    group, when = tally.group[order], at[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (np.diff(group) != 0) | (np.diff(when) != 0)
    return group[is_new]
