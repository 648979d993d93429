"""Uplift on simulated trials with known truth:  python eval/uplift.py -o eval/results/uplift.json

Simulated people, not a shop's: twelve features, a base chance of the outcome that depends on some of them, and an
effect of treatment that depends on others and is negative for some. Half of each trial is learned from, the other half
judged by `true_qini` (of everybody's true effect), its share of the true order's, and Qini from outcomes alone. Worlds:
equal chances of treatment; known chances that depend on a feature; a tenth treated; an effect that is the same for all
(there is nothing to find). The other systems: the base chance ("who responds anyway"), the chance among the treated,
random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from inputs import finish, script_parser
from numpy.typing import NDArray

from recllm.market.propensity.effects import UpliftSettings, fit_outcome, grow_effects
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.prediction import qini_curve, true_qini
from recllm.market.propensity.trial import Trial

Values = NDArray[np.float64]
N, RUNS = 12_000, 3
WORLDS = ("equal chances", "known chances", "a tenth treated", "same effect for all")


@dataclass(frozen=True, eq=False)
class World:
    trial: Trial
    truth: Values


def main() -> None:
    args = script_parser(__doc__, "seed").parse_args()
    record = {
        "protocol": "uplift-simulated",
        "note": "simulated with a seed; no real people",
        "seed": args.seed,
        "people": N,
        "runs": RUNS,
        "worlds": {name: of_world(name, args.seed) for name in WORLDS},
    }
    finish(record, args.output)


def simulate(name: str, seed: int, n: int = N) -> tuple[FeatureTable, NDArray[np.bool_], Values, Values, Values]:
    """Features, treated, outcome, propensity and true effect."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12)).astype(np.float32)
    base = 0.25 + 0.15 * np.tanh(x[:, 0] + 0.5 * x[:, 1])
    effect = 0.04 + 0.12 * np.tanh(x[:, 2]) * (x[:, 3] > -0.5)
    if name == "same effect for all":
        effect = np.full(n, 0.04)
    chance = np.clip(base + effect, 0.01, 0.99)
    propensity = np.full(n, 0.1 if name == "a tenth treated" else 0.5)
    if name == "known chances":
        propensity = 0.5 + 0.3 * np.tanh(x[:, 0])
    treated = rng.random(n) < propensity
    outcome = (rng.random(n) < np.where(treated, chance, base)).astype(np.float64)
    names = tuple(f"x{i}" for i in range(12))
    return FeatureTable(names, names, x), treated, outcome, propensity, chance - base


def world(name: str, seed: int) -> tuple[World, World]:
    """The half to learn from, and the half to judge on."""
    features, treated, outcome, propensity, truth = simulate(name, seed)
    trial = Trial.construct(features, treated, outcome, propensity=propensity, seed=seed)
    half = np.arange(len(truth)) < len(truth) // 2
    return World(trial.rows(half), truth[half]), World(trial.rows(~half), truth[~half])


def of_world(name: str, seed: int) -> dict[str, Any]:
    """Means over the runs, and their standard deviation."""
    runs = [of_run(name, 1_000 * seed + run) for run in range(RUNS)]
    systems = {s: {m: float(np.mean([r[s][m] for r in runs])) for m in runs[0][s]} for s in runs[0]}
    spread = {s: float(np.std([r[s]["true_qini"] for r in runs], ddof=1)) for s in systems}
    return {"systems": systems, "spread_over_runs": spread}


def of_run(name: str, seed: int) -> dict[str, dict[str, float]]:
    learn, judge = world(name, seed)
    settings = UpliftSettings(seed=seed)
    trees = grow_effects(learn.trial, np.arange(len(learn.trial)), settings, np.random.default_rng(seed))
    scores = {"x-learner": trees.predict(judge.trial.features.values)[0], **others(learn.trial, judge.trial, settings)}
    best = true_qini(judge.truth, judge.truth).qini
    return {name: figures(score, judge, best) for name, score in scores.items()}


def others(learn: Trial, judge: Trial, settings: UpliftSettings) -> dict[str, Values]:
    groups = {"who responds anyway": ~learn.treated, "who responds when treated": learn.treated}
    models = {name: fit_outcome(learn.rows(group), settings) for name, group in groups.items()}
    chances = {name: model(judge.features.values) for name, model in models.items()}
    return chances | {"random": np.random.default_rng(settings.seed).random(len(judge))}


def figures(score: Values, judge: World, best: float) -> dict[str, float]:
    """true_qini: against the truth; share_of_best: of the true order's; qini: from outcomes alone; error: root mean
    square against the true effect."""
    true = true_qini(score, judge.truth).qini
    trial = judge.trial
    curve = qini_curve(score, trial.treated, trial.outcome, trial.propensity)
    out = {"true_qini": true, "qini": curve.qini, "auuc": curve.auuc}
    out["error"] = float(np.sqrt(np.mean((score - judge.truth) ** 2)))
    return out | ({"share_of_best": true / best} if best > 1e-9 else {})


if __name__ == "__main__":
    main()
