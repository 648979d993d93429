"""How much more people teach:  python eval/learning_curve.py --parts DIR -o eval/results/learning-curve.json

Complete Journey (simulated from real shopping patterns, by its package's own word), protocol cj-next28: the scorer, by
what `recllm advise` proposes for the whole log, learns from 1, 3, 10, 30 and 100 % of the people, nested samples by the
rule of `recllm.shop.data.people_sample`, from their events alone. Then everybody is served, with what is counted over
everybody, and judged on the same window. On this log no sequence model is advised.

ece@10 says how far the probabilities of the first ten are off (expected calibration error), probability@10 is their
mean.

`crowd`: at 10 %, what a sample's counts are taken for. scaled, as `recllm train` does it: numbers of buyers are
multiplied to the level of everybody. sample: they are left as they are. everybody: all that is counted is everybody's,
examples alone are of the sample; that needs everybody's log in memory.

Each part runs in processes of its own and its figures stay in --parts, so a run that was stopped goes on: `train` sees
nothing but the sample's events, and its seconds and peak memory are told; `serve` sees everybody.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from inputs import (
    default_encoder,
    finish,
    finished_parts,
    in_new_process,
    peak_mib,
    script_parser,
    window_of,
)

from recllm.recommend.evaluation.protocols import EvaluationWindow
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.systems import advised_recipe, served_system
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.saved_model import load_model, publish_model
from recllm.shop.data.dataset import Dataset, Events
from recllm.shop.data.people_sample import RULE, PeopleSample

PROTOCOL = "cj-next28"
SLICES = ("ALL", "NEW", "COLD")
METRICS = ("ndcg@10", "hr@10", "probability@10", "ece@10")
PLANNED = (*((share, "scaled") for share in (1, 3, 10, 30, 100)), (10, "sample"), (10, "everybody"))
"""Percent of the people, and what their counts are taken for."""


def main() -> None:
    parser = script_parser(__doc__, "cache", "seed", "validation")
    parser.add_argument("--parts", type=Path, required=True, help="folder of the figures of finished parts")
    parser.add_argument("--step", choices=("sample", "train", "serve"), help="used by the script itself")
    parser.add_argument("--part", type=json.loads, help="used by the script itself")
    args = parser.parse_args()
    if args.step:
        print(json.dumps(STEPS[args.step](args, args.part)))
        return

    def measure(name: str) -> dict[str, Any]:
        return planned[name] | {step: run(step, args, planned[name]) for step in STEPS}

    planned = {f"{crowd}-{share}": {"share": share, "crowd": crowd, "seed": args.seed} for share, crowd in PLANNED}
    done = finished_parts(args.parts, planned, measure)
    parts = {name: part["figures"] for name, part in done.items()}
    record = {
        "protocol": PROTOCOL,
        "data_hash": parts["scaled-100"]["serve"]["data_hash"],
        "seeds": [args.seed],
        "seconds": round(sum(part["train"]["seconds"] + part["serve"]["seconds"] for part in parts.values()), 1),
        "rule": RULE,
        "curve": curve(parts),
        "parts": done,
    }
    finish(record, args.output)


def run(step: str, args: Namespace, part: dict[str, Any]) -> dict[str, Any]:
    options = ["--parts", str(args.parts), "--cache", str(args.cache), *(["--validation"] if args.validation else [])]
    return in_new_process("learning_curve.py", "--step", step, "--part", json.dumps(part), *options)


def curve(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By crowd and share."""
    return {
        part_name: {
            "people": part["train"]["people"],
            "seeds": 1,
            **{
                f"{name} {metric}": value
                for name, scores in part["serve"]["figures"].items()
                for metric, value in scores.items()
            },
            "train_cpu_seconds": part["train"]["cpu_seconds"],
            "train_peak_mib": part["train"]["peak_mib"],
        }
        for part_name, part in parts.items()
    }


def the_window(args: Namespace) -> EvaluationWindow:
    return window_of(PROTOCOL, args, validation=args.validation).only(SLICES)


# --- the steps -------------------------------------------------------------------------------------------------------


