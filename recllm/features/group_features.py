"""What a person, people alike and the crowd did within the item's groups: its type, category, department and brand.

An item that never sold has no figures of its own; these say what its kind means to the person.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY
from recllm.data.interactions import Floats, Pairs, Tally, decay, padded
from recllm.data.item_groups import GROUPINGS, VOTED, size_of
from recllm.features.collaborative import UserBatch

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


def group_columns(users: UserBatch, pairs: Pairs, names: Collection[str] = tuple(GROUP_FEATURES)) -> Columns:
    """These features of `GROUP_FEATURES` at the pairs, (n_pairs,) each."""
    population, names, item = users.population, frozenset(names), pairs.item
    limit = population.settings.lift_limit
    columns: Columns = {}
    for name, group in population.facets.each().items():
        sales = population.group_statistics[name]
        by_item = {
            f"{name}_buyers": np.log1p(100 * sales.buyers_56),
            f"{name}_arrivals": np.log1p(sales.arrivals),
            f"{name}_arrival_rate": np.log1p(sales.arrival_rate),
        }
        columns |= {column: value[item] for column, value in by_item.items() if column in names}
        if any(f"{name}_{measure}" in names for measure in _OWN):
            columns |= _dealings(users, name, group, pairs)
        if name in VOTED and f"{name}_alike" in names:
            alike = entries_at(users.neighbour_weights @ sales.votes, group[item], pairs)
            alike = np.where(group[item] >= 0, alike, 0)
            lift = np.log((alike + 1e-2) / (sales.buyers_56[item] + 1e-2))
            columns[f"{name}_alike"] = np.log1p(10 * alike)
            columns[f"{name}_lift"] = np.clip(lift, -limit, limit)
    columns["type_lately"] = np.log1p(population.stats.type_buyers_28[item])
    return {name: value for name, value in columns.items() if name in names}


def _dealings(users: UserBatch, name: str, group: NDArray[np.int32], pairs: Pairs) -> Columns:
    """What the asked people did in one grouping."""
    settings, purchases, as_of = users.population.settings, users.purchases, users.as_of
    in_group = group[purchases.item] >= 0
    at = purchases.at[in_group]
    tally = Tally.of(purchases.user[in_group], group[purchases.item[in_group]], max(size_of(group), 1))
    weight = tally.total(decay(at, as_of, settings.purchase_half_life_days))
    everything = np.bincount(tally.user, weight, minlength=users.n)
    days = (as_of - tally.largest(at)) / DAY

    # of the distinct items, those that the person took while they were new
    owned, arrived = users.owned, users.population.arrived
    in_group = group[owned.key] >= 0
    item, since = owned.key[in_group], owned.smallest(purchases.at)[in_group]
    item_row = tally.find(owned.user[in_group], group[item])
    is_early = arrived.young[item] & (since < arrived.first[item] + int(settings.first_sales_days * DAY))

    row = tally.find(pairs.user, group[pairs.item])
    by_group = {
        "times": np.log1p(weight),
        "affinity": weight / np.maximum(everything[tally.user], 1e-9),
        "days_since": np.log1p(np.maximum(days, 0)),
        "items": np.log1p(np.bincount(item_row, minlength=len(tally.keys))),
        "early": np.log1p(np.bincount(item_row, is_early, minlength=len(tally.keys))),
    }
    never = dict.fromkeys(by_group, 0.0) | {"days_since": float(np.log1p(settings.never_days))}
    columns: Columns = {f"{name}_{measure}": padded(value, never[measure])[row] for measure, value in by_group.items()}
    if name == "type":
        # occasions at distinct times, and the mean days between them
        span = as_of - int(at.min(initial=as_of)) + 1
        moments = np.unique(tally.group * span + at - (as_of + 1 - span))
        times = np.bincount(moments // span, minlength=len(tally.keys))
        interval = ((as_of - tally.smallest(at)) / DAY - days) / np.maximum(times - 1, 1)
        columns["type_overdue"] = padded(overdue(days, interval, times, settings.overdue_limits), 0)[row]
        own_weight = owned.total(decay(purchases.at, as_of, settings.purchase_half_life_days))
        own_weight = padded(own_weight, 0)[owned.find(pairs.user, pairs.item)]
        type_weight = padded(weight, 0)[row]
        loyalty = np.clip(own_weight / np.maximum(type_weight, 1e-9), 0, 1)
        columns["type_loyalty"] = loyalty * (type_weight > 0)
    return columns


def entries_at(matrix: Any, column: NDArray[np.integer], pairs: Pairs) -> Floats:
    """Entries of a sparse (n, n_columns) matrix, (n_pairs,): row is the pair's user; a few are made dense at a time."""
    if matrix.shape[1] and 0 < len(column) <= 4 * matrix.shape[0]:  # to look up so few costs less than a dense row
        return np.asarray(matrix[pairs.user, column], np.float32).ravel()
    values = np.zeros(len(column), np.float32)
    step = max(1, 2**18 // max(matrix.shape[1], 1))  # a block that stays in the cache
    for start in range(0, matrix.shape[0] if matrix.shape[1] else 0, step):
        block = matrix[start : start + step].toarray()
        part = slice(pairs.indptr[start], pairs.indptr[min(start + step, matrix.shape[0])])
        values[part] = block[pairs.user[part] - start, column[part]]
    return values


def overdue(
    days: NDArray[Any], interval: NDArray[Any], times: NDArray[Any], limits: tuple[float, float]
) -> NDArray[Any]:
    """Log of the days since over the mean interval, within the limits; 0 below two times."""
    ratio = np.log((days + 0.5) / (np.maximum(interval, 0) + 0.5))
    return np.where(times > 1, np.clip(ratio, *limits), 0)
