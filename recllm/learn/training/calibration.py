"""What is fitted after the network: the probability, one offset per item, and the score of users without a history.

Platt's line (`calibrate`) turns the logit into a probability, the same for all items. Then each item's observed
purchases O and expected purchases E over the validation users' candidates give a ratio, drawn towards that of the
item's group, and the group's towards 1, by a gamma prior (gamma-Poisson shrinkage, DuMouchel 1999):

    ratio of a group = (O + s) / (E + s),    ratio of an item = (O + s) / (E + s / ratio of its group)

so an item with few expected purchases keeps its group's ratio, and a group with few keeps 1. The ratio multiplies the
rate of purchases, p' = 1 - (1 - p) ^ ratio, which for small p is ratio times p. It moves no score and no rank.

To a user who has done nothing yet, what is offered follows from how an item sells, and how it sells to users alike:

    log E[purchases of item i by user u] = w . (NEWCOMER_FEATURES) + b

a Poisson regression on users of past windows whose history is hidden. Little can be learned about a user without a
history, and the scorer's MLPs, which read dozens of features, did worse here than popularity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import UsageError
from recllm.base.stats.probabilities import log_odds, logistic_line
from recllm.learn.features.pair_features import FEATURE_NAMES, NEWCOMER_FEATURES
from recllm.learn.models.scorer import open_part, write_part
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import Floats, of_actions
from recllm.shop.data.item_groups import ItemGroups

if TYPE_CHECKING:
    from recllm.base.schema import Action
    from recllm.learn.training.windows import Window

PART = "item_offsets"
"""Name of its two files."""


def calibrate(logit: Floats, window: Window, prior: float) -> Floats:
    """Platt's slope and intercept (2,): the likeliest sigmoid of the logit (n_pairs,), by Newton's method.

    Source: Platt 1999, with his smoothed targets. Sampled negatives weigh as much as they stand for. The slope is drawn
    towards 1, the slope of a softmax that is right, as strongly as `prior` outcomes would draw it, so that a handful of
    users cannot turn it round.
    """
    weight, label = np.exp(window.correction.astype(np.float64)), window.label
    positives, negatives = label.sum(), weight[~label].sum()
    target = np.where(label, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    rate = (label.sum() + 1) / (weight.sum() + 2)
    start = (1.0, float(log_odds(rate) - np.average(logit, weights=weight)))
    line = logistic_line(logit, target, weight, start=start, strength=(prior, 1e-3))
    return np.array([max(line[0], 0.05), line[1]], np.float32)


def cold_start_weights(windows: Sequence[Window], prior: float) -> NDArray[np.float64]:
    """Weights of `NEWCOMER_FEATURES` and, last, the constant, (n + 1,), from windows of users without a history.

    prior: pull of each weight towards popularity, the first weight to 1 and the others to 0. Popularity alone without
    any window.
    """
    start = np.zeros(len(NEWCOMER_FEATURES) + 1)
    start[0] = 1.0
    if not windows:
        return start
    columns = [FEATURE_NAMES.index(name) for name in NEWCOMER_FEATURES]
    x = np.concatenate([w.features[:, columns] for w in windows]).astype(np.float64)
    label = np.concatenate([w.label for w in windows]).astype(np.float64)
    return poisson(x, label, np.concatenate([w.correction for w in windows]).astype(np.float64), start, prior)


def poisson(
    x: NDArray[np.float64],
    label: NDArray[np.float64],
    log_weight: NDArray[np.float64],
    start: NDArray[np.float64],
    ridge: float,
) -> NDArray[np.float64]:
    """Weights and, last, the constant that minimise sum(exp(z + log_weight)) - sum(label z) + ridge towards `start`,
    z = x w + b; the constant is free. x (n, d), label and log_weight (n,), start (d + 1,)."""
    from sklearn.linear_model import PoissonRegressor

    # what is learned is the distance from `start`, whose part of the rate weighs like the weight itself
    weight = np.exp(log_weight + x @ start[:-1])
    model = PoissonRegressor(alpha=2 * ridge / weight.sum(), solver="newton-cholesky", tol=1e-9)
    model.fit(x, np.maximum(label, 1e-9) / weight, sample_weight=weight)  # a rate of 0 has no logarithm
    return np.append(start[:-1] + model.coef_, model.intercept_)


@dataclass(frozen=True, eq=False)
class ItemOffsets:
    """What is stored: log ratios (n,) float32 and the ids of their items; every other item has 0."""

    item_ids: tuple[str, ...]
    offset: Floats

    @classmethod
    def of(cls, item_ids: Sequence[str], offset: Floats) -> ItemOffsets:
        """From one log ratio per row of the catalogue."""
        rows = np.flatnonzero(offset)
        return cls(tuple(item_ids[row] for row in rows.tolist()), np.asarray(offset[rows], np.float32))

    def bind(self, item_ids: Sequence[str]) -> Floats:
        """Log ratios (n_items,) for the catalogue of today; 0 for an item that was not there."""
        offsets = dict(zip(self.item_ids, self.offset.tolist(), strict=True))
        return np.fromiter((offsets.get(item, 0.0) for item in item_ids), np.float32, len(item_ids))


def fit_item_offsets(
    probability: Floats, window: Window, dataset: Dataset, target: tuple[Action, ...], prior: float
) -> Floats:
    """Log ratios (n_items,) from validation users' pairs and their probabilities (n_pairs,); 0 for unsold items.

    prior: see `item_offsets`.
    """
    sold = np.bincount(of_actions(dataset.events, target).item, minlength=dataset.n_items) > 0
    weight = np.exp(window.correction.astype(np.float64))  # what a sampled pair stands for
    expected = np.bincount(window.item, weight * probability, dataset.n_items)
    observed = np.bincount(window.item, weight * window.label, dataset.n_items)
    offsets = item_offsets(observed, expected, ItemGroups.of(dataset.items).type, prior)
    return np.where(sold, offsets, 0).astype(np.float32)


def item_offsets(
    observed: NDArray[Any], expected: NDArray[Any], group: NDArray[np.integer], prior: float
) -> NDArray[Any]:
    """Log of each item's ratio of purchases, (n_items,).

    observed, expected: purchases (n_items,). group: (n_items,), -1 for an item without one. prior: s, the prior's
    weight in expected purchases. Of 5, 10, 20, 50, 100, ... 50 was the likeliest for the purchases of 300
    validation users of Complete Journey (negative binomial), for items and for groups alike. Raises `UsageError` for
    a prior that is not above 0.
    """
    if not prior > 0:
        raise UsageError(f"the prior of the item calibration is {prior}; it must weigh more than 0 expected purchases")
    group_row = group.astype(np.int64) + 1
    group_ratio = (np.bincount(group_row, observed) + prior) / (np.bincount(group_row, expected) + prior)
    group_ratio[0] = 1.0  # items without a group have nothing in common
    return np.asarray(np.log((observed + prior) / (expected + prior / group_ratio[group_row])))


def with_offsets(probability: Floats, offset: Floats) -> Floats:
    """p' = 1 - (1 - p) ^ exp(offset), both (n_pairs,): p' rises with p, and stays in [0, 1]."""
    return np.asarray(-np.expm1(np.exp(offset) * np.log1p(-probability)), np.float32)


def save_item_offsets(offsets: ItemOffsets, folder: Path) -> None:
    """Write `item_offsets.safetensors` and `item_offsets.json` into an existing folder."""
    weights = {"offset": np.asarray(offsets.offset, np.float32)}
    write_part(folder, PART, weights, {"item_ids": list(offsets.item_ids)})


def load_item_offsets(folder: Path) -> ItemOffsets | None:
    """What `save_item_offsets` wrote; None where the model has no such part.

    Raises `ModelError` when the files do not fit each other.
    """
    if not (folder / f"{PART}.json").exists():
        return None
    with open_part(folder, PART, "the item calibration") as (record, weights):
        offsets = ItemOffsets(tuple(record["item_ids"]), weights["offset"])
        if offsets.offset.shape != (len(offsets.item_ids),):
            raise ValueError(f"{len(offsets.item_ids)} items and offsets of shape {offsets.offset.shape}")
    return offsets
