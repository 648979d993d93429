"""Uplift: the learners find whom the treatment moves, Qini says so, and what is no trial is refused."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from tables import table

from recllm.base.errors import DataError, ModelError, PolicyError, UsageError
from recllm.market.propensity.effects import (
    EARLIER_TREES,
    RECORD,
    LearnedEffects,
    UpliftSettings,
    effect_names,
    effect_scores,
    effects_folder,
    error_scale,
    fit_effects,
    load_effects,
    save_effects,
    saved_effects,
    shrinkage_bias,
)
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.prediction import SHARES, QiniCurve, cumulative, curve_of, qini_curve
from recllm.market.propensity.trial import Trial, check_assignment, read_trial
from recllm.shop.workspace.workspace import Workspace

N = 6_000
QUICK = UpliftSettings(forest_groups=8)


def world(seed: int = 0, n: int = N, share: float = 0.5, tilt: float = 0.0) -> tuple[Trial, np.ndarray]:
    """x0 says who has the outcome anyway, x1 whom the treatment moves: up where above 0, down where below.

    tilt: how much x0 sways the (known) chance of treatment."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    base, effect = 0.3 + 0.15 * np.tanh(x[:, 0]), 0.2 * np.sign(x[:, 1])
    chance = np.clip(base + effect, 0, 1)
    propensity = np.clip(share + tilt * np.tanh(x[:, 0]), 0.05, 0.95)
    treated = rng.random(n) < propensity
    outcome = (rng.random(n) < np.where(treated, chance, base)).astype(float)
    names = tuple(f"x{i}" for i in range(5))
    trial = Trial.construct(FeatureTable(names, names, x), treated, outcome, propensity=propensity)
    return trial, chance - base


def curve(uplift: np.ndarray, trial: Trial) -> QiniCurve:
    return qini_curve(uplift, trial.treated, trial.outcome, trial.propensity)


def true_qini(uplift: np.ndarray, truth: np.ndarray) -> QiniCurve:
    """From the true uplift of all, (n,)."""
    return curve_of(cumulative(uplift, truth, SHARES) / len(truth))


@pytest.mark.parametrize(("share", "tilt"), [(0.5, 0.0), (0.5, 0.3), (0.2, 0.0)])
def test_it_finds_whom_it_moves(share: float, tilt: float) -> None:
    (learn, _), (judge, truth) = world(0, share=share, tilt=tilt), world(1, share=share, tilt=tilt)
    found = fit_effects(learn, QUICK)[0].predict(judge.features)
    uplift, low, high = found.effect, found.low, found.high
    assert true_qini(uplift, truth).qini > 0.75 * true_qini(truth, truth).qini
    up, down = uplift[truth > 0.1].mean(), uplift[truth < -0.1].mean()
    assert up > 0.05 and down < -0.05 and np.abs(uplift).max() <= 1
    assert (low <= uplift).all() and (uplift <= high).all() and ((low <= truth) & (truth <= high)).mean() > 0.85


def test_known_chances_keep_the_effect_honest() -> None:
    """Treated more often are those who respond anyway: without the chances the mean effect would seem positive."""
    trial, truth = world(2, n=20_000, tilt=0.4)
    naive = trial.outcome[trial.treated].mean() - trial.outcome[~trial.treated].mean()
    found = curve(np.zeros(len(trial)), trial).effect
    assert abs(found - truth.mean()) < 0.02 < abs(naive - truth.mean())


def test_who_responds_is_not_who_is_moved() -> None:
    trial, truth = world(3)
    responds = trial.features.column("x0").astype(float)
    assert abs(true_qini(responds, truth).qini) < 0.1 * true_qini(truth, truth).qini


def test_qini_from_outcomes_is_near_the_truth() -> None:
    trial, truth = world(4, n=40_000)
    seen, known = curve(truth, trial), true_qini(truth, truth)
    assert seen.qini == pytest.approx(known.qini, abs=0.01) and seen.effect == pytest.approx(known.effect, abs=0.02)
    assert true_qini(-truth, truth).qini == pytest.approx(-known.qini, abs=0.003)


def test_qini_of_a_case_to_count() -> None:
    truth = np.array([0.4, 0.2, 0.0, -0.2])
    curve = true_qini(truth, truth)
    assert curve.effect == pytest.approx(0.1) and curve.qini == pytest.approx(curve.auuc - 0.05)
    assert curve.auuc == pytest.approx((0.05 + 0.125 + 0.15 + 0.125) / 4, abs=0.001)
    assert true_qini(np.zeros(4), truth).qini == pytest.approx(0, abs=1e-9)