def take_sample(args: Namespace, part: dict[str, Any]) -> dict[str, Any]:
    """Writes what the training may see, and the recipe."""
    window = the_window(args)
    everybody = window.fit_on
    sample = everybody.sampled(round(everybody.n_users * part["share"] / 100))
    write_dataset(sample, args.parts / "sample")
    if part["crowd"] == "everybody":
        write_dataset(everybody, args.parts / "everybody")
    recipe = advised_recipe(everybody, default_encoder(args), tuned=False, seed=part["seed"])
    (args.parts / "recipe.json").write_text(recipe.training.model_dump_json())
    return {"people": sample.n_users, "of_people": everybody.n_users, "events": len(sample.events)}


def train(args: Namespace, part: dict[str, Any]) -> dict[str, Any]:
    from recllm.base.settings import ScorerTrainingSettings

    training, began = json.loads((args.parts / "recipe.json").read_text()), time.perf_counter()
    sample, encoder = read_dataset(args.parts / "sample"), default_encoder(args)
    if part["crowd"] == "sample":
        sample = replace(sample, sample=None)
    elif part["crowd"] == "everybody":
        count_everybody(read_dataset(args.parts / "everybody"), encoder)
    fitted = Recommender(sample, encoder).fit(ScorerTrainingSettings(**training))
    figures = {
        "people": sample.n_users,
        "events": len(sample.events),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_mib": peak_mib(),
    }
    assert fitted.model is not None
    publish_model(fitted.model, args.parts / "models")
    return figures | {"metrics": dict(fitted.model.metrics)}


def count_everybody(everybody: Dataset, encoder: Any) -> None:
    """From here on windows of the past are counted over everybody."""
    from recllm.learn.features.collaborative import CollaborativeStatistics
    from recllm.learn.features.item_vectors import basics_of, basics_vectors
    from recllm.learn.models.sequence import SequenceModel
    from recllm.learn.training import scorer
    from recllm.learn.training.windows import PastWindows

    basics = basics_vectors(encoder, basics_of(everybody.users))

    class WindowsOfEverybody(PastWindows):
        def population(self, start: int, interests: SequenceModel | None = None) -> CollaborativeStatistics:
            past = everybody.before(start)
            crowd = CollaborativeStatistics.fit(
                past, self.vectors_at(start), self.collaborative, basics, interests, self.facets
            )
            # nobody is their own neighbour: rows of the pool are those of the sample's people, -1 for all others
            rows = np.full(everybody.n_users, -1)
            rows[everybody.user_rows(self.dataset.users["user_id"])] = np.arange(self.dataset.n_users)
            return replace(crowd, pool=rows[crowd.pool])

    scorer.PastWindows = WindowsOfEverybody  # type: ignore[misc]


def serve(args: Namespace, part: dict[str, Any]) -> dict[str, Any]:
    window, began = the_window(args), time.perf_counter()
    recommender = Recommender(window.fit_on, default_encoder(args), model=load_model(args.parts / "models"))
    report = evaluate(window, {"recllm": served_system(recommender)}, k=10)
    scores = report.systems["recllm"]
    return {
        "data_hash": report.data_hash,
        "seconds": round(time.perf_counter() - began, 1),
        "figures": {name: {metric: scores[name][metric] for metric in METRICS} for name in SLICES},
    }


STEPS = {"sample": take_sample, "train": train, "serve": serve}


def write_dataset(dataset: Dataset, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dataset.users.write_ipc(folder / "users.arrow")
    dataset.items.write_ipc(folder / "items.arrow")
    columns = {field.name: getattr(dataset.events, field.name) for field in fields(Events)}
    of_people = dataset.n_users if dataset.sample is None else dataset.sample.of_people
    np.savez(folder / "events.npz", numbers=np.array([dataset.as_of, of_people]), **columns)


def read_dataset(folder: Path) -> Dataset:
    import polars as pl

    with np.load(folder / "events.npz") as columns:
        events = Events(**{field.name: columns[field.name] for field in fields(Events)})
        as_of, of_people = columns["numbers"].tolist()
    users, items = pl.read_ipc(folder / "users.arrow"), pl.read_ipc(folder / "items.arrow")
    sample = PeopleSample(people=users.height, of_people=of_people) if of_people > users.height else None
    return Dataset(users, items, events, as_of, sample=sample)


if __name__ == "__main__":
    main()
