"""The sequence model's speed and quality:  python eval/sequence_speed.py -o eval/results/sequence-speed.json

Speed: Complete Journey, cut to people who have 487,000 events together. `epoch`: one pass over what came before the
last 28 days; `everybody`: all people are encoded and their best 20 of all items found; seconds by the clock and of the
processor, which counts all threads. Quality: trained as usual on each log's past, NDCG@10 over all items of the
validation window, and of the cut what the model itself says of its validation users. `--before FOLDER` measures the
package in another checkout as well, in turns with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from inputs import HERE, default_encoder, finish, load_average, peak_mib, say, script_parser, window_of

from recllm.base.schema import Action
from recllm.learn.models.sequence import SequenceArguments
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.tables import complete_journey
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import unit

N_EVENTS = 487_000
HORIZON = 28 * DAY
GOALS = {
    "epoch seconds": "<= 40 on two cores",
    "training seconds": "<= 900",
    "everybody seconds": "<= those of an epoch",
    "ndcg@10": "that of before, but for chance",
}


def main() -> None:
    parser = script_parser(__doc__, "data", "cache", "seed")
    parser.add_argument("--part", choices=sorted(PARTS), help="run one part and print its figures")
    parser.add_argument("--parts", default="speed,beauty-loo,industrial-time,cut", help="with commas")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed; the median counts")
    parser.add_argument("--seeds", type=int, default=2, help="of the quality")
    parser.add_argument("--epochs", type=int, default=10, help="at most, on the cut")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args)))
        return
    started, checkouts = time.perf_counter(), {"now": HERE.parent}
    if args.before:
        checkouts["before"] = args.before.resolve()
    figures: dict[str, Any] = {name: {} for name in checkouts}
    for part in args.parts.split(","):
        for number in range(args.rounds if part == "speed" else args.seeds):
            for name, folder in checkouts.items():
                seed = 0 if part == "speed" else args.seed + number
                options = ("--seed", seed, "--epochs", args.epochs, "--cache", args.cache, "--data", args.data)
                figures[name].setdefault(part, []).append(run_part(folder, part, *map(str, options)))
    record = {
        "protocol": "sequence-speed",
        "data_hash": {part: runs[0]["data_hash"] for part, runs in figures["now"].items()},
        "seed": args.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "load_average": load_average(),
        "figures": figures,
        "goals": GOALS,
    }
    finish(record, args.output)


def run_part(folder: Path, part: str, *options: str) -> dict[str, Any]:
    """This script over the package of a checkout, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(HERE)))}
    command = [sys.executable, str(HERE / "sequence_speed.py"), "--part", part, *options]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if process.returncode:
        sys.exit(f"{part} in {folder} ended with {process.returncode}")
    line = process.stdout.splitlines()[-1]
    say("%s %s %s %s", folder, part, " ".join(options[:2]), line)
    figures: dict[str, Any] = json.loads(line)
    return figures


def clocked(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it returns, and its seconds."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    seconds = {"seconds": round(time.perf_counter() - clock, 2)}
    return result, seconds | {"processor_seconds": round(time.process_time() - processor, 2)}


def cut_journey() -> Dataset:
    """Complete Journey of people drawn until they have `N_EVENTS`, over the items that they bought."""
    tables = complete_journey()
    counts = tables.interactions["user_id"].value_counts().sort("user_id").sample(fraction=1, shuffle=True, seed=0)
    sample = counts.filter(counts["count"].cum_sum() <= N_EVENTS)["user_id"].implode()
    events = tables.interactions.filter(tables.interactions["user_id"].is_in(sample))
    dataset = Dataset.construct(events, None, tables.items)
    return dataset.with_items(np.bincount(dataset.events.item, minlength=dataset.n_items) > 0)


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """What the item vectors say does not change the time."""
    from recllm.learn.models.sequence_network import SequenceLearner

    dataset, target = cut_journey(), (Action.PURCHASE,)
    vectors = unit(np.random.default_rng(0).normal(size=(dataset.n_items, 384))).astype(np.float32)
    learner = SequenceLearner(dataset, vectors, None, target, SequenceArguments(seed=args.seed))
    past = np.flatnonzero(learner.baskets.at < dataset.as_of - HORIZON)
    loss, epoch = clocked(lambda: learner.epoch(past))
    model = learner.network.frozen(vectors, target)

    def best_items() -> list[Any]:
        users = model.users(dataset.events, dataset.as_of)
        return [np.argpartition(-scores, 20)[:20] for scores in model.catalogue(users)]

    _, everybody = clocked(best_items)
    figures: dict[str, Any] = {"people": dataset.n_users, "items": dataset.n_items, "events": len(dataset.events)}
    figures |= {"loss": round(loss, 4), "epoch": epoch, "everybody": everybody, "peak_mib": peak_mib()}
    return figures | {"data_hash": dataset.data_hash()}


def window_quality(protocol: str) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """The model alone ranks the validation window of a protocol."""

    def measure(args: argparse.Namespace) -> dict[str, Any]:
        from recllm.learn.features.item_vectors import item_vectors
        from recllm.learn.models.sequence_network import learn_sequence_model
        from recllm.recommend.evaluation.baselines import rank_by
        from recllm.recommend.evaluation.protocols import System

        window = window_of(protocol, args, validation=True)
        past, vectors = window.fit_on, item_vectors(default_encoder(args), window.fit_on)
        args_of_model = SequenceArguments(seed=args.seed)
        start = past.as_of - HORIZON
        lines: list[str] = []
        learned, training = clocked(
            lambda: learn_sequence_model(
                past, vectors, None, (Action.PURCHASE,), [past.as_of], start, args_of_model, lines.append
            )
        )
        model = learned[0]

        def scores(query: Any, items: Any) -> Any:
            histories = query.dataset.events.rows(query.users)

            def score(block: Any) -> Any:
                users = model.users(histories.rows(block), query.as_of)
                return np.stack([line[items] for line in model.catalogue(users)]).astype(np.float32)

            return score

        report = evaluate(window, {"sequence": System(rank=rank_by(scores), settings={})}, k=10, seed=0)
        ndcg = {name: round(row["ndcg@10"], 4) for name, row in report.systems["sequence"].items()}
        figures = {"events": len(past.events), "training": training, "ndcg@10": ndcg, "epochs": lines}
        return figures | {"data_hash": window.data_hash, "peak_mib": peak_mib()}

    return measure


def cut(args: argparse.Namespace) -> dict[str, Any]:
    from recllm.learn.features.item_vectors import item_vectors
    from recllm.learn.models.sequence_network import learn_sequence_model

    dataset = cut_journey()
    vectors = item_vectors(default_encoder(args), dataset)
    settings = SequenceArguments(seed=args.seed, epochs=args.epochs, patience=args.epochs, later_epochs=0)
    lines: list[str] = []
    start, target = dataset.as_of - HORIZON, (Action.PURCHASE,)
    _, training = clocked(
        lambda: learn_sequence_model(dataset, vectors, None, target, [dataset.as_of], start, settings, lines.append)
    )
    return {"training": training, "epochs": lines, "data_hash": dataset.data_hash(), "peak_mib": peak_mib()}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "speed": speed,
    "cut": cut,
    "beauty-loo": window_quality("beauty-loo"),
    "industrial-time": window_quality("industrial-time"),
}

if __name__ == "__main__":
    main()
