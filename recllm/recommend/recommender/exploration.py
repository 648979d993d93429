"""How a served slate explores, with the exact probability of every item that it shows.

    positions      0        1        2                     the k best, each kept with probability 1 - share
    ranks          0        1        2
    strata       3 6 9    4 7 10   5 8 11                  pool = 9: ranks 3 to 11, dealt out like cards

Each position is explored independently with probability `share`, and an explored position draws uniformly from a
stratum of its own. So nothing is shown twice, positions do not depend on each other, and the propensities are known
exactly: 1 - share for the item of the rank itself, share / (size of the stratum) for each item of the stratum. A
position whose stratum is empty is never explored: propensity 1.

What is simplified: an item of the pool can only appear at one position, and the k best only at their own. So what a
log of such slates can say of another ranking ends at the pool (`experiments.off_policy` says how much of the
other ranking that leaves out).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import UsageError


def stratum(position: int, k: int, n_ranked: int, pool: int) -> range:
    """The ranks, from 0, that an explored position draws from."""
    return range(k + position, min(k + pool, n_ranked), k)


def explore(
    ranked_item_rows: NDArray[np.integer], k: int, share: float, pool: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The rows to show and the probability of each, both (min(k, n),), in the order of the positions.

    ranked_item_rows: (n,), best first, no row twice; n of k + pool and more fills every stratum. share: in [0, 1].
    pool: number of ranks after the first k, from 0. Raises `UsageError` for a value out of its range, or a row twice.
    """
    if k < 1 or pool < 0 or not 0 <= share <= 1:
        raise UsageError(f"k is {k}, pool {pool}, share {share}; give k from 1, pool from 0, and a share of 0 to 1")
    ranked = np.asarray(ranked_item_rows, np.int64)[: k + pool]
    if ranked.ndim != 1 or len(set(ranked.tolist())) < len(ranked):
        raise UsageError("ranked_item_rows: give each row once, best first")
    strata = [stratum(position, k, len(ranked), pool) for position in range(min(k, len(ranked)))]
    sizes = np.array([len(ranks) for ranks in strata], np.int64)
    # the same number of draws whatever is explored: a slate of a seed differs by its own ranking alone
    is_explored = (rng.random(len(sizes)) < share) & (sizes > 0)
    drawn = (rng.random(len(sizes)) * sizes).astype(np.int64)
    ranks = [ranks[drawn[j]] if is_explored[j] else j for j, ranks in enumerate(strata)]
    greedy_propensities = np.where(sizes > 0, 1 - share, 1.0)
    return ranked[ranks], np.where(is_explored, share / np.maximum(sizes, 1), greedy_propensities)
