"""Boosted trees by LightGBM (Ke et al. 2017), kept as its text.

LightGBM trusts a text that it reads: a branch that leads back would be followed without end, and one that leads out of
its tree ends in foreign memory. So a text is read here first, number by number, and LightGBM is given what was checked.
The ranges of the columns, which LightGBM writes too, are left out: they are values of single people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import ModelError
from recllm.base.files import PRIVATE, write_whole
from recllm.text.encoder.hardware import default_threads

FORMAT = 2
ROWS_OF_A_THREAD = 20_000
"""Of fewer rows a second thread waits longer than it helps."""
ROWS_OF_A_BLOCK = 256
"""Scored at once by numpy, so that what they make stays in the cache."""
INNER = ("split_feature", "decision_type", "left_child", "right_child")
"""Whole numbers that LightGBM keeps of each inner node; a child below 0 is the leaf ~child."""
KINDS = (0, 2, 4, 6, 8, 10)
"""Of comparisons with a threshold: where unknown values go, and what counts as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostingSettings:
    """How boosted trees are grown; small and strongly held, as outcomes are noisy."""

    rounds: int = 150
    """Trees."""
    learning_rate: float = 0.04
    leaves: int = 8
    """Of a tree at most."""
    min_leaf_rows: int = 60
    """At most; a twentieth of the rows where that is less."""
    l2: float = 5.0
    """Penalty on the values of the leaves."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class BoostedTrees:
    """Trees whose values for a row are summed up."""

    names: tuple[str, ...]
    """Features, in the order of the columns."""
    booster: Any
    """A `lightgbm.Booster`."""

    def score(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """values: (n, n_features), NaN where unknown. (n,): what the objective of `grow_trees` says."""
        return np.asarray(self.booster.predict(values, raw_score=True, num_threads=default_threads()), np.float64)

    def text(self) -> str:
        """What `parse` reads."""
        return checked_text(self.booster.model_to_string(), len(self.names))

    @classmethod
    def parse(cls, text: str, names: Sequence[str]) -> BoostedTrees:
        """Trees of a text of LightGBM's. Raises `ValueError` or `KeyError` for any other."""
        from lightgbm import Booster

        return cls(tuple(names), Booster(model_str=checked_text(text, len(names))))

    def paths(self, n_trees: int, n_leaves: int) -> dict[str, NDArray[np.float32]]:
        """What `score_by_paths` reads, of at most `n_trees` of `n_leaves`: column and threshold of each inner node, the
        way to each leaf (1 where it turns left at a node, -1 right, 0 where it passes none) and its value. Float32, as
        are the rows, so thresholds are rounded down."""
        paths = {name: np.zeros(shape, np.float32) for name, shape in path_shapes(n_trees, n_leaves).items()}

        def walk(tree: int, node: Mapping[str, Any], way: NDArray[np.float64]) -> None:
            if "leaf_value" in node:
                leaf = node.get("leaf_index", 0)
                paths["tree_paths"][tree, :, leaf], paths["tree_values"][tree, leaf] = way, node["leaf_value"]
                return
            at = (tree, node["split_index"])
            threshold = np.float32(node["threshold"])
            lower = threshold if threshold <= node["threshold"] else np.nextafter(threshold, np.float32(-np.inf))
            paths["tree_columns"][at], paths["tree_thresholds"][at] = node["split_feature"], lower
            turn = np.arange(n_leaves - 1) == node["split_index"]
            walk(tree, node["left_child"], way + turn)
            walk(tree, node["right_child"], way - turn)

        for number, tree in enumerate(self.booster.dump_model()["tree_info"]):
            walk(number, tree["tree_structure"], np.zeros(n_leaves - 1))
        return paths

    def save(self, file: Path, record: Mapping[str, Any]) -> None:
        """Writes the trees whole, as JSON, with a record that `read` gives back."""
        document = {"format": FORMAT, "features": self.names, "trees": self.text(), "record": record}
        write_whole(file, json.dumps(document, ensure_ascii=False) + "\n", mode=PRIVATE)

    @classmethod
    def read(cls, file: Path) -> tuple[BoostedTrees, dict[str, Any]]:
        """The trees and the record of a file that `save` wrote.
        Raises `ModelError` for any other."""
        try:
            document = json.loads(file.read_text("utf-8"))
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']}")
            record: dict[str, Any] = document["record"]
            return cls.parse(document["trees"], document["features"]), record
        except Exception as error:  # a text of another kind fails in many ways
            raise ModelError(
                f"{file}: no trees of this version ({error}); remove it, and they are learned again"
            ) from error


def path_shapes(n_trees: int, n_leaves: int) -> dict[str, tuple[int, ...]]:
    """Of each array of `BoostedTrees.paths`."""
    nodes, leaves = (n_trees, n_leaves - 1), (n_trees, n_leaves)
    return {"tree_columns": nodes, "tree_thresholds": nodes, "tree_paths": (*nodes, n_leaves), "tree_values": leaves}


