"""Uplift on a real trial, with what is noise beside it:  python eval/uplift_real.py -o eval/results/uplift-real.json

Hillstrom's e-mail trial (`hillstrom_email`): women's e-mail against none and men's e-mail against none, outcome visit.
Twenty times half of the people is learned from and the other half ordered; nothing is chosen on these halves.

qini      area between curve and random in extra visits per person of all (not divided by anything), mean of the splits.
interval  95 % percentiles of 200 bootstrap draws of people; a draw's people are the same in all splits and systems, so
          it also holds for the mean, and for differences between systems.
placebo   the same on half as many splits with arms shuffled among the people of each pair, anew for each split, as if
          e-mail did nothing: what Qini shows of noise.
coverage  of simulated people, whose true effect is known: how often the interval of their effect holds it.

Systems, none tuned: the X-learner of recllm; "response", the chance of a visit among the treated; two models of
LightGBM as they come; causalml's X-learner around LightGBM as they come, where it is installed.
"""

from __future__ import annotations

import argparse
import logging
import sys
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
from inputs import HERE, file_hash, finish, say, script_parser
from numpy.typing import NDArray

from recllm.market.propensity.effects import UpliftSettings, fit_effects, fit_outcome, grow_effects
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.model import Values, varying
from recllm.market.propensity.prediction import SHARES
from recllm.market.propensity.trial import Trial
from recllm.recommend.evaluation.report import versions

FEATURES = ("recency", "history_segment", "history", "mens", "womens", "zip_code", "newbie", "channel")
PAIRS = {"women's e-mail": "Womens E-Mail", "men's e-mail": "Mens E-Mail"}
WORLDS = ("same effect for everybody", "effects differ")
DRAWS = 200

Score = Callable[[Trial, FeatureTable, UpliftSettings], Values]


def main() -> None:
    parser = script_parser(__doc__, "seed", "data")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--worlds", type=int, default=20, help="simulated trials of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    logging.getLogger("recllm").setLevel(logging.WARNING)
    file = args.data / "hillstrom_email" / "hillstrom.parquet"
    table = pl.read_parquet(file)
    record = {
        "protocol": "uplift-real: half of the people learned from, the other half ordered; outcome visit",
        "data": "hillstrom_email",
        "data_hash": file_hash(file),
        "people": len(table),
        "seed": args.seed,
        "splits": args.splits,
        "draws": DRAWS,
        "peers": "untuned",
        "normalisation": "extra visits per person of all, area above random",
        "trials": {name: of_pair(pair_of(table, arm), arm, args, shuffled=False) for name, arm in PAIRS.items()},
        "placebo": {name: of_pair(pair_of(table, arm), arm, args, shuffled=True) for name, arm in PAIRS.items()},
        "simulated": {name: of_worlds(name, args) for name in WORLDS},
    }
    if find_spec("causalml"):
        record["peer_versions"] = versions("causalml")
    finish(record, args.output)


def pair_of(table: pl.DataFrame, arm: str) -> Trial:
    """The people who got this e-mail, and those without one; each text of a feature is a column of 0 and 1."""
    table = table.filter(pl.col("segment").is_in([arm, "No E-Mail"]))
    groups: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name in FEATURES:
        column = table[name]
        if column.dtype.is_numeric():
            groups[name] = {name: column.cast(pl.Float32).to_numpy()}
        else:
            texts = sorted(column.unique().to_list())
            groups[name] = {f"{name} = {text}": (column == text).cast(pl.Float32).to_numpy() for text in texts}
    treated, outcome = (table["segment"] == arm).to_numpy(), table["visit"].cast(pl.Float64).to_numpy()
    return Trial.construct(FeatureTable.of(groups, len(table)), treated, outcome, randomised=True)


def systems() -> dict[str, Score]:
    names: dict[str, Score] = {"X-learner": effects, "response": response, "lightgbm, two models": two_models}
    return names | ({"causalml X-learner": causalml_x} if find_spec("causalml") else {})


def effects(learn: Trial, people: FeatureTable, settings: UpliftSettings) -> Values:
    trees = grow_effects(learn, np.arange(len(learn)), settings, np.random.default_rng(settings.seed))
    return trees.predict(people.values[:, varying(learn.features.values)])[0]


def response(learn: Trial, people: FeatureTable, settings: UpliftSettings) -> Values:
    return fit_outcome(learn.rows(learn.treated), settings)(people.values)


