"""How much more or less often an item is taken than the scorer's probability says: one offset per item.

The scorer's own calibration is one line for all items. Here each item's observed takings O and expected takings E over
the judges' candidates give a ratio, drawn towards that of the item's group, and the group's towards 1, by a gamma prior
(gamma-Poisson shrinkage, DuMouchel 1999):

    ratio of a group = (O + s) / (E + s),    ratio of an item = (O + s) / (E + s / ratio of its group)

so an item with few expected takings keeps its group's ratio, and a group with few keeps 1. The ratio multiplies the
rate of taking, p' = 1 - (1 - p) ^ ratio, which for small p is ratio times p. It moves no score and no rank.
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
from recllm.data.item_groups import Facets
from recllm.errors import ModelError, UsageError

if TYPE_CHECKING:
    from recllm.schema import Action
    from recllm.training.windows import Window

WEIGHTS, IDS = "item_offsets.safetensors", "item_offsets.json"

STRENGTH = 50.0
"""s: the prior weighs as much as so many expected takings. Of 5, 10, 20, 50, 100, ... the likeliest for the takings of
300 judges of Complete Journey (negative binomial), for items and for groups alike."""


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
        known = dict(zip(self.item_ids, self.offset.tolist(), strict=True))
        return np.fromiter((known.get(item, 0.0) for item in item_ids), np.float32, len(item_ids))


def judged_offsets(
    probability: Floats, judge: Window, dataset: Dataset, target: tuple[Action, ...], strength: float = STRENGTH
) -> Floats:
    """Log ratios (n_items,) from the judges' pairs and their probabilities (n_pairs,); 0 for items that never sold."""
    sold = np.bincount(of_actions(dataset.events, target).item, minlength=dataset.n_items) > 0
    weight = np.exp(judge.correction.astype(np.float64))  # what a sampled pair stands for
    expected = np.bincount(judge.item, weight * probability, dataset.n_items)
    observed = np.bincount(judge.item, weight * judge.label, dataset.n_items)
    return np.where(sold, item_offsets(observed, expected, Facets.of(dataset.items).type, strength), 0).astype(
        np.float32
    )


def item_offsets(
    observed: NDArray[Any], expected: NDArray[Any], group: NDArray[np.integer], strength: float = STRENGTH
) -> NDArray[Any]:
    """Log of each item's ratio of takings, (n_items,).

    observed, expected: takings (n_items,). group: (n_items,), -1 for an item without one. Raises `UsageError` for a
    strength that is not above 0.
    """
    if not strength > 0:
        raise UsageError(f"strength is {strength}; the prior must weigh more than 0 expected takings")
    place = group.astype(np.int64) + 1
    of_group = (np.bincount(place, observed) + strength) / (np.bincount(place, expected) + strength)
    of_group[0] = 1.0  # items without a group have nothing in common
    return np.asarray(np.log((observed + strength) / (expected + strength / of_group[place])))


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
