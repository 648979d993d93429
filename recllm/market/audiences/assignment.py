"""Several campaigns compete for the same people: who gets which?

    maximise    sum of x[u, c] * gain[u, c],    gain = probability * value
    subject to  sum over people of x[u, c] <= limit[c]            every campaign: its size, and what its budget pays
                sum over campaigns of x[u, c] <= contacts[u]      every person
                0 <= x <= 1

This is a transportation problem, whose matrix is totally unimodular (Hoffman and Kruskal 1956), so there is an integer
optimum. HiGHS solves it; where there are very many pairs, over those that pay best at prices of the campaigns from a
sample of the people. For any prices >= 0

    bound = sum over c of price[c] * limit[c] + sum over u of the contacts[u] largest max(gain[u, c] - price[c], 0)

is at least the optimum over all pairs, so the reported gap is to the full problem, whatever pairs were left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import UsageError
from recllm.market.audiences.audience import EligiblePool
from recllm.market.audiences.request import AudienceLimits
from recllm.market.audiences.selection import Selection, draws, ranked

Table = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pairs = NDArray[np.int64]
"""(2, n): rows of people and positions of campaigns."""

SAMPLE_USERS = 1_000
"""People over whom the first prices are found."""

MOST_PAIRS = 150_000
"""Pairs of a program, from which on it has the best of each person only."""

EXTRA_PAIRS = 6
"""Pairs of a person in such a program beyond their contacts."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Assignment:
    """Which person gets which campaign."""

    person: NDArray[np.int64]
    """(n_pairs,), rows of the table."""
    campaign: NDArray[np.int64]
    """(n_pairs,), positions in the list of campaigns."""
    gain: float
    """Sum over the pairs."""
    bound: float
    """No assignment can gain more."""

    @property
    def gap(self) -> float:
        """(bound - gain) / bound, 0 where nothing can be gained."""
        return max(0.0, 1 - self.gain / self.bound) if self.bound > 0 else 0.0


def select_jointly(
    pools: Sequence[EligiblePool],
    names: Sequence[str],
    limits: Sequence[AudienceLimits],
    n_users: int,
    *,
    contacts: int = 1,
) -> tuple[list[Selection], Assignment]:
    """The people of each of several campaigns, so that each person gets the campaigns that suit them best.

    n_users: of the dataset that the pools are of. contacts: most campaigns that one person gets. With a margin, a
    person whose gain is not above the cost gets no contact. Each campaign's holdout is drawn from the people it was
    assigned, so a campaign addresses at most its limit. Raises `UsageError` for two campaigns of one name.
    """
    if len(set(names)) < len(names):
        raise UsageError(f"two campaigns are called {max(names, key=names.count)!r}; give each its own name")
    probability = np.zeros((n_users, len(pools)))
    eligible = np.zeros(probability.shape, bool)
    for column, (pool, limit) in enumerate(zip(pools, limits, strict=True)):
        chances = pool.scores.gains()
        probability[pool.user_rows, column] = np.clip(chances, 0.0, 1.0)
        eligible[pool.user_rows, column] = limit.margin is None or chances * limit.margin > (limit.cost or 0.0)
    assignment = assign(probability, limits, contacts=contacts, eligible=eligible)
    selections = []
    for column, (pool, name, limit) in enumerate(zip(pools, names, limits, strict=True)):
        assigned = np.flatnonzero(np.isin(pool.user_rows, assignment.person[assignment.campaign == column]))
        scores = pool.scores.rows(assigned)
        user_ids = [pool.user_ids[position] for position in assigned]
        order = ranked(scores, user_ids, name, limit.salt)
        holdout = (draws(user_ids, name, limit.salt) < limit.holdout)[order]
        beyond = len(pool.user_rows) - len(assigned)
        selections.append(Selection(assigned[order][~holdout], assigned[order][holdout], beyond_limit=beyond))
    return selections, assignment


