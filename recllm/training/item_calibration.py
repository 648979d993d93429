"""How much more or less often an item is bought than the scorer's probability says: one offset per item.

The scorer's own calibration is one line for all items. Here each item's observed purchases O and expected purchases E
over the validation users' candidates give a ratio, drawn towards that of the item's group, and the group's towards 1,
by a gamma prior (gamma-Poisson shrinkage, DuMouchel 1999):

    ratio of a group = (O + s) / (E + s),    ratio of an item = (O + s) / (E + s / ratio of its group)

so an item with few expected purchases keeps its group's ratio, and a group with few keeps 1. The ratio multiplies the
rate of purchases, p' = 1 - (1 - p) ^ ratio, which for small p is ratio times p. It moves no score and no rank.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.data.interactions import Floats, of_actions
from recllm.data.item_groups import ItemGroups
from recllm.errors import ModelError, UsageError

if TYPE_CHECKING:
    from recllm.schema import Action
    from recllm.training.windows import Window

WEIGHTS, IDS = "item_offsets.safetensors", "item_offsets.json"


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

    observed, expected: purchases (n_items,). group: (n_items,), -1 for an item without one. prior: s, the prior weighs
    as much as so many expected purchases. Of 5, 10, 20, 50, 100, ... 50 was the likeliest for the purchases of 300
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
    from safetensors.numpy import save_file

    save_file({"offset": np.ascontiguousarray(offsets.offset, np.float32)}, folder / WEIGHTS)
    text = json.dumps({"item_ids": list(offsets.item_ids)}, ensure_ascii=False)
    (folder / IDS).write_text(text + "\n", encoding="utf-8")


def load_item_offsets(folder: Path) -> ItemOffsets | None:
    """What `save_item_offsets` wrote; None where the model has no such part.

    Raises `ModelError` when the files do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / IDS).exists():
        return None
    try:
        ids = tuple(json.loads((folder / IDS).read_text(encoding="utf-8"))["item_ids"])
        offset = load_file(folder / WEIGHTS)["offset"]
        if offset.shape != (len(ids),):
            raise ValueError(f"{len(ids)} items and offsets of shape {offset.shape}")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: not the item calibration of this version ({error}); train again") from error
    return ItemOffsets(ids, offset)
