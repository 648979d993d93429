"""Why each person of an audience: leave-one-out on the served score, many people in one pass.

The same evidence, worth and sentences as `Recommender.explain`, with one economy: basics are tried only for a person
with fewer lines than are tried for an item, because each leaves another text to encode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.probabilities import narrowed
from recllm.data.dataset import Events
from recllm.data.interactions import Floats, Pairs
from recllm.encoder.hardware import workers
from recllm.explain.leave_one_out import Person, Speaker, Unit, choose, units_of, without
from recllm.features.collaborative import Population
from recllm.features.item_vectors import basics_of, basics_vectors
from recllm.profiles.profile import build_profiles
from recllm.recommender.ranking import score_pairs
from recllm.schema import Reason

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

BLOCK = 64
"""People whose shortened histories are scored together."""


@dataclass(frozen=True, eq=False)
class _Trial:
    """One person, one item, and the units to try. versions: the whole person first, then one without each unit."""

    row: int
    item: int
    units: list[Unit]
    histories: list[Events]
    basics: list[Mapping[str, str]]


def reasons_for(
    recommender: Recommender, people: NDArray[np.integer], items: NDArray[np.integer]
) -> list[tuple[Reason, ...]]:
    """The clearest reasons of person n for item n, (n,) rows each; an item of -1 has none."""
    parts = [slice(start, start + BLOCK) for start in range(0, len(people), BLOCK)]
    with ThreadPoolExecutor(workers()) as pool:
        blocks = pool.map(lambda part: _block(recommender, people[part], items[part]), parts)
        return [reasons for block in blocks for reasons in block]


def _block(
    recommender: Recommender, people: NDArray[np.integer], items: NDArray[np.integer]
) -> list[tuple[Reason, ...]]:
    told = basics_of(recommender.dataset.users[people.tolist()])
    trials = [
        _trial(recommender, int(row), int(item), basics)
        for row, item, basics in zip(people, items, told, strict=True)
        if item >= 0
    ]
    profiles = build_profiles(recommender.dataset, [t.row for t in trials])
    speaker = Speaker(recommender.dataset.items, recommender.policy, recommender.locale, recommender.explanations)
    spoken = iter(
        [
            speaker.reasons(trial.units, worth, trial.item, profile, 1.0)
            for trial, worth, profile in zip(trials, _worth(recommender, trials), profiles, strict=True)
        ]
    )
    return [next(spoken) if item >= 0 else () for item in items]


def _trial(recommender: Recommender, row: int, item: int, basics: Mapping[str, str]) -> _Trial:
    person = Person(recommender.dataset.events.rows(np.array([row])), basics)
    units, tried = units_of(person), recommender.explanations.evidence_per_item
    if sum(u.kind != "I" for u in units) >= tried:
        units = [u for u in units if u.kind != "I"]
    types = recommender.population.facets.type
    chosen = choose(units, np.array([item]), recommender.item_vectors, types, tried)
    units = [u for u, yes in zip(units, chosen[:, 0], strict=True) if yes]
    if not units:
        return _Trial(row, item, [], [person.events], [basics])
    histories, told = without(person, units)
    return _Trial(row, item, units, [person.events, histories], [basics, *told])


def _worth(recommender: Recommender, trials: Sequence[_Trial]) -> list[Floats]:
    """Of each trial's units, float32 (n_units,)."""
    if not trials:
        return []
    sizes = np.array([len(t.units) + 1 for t in trials])
    items = np.repeat([t.item for t in trials], sizes).astype(np.int32)
    own = np.repeat([t.row for t in trials], sizes)
    histories = stacked([events for t in trials for events in t.histories])
    basics = [b for t in trials for b in t.basics]
    crowd = narrowed(recommender.population, np.unique(items))
    logit = _logits(recommender, crowd, histories, basics, own, items)
    runs = np.split(logit, np.cumsum(sizes)[:-1])
    return [np.asarray(run[0] - run[1:], np.float32) for run in runs]


def _logits(
    recommender: Recommender,
    crowd: Population,
    histories: Events,
    basics: Sequence[Mapping[str, str]],
    own: NDArray[np.integer],
    items: NDArray[np.int32],
) -> Floats:
    """The served score of version n for item n; nobody is their own neighbour."""
    assert recommender.model is not None  # noqa: S101 - `chances` made sure
    told = basics_vectors(recommender.encoder, basics, recommender.locale)
    pairs = Pairs(np.arange(len(items) + 1, dtype=np.int64), items)
    as_of, scorer = recommender.dataset.as_of, recommender.model.scorer
    return score_pairs(scorer, crowd, histories, as_of, pairs, own=own, basics=told).logit


def stacked(parts: Sequence[Events]) -> Events:
    """The people of all parts, in order."""
    ends = np.cumsum([0, *(len(part) for part in parts)])
    indptr = [part.indptr[1:] + start for part, start in zip(parts, ends[:-1], strict=True)]
    columns = ("item", "at", "action", "quantity", "price", "basket")
    joined = (np.concatenate([getattr(part, name) for part in parts]) for name in columns)
    return Events(np.concatenate([[0], *indptr]).astype(np.int64), *joined)
