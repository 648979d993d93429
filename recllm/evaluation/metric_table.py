"""What is measured of the lists of a slice, and of subgroups of it that are read off the same lists.

Items (HEAD, TAIL) and users (LIGHT, HEAVY) are cut in two for the window's first slice of items that were sold before:
ALL by time, the first of MASKED and UNMASKED elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm import metrics
from recllm.evaluation.protocols import COLD, EvaluationWindow, RankedLists, Slice
from recllm.metrics import Rankings, Truth, Values
from recllm.schema import Action

HEAD, TAIL, LIGHT, HEAVY = "HEAD", "TAIL", "LIGHT", "HEAVY"

SUBGROUPS = {
    HEAD: "judged by what people took of the fifth of the items with most buyers before",
    TAIL: "judged by what people took of the other items",
    LIGHT: "people with at most the median number of purchases before",
    HEAVY: "people with more",
}

HEAD_SHARE = 0.2

PER_PERSON: dict[str, Callable[[Rankings, Truth, int], Values]] = {
    "ndcg": metrics.ndcg,
    "recall": metrics.recall,
    "hr": metrics.hit_rate,
    "precision": metrics.precision,
    "mrr": metrics.reciprocal_rank,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Subgroup:
    """A slice, or a part of it."""

    name: str
    slice: str
    rows: NDArray[np.int64]
    """Positions of its people in the slice's lists."""
    truth: Truth
    """One run per person of `rows`, all non-empty."""


def subgroups(window: EvaluationWindow, sold: NDArray[np.integer]) -> dict[str, list[Subgroup]]:
    """By name of the slice, the slice itself first. sold: buyers of each item before, (n_items,)."""
    groups = {
        s.name: [Subgroup(name=s.name, slice=s.name, rows=np.arange(len(s.users)), truth=s.truth)]
        for s in window.slices
    }
    main = next((s for s in window.slices if s.name != COLD and not s.hidden), None)
    if main is not None:
        # equal numbers of buyers at the border are told apart by item row, whose order is that of a hash
        order = main.items[np.argsort(-sold[main.items], kind="stable")]
        head = np.zeros(len(sold), dtype=bool)
        head[order[: int(np.ceil(HEAD_SHARE * len(order)))]] = True
        bought = np.diff(window.dataset.events.of(Action.PURCHASE).indptr)[main.users]
        heavy = bought > np.median(bought)
        truths = {HEAD: main.truth.select(head[main.truth.item]), TAIL: main.truth.select(~head[main.truth.item])}
        rows = {name: np.flatnonzero(truth.sizes > 0) for name, truth in truths.items()}
        rows |= {LIGHT: np.flatnonzero(~heavy), HEAVY: np.flatnonzero(heavy)}
        groups[main.name] += [
            Subgroup(name=name, slice=main.name, rows=users, truth=truths.get(name, main.truth).rows(users))
            for name, users in rows.items()
            if len(users)
        ]
    return groups


def measure(
    lists: RankedLists,
    part: Slice,
    groups: list[Subgroup],
    k: int,
    window: EvaluationWindow,
    sold: NDArray[np.int64],
    vectors: NDArray[np.float32] | None,
) -> Iterator[tuple[str, dict[str, Values], dict[str, float]]]:
    """Name, values per person and figures of each of the slice's `groups`.

    Over lists, money and probabilities only the whole slice has figures. sold: buyers of each item before, (n_items,).
    vectors: (n_items, dim), unit rows, for intra-list diversity.
    """
    for group in groups:
        items = lists.items[group.rows]
        values = {f"{name}@{k}": metric(items, group.truth, k) for name, metric in PER_PERSON.items()}
        figures = {name: metrics.average(value) for name, value in values.items()} | _of_money(items, group.truth, k)
        if group.name == part.name:
            figures |= _of_lists(lists.items, part, k, window, sold, vectors)
            figures |= _of_probabilities(lists, part, k)
        yield group.name, values, figures


def _of_money(lists: Rankings, truth: Truth, k: int) -> dict[str, float]:
    """Where prices are known; of the money spent on what counts as truth.

    revenue_recall: what a person spent on the hits over what they spent on their dearest min(|truth|, k) items, mean
    over people. spend_covered: share of all these people's spend that went to items on the spender's list.
    """
    if truth.value is None or not truth.value.any():
        return {}
    return {
        f"revenue_recall@{k}": metrics.average(metrics.value_recall(lists, truth, k)),
        f"spend_covered@{k}": metrics.spend_covered(lists, truth, k),
    }


def _of_lists(
    lists: Rankings,
    part: Slice,
    k: int,
    window: EvaluationWindow,
    sold: NDArray[np.int64],
    vectors: NDArray[np.float32] | None,
) -> dict[str, float]:
    figures = {
        f"coverage@{k}": metrics.coverage(lists, len(part.items), k),
        f"gini@{k}": metrics.gini(lists, len(part.items), k),
    }
    if sold[part.items].any():
        # ranks among the items of the slice, so that never-sold rows of the dataset do not stretch the scale
        position = np.searchsorted(part.items, np.maximum(lists, 0)).astype(np.int32)
        positions = np.where(lists >= 0, position, -1)
        figures[f"mean_popularity@{k}"] = metrics.mean_popularity(lists, sold, k)
        figures[f"popularity_rank@{k}"] = metrics.popularity_rank(positions, sold[part.items], k)
        figures[f"novelty@{k}"] = metrics.novelty(lists, sold, window.fit_on.n_users, k)
    if vectors is not None:
        figures[f"diversity@{k}"] = metrics.average(metrics.diversity(lists, vectors, k))
    if window.retained and not part.hidden and part.truth.value is not None and part.truth.value.any():
        figures[f"retained_reached@{k}"] = metrics.retained_reached(lists, part.truth, k, window.retained)
    return figures


def _of_probabilities(lists: RankedLists, part: Slice, k: int) -> dict[str, float]:
    """Over the listed pairs: whether "at least .5" and "bought" agree, the mean probability, and the calibration error.

    Then the system's own figures.
    """
    if lists.probabilities is None:
        return {}
    listed = lists.items >= 0
    bought = metrics.hits(lists.items, part.truth, k)[listed]
    probability = lists.probabilities[listed]
    return {
        "accuracy@0.5": metrics.accuracy(probability, bought),
        f"probability@{k}": float(probability.mean()) if len(probability) else float("nan"),
        f"ece@{k}": metrics.calibration_error(probability, bought),
        **lists.figures,
    }
