"""Tune the last blocks of the encoder by LoRA, or all of them, and judge it by text alone, without the scorer.

    python finetune/blocks.py --parts DIR -o eval/results/lora-blocks.json

The adapter learns by `recllm.learn.training.lora.tune` from the purchases before the validation window: pairs of an
item that a customer had and one that the customer bought next. Then the purchases of the window are ranked by the
cosine of an item's text with the mean of what the customer bought before: NEW and COLD of or-next28, MASKED of
beauty-loo. `ahead` is the difference to the untuned encoder ("0 blocks") and to fewer blocks, with the 95 % interval of
a paired bootstrap over people. `best_step` is 0 where the trainer's own judgement kept the untuned encoder.

`search`, of or-next28 alone, whose titles end in their noun: the precision of the first ten texts for that noun, such
as "mug", where at least eight texts end in it; these count as right. Each log's figures stay in --parts, so a run that
was stopped goes on.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "eval"))

from inputs import finish, finished_parts, say, script_parser, window_of
from published import BENCHMARKS

from recllm.base.schema import Encoder
from recllm.learn.training.lora.examples import LoraArguments
from recllm.learn.training.lora.tune import tune_encoder
from recllm.recommend.evaluation.baselines import zero_shot
from recllm.recommend.evaluation.benchmarks import with_quantity
from recllm.recommend.evaluation.protocols import COLD, MASKED, NEW, OURS, EvaluationWindow, System, next_purchases
from recllm.recommend.evaluation.report import evaluate
from recllm.text.encoder.batches import distinct, encode_once
from recllm.text.encoder.loading import load_encoder
from recllm.text.items import item_texts

LOGS = ("or-next28", "beauty-loo")
SEARCHED = "or-next28"
LEAST_TEXTS, FOUND = 8, 10
"""Texts that end in a searched word, at least; texts of an answer."""


def main() -> None:
    parser = script_parser(__doc__, "data", "cache", "seed")
    parser.add_argument("--logs", nargs="+", default=LOGS, choices=LOGS)
    parser.add_argument("--blocks", type=int, nargs="+", default=(2, 6), help="from the output; the encoder has 6")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--pairs", type=int, default=64, help="pairs of a step")
    parser.add_argument("--parts", type=Path, required=True, help="folder of the figures of finished logs")
    args = parser.parse_args()
    done = finished_parts(args.parts, args.logs, lambda log: measure(log, args))
    figures = {log: part["figures"] for log, part in done.items()}
    record = {
        "protocol": "lora-blocks",
        "seed": args.seed,
        "steps": args.steps,
        "pairs": args.pairs,
        "data_hash": {log: of_log["data_hash"] for log, of_log in figures.items()},
        "rows": [row for of_log in figures.values() for row in of_log["rows"]],
        "ahead": [row for of_log in figures.values() for row in of_log["ahead"]],
        "commits": sorted({part["commit"] for part in done.values()}),
    }
    finish(record, args.output)


def measure(log: str, args: Namespace) -> dict[str, Any]:
    """Figures of a log with each number of blocks, the untuned encoder's first."""
    window, metric, ahead = validation_window(log, args), f"ndcg@{BENCHMARKS[log].k}", []
    base, texts = load_encoder(cache_dir=args.cache), item_texts(window.dataset.items)
    rows, systems = [], dict[str, System]()
    for blocks in (0, *args.blocks):
        began, encoder, step = time.process_time(), base, 0
        with TemporaryDirectory() as folder:  # an encoder reads its adapter when it is first asked
            if blocks:
                settings = LoraArguments(
                    top_layers=blocks,
                    max_steps=args.steps,
                    eval_steps=args.steps,
                    batch_size=args.pairs,
                    max_minutes=None,
                    device="cpu",
                    seed=args.seed,
                )
                tuned = tune_encoder(window.fit_on, base, settings, folder, say)
                encoder, step = tuned.encoder, int(tuned.metrics["step"])
            vectors = encode_once(encoder, texts)
            found = {"search": search(encoder, texts)} if log == SEARCHED else {}
        system, seconds = System(rank=zero_shot(vectors)), round(time.process_time() - began)
        report = evaluate(window, {OURS: system, **systems}, k=BENCHMARKS[log].k, seed=args.seed)
        scores = {name: figures[metric] for name, figures in report.systems[OURS].items()}
        about = {"log": log, "blocks": blocks}
        rows.append(about | {"best_step": step, "cpu_seconds": seconds, "metric": metric} | scores | found)
        ahead += [
            about | {"of": d.peer, "slice": d.slice, "mean": d.mean, "low": d.low, "high": d.high}
            for d in report.differences
            if d.metric == metric
        ]
        systems[f"{blocks} blocks"] = system
    return {"data_hash": window.data_hash, "rows": rows, "ahead": ahead}


def validation_window(log: str, args: Namespace) -> EvaluationWindow:
    """What was not bought before: of a log with times what is new to the customer, and what is new in the shop."""
    window = window_of(log, args, validation=True)
    if not BENCHMARKS[log].by_time:
        return window.only([MASKED])
    dataset = with_quantity(BENCHMARKS[log].log(args.data))
    return next_purchases(
        dataset, start=window.dataset.as_of, end=window.until, protocol=window.protocol, slices=(NEW, COLD)
    )


def search(encoder: Encoder, texts: Sequence[str]) -> float:
    """Mean precision of the first ten distinct texts for each word, of as many as are right where these are fewer."""
    texts, _ = distinct(texts)
    rows_of_word = defaultdict(list)
    for row, text in enumerate(texts):
        rows_of_word[text.lower().split()[-1]].append(row)
    words = {word: rows for word, rows in rows_of_word.items() if word.isalpha() and len(rows) >= LEAST_TEXTS}
    nearness = encoder.encode(list(words), kind="query") @ encode_once(encoder, texts).T  # (n_words, n_texts)
    best = np.argsort(-nearness, axis=1, kind="stable")[:, :FOUND]
    right = [np.isin(line, rows).sum() / min(FOUND, len(rows)) for line, rows in zip(best, words.values(), strict=True)]
    return float(np.mean(right))


if __name__ == "__main__":
    main()
