"""Effects that are kept: they say what the forest said, of the same features alone, and damage is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recllm.errors import DataError, ModelError, UsageError
from recllm.jobs.effects import effect_names, effects_folder, saved_effects
from recllm.propensity.effect_forest import fit_effect_forest, held_out_effects
from recllm.propensity.effects import (
    RECORD,
    TREES,
    EffectSource,
    LearnedEffects,
    fit_effects,
    load_effects,
    save_effects,
)
from recllm.propensity.features import FeatureTable
from recllm.propensity.model import people_folds
from recllm.propensity.parameters import UpliftSettings
from recllm.workspace.workspace import Workspace

QUICK = UpliftSettings(forest_groups=8)
NAMES = ("a", "b", "same", "c")
SOURCE = EffectSource(
    start="2024-01-01", trial="t.csv", people=600, treated=300, effect=0.1, effect_low=0.0, effect_high=0.2, binary=True
)


def people(n: int = 600, seed: int = 0) -> FeatureTable:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 4)).astype(np.float32)
    values[:, 2] = 1.0  # tells nobody apart
    values[rng.random((n, 4)) < 0.1] = np.nan
    values[:, 2] = 1.0
    return FeatureTable(NAMES, NAMES, values)


@pytest.fixture(scope="module")
def model() -> LearnedEffects:
    features = people()
    scores = np.where(np.nan_to_num(features.values[:, 0]) > 0, 0.5, -0.2) + np.random.default_rng(1).normal(size=600)
    return fit_effects(features, scores, SOURCE, QUICK, np.random.default_rng(2))[0]


def test_kept_trees_say_what_the_forest_said() -> None:
    """Also where values are not known."""
    features, rng = people(), np.random.default_rng(3)
    scores = np.nan_to_num(features.values[:, 0]) + rng.normal(size=600)
    model, held_out = fit_effects(features, scores, SOURCE, QUICK, np.random.default_rng(4))
    columns, state = np.array([0, 1, 3]), np.random.default_rng(4)
    folds = people_folds(np.arange(600), 5, QUICK.seed)
    held_out_effects(features.values[:, columns], scores, folds, QUICK, state)
    forest = fit_effect_forest(features.values[:, columns], scores, QUICK, state)
    others = people(200, seed=9)
    effect, error = forest.predict(others.values[:, columns])
    found, low, high = model.predict(others)
    assert np.allclose(found, np.clip(effect, -1, 1), atol=1e-12)
    reach = 1.959964 * np.hypot(model.scale * error, model.bias)
    assert np.allclose(high, np.clip(effect + reach, -1, 1)) and np.allclose(low, np.clip(effect - reach, -1, 1))
    assert model.scale == held_out.scale and 0 < model.scale < 1


def test_what_is_saved_comes_back(model: LearnedEffects, tmp_path: Path) -> None:
    save_effects(model, tmp_path / "x")
    again = load_effects(tmp_path / "x")
    assert all(
        np.array_equal(a, b) for a, b in zip(model.predict(people(50, 5)), again.predict(people(50, 5)), strict=True)
    )
    assert again.source == SOURCE and sorted(file.name for file in (tmp_path / "x").iterdir()) == [RECORD, TREES]
    moved = np.mean(again.predict(people())[0][np.nan_to_num(people().values[:, 0]) > 0.5])
    assert moved > np.mean(again.predict(people())[0][np.nan_to_num(people().values[:, 0]) < -0.5])


def test_effects_of_other_features_are_refused(model: LearnedEffects) -> None:
    other = replace(people(), names=("a", "b", "same", "d"))
    with pytest.raises(DataError, match=r"other features \(c, d\)"):
        model.predict(other)
    with pytest.raises(DataError, match="in another order"):
        model.predict(replace(people(), names=("b", "a", "same", "c")))


@pytest.mark.parametrize("damage", ["trees", "record", "format", "column"])
def test_damaged_effects_are_told(model: LearnedEffects, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "x"
    save_effects(model, folder)
    record = json.loads((folder / RECORD).read_text())
    if damage == "trees":
        (folder / TREES).write_bytes((folder / TREES).read_bytes()[:-40])
    else:
        broken = {
            "record": "{",
            "format": json.dumps(record | {"format": 9}),
            "column": json.dumps(record | {"columns": [0]}),
        }
        (folder / RECORD).write_text(broken[damage])
    with pytest.raises(ModelError, match="recllm uplift"):
        load_effects(folder)


def test_names_of_effects(model: LearnedEffects, tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop", consent_default=True, encoder="toy") as shop:
        assert effect_names(shop) == []
        with pytest.raises(UsageError, match="there are none yet"):
            saved_effects(shop, "spring")
        with pytest.raises(UsageError, match="safe name"):
            effects_folder(shop, "../spring")
        save_effects(model, effects_folder(shop, "spring"))
        assert effect_names(shop) == ["spring"] and saved_effects(shop, "spring").source == SOURCE
        with pytest.raises(UsageError, match="there are: spring"):
            saved_effects(shop, "autumn")