def score_by_paths(paths: Mapping[str, NDArray[Any]], values: NDArray[np.float32]) -> NDArray[np.float64]:
    """What `BoostedTrees.score` says of float32 rows, all known; importing LightGBM takes a second."""
    ways, column = paths["tree_paths"], paths["tree_columns"].astype(np.int64)
    n_turns, scores = np.abs(ways).sum(axis=1)[:, :, None], np.empty(len(values))
    for start in range(0, len(values), ROWS_OF_A_BLOCK):
        rows = slice(start, start + ROWS_OF_A_BLOCK)
        is_left = values[rows].T[column] <= paths["tree_thresholds"][:, :, None]
        arrived = ways.swapaxes(1, 2) @ np.where(is_left, np.float32(1), np.float32(-1)) == n_turns
        scores[rows] = np.einsum("tln,tl->n", arrived, paths["tree_values"])
    return scores


def grow_trees(
    values: NDArray[np.floating[Any]],
    target: NDArray[np.float64],
    settings: BoostingSettings,
    *,
    names: Sequence[str] = (),
    objective: str = "binary",
    weights: NDArray[np.float64] | None = None,
    offset: NDArray[np.float64] | None = None,
    column_share: float = 1.0,
    directions: Sequence[int] = (),
) -> BoostedTrees:
    """Trees of rows, (n, n_features), NaN where unknown; the same for the same seed.

    Columns that do not vary are never asked. objective: LightGBM's binary (the score is a logit), tweedie (a log) or
    regression (a mean). offset: a score of each row that is known already, which the trees correct; `score` leaves it
    out. column_share: that a split may choose from. directions: of each column 1 where the score may only rise with it,
    -1 where it may only fall, else 0.
    """
    from lightgbm import Dataset, train

    threads = min(default_threads(), 1 + len(target) // ROWS_OF_A_THREAD)
    parameters = {
        "verbosity": -1,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "objective": objective,
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": min(settings.min_leaf_rows, max(2, len(target) // 20)),
        "min_data_in_bin": 1,
        "lambda_l2": settings.l2,
        "feature_fraction_bynode": column_share,
        "seed": settings.seed,
        **({"monotone_constraints": list(directions)} if any(directions) else {}),
    }
    data = Dataset(values, target, weight=weights, init_score=offset, params=parameters)
    names = names or [f"c{n}" for n in range(values.shape[1])]
    return BoostedTrees(tuple(names), train(parameters, data, settings.rounds))


def checked_text(text: str, n_columns: int) -> str:
    """The trees of a text of LightGBM's, written again. Raises `ValueError` or `KeyError` for trees that LightGBM could
    not walk, or that read other columns than the first `n_columns`."""
    trees = [_checked_tree(tree, n_columns) for tree in text.split("Tree=")[1:]]
    if not trees:
        raise ValueError("there is no tree")
    head = {
        "version": "v4",
        "num_class": 1,
        "num_tree_per_iteration": 1,
        "label_index": 0,
        "max_feature_idx": n_columns - 1,
        "feature_names": " ".join(f"c{n}" for n in range(n_columns)),
        "feature_infos": " ".join(["none"] * n_columns),
    }
    blocks = ["\n".join(["tree", *_lines(head)])]
    blocks += ["\n".join([f"Tree={number}", *_lines(tree), ""]) for number, tree in enumerate(trees)]
    return "\n\n".join([*blocks, "end of trees\n"])


def _lines(fields: Mapping[str, object]) -> list[str]:
    return [f"{name}={value}" for name, value in fields.items()]


def _checked_tree(text: str, n_columns: int) -> dict[str, object]:
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    inner = {name: np.array(fields[name].split(), np.int64) for name in INNER}
    threshold, value = (np.array(fields[name].split(), np.float64) for name in ("threshold", "leaf_value"))
    number = np.arange(len(threshold))
    if any(len(numbers) != len(number) for numbers in inner.values()) or len(value) != len(number) + 1:
        raise ValueError("the lists of a tree do not fit each other")
    for name in ("left_child", "right_child"):
        child = inner[name]
        if not np.where(child < 0, ~child < len(value), (child > number) & (child < len(number))).all():
            raise ValueError("a branch leads back, or out of its tree")
    column = inner["split_feature"]
    if not ((column >= 0) & (column < n_columns) & np.isin(inner["decision_type"], KINDS)).all():
        raise ValueError("a tree asks what is not there")
    if np.isnan(threshold).any() or not np.isfinite(value).all():
        raise ValueError("a value is no number")
    numbers = inner | {"threshold": threshold, "leaf_value": value}
    lists = {name: " ".join(map(repr, column.tolist())) for name, column in numbers.items()}
    return {"num_leaves": len(value), "num_cat": 0, **lists}
