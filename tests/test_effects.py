"""Effects that are kept: they say what the forest said, of the same features alone, and damage is told."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from recllm.base.errors import DataError, ModelError, UsageError
from recllm.market.propensity.effects import (
    EARLIER_TREES,
    RECORD,
    LearnedEffects,
    UpliftSettings,
    effect_names,
    effects_folder,
    fit_effects,
    load_effects,
    save_effects,
    saved_effects,
)
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.trial import Trial
from recllm.shop.workspace.workspace import Workspace

QUICK = UpliftSettings(forest_groups=8)
NAMES = ("a", "b", "same", "c")


def people(n: int = 600, seed: int = 0) -> FeatureTable:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 4)).astype(np.float32)
    values[:, 2] = 1.0  # tells nobody apart
    values[rng.random((n, 4)) < 0.1] = np.nan
    values[:, 2] = 1.0
    return FeatureTable(NAMES, NAMES, values)


@pytest.fixture(scope="module")
def model() -> LearnedEffects:
    """Of 600 people of whom those with a value of a above 0 are moved."""
    features, rng = people(), np.random.default_rng(1)
    treated, moved = rng.random(600) < 0.5, np.nan_to_num(features.values[:, 0]) > 0
    outcome = rng.random(600) < 0.4 + treated * np.where(moved, 0.5, -0.2)
    trial = Trial.construct(features, treated, outcome.astype(float), randomised=True)
    return fit_effects(trial, QUICK, start="2024-01-01", source="t.csv")[0]


def test_intervals_are_as_wide_as_the_learners_errors_say(model: LearnedEffects) -> None:
    """Also where values are not known."""
    features = people(200, seed=9)
    effect, error = model.trees.predict(features.values[:, [0, 1, 3]])
    answer = model.predict(features)
    assert np.array_equal(answer.effect, np.clip(effect, -1, 1))
    reach = 1.959964 * np.hypot(model.scale * error, model.bias)
    assert np.allclose(answer.high, np.clip(effect + reach, -1, 1))
    assert np.allclose(answer.low, np.clip(effect - reach, -1, 1))
    assert 0 < model.scale < 2 and len(model.trees.groups) == QUICK.forest_groups


def test_what_is_saved_comes_back(model: LearnedEffects, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / EARLIER_TREES).write_bytes(b"of an earlier version")
    save_effects(model, tmp_path / "x")
    again = load_effects(tmp_path / "x")
    first, second = (astuple(of.predict(people(50, 5))) for of in (model, again))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert again.source == model.source and [file.name for file in (tmp_path / "x").iterdir()] == [RECORD]
    moved = np.mean(again.predict(people()).effect[np.nan_to_num(people().values[:, 0]) > 0.5])
    assert moved > np.mean(again.predict(people()).effect[np.nan_to_num(people().values[:, 0]) < -0.5])


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
    broken = {
        "trees": json.dumps(record | {"trees": [[text[:-80] for text in group] for group in record["trees"]]}),
        "record": "{",
        "format": json.dumps(record | {"format": 1}),
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
        assert effect_names(shop) == ["spring"] and saved_effects(shop, "spring").source == model.source
        with pytest.raises(UsageError, match="there are: spring"):
            saved_effects(shop, "autumn")
