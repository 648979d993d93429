"""Several campaigns that compete for the same people: who gets which.

    maximise    sum of x[u, c] * gain[u, c],    gain = probability * value
    subject to  sum over people of cost[c] * x[u, c] <= budget[c]     every campaign
                sum over people of x[u, c] <= cap[c]                  every campaign
                sum over campaigns of x[u, c] <= contacts[u]          every person
                0 <= x <= 1

With one cost per campaign a budget is a cap of floor(budget / cost) people, and the constraints are those of a
transportation problem: its matrix is totally unimodular (Hoffman and Kruskal 1956), so the linear program has a whole
optimum. HiGHS (Huangfu and Hall 2018) solves it over few pairs at a time: prices of the campaigns, from a sample of the
people, choose the first pairs, and the duals of each solution say which others would still pay (column generation). For
any prices >= 0

    bound = sum over c of price[c] * limit[c] + sum over u of the contacts[u] largest max(gain[u, c] - price[c], 0)

is at least the optimum over all pairs, so the gap that is told is to the whole problem, whatever was left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.errors import UsageError

Table = NDArray[np.float64]

SAMPLE = 1_000
"""People over whom the first prices are found."""

PAIRS_AHEAD = 3
"""Pairs of a person in the first program beyond their contacts."""

NEAR = 5e-4
"""Relative gap at which no further pairs are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """value: money of a conversion. cost: money of a contact. budget: money; cap: people; None for no limit."""

    name: str
    value: float = 1.0
    cost: float = 0.0
    budget: float | None = None
    cap: int | None = None

    def __post_init__(self) -> None:
        for field in ("value", "cost", "budget", "cap"):
            amount = getattr(self, field)
            if amount is not None and not 0 <= amount < float("inf"):
                raise UsageError(f"campaign {self.name!r}: {field} is {amount}; give a number of 0 or more")

    def limit(self, n: int) -> int:
        """People it can reach, of n."""
        paid = n if self.budget is None or not self.cost else int(self.budget / self.cost + 1e-9)
        return min(n, paid, n if self.cap is None else self.cap)


@dataclass(frozen=True, eq=False, kw_only=True)
class Assignment:
    """Pairs that were chosen. person, campaign: int64 (n_pairs,), rows of the table and places in the list.

    gain: their sum. bound: no assignment can gain more. gap: (bound - gain) / bound, 0 where nothing can be gained.
    reached: people of each campaign. spent: their cost. pairs: how many pairs the last program looked at.
    """

    person: NDArray[np.int64]
    campaign: NDArray[np.int64]
    gain: float
    bound: float
    gap: float
    reached: NDArray[np.int64]
    spent: Table
    pairs: int
    rounds: int
    seconds: float


def assign(
    probability: NDArray[np.floating[Any]],
    campaigns: Sequence[Campaign],
    *,
    contacts: int | NDArray[np.integer] = 1,
    eligible: NDArray[np.bool_] | None = None,
    seconds: float = 25.0,
) -> Assignment:
    """probability: (n_people, n_campaigns), in [0, 1]. contacts: most campaigns per person, one number or (n_people,).

    eligible: bool, of the shape of `probability`: whom a campaign may address at all. Pairs that gain nothing are never
    chosen. seconds: after so many the best that is known is the answer, with its gap. Raises `UsageError` for shapes or
    numbers that do not fit, or two campaigns of one name.
    """
    started = time.perf_counter()
    gain = _gains(probability, campaigns, eligible)
    limit = np.array([c.limit(len(gain)) for c in campaigns], np.int64)
    most = _contacts(contacts, gain)
    taken, bound, pairs, rounds = _search(gain, limit, most, started + seconds)
    total = _total(gain, taken)
    reached = np.bincount(taken[1], minlength=len(campaigns))
    return Assignment(
        person=taken[0],
        campaign=taken[1],
        gain=total,
        bound=max(bound, total),
        gap=max(0.0, 1 - total / bound) if bound > 0 else 0.0,
        reached=reached,
        spent=reached * np.array([c.cost for c in campaigns]),
        pairs=pairs,
        rounds=rounds,
        seconds=time.perf_counter() - started,
    )


def _search(
    gain: Table, limit: NDArray[np.integer], contacts: NDArray[np.integer], deadline: float
) -> tuple[NDArray[np.int64], float, int, int]:
    """The best pairs that were found (2, n), the least bound, pairs in the last program, and how many there were."""
    price = dual_prices(gain, limit, contacts)
    bound = upper_bound(gain, limit, contacts, price)
    taken, rounds = _best_first(gain, gain - price, limit, contacts), 0
    kept = _first_pairs(gain, price, int(contacts.max(initial=0)) + PAIRS_AHEAD)
    kept[taken[0], taken[1]] = True
    while _total(gain, taken) < bound * (1 - NEAR):
        left = deadline - time.perf_counter()
        solved = _solve(gain, kept, limit, contacts, left) if left > 0 else None
        if solved is None:
            break
        rounds += 1
        taken = max(taken, solved.taken, key=lambda pairs: _total(gain, pairs))
        bound = min(bound, upper_bound(gain, limit, contacts, solved.price))
        more = _still_paying(gain, solved, kept, limit)
        if not more.any():
            break
        kept |= more
    return taken, bound, int(kept.sum()), rounds


def upper_bound(gain: Table, limit: NDArray[np.integer], contacts: NDArray[np.integer], price: Table) -> float:
    """What no assignment exceeds, from any prices >= 0; see the module."""
    chosen = _best(gain - price, contacts)
    return float(price @ limit + np.where(chosen, gain - price, 0).sum())


