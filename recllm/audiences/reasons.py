"""Why each person of an audience: leave-one-out on the served score, many people in one pass.

The same evidence, deltas and sentences as `Recommender.reasons` with a spread of 1, with one economy: basics are tried
only for a person with fewer lines than are tried for an item, because each leaves another text to encode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.probabilities import map_blocks, restricted_to, vectors_of_basics
from recllm.data.dataset import Events
from recllm.data.interactions import Floats, Pairs
from recllm.explain.leave_one_out import Evidence, ReasonWriter, UserHistory, choose, lacking, units_of
from recllm.features.collaborative import CollaborativeStatistics
from recllm.features.item_vectors import basics_of
from recllm.profiles.profile import build_profiles
from recllm.schema import Reason

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

USERS_PER_BLOCK = 64
"""People whose shortened histories are scored together."""


@dataclass(frozen=True, eq=False)
class _Ablation:
    """One person, one item, and the evidence to leave out: the whole person first, then one version without each."""

    user_row: int
    item: int
    units: list[Evidence]
    histories: list[Events]
    basics: list[Mapping[str, str]]


def reasons_for(
    recommender: Recommender, user_rows: NDArray[np.integer], items: NDArray[np.integer]
) -> list[tuple[Reason, ...]]:
    """The clearest reasons of person n for item n, (n,) rows each; an item of -1 has none."""
    population = restricted_to(recommender.population, np.unique(items[items >= 0]))
    speaker = ReasonWriter(recommender.dataset.items, recommender.policy, recommender.locale, recommender.explanations)
    reasons: list[tuple[Reason, ...]] = [()] * len(items)
    with_item = np.flatnonzero(items >= 0)

    def explain(block: slice) -> None:
        positions = with_item[block]
        basics = basics_of(recommender.dataset.users[user_rows[positions].tolist()])
        pairs = zip(user_rows[positions].tolist(), items[positions].tolist(), basics, strict=True)
        ablations = [_ablation(recommender, *pair) for pair in pairs]
        profiles = build_profiles(recommender.dataset, user_rows[positions])
        deltas = _deltas(recommender, population, ablations)
        for position, ablation, delta, profile in zip(positions, ablations, deltas, profiles, strict=True):
            reasons[position] = speaker.reasons(ablation.units, delta, ablation.item, profile, 1.0)

    map_blocks(explain, len(with_item), USERS_PER_BLOCK)
    return reasons


def _ablation(recommender: Recommender, user_row: int, item: int, basics: Mapping[str, str]) -> _Ablation:
    person = UserHistory(recommender.dataset.events.rows(np.array([user_row])), basics)
    units, limit = units_of(person), recommender.explanations.evidence_per_item
    if sum(unit.kind != "I" for unit in units) >= limit:
        units = [unit for unit in units if unit.kind != "I"]
    types = recommender.population.facets.type
    nearest = choose(units, np.array([item]), recommender.item_vectors, types, limit)
    units = [unit for unit, is_near in zip(units, nearest[:, 0], strict=True) if is_near]
    if not units:
        return _Ablation(user_row, item, [], [person.events], [basics])
    histories, shortened = lacking(person, [(unit,) for unit in units])
    return _Ablation(user_row, item, units, [person.events, histories], [basics, *shortened])


def _deltas(
    recommender: Recommender, population: CollaborativeStatistics, ablations: Sequence[_Ablation]
) -> list[Floats]:
    """What the served score of each person's item loses without each unit, float32 (n_units,).

    The person's own row is told to the scorer, so that nobody is their own neighbour.
    """
    from recllm.recommender.ranking import UserInputs

    sizes = np.array([len(ablation.units) + 1 for ablation in ablations])
    items = np.repeat([ablation.item for ablation in ablations], sizes).astype(np.int32)
    users = UserInputs(
        Events.concat([events for ablation in ablations for events in ablation.histories]),
        recommender.dataset.as_of,
        np.repeat([ablation.user_row for ablation in ablations], sizes),
        vectors_of_basics(recommender, [basics for ablation in ablations for basics in ablation.basics]),
    )
    pairs = Pairs(np.arange(len(items) + 1, dtype=np.int64), items)
    scored = replace(recommender.ranker, population=population).score(users, pairs)
    runs = np.split(scored.logit, np.cumsum(sizes)[:-1])
    return [np.asarray(run[0] - run[1:], np.float32) for run in runs]
