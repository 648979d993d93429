"""Counterfactuals: what would have to be missing from a person's history for an item to leave the first k.

The pieces of evidence that weigh most are taken out one after the other until the item leaves the first k of a list
that is really ranked again, candidates and all; then those that were not needed are put back. So the set is small and
proven, but not proven to be the smallest there is. Source: Ghazimatin et al. 2020, "PRINCE: provider-side
interpretability with counterfactual explanations"; Tran et al. 2021, "Counterfactual explanations for neural
recommenders"; here for any model that can rank a shortened history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Events
from recllm.explain.leave_one_out import Evidence, UserHistory, lacking

Place = Callable[[Events, Sequence[Mapping[str, str]]], NDArray[np.int64]]
"""(histories of n versions, basics of each) -> the item's place in each version's list, from 1, int64 (n,)."""

MOST = 8
"""Pieces taken out at most: a longer list explains nothing."""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """Without `units` the item would stand at place `after` instead of `before`, counted from 1."""

    units: tuple[Evidence, ...]
    before: int
    after: int


def counterfactual(
    person: UserHistory,
    units: Sequence[Evidence],
    deltas: NDArray[np.float32],
    position: Place,
    *,
    k: int,
    max_units: int = MOST,
) -> Counterfactual | None:
    """A small set of units without which the item is not among the first `k`.

    worth: (n_units,), NaN where not tried; only units above 0 are taken out. None when the item is not among the first
    `k` as it is, or still is without the `most` heaviest units.
    """
    heaviest = [units[int(n)] for n in np.argsort(-np.nan_to_num(deltas, nan=-np.inf), kind="stable") if deltas[n] > 0]
    prefixes = [tuple(heaviest[:n]) for n in range(min(max_units, len(heaviest)) + 1)]
    positions = position(*lacking(person, prefixes))
    before, gone = int(positions[0]), np.flatnonzero(positions > k)
    if before > k or not len(gone):
        return None
    removed, after = prefixes[gone[0]], int(positions[gone[0]])
    return Counterfactual(*_needed(person, removed, before, after, position, k))


def _needed(
    person: UserHistory, removed: tuple[Evidence, ...], before: int, after: int, position: Place, k: int
) -> tuple[tuple[Evidence, ...], int, int]:
    """The set without the units that can be put back, lightest first, while the item stays away."""
    while len(removed) > 1:
        fewer = [removed[:n] + removed[n + 1 :] for n in reversed(range(len(removed)))]
        positions = position(*lacking(person, fewer))
        still = np.flatnonzero(positions > k)
        if not len(still):
            break
        removed, after = fewer[still[0]], int(positions[still[0]])
    return removed, before, after