def test_held_out_uplift_is_of_other_people() -> None:
    """Where there is no effect to find, held-out uplift finds none; the same people's own would seem to."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 8)).astype(np.float32)
    names = tuple(f"x{i}" for i in range(8))
    treated, outcome = rng.random(2_000) < 0.5, (rng.random(2_000) < 0.4).astype(float)
    trial = Trial.construct(FeatureTable(names, names, x), treated, outcome, randomised=True)
    model, held_out = fit_effects(trial, QUICK)
    own = curve(model.predict(trial.features).effect, trial).qini
    other = curve(held_out.expected, trial).qini
    assert own > 0.03 and abs(other) < 0.02


@pytest.mark.parametrize("differ", [False, True])
def test_intervals_of_people_hold_the_effect_as_often_as_said(differ: bool) -> None:
    """At 95 % of a person drawn at random: over some worlds neither much less nor nearly always."""
    covered, widths, names = [], [], ("p", "q", "r", "s")
    for seed in range(2):
        rng = np.random.default_rng([seed, differ])
        x, treated = rng.normal(size=(1_000, 4)), rng.integers(0, 2, 1_000) == 1
        truth = 0.2 * np.tanh(x[:, 0]) if differ else np.full(1_000, 0.1)
        outcome = (rng.random(1_000) < 0.4 + 0.1 * np.tanh(x[:, 1]) + treated * truth).astype(float)
        features = FeatureTable(names, names, x.astype(np.float32))
        trial = Trial.construct(features, treated, outcome, randomised=True)
        held_out = fit_effects(trial, UpliftSettings(seed=seed))[1]
        covered.append((np.abs(held_out.expected - truth) <= 1.96 * held_out.error).mean())
        widths.append(1.96 * held_out.error.mean())
    assert 0.85 < np.mean(covered) < 0.99  # with intervals half as wide about two thirds
    assert np.mean(widths) < (0.25 if differ else 0.15)


def test_errors_are_scaled_to_how_much_forests_of_different_people_differ() -> None:
    rng, error = np.random.default_rng(0), np.full(4_000, 0.2)
    one, other = (rng.normal(0, 0.05, 4_000) for _ in range(2))
    assert error_scale((one, error), (other, error)) == pytest.approx(0.25, rel=0.05)
    assert error_scale((one, 0 * error), (other, 0 * error)) == 1.0


def test_the_bias_is_what_a_forest_takes_away() -> None:
    """It kept half of the differences: the other half is the bias."""
    rng, n = np.random.default_rng(1), 400_000
    truth, noise = rng.normal(0, 0.1, n), rng.normal(0, 1, n)
    expected, error = 0.5 * truth + rng.normal(0, 0.02, n), np.full(n, 0.02)
    assert shrinkage_bias(expected, error, truth + noise) == pytest.approx(0.05, rel=0.1)
    assert shrinkage_bias(rng.normal(0, 0.02, n), error, noise) < 0.02
    assert shrinkage_bias(-expected, error, truth + noise) == 0.0


def test_scores_are_right_on_average_whatever_the_model_says() -> None:
    trial, truth = world(6, n=40_000, tilt=0.3)
    wrong = np.tile([0.9, -0.3], (len(trial), 1))
    assert effect_scores(wrong, trial).mean() == pytest.approx(truth.mean(), abs=0.03)


def test_an_estimate_is_the_same_for_the_same_seed() -> None:
    trial, _ = world(7, n=1_000)
    first, again, other = (
        fit_effects(trial, UpliftSettings(forest_groups=4, seed=seed))[1].expected for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def parts(n: int = 3_000, seed: int = 0) -> tuple[FeatureTable, np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    names = tuple(f"x{i}" for i in range(5))
    x = rng.normal(size=(n, 5)).astype(np.float32)
    return FeatureTable(names, names, x), rng.random(n) < 0.5, (rng.random(n) < 0.4).astype(float), rng


def test_without_randomisation_it_is_refused_with_exit_4() -> None:
    features, treated, outcome, _ = parts()
    with pytest.raises(PolicyError, match="Complete Journey's campaigns are of this kind") as stop:
        Trial.construct(features, treated, outcome)
    assert stop.value.exit_code == 4


def test_a_treatment_that_features_tell_is_refused_although_declared() -> None:
    features, _, outcome, rng = parts()
    chosen = rng.random(len(outcome)) < 0.5 + 0.25 * np.tanh(features.values[:, 2])
    with pytest.raises(PolicyError, match=r"not drawn as declared: .* most of all x2 "):
        Trial.construct(features, chosen, outcome, randomised=True)
    with pytest.raises(PolicyError, match="not drawn as declared"):
        Trial.construct(features, chosen, outcome, propensity=np.full(len(outcome), 0.5))
    known = 0.5 + 0.25 * np.tanh(features.values[:, 2].astype(float))
    assert len(Trial.construct(features, chosen, outcome, propensity=known)) == len(outcome)


@pytest.mark.parametrize("seed", range(6))
def test_a_true_trial_passes(seed: int) -> None:
    features, treated, _, _ = parts(seed=seed)
    assert check_assignment(features, treated, np.full(len(treated), 0.5)) == pytest.approx(0.5, abs=0.06)


def test_groups_and_outcomes_and_propensities_are_checked() -> None:
    features, treated, outcome, _ = parts()
    cases = {
        "20 people of the trial are treated; at least 100": (np.arange(3_000) < 20, outcome, None),
        "at least 20 of 0 and of 1": (treated, np.zeros(3_000), None),
        "0 or 1": (treated, outcome * 3.5, None),
        "propensities": (treated, outcome, np.ones(3_000)),
        "treatments": (treated[:10], outcome, None),
    }
    for words, (arm, result, propensity) in cases.items():
        with pytest.raises(DataError, match=words):
            Trial.construct(features, arm, result, randomised=True, propensity=propensity)


def test_files_that_are_no_trials(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_trial(tmp_path / "nothing.csv")
    file = tmp_path / "t.csv"
    for text, words in table("uplift", "files that are no trials"):
        file.write_text(text)
        with pytest.raises(DataError, match=words):
            read_trial(file)


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
