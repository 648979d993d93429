"""What is measured of an answer: per person for comparisons, over lists, by money and by probability."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recllm import metrics
from recllm.evaluation.protocols import Judged, Slice, Window
from recllm.evaluation.slices import Part
from recllm.metrics import Rankings, Truth, Values

PER_PERSON: dict[str, Callable[[Rankings, Truth, int], Values]] = {
    "ndcg": metrics.ndcg,
    "recall": metrics.recall,
    "hr": metrics.hit_rate,
    "precision": metrics.precision,
    "mrr": metrics.reciprocal_rank,
}
"""The first is the main metric of every slice: by it the best peer is chosen."""


def per_person(lists: Rankings, part: Part, k: int) -> dict[str, Values]:
    return {f"{m}@{k}": f(lists[part.rows], part.truth, k) for m, f in PER_PERSON.items()}


def of_money(lists: Rankings, part: Part, k: int) -> dict[str, float]:
    """Where prices are known; of the money spent on what counts as truth.

    revenue_recall: what a person spent on the hits over what they spent on their dearest min(|truth|, k) items, mean
    over people. spend_covered: share of all these people's spend that went to items on the spender's list.
    """
    truth = part.truth
    if truth.value is None or not truth.value.any():
        return {}
    return {
        f"revenue_recall@{k}": metrics.average(metrics.value_recall(lists[part.rows], truth, k)),
        f"spend_covered@{k}": metrics.spend_covered(lists[part.rows], truth, k),
    }


def of_lists(
    lists: Rankings,
    one: Slice,
    k: int,
    window: Window,
    sold: NDArray[np.int64],
    vectors: NDArray[np.float32] | None,
) -> dict[str, float]:
    """Of a slice as a whole. sold: buyers of each item before, (n_items,)."""
    out = {
        f"coverage@{k}": metrics.coverage(lists, len(one.items), k),
        f"gini@{k}": metrics.gini(lists, len(one.items), k),
    }
    if sold[one.items].any():
        out[f"mean_popularity@{k}"] = metrics.mean_popularity(lists, sold, k)
        out[f"popularity_rank@{k}"] = _popularity_rank(lists, one, k, sold)
        out[f"novelty@{k}"] = metrics.novelty(lists, sold, window.fit_on.n_users, k)
    if vectors is not None:
        out[f"diversity@{k}"] = metrics.average(metrics.diversity(lists, vectors, k))
    if window.retained and not one.hidden and one.truth.value is not None and one.truth.value.any():
        out[f"retained_reached@{k}"] = metrics.retained_reached(lists, one.truth, k, window.retained)
    return out


def of_probabilities(answer: Judged, one: Slice, k: int) -> dict[str, float]:
    """Over the listed pairs: whether "at least .5" and "taken" agree, the mean probability, and the calibration error.

    Then the system's own figures.
    """
    listed = answer.items >= 0
    taken = metrics.hits(answer.items, one.truth, k)[listed]
    probability = answer.probability[listed]
    return {
        "accuracy@0.5": metrics.accuracy(probability, taken),
        f"probability@{k}": float(probability.mean()) if len(probability) else float("nan"),
        f"ece@{k}": metrics.calibration_error(probability, taken),
        **answer.figures,
    }


def _popularity_rank(lists: Rankings, one: Slice, k: int, sold: NDArray[np.int64]) -> float:
    """Among the items of the slice, so that never-sold rows of the dataset do not stretch the scale."""
    place = np.searchsorted(one.items, np.maximum(lists, 0)).astype(np.int32)
    return metrics.popularity_rank(np.where(lists >= 0, place, -1), sold[one.items], k)