def two_models(learn: Trial, people: FeatureTable, settings: UpliftSettings) -> Values:
    from lightgbm import LGBMClassifier

    chances = []
    for group in (learn.treated, ~learn.treated):
        model = LGBMClassifier(random_state=settings.seed, n_jobs=1, verbose=-1)
        chances.append(model.fit(learn.features.values[group], learn.outcome[group]).predict_proba(people.values)[:, 1])
    return np.asarray(chances[0] - chances[1])


def causalml_x(learn: Trial, people: FeatureTable, settings: UpliftSettings) -> Values:
    paths, sys.path[:] = sys.path[:], [path for path in sys.path if Path(path).resolve() != HERE]
    from causalml.inference.meta import BaseXClassifier

    sys.path[:] = paths
    from lightgbm import LGBMClassifier, LGBMRegressor

    quiet = {"random_state": settings.seed, "n_jobs": 1, "verbose": -1}
    model = BaseXClassifier(LGBMClassifier(**quiet), effect_learner=LGBMRegressor(**quiet), control_name=0)
    chance, treated = learn.propensity, learn.treated.astype(int)
    model.fit(X=learn.features.values, treatment=treated, y=learn.outcome.astype(int), p=chance)
    share = np.full(len(people), chance.mean())
    return np.asarray(model.predict(X=people.values, p=share)).reshape(len(people))


def of_pair(pair: Trial, arm: str, args: argparse.Namespace, *, shuffled: bool) -> dict[str, Any]:
    task = partial(of_split, pair, args.seed, shuffled)
    splits = range(args.splits // 2 if shuffled else args.splits)
    by_split = each(task, splits, args.jobs, f"{arm}{', arms shuffled' if shuffled else ''}")
    qini = {name: np.stack([of[name] for of in by_split]) for name in by_split[0]}
    figures = {name: told(values) | spread(values[:, 0]) for name, values in qini.items()}
    ours = qini["X-learner"]
    gaps = {name: told(ours - values) for name, values in qini.items() if values is not ours}
    return {
        "people": len(pair),
        "treated": int(pair.treated.sum()),
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
    drawn = replace(pair, treated=rng.permutation(pair.treated)) if shuffled else pair
    learn, judge = drawn.rows(half), drawn.rows(~half)
    weights = np.vstack([np.ones(len(judge), np.int64), draws[:, ~half]])
    settings = UpliftSettings(seed=split)
    scores = {name: score(learn, judge.features, settings) for name, score in systems().items()}
    return {name: qini_of_draws(score, judge, weights) for name, score in scores.items()}


def qini_of_draws(score: Values, judge: Trial, weights: NDArray[np.int64]) -> Values:
    """As `recllm.market.propensity.quality.qini_curve` has it, of people who count `weights` (draws, n) times each."""
    _, level = np.unique(-score, return_inverse=True)
    treated, outcome = judge.treated, judge.outcome
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


def simulate(name: str, rng: np.random.Generator, n: int = 6_000) -> tuple[Trial, Values]:
    """A trial, and true effects (n,)."""
    x = rng.normal(size=(n, 6)).astype(np.float32)
    base = 0.25 + 0.12 * np.tanh(x[:, 0] + 0.5 * x[:, 1]).astype(np.float64)
    effect = 0.12 * np.tanh(x[:, 2]).astype(np.float64) if name == "effects differ" else np.full(n, 0.06)
    treated, names = rng.random(n) < 0.5, tuple(f"x{i}" for i in range(6))
    outcome = (rng.random(n) < base + treated * effect).astype(np.float64)
    return Trial.construct(FeatureTable(names, names, x), treated, outcome, randomised=True), effect


def of_worlds(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """effects_covered: share of people whose interval holds their true effect; mean_half_width: of the intervals."""
    rows = each(partial(of_world, name, args.seed), range(args.worlds), args.jobs, name)
    covered, half_width = np.array(rows, np.float64).mean(axis=0).tolist()
    return {"worlds": args.worlds, "effects_covered": covered, "mean_half_width": half_width}


def of_world(name: str, seed: int, world: int) -> tuple[float, float]:
    trial, effect = simulate(name, np.random.default_rng([seed, 11, world]))
    held_out = fit_effects(trial, UpliftSettings(seed=world))[1]
    reach = 1.96 * held_out.error
    return float((np.abs(held_out.expected - effect) <= reach).mean()), float(reach.mean())


if __name__ == "__main__":
    main()
