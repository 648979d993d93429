"""Why each person of an audience: leave-one-out on the served score, many people in one pass.

The same evidence, deltas and sentences as `Recommender.reasons` with a spread of 1, with one economy: basics are tried
only for a person with fewer lines than are tried for an item, because each leaves another text to encode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.probabilities import map_blocks, restricted_to, vectors_of_basics
from recllm.data.dataset import Events
from recllm.data.interactions import Pairs
from recllm.explain.leave_one_out import Evidence, ReasonWriter, UserHistory, choose, lacking, units_of
from recllm.features.item_vectors import basics_of
from recllm.profiles.profile import build_profiles
from recllm.schema import Reason

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

USERS_PER_BLOCK = 64
"""People whose shortened histories are scored together."""


def reasons_for(
    recommender: Recommender, user_rows: NDArray[np.integer], items: NDArray[np.integer]
) -> list[tuple[Reason, ...]]:
    """The clearest reasons of person n for item n, (n,) rows each; an item of -1 has none."""
    from recllm.recommender.ranking import UserInputs

    data = recommender.dataset
    population = restricted_to(recommender.population, np.unique(items[items >= 0]))
    ranker = replace(recommender.ranker, population=population)
    speaker = ReasonWriter(data.items, recommender.policy, recommender.locale, recommender.explanations)
    reasons: list[tuple[Reason, ...]] = [()] * len(items)
    with_item = np.flatnonzero(items >= 0)

    def explain(block: slice) -> None:
        positions = with_item[block]
        rows, targets = user_rows[positions], items[positions]
        # of each person and item: the evidence to leave out; the whole person first, then one version without each
        units: list[list[Evidence]] = []
        histories: list[Events] = []
        basics: list[Mapping[str, str]] = []
        for row, item, answers in zip(rows, targets, basics_of(data.users[rows.tolist()]), strict=True):
            person = UserHistory(data.events.rows(np.array([row])), answers)
            units.append(_units(recommender, person, item))
            histories.append(person.events)
            basics.append(answers)
            if units[-1]:
                shortened, fewer_answers = lacking(person, [(unit,) for unit in units[-1]])
                histories.append(shortened)
                basics += fewer_answers
        sizes = np.array([len(tried) + 1 for tried in units])
        repeated = np.repeat(targets, sizes).astype(np.int32)
        users = UserInputs(
            Events.concat(histories),
            data.as_of,
            np.repeat(rows, sizes),  # so that nobody is their own neighbour
            vectors_of_basics(recommender, basics),
        )
        pairs = Pairs(np.arange(len(repeated) + 1, dtype=np.int64), repeated)
        scored = ranker.score(users, pairs)
        logits = np.split(scored.logit, np.cumsum(sizes)[:-1])
        profiles = build_profiles(data, rows)
        for position, item, tried, logit, profile in zip(positions, targets, units, logits, profiles, strict=True):
            deltas = np.asarray(logit[0] - logit[1:], np.float32)
            reasons[position] = speaker.reasons(tried, deltas, int(item), profile, 1.0)

    map_blocks(explain, len(with_item), USERS_PER_BLOCK)
    return reasons


def _units(recommender: Recommender, person: UserHistory, item: int) -> list[Evidence]:
    """What is tried for an item: of all evidence what is nearest to it."""
    units, limit = units_of(person), recommender.explanations.evidence_per_item
    if sum(unit.kind != "I" for unit in units) >= limit:
        units = [unit for unit in units if unit.kind != "I"]
    types = recommender.population.facets.type
    nearest = choose(units, np.array([item]), recommender.item_vectors, types, limit)
    return [unit for unit, is_near in zip(units, nearest[:, 0], strict=True) if is_near]
