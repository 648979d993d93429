"""LightGBM (Ke et al. 2017) with the few settings that matter here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.interactions import Floats
from recllm.errors import MissingExtraError
from recllm.features.collaborative import CollaborativeStatistics


@dataclass(frozen=True, kw_only=True)
class BoostSettings:
    rounds: int = 200
    leaves: int = 31
    learning_rate: float = 0.05
    least_rows: int = 50
    """In a leaf."""
    share: float = 0.8
    """Of the columns per tree and of the rows per round."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TreeExamples:
    """Pairs of a person and an item of all past windows."""

    features: Floats
    """(n, len(names))."""
    label: Floats
    weight: Floats
    names: tuple[str, ...]
    population: CollaborativeStatistics
    """As of the query."""


@dataclass(frozen=True, eq=False)
class Forest:
    booster: Any
    """A `lightgbm.Booster`."""
    population: CollaborativeStatistics

    def predict(self, features: Floats) -> NDArray[np.float64]:
        return np.asarray(self.booster.predict(features, num_threads=1))


def boost(examples: TreeExamples, settings: BoostSettings) -> Forest:
    """Trees grown on the examples; one thread and fixed orders, so that a seed gives one result.

    Raises `MissingExtraError` without the library.
    """
    try:
        import lightgbm
    except ModuleNotFoundError as error:
        raise MissingExtraError("lightgbm", "bench") from error
    data = lightgbm.Dataset(
        examples.features,
        label=examples.label,
        weight=examples.weight,
        feature_name=list(examples.names),
        params={"verbosity": -1},
    )
    parameters = {
        "objective": "binary",
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.least_rows,
        "feature_fraction": settings.share,
        "bagging_fraction": settings.share,
        "bagging_freq": 1,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    return Forest(lightgbm.train(parameters, data, num_boost_round=settings.rounds), examples.population)
