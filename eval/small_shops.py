"""What a shop of few customers gets:  python eval/small_shops.py --parts DIR -o eval/results/small-shops.json

Cuts of Complete Journey (simulated from real shopping patterns, by its package's own word) and UCI Online Retail:
people drawn at random with all their purchases, the items that they bought and as many others. The four weeks of
cj-next28 and or-next28 are held out; NDCG@20. recllm is what `recllm advise` proposes for the cut, recllm-untrained
what a shop has before any training. `ahead` is recllm less the best simple system of each cut, with the paired
bootstrap's interval over people; that peer is chosen by the held-out weeks themselves, which favours it. Simple is what
reads purchases or texts alone; LightGBM, which reads recllm's own features, and recllm-untrained follow by themselves.

Each cut's figures stay in --parts, so a run that was stopped goes on.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from inputs import HERE, default_encoder, finish, finished_parts, peer_settings, script_parser
from peers import PEERS
from published import BENCHMARKS

from recllm.learn.features.item_vectors import item_vectors
from recllm.recommend.evaluation.protocols import ALL, NEW, OURS, EvaluationWindow
from recllm.recommend.evaluation.report import best_peers, evaluate
from recllm.recommend.evaluation.systems import TrainingRecipe, advised_recipe, fit_recipe, make_systems, served_system
from recllm.recommend.recommender.recommender import Recommender

LOGS = ("cj-next28", "or-next28")
SIMPLE = ("popular-recent", "personal-frequency", "user-knn", "tifu-knn", "slrc", "bm25")
TREES = "lightgbm"
PEOPLE = (25, 50, 100, 200, 400, 800)
"""Customers of a cut."""
SEEDS = (10, 11, 12, 13, 14)
"""Draws that nothing was chosen on: the constants of counting were, on the same weeks of the draws 0 to 4."""
UNTRAINED = "recllm-untrained"
CUT = ("log", "people", "seed")


def main() -> None:
    parser = script_parser(__doc__, "data", "cache")
    parser.add_argument("--parts", type=Path, required=True, help="folder of the figures of finished cuts")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--people", type=int, nargs="+", default=PEOPLE)
    args = parser.parse_args()
    cuts = {
        f"{log}-{people}-{seed}": (log, people, seed) for people in args.people for log in LOGS for seed in args.seeds
    }
    done = finished_parts(args.parts, cuts, lambda name: measure(args, *cuts[name]))
    figures = [part["figures"] for part in done.values()]
    rows = [{key: cut[key] for key in CUT} | row for cut in figures for row in cut["rows"]]
    record = {
        "protocol": "small-shops",
        "seeds": list(args.seeds),
        "data_hash": {name: part["figures"]["data_hash"] for name, part in done.items()},
        "rows": rows,
        "means": list(means(rows)),
        "ahead": [{key: cut[key] for key in CUT} | row for cut in figures for row in cut["ahead"]],
        "train_cpu_seconds": {
            str(people): round(mean(cut["train_cpu_seconds"] for cut in figures if cut["people"] == people), 1)
            for people in args.people
        },
        "commits": sorted({part["commit"] for part in done.values()}),
    }
    finish(record, args.output)
    if args.output:
        draw(record["means"])


def measure(args: Namespace, log: str, people: int, seed: int) -> dict[str, Any]:
    window, encoder = cut(args, log, people, seed), default_encoder(args)
    untrained = Recommender(window.fit_on, encoder).warm()
    began = time.process_time()
    recipe: TrainingRecipe = advised_recipe(window.fit_on, encoder, seed=seed)
    trained = fit_recipe(window.fit_on, encoder, recipe, None)
    seconds = time.process_time() - began
    systems = {OURS: served_system(trained), UNTRAINED: served_system(untrained)}
    settings = peer_settings(log) | peer_settings("small-shops")
    vectors = item_vectors(encoder, window.fit_on)
    systems |= make_systems((*SIMPLE, TREES), vectors=vectors, settings=settings, seed=seed, further=PEERS)
    report = evaluate(window, systems, k=20, seed=seed)
    gaps = {
        (d.peer, d.slice): {"peer": d.peer, "mean": d.mean, "low": d.low, "high": d.high}
        for d in report.differences
        if d.metric == "ndcg@20"
    }
    best = best_peers({name: report.systems[name] for name in SIMPLE}, 20)
    compared = {"best simple": best} | {peer: dict.fromkeys(best, peer) for peer in (TREES, UNTRAINED)}
    return {
        "log": log,
        "people": people,
        "seed": seed,
        "data_hash": window.data_hash,
        "rows": [
            {"system": name, "all": scores[ALL]["ndcg@20"], "new": scores[NEW]["ndcg@20"]}
            for name, scores in report.systems.items()
        ],
        "ahead": [
            {"of": name} | {part: gaps[peer, part] for part, peer in peers.items()} for name, peers in compared.items()
        ],
        "train_cpu_seconds": round(seconds, 1),
    }


def cut(args: Namespace, log: str, people: int, seed: int) -> EvaluationWindow:
    """The window of a protocol, of a few people who bought before it."""
    benchmark, rng = BENCHMARKS[log], np.random.default_rng([seed, people])
    dataset = benchmark.log(args.data)
    known = benchmark.window(dataset).fit_on
    ids = known.users["user_id"].filter(np.diff(known.events.indptr) > 0)
    users = np.sort(dataset.user_rows(ids.gather(rng.permutation(len(ids))[:people])))
    events = dataset.events.rows(users)
    bought = np.zeros(dataset.n_items, bool)
    bought[events.item] = True
    others = rng.permutation(np.flatnonzero(~bought))[: bought.sum()]
    bought[others] = True
    part = replace(dataset, users=dataset.users[users], events=events).with_items(bought)
    return benchmark.window(part).only((ALL, NEW))


def means(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Over seeds."""
    for log, people, system in dict.fromkeys((row["log"], row["people"], row["system"]) for row in rows):
        cell = [row for row in rows if (row["log"], row["people"], row["system"]) == (log, people, system)]
        figures = {name: round(mean(row[name] for row in cell), 6) for name in ("all", "new")}
        yield {"log": log, "people": people, "system": system, **figures}


def draw(rows: list[dict[str, Any]]) -> None:
    """The picture of README: NDCG@20 of what customers buy, by the size of the shop."""
    import matplotlib.pyplot as plt

    names = {
        OURS: "recllm",
        "personal-frequency": "own purchases",
        "tifu-knn": "TIFU-KNN",
        "user-knn": "customers alike",
    }
    figure, axes = plt.subplots(1, len(LOGS), figsize=(9, 3.2), sharey=True, layout="constrained")
    for axis, log, title in zip(axes, LOGS, ("Groceries (Complete Journey)", "Gifts (UCI Online Retail)"), strict=True):
        for system, name in names.items():
            points = sorted((row["people"], row["all"]) for row in rows if (row["log"], row["system"]) == (log, system))
            axis.plot(*zip(*points, strict=True), "o-", label=name, linewidth=3 if system == OURS else 1.2)
        people = [people for people, _ in points]
        axis.set(title=title, xscale="log", xlabel="customers", ylim=(0, None))
        axis.set_xticks(people, [str(number) for number in people])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("NDCG@20 of four weeks")
    axes[0].legend(frameon=False, loc="lower center", ncol=2)
    figure.savefig(HERE.parent / "recllm" / "guide" / "pictures" / "small-shops.webp", dpi=110)


if __name__ == "__main__":
    main()
