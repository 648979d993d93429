"""Uplift on a real trial, with what is noise beside it:  python eval/uplift_real.py -o eval/results/uplift-real.json

Hillstrom's e-mail trial (`hillstrom_email`): women's e-mail against none and men's e-mail against none, outcome visit.
Twenty times half of the people is learned from and the other half ordered; nothing is chosen on these halves.

qini      area between curve and random in extra visits per person of all (not divided by anything), mean of the splits.
interval  95 % percentiles of 200 bootstrap draws of people; a draw's people are the same in all splits and systems, so
          it also holds for the mean, and for differences between systems.
placebo   the same on half as many splits with arms shuffled among the people of each pair, anew for each split, as if
          e-mail did nothing: what Qini shows of noise.
differ    how often "people differ" is said where they do not: 6,000 of the people, arms of all three shuffled; and
          simulated people on whom an arm has the same effect. How often it is said where they do: simulated people.
coverage  of simulated people, whose true effect is known: the intervals of their effects, of the policy's value, and of
          its difference from the best single arm.

Systems, none tuned: the X-learner of recllm; "response", the chance of a visit among the treated; two models of
LightGBM as they come; causalml's X-learner around LightGBM as they come, where it is installed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from inputs import HERE, file_hash, finish, load_average, say, script_parser
from numpy.typing import NDArray

from recllm.market.propensity.effects import arm_learners, fit_outcome
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.model import Values, varying
from recllm.market.propensity.parameters import UpliftSettings
from recllm.market.propensity.quality import SHARES
from recllm.market.propensity.trial import Trial, TrialColumns, read_trial_table
from recllm.market.propensity.uplift import TrialEstimate, estimate_trial
from recllm.recommend.evaluation.report import versions

COLUMNS = TrialColumns(
    features=("recency", "history_segment", "history", "mens", "womens", "zip_code", "newbie", "channel"),
    arm="segment",
    control="No E-Mail",
    outcome="visit",
)
PAIRS = {"women's e-mail": "Womens E-Mail", "men's e-mail": "Mens E-Mail"}
DRAWS = 200
PLACEBO_PEOPLE = 6_000

Score = Callable[[Trial, FeatureTable, UpliftSettings], Values]


def main() -> None:
    parser = script_parser(__doc__, "seed", "data")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--worlds", type=int, default=20, help="simulated and shuffled trials for each count")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    logging.getLogger("recllm").setLevel(logging.WARNING)
    table = read_trial_table(args.data / "hillstrom_email" / "hillstrom.parquet")
    trial, began = Trial.of_table(table, COLUMNS, randomised=True, seed=args.seed), time.perf_counter()
    estimate = estimate_trial(trial, rng=np.random.default_rng(args.seed))
    seconds = round(time.perf_counter() - began, 1)
    record = {
        "protocol": "uplift-real: half of the people learned from, the other half ordered; outcome visit",
        "data": "hillstrom_email",
        "data_hash": file_hash(args.data / "hillstrom_email" / "hillstrom.parquet"),
        "people": len(trial),
        "seed": args.seed,
        "splits": args.splits,
        "draws": DRAWS,
        "peers": "untuned",
        "normalisation": "extra visits per person of all, area above random",
        "trials": {name: of_pair(trial, arm, args, shuffled=False) for name, arm in PAIRS.items()},
        "placebo": {name: of_pair(trial, arm, args, shuffled=True) for name, arm in PAIRS.items()},
        "all_three_arms": summary(estimate) | {"seconds": seconds, "load": load_average()},
        "differ": said_to_differ(trial, args),
        "simulated": simulated(args),
    }
    if find_spec("causalml"):
        record["peer_versions"] = versions("causalml")
    finish(record, args.output)


# --- ordering people -------------------------------------------------------------------------------------------------


def systems() -> dict[str, Score]:
    names: dict[str, Score] = {"X-learner": effects, "response": response, "lightgbm, two models": two_models}
    return names | ({"causalml X-learner": causalml_x} if find_spec("causalml") else {})


def effects(learn: Trial, people: FeatureTable, settings: UpliftSettings) -> Values:
    _, (learner,) = arm_learners(learn, settings)
    trees = learner.grow(np.arange(len(learn)), settings, np.random.default_rng(settings.seed))
    return trees.predict(people.values[:, varying(learn.features.values)])[0]


def response(learn: Trial, people: FeatureTable, settings: UpliftSettings) -> Values:
    return fit_outcome(learn.rows(learn.arm == 1), 1, settings, binary=True).of(people.values)


def two_models(learn: Trial, people: FeatureTable, settings: UpliftSettings) -> Values:
    from lightgbm import LGBMClassifier

    chances = []
    for arm in (learn.arm == 1, learn.arm == 0):
        model = LGBMClassifier(random_state=settings.seed, n_jobs=1, verbose=-1)
        chances.append(model.fit(learn.features.values[arm], learn.outcome[arm]).predict_proba(people.values)[:, 1])
    return np.asarray(chances[0] - chances[1])


def causalml_x(learn: Trial, people: FeatureTable, settings: UpliftSettings) -> Values:
    paths, sys.path[:] = sys.path[:], [path for path in sys.path if Path(path).resolve() != HERE]
    from causalml.inference.meta import BaseXClassifier

    sys.path[:] = paths
    from lightgbm import LGBMClassifier, LGBMRegressor

    quiet = {"random_state": settings.seed, "n_jobs": 1, "verbose": -1}
    model = BaseXClassifier(LGBMClassifier(**quiet), effect_learner=LGBMRegressor(**quiet), control_name=0)
    chance, arm = learn.probability[:, 1], learn.arm
    model.fit(X=learn.features.values, treatment=arm, y=learn.outcome.astype(int), p=chance)
    share = np.full(len(people), chance.mean())
    return np.asarray(model.predict(X=people.values, p=share)).reshape(len(people))


def of_pair(trial: Trial, arm: str, args: argparse.Namespace, *, shuffled: bool) -> dict[str, Any]:
    pair = trial.pair(trial.arms.index(arm))
    task = partial(of_split, pair, args.seed, shuffled)
    splits = range(args.splits // 2 if shuffled else args.splits)
    by_split = each(task, splits, args.jobs, f"{arm}{', arms shuffled' if shuffled else ''}")
    qini = {name: np.stack([of[name] for of in by_split]) for name in by_split[0]}
    figures = {name: told(values) | spread(values[:, 0]) for name, values in qini.items()}
    ours = qini["X-learner"]
    gaps = {name: told(ours - values) for name, values in qini.items() if values is not ours}
    return {
        "people": len(pair),
        "treated": int(pair.arm.sum()),
        "splits": len(splits),
        "systems": figures,
        "X-learner minus": gaps,
    }


def each(task: Callable[[int], Any], numbers: Sequence[int], jobs: int, what: str) -> list[Any]:
    """In order, in `jobs` processes."""
    answers = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for answer in pool.map(task, numbers):
            answers.append(answer)
            say("%s, %d of %d", what, len(answers), len(numbers))
    return answers


def of_split(pair: Trial, seed: int, shuffled: bool, split: int) -> dict[str, Values]:
    """Qini of each system's order of the half that was not learned from, (1 + DRAWS,): of the people as they are, then
    of the draws, which are the same for each split."""
    rng = np.random.default_rng(seed)
    draws = np.stack([np.bincount(rng.integers(0, len(pair), len(pair)), minlength=len(pair)) for _ in range(DRAWS)])
    rng = np.random.default_rng([seed, split])
    half = rng.permutation(len(pair)) < len(pair) // 2
    drawn = replace(pair, arm=rng.permutation(pair.arm)) if shuffled else pair
    learn, judge = drawn.rows(half), drawn.rows(~half)
    weights = np.vstack([np.ones(len(judge), np.int64), draws[:, ~half]])
    settings = UpliftSettings(seed=split)
    scores = {name: score(learn, judge.features, settings) for name, score in systems().items()}
    return {name: qini_of_draws(score, judge, weights) for name, score in scores.items()}


def qini_of_draws(score: Values, judge: Trial, weights: NDArray[np.int64]) -> Values:
    """As `recllm.market.propensity.quality.qini_curve` has it, of people who count `weights` (draws, n) times each."""
    _, level = np.unique(-score, return_inverse=True)
    treated, outcome = judge.arm == 1, judge.outcome
    levels, qini = int(level.max()) + 1, np.empty(len(weights))
    for row, weight in enumerate(weights):
        reached = np.append(0, np.cumsum(np.bincount(level, weight, minlength=levels))) / weight.sum()
        means = []
        for arm in (treated, ~treated):
            people, outcomes = (
                np.interp(
                    SHARES, reached, np.append(0, np.cumsum(np.bincount(level, weight * arm * of, minlength=levels)))
                )
                for of in (1.0, outcome)
            )
            means.append(np.divide(outcomes, people, out=np.zeros(len(SHARES)), where=people > 0))
        gains = np.where(SHARES > 0, means[0] - means[1], 0) * SHARES
        qini[row] = np.trapezoid(gains, SHARES) - gains[-1] / 2
    return qini


def told(values: Values) -> dict[str, float]:
    """values: (splits, 1 + draws)."""
    mean = values.mean(axis=0)
    low, high = np.percentile(mean[1:], [2.5, 97.5])
    return {"qini": float(mean[0]), "low": float(low), "high": float(high)}


def spread(of_splits: Values) -> dict[str, float]:
    return {"sd_over_splits": float(of_splits.std(ddof=1)), "share_above_0": float((of_splits > 0).mean())}


# --- the answer of `recllm uplift` -----------------------------------------------------------------------------------


def summary(estimate: TrialEstimate) -> dict[str, Any]:
    policy = estimate.policy
    arms = {
        arm.arm: {"effect": interval(arm.effect), "p_value": arm.p_value, "slope": arm.slope, "qini": arm.qini}
        for arm in estimate.effects
    }
    values = ("value", "nobody", "best_single", "against_nobody", "against_best_single")
    return {
        "people_differ": estimate.people_differ,
        "arms": arms,
        "policy": {name: interval(getattr(policy, name)) for name in values} | {"shares": policy.shares},
        "best_single_arm": policy.best_single_arm,
    }


def interval(of: Any) -> list[float]:
    return [of.value, of.low, of.high]


def said_to_differ(trial: Trial, args: argparse.Namespace) -> dict[str, Any]:
    """Arms of the real people shuffled: there is no effect, so nobody differs."""
    p_values = each(partial(shuffled_p_values, trial, args.seed), range(args.worlds), args.jobs, "arms shuffled")
    p = np.array(p_values)
    return {
        "worlds": len(p),
        "said_to_differ": int((p.min(axis=1) * p.shape[1] < 0.05).sum()),
        "p_below_5_percent": float((p < 0.05).mean()),
        "p_values": np.sort(p.ravel()),
    }


def shuffled_p_values(trial: Trial, seed: int, world: int) -> list[float]:
    rng = np.random.default_rng([seed, 7, world])
    some = rng.permutation(len(trial))[:PLACEBO_PEOPLE]
    people = trial.rows(some)
    shuffled = replace(people, arm=rng.permutation(people.arm))
    return [arm.p_value for arm in estimate_trial(shuffled, rng=rng).effects]


def simulated(args: argparse.Namespace) -> dict[str, Any]:
    return {name: of_worlds(name, args) for name in ("same effect for everybody", "effects differ")}


def simulate(name: str, rng: np.random.Generator, n: int = 6_000) -> tuple[Trial, Values, Values]:
    """A trial with a control and two arms, true effects (n, 2) and true chances without an arm."""
    x = rng.normal(size=(n, 6)).astype(np.float32)
    base = 0.25 + 0.12 * np.tanh(x[:, 0] + 0.5 * x[:, 1]).astype(np.float64)
    effect = np.tile([0.06, 0.03], (n, 1))
    if name == "effects differ":
        effect = np.stack([0.12 * np.tanh(x[:, 2]), 0.02 + 0.1 * np.tanh(x[:, 3])], axis=1).astype(np.float64)
    arm = rng.integers(0, 3, n)
    chance = base + np.where(arm > 0, effect[np.arange(n), np.maximum(arm, 1) - 1], 0)
    names = tuple(f"x{i}" for i in range(6))
    table = pl.DataFrame(dict(zip(names, x.T, strict=True)) | {"arm": arm.astype(str), "y": rng.random(n) < chance})
    columns = TrialColumns(features=names, arm="arm", control="0", outcome="y")
    arms = ("0", "1", "2")
    outcome = table["y"].cast(pl.Float64).to_numpy()
    trial = Trial(
        columns=columns,
        features=FeatureTable(names, names, x),
        arms=arms,
        arm=arm.astype(np.int64),
        outcome=outcome,
        probability=np.full((n, 3), 1 / 3),
    )
    return trial, effect, base


WORLD_FIGURES = (
    *("said_to_differ", "effects_covered", "mean_half_width", "value_covered", "gain_covered"),
    *("policy_share_of_best", "single_arm_share_of_best"),
)


def of_worlds(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Means of `WORLD_FIGURES`."""
    rows = each(partial(of_world, name, args.seed), range(args.worlds), args.jobs, name)
    means = np.array(rows, np.float64).mean(axis=0).tolist()
    return {"worlds": args.worlds} | dict(zip(WORLD_FIGURES, means, strict=True))


def of_world(name: str, seed: int, world: int) -> list[float]:
    rng = np.random.default_rng([seed, 11, world])
    trial, effect, base = simulate(name, rng)
    estimate = estimate_trial(trial, rng=rng)
    low, high = (np.stack([getattr(arm, end) for arm in estimate.effects], axis=1) for end in ("low", "high"))
    gain = np.hstack([np.zeros((len(base), 1)), effect])[np.arange(len(base)), _personal(estimate)]
    value, against, best = estimate.policy.value, estimate.policy.against_nobody, np.maximum(effect.max(axis=1), 0)
    return [
        estimate.people_differ,
        ((low <= effect) & (effect <= high)).mean(),
        (high - low).mean() / 2,
        value.low <= (base + gain).mean() <= value.high,
        against.low <= gain.mean() <= against.high,
        gain.mean() / best.mean(),
        max(0.0, effect.mean(axis=0).max()) / best.mean(),
    ]


def _personal(estimate: TrialEstimate) -> NDArray[np.int64]:
    expected = np.stack([arm.expected for arm in estimate.effects], axis=1)
    return np.where(expected.max(axis=1) > 0, expected.argmax(axis=1) + 1, 0)


if __name__ == "__main__":
    main()
