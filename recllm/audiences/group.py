"""What sets a group apart from the rest: shares of basics and of categories bought, as ratios with intervals.

    lift = share in the group / share in the rest

Its interval is that of the log ratio of two shares (Katz et al. 1978, with half a person added to every cell), at a
level divided by the number of facts compared (Bonferroni), so that all hold at once. Small groups are never told: a
fact is left out when fewer people than the policy's group floor have it at all, or fewer than `LEAST` in the group have
it or lack it, unless nobody lacks it. Sensitive categories are never told either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.targets import PATH
from recllm.data.dataset import DAY, Dataset
from recllm.features.item_vectors import basics_of
from recllm.policy import Policy
from recllm.schema import ACTION_CODE, Action

LEAST = 5
"""People of the group that must share a fact, and lack it, for it to be told."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One fact. kind: "basic" or "category". Shares in [0, 1]; low and high bound the lift."""

    kind: str
    name: str
    share: float
    share_of_rest: float
    lift: float
    low: float
    high: float
    people: int


@dataclass(frozen=True, eq=False)
class _Facts:
    """has: sparse (n_users, n_facts) of 0 and 1. asked: the same of whom it is known whether they have the fact; None
    when it is known of everybody. name and kind of each fact."""

    has: Any
    names: list[tuple[str, str]]
    asked: Any = None


def differences(
    dataset: Dataset,
    group: NDArray[np.integer],
    rest: NDArray[np.integer],
    policy: Policy,
    *,
    days: float = 91.0,
    most: int = 10,
    level: float = 0.95,
) -> tuple[Difference, ...]:
    """The `most` facts that are surest to be more common in the group than in the rest, surest first.

    group, rest: rows of people, without common ones. days: purchases so recent count. Only facts whose whole interval
    lies above 1 are told, and none about an empty rest.
    """
    if not len(group) or not len(rest):
        return ()
    found: list[Difference] = []
    tables = (_of_basics(dataset), _of_categories(dataset, policy, days))
    told = [_told(facts, group, rest, policy.group_floor) for facts in tables]
    tried = sum(len(t.column) for t in told)
    for facts, t in zip(tables, told, strict=True):
        if len(t.column):
            found += _compare(facts, t, 1 - (1 - level) / tried)
    return tuple(sorted((d for d in found if d.low > 1), key=lambda d: (-d.low, d.name))[:most])


@dataclass(frozen=True, eq=False)
class _Told:
    """Counts of the facts that may be told, (n_told,) each: with the fact inside and outside, and how many in all."""

    column: NDArray[np.int64]
    inside: NDArray[Any]
    outside: NDArray[Any]
    n: NDArray[Any]
    m: NDArray[Any]


def _told(facts: _Facts, group: NDArray[np.integer], rest: NDArray[np.integer], floor: int) -> _Told:
    def counts(table: Any, rows: NDArray[np.integer]) -> NDArray[Any]:
        return np.full(len(facts.names), len(rows)) if table is None else np.asarray(table[rows].sum(axis=0)).ravel()

    inside, outside = counts(facts.has, group), counts(facts.has, rest)
    n, m = counts(facts.asked, group), counts(facts.asked, rest)
    column = np.flatnonzero(tellable(inside, outside, n, floor) & (m > 0))
    return _Told(column, inside[column], outside[column], n[column], m[column])


def _compare(facts: _Facts, told: _Told, level: float) -> list[Difference]:
    ratio, low, high = lifts(told.inside, told.outside, told.n, told.m, level)
    return [
        Difference(
            kind=facts.names[column][0],
            name=facts.names[column][1],
            share=float(told.inside[at] / told.n[at]),
            share_of_rest=float(told.outside[at] / told.m[at]),
            lift=float(ratio[at]),
            low=float(low[at]),
            high=float(high[at]),
            people=int(told.inside[at]),
        )
        for at, column in enumerate(told.column.tolist())
    ]


def tellable(inside: NDArray[Any], outside: NDArray[Any], n: NDArray[Any], floor: int) -> Mask:
    """Which facts concern enough people. inside, outside: how many have them; n: of how many in the group."""
    lacking = n - inside
    return np.asarray((inside + outside >= floor) & (inside >= LEAST) & ((lacking == 0) | (lacking >= LEAST)))


def lifts(
    inside: NDArray[Any], outside: NDArray[Any], n: NDArray[Any], m: NDArray[Any], level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Ratio of shares inside / n and outside / m with its interval; half a person is added to every cell."""
    a, b = inside + 0.5, outside + 0.5
    log = np.log(a / (n + 1)) - np.log(b / (m + 1))
    error = np.sqrt(1 / a - 1 / (n + 1) + 1 / b - 1 / (m + 1))
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return np.exp(log), np.exp(log - z * error), np.exp(log + z * error)


def _of_basics(dataset: Dataset) -> _Facts:
    """Compared among those who told the basic: what a group did not tell is no fact about it."""
    known = basics_of(dataset.users)
    pairs = [(row, f"{name} = {value}") for row, told in enumerate(known) for name, value in told.items()]
    facts = _table("basic", pairs, dataset.n_users)
    basic = [name.split(" = ")[0] for _, name in facts.names]
    columns = {name: [c for c, other in enumerate(basic) if other == name] for name in set(basic)}
    asked = [(row, c) for row, told in enumerate(known) for name in told for c in columns[name]]
    return replace(facts, asked=_ones(asked, dataset.n_users, len(basic)))


def _of_categories(dataset: Dataset, policy: Policy, days: float) -> _Facts:
    """Every level of the path of every item bought, of whichever person."""
    e = dataset.events
    bought = (e.action == ACTION_CODE[Action.PURCHASE]) & (e.at >= dataset.as_of - days * DAY)
    paths = dataset.items["category"].list.join(PATH).fill_null("")
    items, of_event = np.unique(e.item[bought], return_inverse=True)
    distinct, of_item = np.unique(paths.gather(items).to_numpy().astype(str), return_inverse=True)
    pairs = np.unique(e.user[bought].astype(np.int64) * len(distinct) + of_item[of_event])
    levels = [_levels(path.split(PATH), policy) for path in distinct.tolist()]
    named = [
        (int(u), name)
        for u, p in zip(pairs // max(len(distinct), 1), pairs % max(len(distinct), 1), strict=True)
        for name in levels[p]
    ]
    return _table("category", named, dataset.n_users)


def _levels(path: list[str], policy: Policy) -> list[str]:
    """The path to each of its parts, as far as nothing in it is sensitive."""
    known = [part for part in path if part]
    return [PATH.join(known[: n + 1]) for n in range(len(known)) if not policy.is_sensitive(known[: n + 1])]


def _table(kind: str, pairs: list[tuple[int, str]], n_users: int) -> _Facts:
    names = sorted({name for _, name in pairs})
    place = {name: at for at, name in enumerate(names)}
    has = _ones([(row, place[name]) for row, name in pairs], n_users, len(names))
    return _Facts(has, [(kind, name) for name in names])


def _ones(cells: list[tuple[int, int]], height: int, width: int) -> Any:
    from scipy.sparse import csr_matrix

    rows, columns = [row for row, _ in cells], [column for _, column in cells]
    table = csr_matrix((np.ones(len(cells), np.float32), (rows, columns)), shape=(height, width))
    table.data[:] = 1  # a pair that was named twice
    return table
