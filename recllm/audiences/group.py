"""What sets a group apart from the rest: shares of basics and of categories bought, as ratios with intervals.

    lift = share in the group / share in the rest

Its interval is that of the log ratio of two shares (Katz et al. 1978, with half a person added to every cell), at a
level divided by the number of facts compared (Bonferroni), so that all hold at once. Small groups are never told: a
fact is left out when fewer people than the policy's group floor have it at all, or fewer than `LEAST` in the group have
it or lack it, unless nobody lacks it. Sensitive categories are never told either.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.targets import PATH
from recllm.dataset import DAY, Dataset
from recllm.policy import Policy
from recllm.schema import ACTION_CODE, Action
from recllm.vectors import basics_of

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
    """has: sparse (n_users, n_facts) of 0 and 1; name and kind of each fact."""

    has: Any
    names: list[tuple[str, str]]


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
    facts = _facts(dataset, policy, days)
    inside, outside = (np.asarray(facts.has[rows].sum(axis=0)).ravel() for rows in (group, rest))
    told = np.flatnonzero(tellable(inside, outside, len(group), policy.group_floor))
    if not len(told):
        return ()
    ratio, low, high = lifts(inside[told], outside[told], len(group), len(rest), 1 - (1 - level) / len(told))
    order = [place for place in np.argsort(-low, kind="stable") if low[place] > 1][:most]
    return tuple(
        Difference(
            kind=facts.names[told[p]][0],
            name=facts.names[told[p]][1],
            share=float(inside[told[p]] / len(group)),
            share_of_rest=float(outside[told[p]] / len(rest)),
            lift=float(ratio[p]),
            low=float(low[p]),
            high=float(high[p]),
            people=int(inside[told[p]]),
        )
        for p in order
    )


def tellable(inside: NDArray[Any], outside: NDArray[Any], n: int, floor: int) -> Mask:
    """Which facts concern enough people. inside, outside: how many have them; n: people in the group."""
    lacking = n - inside
    return np.asarray((inside + outside >= floor) & (inside >= LEAST) & ((lacking == 0) | (lacking >= LEAST)))


def lifts(
    inside: NDArray[Any], outside: NDArray[Any], n: int, m: int, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Ratio of shares inside / n and outside / m with its interval; half a person is added to every cell."""
    a, b = inside + 0.5, outside + 0.5
    log = np.log(a / (n + 1)) - np.log(b / (m + 1))
    error = np.sqrt(1 / a - 1 / (n + 1) + 1 / b - 1 / (m + 1))
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return np.exp(log), np.exp(log - z * error), np.exp(log + z * error)


def _facts(dataset: Dataset, policy: Policy, days: float) -> _Facts:
    from scipy.sparse import hstack

    basics, categories = _of_basics(dataset), _of_categories(dataset, policy, days)
    return _Facts(hstack([basics.has, categories.has]).tocsr(), basics.names + categories.names)


def _of_basics(dataset: Dataset) -> _Facts:
    known = basics_of(dataset.users)
    pairs = [(row, f"{name} = {value}") for row, told in enumerate(known) for name, value in told.items()]
    return _table("basic", pairs, dataset.n_users)


def _of_categories(dataset: Dataset, policy: Policy, days: float) -> _Facts:
    """Every level of the path of every item bought."""
    e, paths = dataset.events, dataset.items["category"].to_list()
    bought = (e.action == ACTION_CODE[Action.PURCHASE]) & (e.at >= dataset.as_of - days * DAY)
    levels = {int(i): _levels(paths[i], policy) for i in np.unique(e.item[bought])}
    pairs = np.unique(np.stack([e.user[bought].astype(np.int64), e.item[bought].astype(np.int64)]), axis=1).T
    return _table("category", [(u, name) for u, i in pairs.tolist() for name in levels[i]], dataset.n_users)


def _levels(path: list[str] | None, policy: Policy) -> list[str]:
    path = [part for part in path or [] if part]
    return [PATH.join(path[: n + 1]) for n in range(len(path)) if not policy.is_sensitive(path[: n + 1])]


def _table(kind: str, pairs: list[tuple[int, str]], n_users: int) -> _Facts:
    from scipy.sparse import csr_matrix

    names = sorted({name for _, name in pairs})
    place = {name: at for at, name in enumerate(names)}
    rows, columns = [row for row, _ in pairs], [place[name] for _, name in pairs]
    has = csr_matrix((np.ones(len(pairs), np.float32), (rows, columns)), shape=(n_users, len(names)))
    has.data[:] = 1
    return _Facts(has, [(kind, name) for name in names])
