"""Uplift: the learners find whom the treatment moves, Qini says so, and what is no trial is refused."""

from __future__ import annotations

import numpy as np
import pytest

from recllm.base.errors import DataError, PolicyError
from recllm.market.propensity.effects import fit_effects
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.parameters import UpliftSettings
from recllm.market.propensity.quality import QiniCurve, qini_curve, true_qini
from recllm.market.propensity.trial import Trial, check_assignment

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
    trial = Trial.of_treatment(FeatureTable(names, names, x), treated, outcome, propensity=propensity)
    return trial, chance - base


def curve(uplift: np.ndarray, trial: Trial) -> QiniCurve:
    return qini_curve(uplift, trial.arm == 1, trial.outcome, trial.probability[:, 1])


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
    naive = trial.outcome[trial.arm == 1].mean() - trial.outcome[trial.arm == 0].mean()
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
    assert curve.shares[0] == 0 and curve.shares[-1] == 1 and curve.effect == pytest.approx(0.1)
    assert curve.gains[25] == pytest.approx(0.1) and curve.gains[50] == pytest.approx(0.15)
    flat = true_qini(np.zeros(4), truth)
    assert flat.qini == pytest.approx(0, abs=1e-9) and flat.gains[50] == pytest.approx(0.05)


def test_held_out_uplift_is_of_other_people() -> None:
    """Where there is no effect to find, held-out uplift finds none; the same people's own would seem to."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 8)).astype(np.float32)
    names = tuple(f"x{i}" for i in range(8))
    treated, outcome = rng.random(2_000) < 0.5, (rng.random(2_000) < 0.4).astype(float)
    trial = Trial.of_treatment(FeatureTable(names, names, x), treated, outcome, randomised=True)
    model, held_out = fit_effects(trial, QUICK)
    own = curve(model.predict(trial.features).effect, trial).qini
    other = curve(held_out.expected, trial).qini
    assert own > 0.03 and abs(other) < 0.02


# --- what is no trial ------------------------------------------------------------------------------------------------


def parts(n: int = 3_000, seed: int = 0) -> tuple[FeatureTable, np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    names = tuple(f"x{i}" for i in range(5))
    x = rng.normal(size=(n, 5)).astype(np.float32)
    return FeatureTable(names, names, x), rng.random(n) < 0.5, (rng.random(n) < 0.4).astype(float), rng


def test_without_randomisation_it_is_refused_with_exit_4() -> None:
    features, treated, outcome, _ = parts()
    with pytest.raises(PolicyError, match="Complete Journey's campaigns are of this kind") as stop:
        Trial.of_treatment(features, treated, outcome)
    assert stop.value.exit_code == 4


def test_a_treatment_that_features_tell_is_refused_although_declared() -> None:
    features, _, outcome, rng = parts()
    chosen = rng.random(len(outcome)) < 0.5 + 0.25 * np.tanh(features.values[:, 2])
    with pytest.raises(PolicyError, match="not drawn as declared"):
        Trial.of_treatment(features, chosen, outcome, randomised=True)
    with pytest.raises(PolicyError, match="not drawn as declared"):
        Trial.of_treatment(features, chosen, outcome, propensity=np.full(len(outcome), 0.5))
    known = 0.5 + 0.25 * np.tanh(features.values[:, 2].astype(float))
    assert len(Trial.of_treatment(features, chosen, outcome, propensity=known)) == len(outcome)


@pytest.mark.parametrize("seed", range(6))
def test_a_true_trial_passes(seed: int) -> None:
    features, treated, _, _ = parts(seed=seed)
    assert check_assignment(features, treated, np.full(len(treated), 0.5)) == pytest.approx(0.5, abs=0.06)


def test_arms_and_outcomes_and_propensities_are_checked() -> None:
    features, treated, outcome, _ = parts()
    with pytest.raises(DataError, match="at least 100 are needed in each"):
        Trial.of_treatment(features, np.arange(3_000) < 20, outcome, randomised=True)
    with pytest.raises(DataError, match="fewer than 20 others"):
        Trial.of_treatment(features, treated, np.zeros(3_000), randomised=True)
    with pytest.raises(DataError, match="0 or 1"):
        Trial.of_treatment(features, treated, outcome * 3.5, randomised=True)
    with pytest.raises(DataError, match="propensities"):
        Trial.of_treatment(features, treated, outcome, propensity=np.ones(3_000))
    with pytest.raises(DataError, match="treatments"):
        Trial.of_treatment(features, treated[:10], outcome, randomised=True)
