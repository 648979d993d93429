"""Several campaigns compete for the same people: who gets which?

    maximise    sum of x[u, c] * gain[u, c],    gain = probability * value
    subject to  sum over people of x[u, c] <= limit[c]            every campaign: its size, and what its budget pays
                sum over campaigns of x[u, c] <= contacts         every person
                0 <= x <= 1

This is a transportation problem, whose matrix is totally unimodular (Hoffman and Kruskal 1956), so there is an integer
optimum. HiGHS solves it; where there are very many pairs, over those that pay best at prices of the campaigns from a
sample of the people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import UsageError
from recllm.market.audiences.audience import EligiblePool
from recllm.market.audiences.request import AudienceLimits
from recllm.market.audiences.selection import Selection, draws, ranked

Table = NDArray[np.float64]
"""(people, campaigns)."""
Mask = NDArray[np.bool_]
Pairs = NDArray[np.int64]
"""(2, n): rows of people and positions of campaigns."""

SAMPLE_USERS = 1_000
"""People over whom the first prices are found."""

MOST_PAIRS = 150_000
"""Pairs of a program, from which on it has the best of each person only."""

SECONDS = 25.0
"""Of a program, after which people are assigned greedily."""

EXTRA_PAIRS = 6
"""Pairs of a person in such a program beyond their contacts."""


def select_jointly(
    pools: Sequence[EligiblePool],
    names: Sequence[str],
    limits: Sequence[AudienceLimits],
    n_users: int,
    *,
    contacts: int = 1,
) -> list[Selection]:
    """The people of each of several campaigns, so that each person gets the campaigns that suit them best.

    n_users: of the dataset that the pools are of. contacts: most campaigns that one person gets. The value of a
    conversion is the margin, 1 without one; with a margin, a person whose gain is not above the cost gets no contact.
    Each campaign's holdout is drawn from the people it was assigned, so a campaign addresses at most its limit. Raises
    `UsageError` for two campaigns of one name.
    """
    if len(set(names)) < len(names):
        raise UsageError(f"two campaigns are called {max(names, key=names.count)!r}; give each its own name")
    gain = np.zeros((n_users, len(pools)))
    for column, (pool, limit) in enumerate(zip(pools, limits, strict=True)):
        chances = np.clip(pool.scores.gains(), 0.0, 1.0)
        value, cost = (1.0, 0.0) if limit.margin is None else (limit.margin, limit.cost or 0.0)
        gain[pool.user_rows, column] = np.where(chances * value > cost, chances * value, 0.0)
    person, campaign = assign(gain, np.array([limit.reachable(n_users) for limit in limits], np.int64), contacts)
    selections = []
    for column, (pool, name, limit) in enumerate(zip(pools, names, limits, strict=True)):
        assigned = np.flatnonzero(np.isin(pool.user_rows, person[campaign == column]))
        scores = pool.scores.rows(assigned)
        user_ids = [pool.user_ids[position] for position in assigned]
        order = ranked(scores, user_ids, name, limit.salt)
        holdout = (draws(user_ids, name, limit.salt) < limit.holdout)[order]
        beyond = len(pool.user_rows) - len(assigned)
        selections.append(Selection(assigned[order][~holdout], assigned[order][holdout], beyond_limit=beyond))
    return selections


def assign(gain: Table, limits: NDArray[np.integer], contacts: int = 1) -> Pairs:
    """gain: 0 or more; pairs that gain nothing are never assigned. limits: people of each campaign. contacts: most
    campaigns of a person."""
    columns, prices = worthwhile(gain, limits, contacts)
    solution = solved(gain, columns, limits, contacts)
    return greedy(gain, gain - prices, limits, contacts) if solution is None else solution[0]


def worthwhile(gain: Table, limits: NDArray[np.integer], contacts: int) -> tuple[Mask, Table]:
    """The pairs that a program has, and prices of the campaigns, (n_campaigns,), which are 0 where it has all pairs."""
    columns, prices = gain > 0, np.zeros(gain.shape[1])
    if columns.sum() > MOST_PAIRS:
        rows = np.random.default_rng(0).permutation(len(gain))[:SAMPLE_USERS]
        of_sample = solved(gain[rows], columns[rows], limits * (len(rows) / len(gain)), contacts)
        prices = prices if of_sample is None else of_sample[1]
        columns &= largest(np.where(columns, gain - prices, -np.inf), contacts + EXTRA_PAIRS)
    return columns, prices


def solved(gain: Table, columns: Mask, limits: NDArray[Any], contacts: int) -> tuple[Pairs, Table] | None:
    """The pairs of the program over those in `columns`, and the prices of the campaigns, the duals of their limits;
    None without pairs, or where `SECONDS` were too short."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    person, campaign = np.nonzero(columns)
    if not len(person):
        return None
    n, variable = len(gain), np.arange(len(person))
    entries = (np.ones(2 * len(person)), (np.concatenate([person, n + campaign]), np.tile(variable, 2)))
    # the simplex method ends in a corner, and the corners are integers
    program = linprog(
        -gain[person, campaign],
        A_ub=csr_matrix(entries, shape=(n + len(limits), len(person))),
        b_ub=np.concatenate([np.full(n, contacts), limits]).astype(float),
        bounds=(0, 1),
        method="highs-ds",
        options={"time_limit": SECONDS},
    )
    if program.status != 0:  # out of time: a program of limits alone always has a solution
        return None
    used = program.x > 0.5
    return np.stack([person[used], campaign[used]]), np.maximum(-program.ineqlin.marginals[n:], 0)


def largest(table: Table, k: int) -> Mask:
    """The k largest entries of each row."""
    if k >= table.shape[1]:
        return np.ones(table.shape, bool)
    mask = np.zeros(table.shape, bool)
    np.put_along_axis(mask, np.argpartition(-table, k - 1, axis=1)[:, :k], True, axis=1)
    return mask


def greedy(gain: Table, reduced: Table, limits: NDArray[np.integer], contacts: int) -> Pairs:
    """An answer without a program: the pair of largest reduced gain that still fits, one after another."""
    free_contacts, free_places, pairs = [contacts] * len(gain), limits.tolist(), []
    order = np.argsort(-reduced, axis=None, kind="stable")
    for person, campaign in zip(*(rows.tolist() for rows in np.divmod(order, max(gain.shape[1], 1))), strict=True):
        if free_contacts[person] and free_places[campaign] and gain[person, campaign] > 0:
            free_contacts[person] -= 1
            free_places[campaign] -= 1
            pairs.append((person, campaign))
    return np.array(pairs, np.int64).reshape(-1, 2).T
