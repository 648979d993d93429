"""Boosted trees as arrays: learned by scikit-learn, saved as safetensors, asked with numpy alone.

A tree's inner node sends a row to the left where its feature is at most the threshold, and a missing value to the side
that was learned for it. A leaf is its own child, so that all rows take as many steps as the deepest tree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.encoder.hardware import map_blocks
from recllm.errors import DataError, ModelError
from recllm.files import write_whole

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

ROWS_PER_BLOCK = 4_096
"""Rows asked at once: their values fit the cache."""

_ARRAYS = ("feature", "threshold", "left", "right", "missing_left", "value", "roots")


@dataclass(frozen=True, eq=False)
class BoostedTrees:
    """logit = bias + sum over trees of the value of the leaf that a row comes to."""

    names: tuple[str, ...]
    """Features, in the order of the columns."""
    feature: NDArray[np.int32]
    """(n_nodes,), column that a node asks."""
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    roots: NDArray[np.int32]
    """(n_trees,), node that each tree begins with."""
    bias: float

    @classmethod
    def of(cls, classifier: HistGradientBoostingClassifier, names: Sequence[str]) -> BoostedTrees:
        """What a fitted classifier of two classes holds. Raises `DataError` for one with categorical splits."""
        trees = [predictors[0].nodes for predictors in classifier._predictors]
        nodes = np.concatenate(trees)
        if nodes["is_categorical"].any():
            raise DataError("trees with categorical splits cannot be saved as thresholds")
        roots = np.cumsum([0, *(len(tree) for tree in trees[:-1])])
        start = np.repeat(roots, [len(tree) for tree in trees])
        is_leaf, number = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        return cls(
            names=tuple(names),
            feature=np.where(is_leaf, 0, nodes["feature_idx"]).astype(np.int32),
            threshold=np.where(is_leaf, 0, nodes["num_threshold"]).astype(np.float64),
            left=np.where(is_leaf, number, start + nodes["left"]).astype(np.int32),
            right=np.where(is_leaf, number, start + nodes["right"]).astype(np.int32),
            missing_left=nodes["missing_go_to_left"].astype(bool),
            value=np.where(is_leaf, nodes["value"], 0).astype(np.float64),
            roots=roots.astype(np.int32),
            bias=float(np.ravel(classifier._baseline_prediction)[0]),
        )

    def logit(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """values: (n, n_features), NaN where unknown. (n,)."""
        logit = np.full(len(values), self.bias)

        def add(block: slice) -> None:
            rows = np.ascontiguousarray(values[block], np.float64)
            flat, offset = rows.ravel(), np.arange(len(rows)) * rows.shape[1]
            for root in self.roots:
                node, inner = np.full(len(rows), root, np.int32), np.arange(len(rows))
                while len(inner):  # the rows that have not reached a leaf, which is its own child
                    at = node[inner]
                    value = flat[offset[inner] + self.feature[at]]
                    # a comparison with NaN is false
                    goes_left = (value <= self.threshold[at]) | (np.isnan(value) & self.missing_left[at])
                    after = np.where(goes_left, self.left[at], self.right[at])
                    node[inner] = after
                    inner = inner[self.left[after] != after]
                logit[block] += self.value[node]

        map_blocks(add, len(values), ROWS_PER_BLOCK)
        return logit

    def save(self, file: Path, record: Mapping[str, Any]) -> None:
        """Writes the trees whole, as safetensors, with a record that `read` gives back."""
        from safetensors.numpy import save

        tensors = {name: getattr(self, name) for name in _ARRAYS} | {"bias": np.array([self.bias])}
        metadata = {"features": json.dumps(self.names), "record": json.dumps(record)}
        write_whole(file, save(tensors, metadata=metadata))

    @classmethod
    def read(cls, file: Path) -> tuple[BoostedTrees, dict[str, Any]]:
        """The trees and the record of a file that `save` wrote. Raises `ModelError` for any other."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="np") as file_:
                metadata = file_.metadata() or {}
                tensors = {name: file_.get_tensor(name) for name in (*_ARRAYS, "bias")}
            names, bias = tuple(json.loads(metadata["features"])), float(tensors.pop("bias")[0])
            trees = cls(names=names, bias=bias, **tensors)
            n = len(trees.feature)
            lengths = {len(tensors[name]) for name in _ARRAYS if name != "roots"}
            nodes = np.concatenate([trees.left, trees.right, trees.roots])
            columns_fit = ((trees.feature >= 0) & (trees.feature < len(names))).all()
            are_integers = all(tensors[name].dtype.kind == "i" for name in ("feature", "left", "right", "roots"))
            are_lists = all(array.ndim == 1 for array in tensors.values())
            if (
                not are_integers
                or not are_lists
                or lengths != {n}
                or not ((nodes >= 0) & (nodes < n)).all()
                or not columns_fit
            ):
                raise ValueError("its arrays do not fit each other")
            number, is_leaf = np.arange(n), trees.left == np.arange(n)
            comes_later = (trees.left > number) & (trees.right > number)
            if not np.where(is_leaf, trees.right == number, comes_later).all():
                raise ValueError("a branch leads back")  # and would be followed for ever
            record: dict[str, Any] = json.loads(metadata["record"])
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{file}: no trees of this version ({error}); remove it, and they are learned anew"
            ) from error
        return trees, record
