"""The effects that a trial told, kept: a forest for people of whom the trial knew nothing, with intervals.

effects/NAME/effects.safetensors    the trees, one after another: for each node its children, the column and border that
                                    part it, where an unknown value goes, and the effect of a leaf
effects/NAME/effects.json           the columns, what errors are scaled by, and where the effects come from

No row of any person is in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.documents import plain
from recllm.errors import DataError, ModelError
from recllm.files import PRIVATE, whole_file, write_whole
from recllm.propensity.effect_forest import EffectForest, HeldOutEffects, fit_effect_forest, held_out_effects
from recllm.propensity.features import FeatureTable
from recllm.propensity.model import Values, people_folds, varying
from recllm.propensity.parameters import UpliftSettings

TREES, RECORD = "effects.safetensors", "effects.json"
FORMAT = 1
EFFECT_FOLDS = 5
Z = 1.959964
"""Standard errors on each side of an interval at 95 %."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectSource:
    """Where effects come from."""

    start: str
    """Before the first treatment, ISO 8601."""
    trial: str
    """The trial's file, or the campaign's id."""
    people: int
    treated: int
    effect: float
    """Of the treatment on the mean of the trial's people, with the interval that holds it at 95 %."""
    effect_low: float
    effect_high: float
    binary: bool
    """Whether the outcome is 0 or 1: then effects lie in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class LearnedEffects:
    """Effects of one treatment, for anybody of whom the same features are known."""

    names: tuple[str, ...]
    """All features that people are described by."""
    columns: NDArray[np.int64]
    """Those of them that the trees read."""
    trees: Arrays
    """See the module; `start` is each tree's first node, `group` the group that it belongs to."""
    scale: float
    """Of the forest's standard error."""
    bias: float
    """Root mean square of what the forest draws effects towards their mean."""
    source: EffectSource

    def predict(self, features: FeatureTable) -> tuple[Values, Values, Values]:
        """Each person's effect with the limits that hold it at 95 %, (n,) each. Raises `DataError` for other features
        than the trial's people had."""
        if features.names != self.names:
            different = sorted(set(features.names) ^ set(self.names))
            raise DataError(
                f"the effects were learned from other features ({', '.join(different[:5]) or 'in another order'}); "
                "learn them again with recllm uplift --save"
            )
        values = np.ascontiguousarray(features.values[:, self.columns])
        group, start = self.trees["group"], self.trees["start"]
        answers = np.zeros((int(group.max()) + 1, len(values)))
        for number, first in zip(group.tolist(), start.tolist(), strict=True):
            answers[number] += self._leaves(values, first)
        answers /= np.bincount(group)[:, None]
        effect, error = answers.mean(axis=0), answers.std(axis=0, ddof=1)
        reach = Z * np.hypot(self.scale * error, self.bias)
        low, high = effect - reach, effect + reach
        if self.source.binary:
            effect, low, high = (np.clip(part, -1.0, 1.0) for part in (effect, low, high))
        return effect, low, high

    def _leaves(self, values: NDArray[np.float32], first: int) -> Values:
        """The effect of the leaf of each row, (n,), in the tree whose first node is `first`."""
        trees, node, rows = self.trees, np.full(len(values), first), np.arange(len(values))
        while len(rows):
            at = node[rows]
            rows = rows[trees["left"][at] >= 0]
            at = node[rows]
            value = values[rows, trees["column"][at]]
            is_left = np.where(np.isnan(value), trees["unknown_left"][at], value <= trees["border"][at])
            node[rows] = first + np.where(is_left, trees["left"][at], trees["right"][at])
        return np.asarray(trees["effect"][node], np.float64)


def fit_effects(
    features: FeatureTable, scores: Values, source: EffectSource, settings: UpliftSettings, rng: np.random.Generator
) -> tuple[LearnedEffects, HeldOutEffects]:
    """A forest of all people of a trial, and what forests of other people say of each.

    scores: (n,), doubly robust scores of the treatment less those of none (`arm_scores`).
    """
    columns = varying(features.values)
    values = features.values[:, columns]
    folds = people_folds(np.arange(len(values)), EFFECT_FOLDS, settings.seed)
    held_out = held_out_effects(values, scores, folds, settings, rng)
    trees = _arrays(fit_effect_forest(values, scores, settings, rng))
    return LearnedEffects(features.names, columns, trees, held_out.scale, held_out.bias, source), held_out


