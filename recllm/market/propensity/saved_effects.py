"""The effects of trials, kept in a workspace by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import ModelError, UsageError
from recllm.base.files import safe_id
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.market.propensity.effects import LearnedEffects
    from recllm.shop.data.dataset import Dataset

FOLDER = "effects"


@dataclass(frozen=True, eq=False)
class PersonEffects:
    """How much a treatment moves each of n people, by a trial, (n,) each; low and high hold it at 95 %."""

    effect: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def rows(self, people: NDArray[np.integer]) -> PersonEffects:
        """Of these people."""
        return PersonEffects(self.effect[people], self.low[people], self.high[people])


EffectsOf = Callable[[NDArray[np.integer]], PersonEffects]
"""The effects of people, by their rows in the recommender's dataset."""


def effects_folder(workspace: Workspace, name: str) -> Path:
    """Raises `UsageError` for a name that is no file name."""
    return workspace.root / FOLDER / safe_id(name, "the name of effects")


def effect_names(workspace: Workspace) -> list[str]:
    """Of all effects that were saved, sorted."""
    return sorted(file.parent.name for file in (workspace.root / FOLDER).glob("*/effects.json"))


def saved_effects(workspace: Workspace, name: str) -> LearnedEffects:
    """Raises `UsageError` for a name under which nothing was saved, `ModelError` for damaged files, and for what was
    learned from people who were erased, once its time is over."""
    from recllm.market.propensity.effects import load_effects
    from recllm.recommend.recommender.registry import taints

    folder, names = effects_folder(workspace, name), effect_names(workspace)
    if name not in names:
        listed = f"there are: {', '.join(names)}" if names else "there are none yet"
        raise UsageError(
            f"no effects {name!r} in this workspace; {listed}. Learn some: recllm uplift TRIAL --save NAME"
        )
    taint = taints(workspace.root / FOLDER).get(name)
    if taint is not None and taint.has_ended(datetime.now(UTC)):
        raise ModelError(
            f"the effects {name!r} were learned from people who were erased since, and their use ended on "
            f"{taint.use_until[:10]}; learn them again: recllm uplift TRIAL --save {name}"
        )
    return load_effects(folder)


def effects_of(workspace: Workspace, name: str, dataset: Dataset) -> EffectsOf:
    """The effects of people of a dataset, as of its time. Raises as `saved_effects` does."""
    from recllm.market.propensity.examples import Cohort

    model = saved_effects(workspace, name)

    def effects(user_rows: NDArray[np.integer]) -> PersonEffects:
        features = Cohort(dataset).features(dataset.as_of).rows(user_rows)
        return PersonEffects(*model.predict(features))

    return effects
