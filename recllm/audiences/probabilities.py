"""How likely each person is to take at least one of some items within the model's horizon.

One item is scored for everybody, a few for everybody as well; of many items, each person gets those that the model's
own candidate sources propose of them, as in a slate. Of several items

    P(at least one) = 1 - product over items of (1 - p_item)

which takes the items as independent given the person, and for many items is too high:
`recllm.audiences.set_calibration` sets it right.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.data.interactions import Floats
from recllm.encoder.hardware import workers
from recllm.errors import NotFittedError
from recllm.features.candidates import Candidates, candidates, explicit
from recllm.features.collaborative import Population, ask
from recllm.features.item_vectors import basics_of, basics_vectors
from recllm.recommender.ranking import ScoredPairs, score_pairs

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

UNTRAINED = "an audience needs calibrated probabilities: train a model first"

FEW_ITEMS = 50
"""Up to so many items, every person is scored on every item."""

BLOCK = 256
"""People at once, and fewer where each has many pairs."""

MOST_PAIRS = 2**18


@dataclass(frozen=True, eq=False)
class Chances:
    """Of n people. order: float64 (n,), who comes first. best: int64 (n,), the item that suits them best, -1 for none.

    probability: float32 (n,), of at least one item; None where `order` is only a likeness. Otherwise `order` is minus
    the log of the probability of none, which tells people apart where the probability itself rounds to 1.
    """

    order: NDArray[np.float64]
    best: NDArray[np.int64]
    probability: Floats | None


def chances(recommender: Recommender, items: NDArray[np.integer], people: NDArray[np.integer]) -> Chances:
    """items: rows of the catalogue. people: rows of the dataset's users.

    Raises `NotFittedError` without a trained model: cosines are no probabilities.
    """
    if recommender.model is None:
        raise NotFittedError(UNTRAINED)
    crowd = narrowed(recommender.population, items)
    order, best = np.zeros(len(people)), np.full(len(people), -1, np.int64)
    parts = [slice(start, start + BLOCK) for start in range(0, len(people), BLOCK)]
    told = _told(recommender, people)
    with ThreadPoolExecutor(workers()) as pool:
        found = pool.map(lambda part: _block(recommender, crowd, items, people[part], told[part]), parts)
        for part, block in zip(parts, found, strict=True):
            order[part], best[part] = block
    return Chances(order, best, np.asarray(-np.expm1(-order), np.float32))


def single_chances(
    recommender: Recommender, items: NDArray[np.integer], people: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Probability that each of `people` takes each of `items`, float32 (n, n_items): for a few hundred items at most.

    The same figures as `chances` of each item alone. Raises `NotFittedError` without a trained model.
    """
    if recommender.model is None:
        raise NotFittedError(UNTRAINED)
    crowd, (rows, column) = narrowed(recommender.population, items), np.unique(items, return_inverse=True)
    out = np.zeros((len(people), len(rows)), np.float32)
    step = int(np.clip(MOST_PAIRS // max(len(rows), 1), 1, BLOCK))
    for start in range(0, len(people) if len(rows) else 0, step):
        part = people[start : start + step]
        scored = _scored(recommender, crowd, explicit(len(part), rows), part, _told(recommender, part))
        out[start : start + step] = scored.probability.reshape(len(part), -1)
    return out[:, column]


def narrowed(crowd: Population, items: NDArray[np.integer]) -> Population:
    """The same crowd for scores of `items` alone: what it knows of other items' buyers is left out.

    Scores of `items` stay what they are, because a pair's features look these tables up at the pair's own item.
    """

    def kept(table: Any) -> Any:
        wanted = np.zeros(crowd.n_items, bool)
        wanted[items] = True
        thin = table.tocsr().copy()
        thin.data = np.where(wanted[thin.indices], thin.data, 0).astype(thin.dtype)
        thin.eliminate_zeros()
        return thin

    return replace(crowd, recent=kept(crowd.recent), decayed=kept(crowd.decayed), item_item=kept(crowd.item_item))


def _block(
    recommender: Recommender, crowd: Population, items: NDArray[np.integer], rows: NDArray[np.integer], told: Floats
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Order and best item of each of `rows`, whose basics have the vectors `told`."""
    pairs = explicit(len(rows), items)
    if len(items) > FEW_ITEMS:
        data, settings = recommender.dataset, recommender.model.candidates if recommender.model else None
        asked = ask(crowd, data.events.rows(rows), data.as_of, own=rows, basics=told)
        pairs = candidates(crowd, asked, settings, allowed=_mask(data, items))
    scored = _scored(recommender, crowd, pairs, rows, told)
    return at_least_one(pairs, scored.probability), _best(pairs, scored.logit)


def _told(recommender: Recommender, rows: NDArray[np.integer]) -> Floats:
    return basics_vectors(recommender.encoder, basics_of(recommender.dataset.users[rows.tolist()]), recommender.locale)


def _scored(
    recommender: Recommender, crowd: Population, pairs: Candidates, rows: NDArray[np.integer], told: Floats
) -> ScoredPairs:
    data = recommender.dataset
    assert recommender.model is not None  # noqa: S101 - the callers made sure
    return score_pairs(
        recommender.model.scorer,
        crowd,
        data.events.rows(rows),
        data.as_of,
        pairs,
        own=rows,
        basics=told,
        item_offsets=recommender.item_offsets,
    )


def _mask(data: Dataset, items: NDArray[np.integer]) -> NDArray[np.bool_]:
    out = np.zeros(data.n_items, bool)
    out[items] = True
    return out


def at_least_one(pairs: Candidates, probability: Floats) -> NDArray[np.float64]:
    """Minus the log of the product of (1 - p) over each person's items, float64 (n,); 0 for a person without any."""
    misses = np.log1p(-np.minimum(probability.astype(np.float64), 1 - 1e-7))
    return np.asarray(-np.bincount(pairs.user, misses, len(pairs.indptr) - 1))


def _best(pairs: Candidates, logit: Floats) -> NDArray[np.int64]:
    best = np.full(len(pairs.indptr) - 1, -1, np.int64)
    order = np.lexsort((pairs.item, -logit, pairs.user))
    first = order[pairs.indptr[:-1][np.diff(pairs.indptr) > 0]]
    best[pairs.user[first]] = pairs.item[first]
    return best
