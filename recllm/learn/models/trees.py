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

from recllm.base.arrays import Array, Floats, Values
from recllm.base.errors import ModelError
from recllm.base.files import PRIVATE, write_whole
from recllm.text.encoder.hardware import default_threads

FORMAT = 2
ROWS_OF_A_THREAD = 20_000
"""Of fewer rows a second thread waits longer than it helps."""
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

    def score(self, values: NDArray[np.floating[Any]]) -> Values:
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

    def splits(self, n_trees: int, n_leaves: int) -> dict[str, Floats]:
        """What `score_by_splits` reads, of at most `n_trees` of `n_leaves`: of each split the leaf that it divides (-1
        where there is no split), the column and the threshold, and the leaves' values. What is not above the threshold
        stays in the leaf, the rest goes to a new one."""
        splits, values = np.zeros((3, n_leaves - 1, n_trees), np.float32), np.zeros((n_trees, n_leaves), np.float32)
        splits[0] = -1
        for number, tree in enumerate(checked_trees(self.booster.model_to_string(), len(self.names))):
            left, leaf = tree["left_child"], ~tree["left_child"]
            for split in np.flatnonzero(left >= 0)[::-1]:
                leaf[split] = leaf[left[split]]
            splits[:, : len(left), number] = leaf, tree["split_feature"], tree["threshold"]
            values[number, : len(left) + 1] = tree["leaf_value"]
        return {"tree_splits": splits, "tree_values": values}

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


def score_by_splits(splits: Mapping[str, Array], values: Floats) -> Values:
    """What `BoostedTrees.score` says of float32 rows, all known; importing LightGBM takes a second."""
    leaf = np.zeros((len(splits["tree_values"]), len(values)), np.intp)
    for number, (divided, column, threshold) in enumerate(splits["tree_splits"].swapaxes(0, 1)[..., None], 1):
        is_above = values.T[column[:, 0].astype(np.intp)] > threshold
        leaf[(leaf == divided) & is_above] = number
    return np.asarray(np.take_along_axis(splits["tree_values"], leaf, axis=1).sum(axis=0, dtype=np.float64))


def grow_trees(
    values: NDArray[np.floating[Any]],
    target: Values,
    settings: BoostingSettings,
    *,
    names: Sequence[str] = (),
    objective: str = "binary",
    weights: Values | None = None,
    offset: Values | None = None,
    column_share: float = 1.0,
    directions: Sequence[int] = (),
) -> BoostedTrees:
    """Trees of rows, (n, n_features), NaN where unknown; the same for the same seed.

    Columns that do not vary are never asked. objective: LightGBM's binary (the score is a logit), tweedie (a log) or
    regression (a mean). offset: a known score of each row, which the trees correct and `score` leaves out.
    column_share: that a split may choose from. directions: of each column 1 where the score may only rise with it, -1
    where it may only fall, else 0.
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
    """The trees of a text of LightGBM's, written again. Raises what `checked_trees` raises."""
    head = {
        "version": "v4",
        "num_class": 1,
        "num_tree_per_iteration": 1,
        "label_index": 0,
        "max_feature_idx": n_columns - 1,
        "feature_names": " ".join(f"c{n}" for n in range(n_columns)),
        "feature_infos": " ".join(["none"] * n_columns),
    }
    sections: list[dict[str, object]] = [head]
    for number, tree in enumerate(checked_trees(text, n_columns)):
        lists = {name: " ".join(map(repr, column.tolist())) for name, column in tree.items()}
        sections.append({"Tree": number, "num_leaves": len(tree["leaf_value"]), "num_cat": 0, **lists})
    blocks = ["\n".join(f"{name}={value}" for name, value in section.items()) for section in sections]
    return "tree\n" + "\n\n".join([blocks[0], *(f"{block}\n" for block in blocks[1:]), "end of trees\n"])


def checked_trees(text: str, n_columns: int) -> list[dict[str, Array]]:
    """The lists of each tree of a text. Raises `ValueError` or `KeyError` for trees that LightGBM could not walk, or
    that read other columns than the first `n_columns`."""
    trees = []
    for tree in text.split("Tree=")[1:]:
        fields = dict(line.split("=", 1) for line in tree.splitlines() if "=" in line)
        inner = {name: np.array(fields[name].split(), np.int64) for name in INNER}
        threshold, value = (np.array(fields[name].split(), np.float64) for name in ("threshold", "leaf_value"))
        number = np.arange(len(threshold))
        if any(len(numbers) != len(number) for numbers in inner.values()) or len(value) != len(number) + 1:
            raise ValueError("the lists of a tree do not fit each other")
        child = np.stack([inner["left_child"], inner["right_child"]])
        if not np.where(child < 0, ~child < len(value), (child > number) & (child < len(number))).all():
            raise ValueError("a branch leads back, or out of its tree")
        column = inner["split_feature"]
        if not ((column >= 0) & (column < n_columns) & np.isin(inner["decision_type"], KINDS)).all():
            raise ValueError("a tree asks what is not there")
        if np.isnan(threshold).any() or not np.isfinite(value).all():
            raise ValueError("a value is no number")
        trees.append({**inner, "threshold": threshold, "leaf_value": value})
    if not trees:
        raise ValueError("there is no tree")
    return trees