def _arrays(forest: EffectForest) -> Arrays:
    trees = [(number, tree.tree_, leaves) for number, group in enumerate(forest.groups) for tree, leaves in group]
    start = np.cumsum([0, *(tree.node_count for _, tree, _ in trees)])[:-1]
    parts: dict[str, Sequence[NDArray[Any]]] = {
        "left": [tree.children_left for _, tree, _ in trees],
        "right": [tree.children_right for _, tree, _ in trees],
        "column": [tree.feature for _, tree, _ in trees],
        "border": [tree.threshold for _, tree, _ in trees],
        "unknown_left": [np.asarray(tree.missing_go_to_left, np.uint8) for _, tree, _ in trees],
        "effect": [leaves for _, _, leaves in trees],
    }
    arrays = {name: np.concatenate(columns) for name, columns in parts.items()}
    return arrays | {"start": start.astype(np.int64), "group": np.array([number for number, _, _ in trees])}


# --- files -----------------------------------------------------------------------------------------------------------


def save_effects(model: LearnedEffects, folder: Path) -> None:
    """Write the two files, readable by the owner only; the record last, so that a stopped writer leaves none."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / RECORD).unlink(missing_ok=True)
    with whole_file(folder / TREES, mode=PRIVATE) as stream:
        stream.write(save({name: np.ascontiguousarray(array) for name, array in model.trees.items()}))
    record = {
        "format": FORMAT,
        "names": model.names,
        "columns": model.columns.tolist(),
        "scale": model.scale,
        "bias": model.bias,
        "source": plain(model.source),
    }
    write_whole(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n", mode=PRIVATE)


def load_effects(folder: Path) -> LearnedEffects:
    """What `save_effects` wrote. Raises `ModelError` for a damaged or another file."""
    from safetensors.numpy import load

    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}")
        trees = load((folder / TREES).read_bytes())
        names, columns = tuple(record["names"]), np.array(record["columns"], np.int64)
        _check_trees(trees, len(columns))
        if len(columns) and (columns.min() < 0 or columns.max() >= len(names)):
            raise ValueError("a tree reads a column that is not there")
        scale, bias = float(record["scale"]), float(record["bias"])
        if not (np.isfinite([scale, bias]).all() and np.isfinite(trees["effect"]).all()):
            raise ValueError("an effect is no number")
        return LearnedEffects(names, columns, trees, scale, bias, EffectSource(**record["source"]))
    except Exception as error:  # safetensors has an error of its own for each kind of damage
        raise ModelError(
            f"{folder}: no effects of this version ({error}); save them again with recllm uplift"
        ) from error


def _check_trees(trees: Arrays, n_columns: int) -> None:
    """Raises `ValueError` unless each row that is asked about comes to a leaf of its tree: a branch that leads back
    would be followed for ever, and one that leads out would end in numbers of something else."""
    nodes, n_trees = len(trees["left"]), len(trees["start"])
    integers = {name: trees[name] for name in ("left", "right", "column", "start", "group")}
    if any(array.ndim != 1 for array in trees.values()) or any(a.dtype.kind not in "iu" for a in integers.values()):
        raise ValueError("the trees are no lists of numbers")
    if any(len(trees[name]) != nodes for name in ("right", "column", "border", "unknown_left", "effect")):
        raise ValueError("the trees do not fit together")
    if not n_trees or len(trees["group"]) != n_trees:
        raise ValueError("there is no tree, or one without its group")
    left, right, column, start, group = (array.astype(np.int64) for array in integers.values())
    if start[0] != 0 or (np.diff(start, append=nodes) <= 0).any():
        raise ValueError("the trees do not follow one another")
    if group.min() < 0 or not np.array_equal(np.unique(group), np.arange(group.max(initial=-1) + 1)):
        raise ValueError("a group has no tree")
    size = np.diff(start, append=nodes)
    number, end = np.arange(nodes) - np.repeat(start, size), np.repeat(size, size)
    inner = left >= 0
    leads_on = (left > number) & (left < end) & (right > number) & (right < end) & (column >= 0) & (column < n_columns)
    if not leads_on[inner].all():
        raise ValueError("a branch leads back, or out of its tree")