def assign(
    probability: NDArray[np.floating[Any]],
    campaigns: Sequence[AudienceLimits],
    *,
    contacts: int | NDArray[np.integer] = 1,
    eligible: Mask | None = None,
    seconds: float = 25.0,
) -> Assignment:
    """probability: (n_people, n_campaigns), in [0, 1]. contacts: most campaigns per person, one number or (n_people,).

    campaigns: the value of a conversion is the margin, 1 without one; salt and holdout do not matter here. eligible:
    bool, of the shape of `probability`: whom a campaign may address at all. Pairs that gain nothing are never assigned.
    seconds: time limit, after which the best known answer is returned with its gap. Raises `UsageError` for shapes or
    numbers that do not fit.
    """
    p = np.asarray(probability, np.float64)
    if p.ndim != 2 or p.shape[1] != len(campaigns) or (eligible is not None and eligible.shape != p.shape):
        raise UsageError(f"probability has the shape {p.shape}; give (people, {len(campaigns)} campaigns), as eligible")
    if not ((p >= 0) & (p <= 1)).all():
        raise UsageError("a probability lies outside of [0, 1]")
    gain = p * np.array([1.0 if campaign.margin is None else campaign.margin for campaign in campaigns])
    gain = gain if eligible is None else np.where(eligible, gain, 0.0)
    limits = np.array([campaign.reachable(len(gain)) for campaign in campaigns], np.int64)
    per_person = np.broadcast_to(np.asarray(contacts, np.int64), len(gain))
    if (per_person < 0).any():
        raise UsageError("contacts is a number of campaigns per person, 0 or more")
    per_person = np.minimum(per_person, gain.shape[1])
    columns, prices = gain > 0, np.zeros(gain.shape[1])
    if columns.sum() > MOST_PAIRS:
        prices = dual_prices(gain, limits, per_person)
        columns &= largest(np.where(columns, gain - prices, -np.inf), int(per_person.max(initial=0)) + EXTRA_PAIRS)
    bound, solution = upper_bound(gain, limits, per_person, prices), _solve(gain, columns, limits, per_person, seconds)
    if solution is None:
        pairs = greedy(gain, gain - prices, limits, per_person)
    else:
        pairs, bound = solution.pairs, min(bound, upper_bound(gain, limits, per_person, solution.prices))
    total = float(gain[pairs[0], pairs[1]].sum())
    return Assignment(person=pairs[0], campaign=pairs[1], gain=total, bound=max(bound, total))


def upper_bound(gain: Table, limits: NDArray[np.integer], contacts: NDArray[np.integer], prices: Table) -> float:
    """What no assignment exceeds, from any prices >= 0; see the module."""
    reduced = gain - prices
    ordered = -np.sort(-reduced, axis=1)[:, : int(contacts.max(initial=0))]
    affordable = np.arange(ordered.shape[1]) < contacts[:, None]
    return float(prices @ limits + np.where(affordable, np.maximum(ordered, 0), 0).sum())


def dual_prices(
    gain: Table, limits: NDArray[np.integer], contacts: NDArray[np.integer], seconds: float = 10.0
) -> Table:
    """Prices (n_campaigns,) that come near the lowest bound: the duals of the program over a sample of the people, with
    limits in proportion; zeros when there is nothing to gain or the time was too short."""
    n = len(gain)
    rows = np.random.default_rng(0).permutation(n)[:SAMPLE_USERS]
    sample = gain[rows]
    solution = _solve(sample, sample > 0, limits * (len(rows) / max(n, 1)), contacts[rows], seconds) if n else None
    return np.zeros(gain.shape[1]) if solution is None else solution.prices


@dataclass(frozen=True, eq=False)
class _Solution:
    pairs: Pairs
    prices: Table
    """(n_campaigns,), the duals of the limits."""


def _solve(
    gain: Table, columns: Mask, limits: NDArray[Any], contacts: NDArray[np.integer], seconds: float
) -> _Solution | None:
    """The program over the pairs in `columns`; None when there are none, or the time was too short."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    person, campaign = np.nonzero(columns)
    if not len(person) or seconds <= 0:
        return None
    n, variable = len(gain), np.arange(len(person))
    entries = (np.ones(2 * len(person)), (np.concatenate([person, n + campaign]), np.tile(variable, 2)))
    # the simplex method ends in a corner, and the corners are integers
    program = linprog(
        -gain[person, campaign],
        A_ub=csr_matrix(entries, shape=(n + len(limits), len(person))),
        b_ub=np.concatenate([contacts, limits]).astype(float),
        bounds=(0, 1),
        method="highs-ds",
        options={"time_limit": seconds},
    )
    if program.status != 0:  # out of time: a program of limits alone always has a solution
        return None
    used = program.x > 0.5
    return _Solution(np.stack([person[used], campaign[used]]), np.maximum(-program.ineqlin.marginals[n:], 0))


def largest(table: Table, k: int) -> Mask:
    """The k largest entries of each row."""
    if k >= table.shape[1]:
        return np.ones(table.shape, bool)
    mask = np.zeros(table.shape, bool)
    np.put_along_axis(mask, np.argpartition(-table, k - 1, axis=1)[:, :k], True, axis=1)
    return mask


def greedy(gain: Table, reduced: Table, limits: NDArray[np.integer], contacts: NDArray[np.integer]) -> Pairs:
    """An answer without a program: the pair of largest reduced gain that still fits, one after another."""
    free_contacts, free_places, pairs = contacts.tolist(), limits.tolist(), []
    order = np.argsort(-reduced, axis=None, kind="stable")
    for person, campaign in zip(*(rows.tolist() for rows in np.divmod(order, max(gain.shape[1], 1))), strict=True):
        if free_contacts[person] and free_places[campaign] and gain[person, campaign] > 0:
            free_contacts[person] -= 1
            free_places[campaign] -= 1
            pairs.append((person, campaign))
    return np.array(pairs, np.int64).reshape(-1, 2).T