def dual_prices(gain: Table, limit: NDArray[np.integer], contacts: NDArray[np.integer], seconds: float = 10.0) -> Table:
    """Prices (n_campaigns,) that come near the least bound: the duals of the program over a sample of the people, with
    limits in proportion; zeros when there is nothing to gain or the time was too short."""
    n = len(gain)
    drawn = np.random.default_rng(0).permutation(n)[:SAMPLE]
    part = gain[drawn]
    solved = _solve(part, part > 0, limit * (len(drawn) / max(n, 1)), contacts[drawn], seconds) if n else None
    return np.zeros(gain.shape[1]) if solved is None else solved.price


def _best(worth: Table, contacts: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Of each person the `contacts` campaigns of most worth, those above 0."""
    most = int(contacts.max(initial=0))
    if most >= worth.shape[1] or not most:
        top = np.argsort(-worth, axis=1, kind="stable")
    else:
        top = np.argpartition(-worth, most - 1, axis=1)[:, :most]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(worth, top, 1), axis=1, kind="stable"), 1)
    out = np.zeros(worth.shape, bool)
    np.put_along_axis(out, top, np.arange(top.shape[1]) < contacts[:, None], axis=1)
    return out & (worth > 0)


def _first_pairs(gain: Table, price: Table, m: int) -> NDArray[np.bool_]:
    """Of each person the m pairs of most gain over the price, among those that gain anything."""
    worth = np.where(gain > 0, gain - price, -np.inf)
    out = np.ones(gain.shape, bool)
    if m < gain.shape[1]:
        out[:] = False
        np.put_along_axis(out, np.argpartition(-worth, m - 1, axis=1)[:, :m], True, axis=1)
    return out & (gain > 0)


@dataclass(frozen=True, eq=False)
class _Solved:
    """taken: pairs (2, n). price: (n_campaigns,) and rent: (n_people,), the duals of the limits and of the contacts."""

    taken: NDArray[np.int64]
    price: Table
    rent: Table


def _solve(
    gain: Table, kept: NDArray[np.bool_], limit: NDArray[Any], contacts: NDArray[np.integer], seconds: float
) -> _Solved | None:
    """The program over the kept pairs; None when there are none, or the time was too short."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    person, campaign = np.nonzero(kept)
    if not len(person):
        return None
    n, place = len(gain), np.arange(len(person))
    rows, columns = np.concatenate([person, n + campaign]), np.concatenate([place, place])
    a = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n + len(limit), len(person)))
    b = np.concatenate([contacts, limit]).astype(float)
    # the simplex method ends in a corner, and the corners are whole numbers
    options = {"time_limit": seconds}
    found = linprog(-gain[person, campaign], A_ub=a, b_ub=b, bounds=(0, 1), method="highs-ds", options=options)
    if found.status != 0:  # out of time: a program of limits alone always has a solution
        return None
    dual = -found.ineqlin.marginals
    chosen = found.x > 0.5
    return _Solved(np.stack([person[chosen], campaign[chosen]]), np.maximum(dual[n:], 0), np.maximum(dual[:n], 0))


def _still_paying(
    gain: Table, solved: _Solved, kept: NDArray[np.bool_], limit: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Pairs of positive reduced cost: each person's two best, and as many of each campaign as it can reach."""
    worth = gain - solved.price - solved.rent[:, None]
    worth[kept | (gain <= 0)] = -np.inf
    out = np.zeros(gain.shape, bool)
    if gain.shape[1] > 2:
        np.put_along_axis(out, np.argpartition(-worth, 1, axis=1)[:, :2], True, axis=1)
    for column, most in enumerate(limit.tolist()):
        if 0 < most < len(gain):
            out[np.argpartition(-worth[:, column], most - 1)[:most], column] = True
        elif most:
            out[:, column] = True
    return out & (worth > 1e-9)


def _best_first(
    gain: Table, worth: Table, limit: NDArray[np.integer], contacts: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Pairs (2, n) by the rule that takes the pair of most worth that still fits: an answer to begin with."""
    free, left, taken = contacts.tolist(), limit.tolist(), []
    order = np.argsort(-worth, axis=None, kind="stable")
    for person, campaign in zip(*(part.tolist() for part in np.divmod(order, max(gain.shape[1], 1))), strict=True):
        if free[person] and left[campaign] and gain[person, campaign] > 0:
            free[person] -= 1
            left[campaign] -= 1
            taken.append((person, campaign))
    return np.array(taken, np.int64).reshape(-1, 2).T


def _total(gain: Table, taken: NDArray[np.int64]) -> float:
    return float(gain[taken[0], taken[1]].sum())


def _gains(
    probability: NDArray[np.floating[Any]], campaigns: Sequence[Campaign], eligible: NDArray[np.bool_] | None
) -> Table:
    names = [c.name for c in campaigns]
    if len(set(names)) < len(names):
        raise UsageError(f"two campaigns are called {max(names, key=names.count)!r}; give each its own name")
    p = np.asarray(probability, np.float64)
    if p.ndim != 2 or p.shape[1] != len(campaigns):
        raise UsageError(f"probability has the shape {p.shape}; give (people, {len(campaigns)} campaigns)")
    if eligible is not None and eligible.shape != p.shape:
        raise UsageError(f"eligible has the shape {eligible.shape}, probability {p.shape}; give one for each pair")
    if not ((p >= 0) & (p <= 1)).all():
        raise UsageError("a probability lies outside of [0, 1]")
    gain = p * np.array([c.value for c in campaigns])
    return gain if eligible is None else np.where(eligible, gain, 0.0)


def _contacts(contacts: int | NDArray[np.integer], gain: Table) -> NDArray[np.int64]:
    most = np.broadcast_to(np.asarray(contacts, np.int64), len(gain)).copy()
    if (most < 0).any():
        raise UsageError("contacts is a number of campaigns per person, 0 or more")
    return np.minimum(most, gain.shape[1])
