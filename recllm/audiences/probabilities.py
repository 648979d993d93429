"""How likely each person is to take at least one of some items within the model's horizon.

One item is scored for everybody, a few for everybody as well; of many items, each person gets those that the model's
own candidate sources propose of them, as in a slate. Of several items

    P(at least one) = 1 - product over items of (1 - p_item)

which takes the items as independent given the person. People who come to the shop at all tend to take several, so for
many items this is too high; `eval/audience.py` measures by how much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.candidates import Candidates, candidates, explicit
from recllm.errors import NotFittedError
from recllm.histories import Floats
from recllm.population import ask
from recllm.ranking import score_pairs
from recllm.vectors import basics_of, basics_vectors

if TYPE_CHECKING:
    from recllm.recommender import Recommender

FEW_ITEMS = 50
"""Up to so many items, every person is scored on every item."""

BLOCK = 256
"""People at once."""


@dataclass(frozen=True, eq=False)
class Chances:
    """Of n people. probability: float32 (n,), of at least one item. best: int64 (n,), the item of the highest score,
    -1 where none was scored. logit: float32 (n,), its score."""

    probability: Floats
    best: NDArray[np.int64]
    logit: Floats


def chances(recommender: Recommender, items: NDArray[np.integer], people: NDArray[np.integer]) -> Chances:
    """items: rows of the catalogue. people: rows of the dataset's users.

    Raises `NotFittedError` without a trained model: cosines are no probabilities.
    """
    if recommender.model is None:
        raise NotFittedError("an audience needs calibrated probabilities: train a model first")
    parts = [_block(recommender, items, rows) for rows in blocks(people)]
    if not parts:
        return Chances(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Chances(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def blocks(people: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    for start in range(0, len(people), BLOCK):
        yield people[start : start + BLOCK]


def _block(
    recommender: Recommender, items: NDArray[np.integer], rows: NDArray[np.integer]
) -> tuple[Floats, NDArray[np.int64], Floats]:
    model, data = recommender.model, recommender.dataset
    assert model is not None  # noqa: S101 - chances made sure
    told = basics_vectors(recommender.encoder, basics_of(data.users[rows.tolist()]), recommender.locale)
    histories = data.events.rows(rows)
    pairs = _pairs(recommender, items, rows, told)
    scored = score_pairs(
        model.scorer,
        recommender.population,
        histories,
        data.as_of,
        pairs,
        own=rows,
        basics=told,
        item_offsets=recommender.item_offsets,
    )
    best, logit = _best(pairs, scored.logit)
    return at_least_one(pairs, scored.probability), best, logit


def _pairs(recommender: Recommender, items: NDArray[np.integer], rows: NDArray[np.integer], told: Floats) -> Candidates:
    if len(items) <= FEW_ITEMS:
        return explicit(len(rows), items)
    data, crowd = recommender.dataset, recommender.population
    allowed = np.zeros(data.n_items, bool)
    allowed[items] = True
    asked = ask(crowd, data.events.rows(rows), data.as_of, own=rows, basics=told)
    settings = recommender.model.candidates if recommender.model else None
    return candidates(crowd, asked, settings, allowed=allowed)


def at_least_one(pairs: Candidates, probability: Floats) -> Floats:
    """1 - product of (1 - p) over each person's items, float32 (n,); 0 for a person without any."""
    n = len(pairs.indptr) - 1
    misses = np.log1p(-np.minimum(probability.astype(np.float64), 1 - 1e-7))
    return np.asarray(-np.expm1(np.bincount(pairs.user, misses, n)), np.float32)


def _best(pairs: Candidates, logit: Floats) -> tuple[NDArray[np.int64], Floats]:
    n = len(pairs.indptr) - 1
    best, score = np.full(n, -1, np.int64), np.full(n, np.nan, np.float32)
    order = np.lexsort((pairs.item, -logit, pairs.user))
    first = order[pairs.indptr[:-1][np.diff(pairs.indptr) > 0]]
    best[pairs.user[first]], score[pairs.user[first]] = pairs.item[first], logit[first]
    return best, score
