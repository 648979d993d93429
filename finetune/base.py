"""Learn one scorer of several logs at once, and judge it on a log that it has not seen.

    python finetune/base.py --left or-next28 industrial-time --parts DIR -o eval/results/base.json

No base model is shipped: on Online Retail and Complete Journey it ranks worse than counting, and on no whole log as
well as training on the log itself (eval/results/base.json). One log is left out at a time. The past windows of the
other logs are learned together, and the scorer ranks for the customers of the log that was left out. It is compared
with, on that log,

    own          training on its own past
    untrained    counting and texts, which a shop has before any training
    counting     each person's most frequent purchases
    LOG alone    the scorer of the most similar other log, with --each of each other log, instead of all

all without a sequence model and without LoRA. Tmall's sample is only judged: it has 138 people to judge by, and each
action counts as a purchase. `ahead` is the scorer of the others minus each system, with the 95 % interval of a paired
bootstrap over people. Each log's figures stay in --parts, so a run that was stopped goes on.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

sys.path.append(str(Path(__file__).resolve().parents[1] / "eval"))

from inputs import default_encoder, finish, finished_parts, peer_settings, say, script_parser, window_of
from public_logs import read_folder
from published import BENCHMARKS

from recllm.base.schema import Encoder
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.learn.features.candidates import CandidateCounts
from recllm.learn.features.item_vectors import DatedItemVectors, basics_of, basics_vectors
from recllm.learn.models.scorer import Scorer
from recllm.learn.training.scorer import UNTIMED, learn, training_windows
from recllm.learn.training.windows import USERS_PER_WINDOW, PastWindows, Window, choose_target, window_starts
from recllm.recommend.evaluation.protocols import ALL, NEW, NOHISTORY, OURS, EvaluationWindow, System, time_split
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.systems import advised_recipe, make_systems, served_system
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.saved_model import Model, fit_model
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import within_limits

TMALL = "tmall"
JUDGES = {
    "or-next28": "cj-next28",
    "cj-next28": "or-next28",
    "industrial-time": "beauty-loo",
    "beauty-loo": "industrial-time",
    TMALL: "or-next28",
}
"""Log that is left out -> the most similar other, whose validation users choose the epoch."""
LOGS = tuple(log for log in JUDGES if log != TMALL)
COUNTING = "personal-frequency"


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the past windows of a log teach, and its validation users."""

    windows: list[Window]
    new_users: list[Window]
    validation: Window | None


def main() -> None:
    parser = script_parser(__doc__, "data", "cache", "seed")
    parser.add_argument("--left", nargs="+", default=list(JUDGES), choices=JUDGES, help="the logs to leave out")
    parser.add_argument("--each", action="store_true", help="the scorer of each other log alone as well")
    parser.add_argument("--people", type=int, default=USERS_PER_WINDOW, help="at most, of a window")
    parser.add_argument("--parts", type=Path, required=True, help="folder of the figures of finished logs")
    args = parser.parse_args()
    encoder = default_encoder(args)

    @cache
    def lessons(log: str) -> Lessons:
        past = left_out_window(log, args).fit_on
        return log_lessons(past, encoder, advised_recipe(past, encoder, seed=args.seed).training, args.people)

    done = finished_parts(args.parts, args.left, lambda left: measure(left, args, encoder, lessons))
    figures = [part["figures"] for part in done.values()]
    record = {
        "protocol": "base",
        "seed": args.seed,
        "people": args.people,
        "data_hash": {log: left_out_window(log, args).data_hash for log in dict.fromkeys((*LOGS, *args.left))},
        "rows": [row for log in figures for row in log["rows"]],
        "ahead": [row for log in figures for row in log["ahead"]],
        "cpu_seconds": {left: part["figures"]["cpu_seconds"] for left, part in done.items()},
        "commits": sorted({part["commit"] for part in done.values()}),
    }
    finish(record, args.output)


def measure(left: str, args: Namespace, encoder: Encoder, lessons: Callable[[str], Lessons]) -> dict[str, Any]:
    """Figures of each system on the log that is left out."""
    began, window = time.process_time(), left_out_window(left, args)
    past, k = window.fit_on, BENCHMARKS[left].k if left in BENCHMARKS else 20
    settings = advised_recipe(past, encoder, seed=args.seed).training
    own, _ = fit_model(past, encoder, settings, locale="en", progress=say)
    judge, others = lessons(JUDGES[left]).validation, [log for log in LOGS if log != left]

    def served(model: Model | None) -> System:
        return served_system(Recommender(past, encoder, model=model).warm())

    def learned_from(*logs: str) -> System:
        return served(replace(own, scorer=learn_scorer([lessons(log) for log in logs], settings, judge)))

    systems = {
        OURS: learned_from(*others),
        "own": served(own),
        "untrained": served(None),
        "counting": make_systems([COUNTING], settings=peer_settings(left))[COUNTING],
        **{f"{log} alone": learned_from(log) for log in (others if args.each else [JUDGES[left]])},
    }
    report, metric = evaluate(window, systems, k=k, seed=args.seed), f"ndcg@{k}"
    gaps = [gap for gap in report.differences if gap.metric == metric]
    return {
        "rows": [
            {"left": left, "system": "others" if system == OURS else system, "metric": metric}
            | {name: scores[metric] for name, scores in slices.items()}
            for system, slices in report.systems.items()
        ],
        "ahead": [
            {"left": left, "of": g.peer, "slice": g.slice, "mean": g.mean, "low": g.low, "high": g.high} for g in gaps
        ],
        "cpu_seconds": round(time.process_time() - began),
    }


def left_out_window(log: str, args: Namespace) -> EvaluationWindow:
    """The test window of a protocol; of Tmall's month the last eight days."""
    if log in BENCHMARKS:
        window = window_of(log, args, validation=False)
        return window.only([segment.name for segment in window.slices if segment.name != NOHISTORY])
    tables = read_folder(args.data / "tmall_sample")
    purchases = tables.interactions.with_columns(event=pl.lit("purchase"))
    return time_split(tables.dataset(purchases), test_days=8, name=log, slices=(ALL, NEW))


def log_lessons(dataset: Dataset, encoder: Encoder, args: ScorerTrainingSettings, people: int) -> Lessons:
    """The past windows that `fit_scorer` learns from, of at most this number of people each."""
    vectors, basics = DatedItemVectors(encoder, dataset), basics_vectors(encoder, basics_of(dataset.users))
    dataset = replace(dataset, events=within_limits(dataset.events, CollaborativeSettings()))
    target, _ = choose_target(dataset, args)
    counted = (CollaborativeSettings() if args.timed else UNTIMED).model_copy(update={"target": target})
    past = PastWindows(dataset, vectors.latest, basics, args, counted, CandidateCounts(), vectors.before, people)
    starts = window_starts(dataset, target, args)
    windows, validation, new_users = training_windows(past, starts, [None] * (len(starts) + 1), say, False)
    return Lessons(windows, new_users, validation)


def learn_scorer(logs: Sequence[Lessons], args: ScorerTrainingSettings, validation: Window | None) -> Scorer:
    """One scorer of all these logs. args: of the log to serve; a log without times has no arrivals, and its users
    without a history get what is popular."""
    windows = [window for log in logs for window in log.windows if args.timed or not window.is_of_new_items]
    new_users = [window for log in logs for window in log.new_users if args.timed]
    network, _ = learn(windows, args, validation, say, new_users)
    return network.frozen()


if __name__ == "__main__":
    main()
