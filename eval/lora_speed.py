"""How fast LoRA trains, against the trainer of sentence-transformers:  python eval/lora_speed.py -o FILE

Both get the same steps: pairs of item texts of Complete Journey, no text twice in a step, the same rank-8 adapter on
the same layers of MiniLM, in-batch softmax at temperature 1 / 20, no dropout, the same precision and threads. Each run
is a process of its own; they take turns, and the better of each counts. Seconds go from the loaded model to the last
step: tokenising is in them, and so is what `training.lora` computes once of the layers below the adapted ones.
"""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

import numpy as np
from encoder_speed import catalogue_texts
from inputs import finish, in_new_process, load_average, script_parser

from recllm.recommend.evaluation.record import versions
from recllm.text.encoder.hardware import MIN_GAIN, machine, product_gain

SYSTEMS = ("recllm", "sentence-transformers")


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("--pairs", type=int, default=64, help="of a step")
    parser.add_argument("--steps", type=int, default=8, help="of a pass over the texts")
    parser.add_argument("--passes", type=int, default=3, help="each over the same texts in another order")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each system and setting")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="what the machine gains by otherwise")
    args = parser.parse_args()
    finish(measure(args), args.output)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    once = sorted(set(catalogue_texts()))
    rng = np.random.default_rng(args.seed)
    rows = rng.choice(len(once), 2 * args.pairs * args.steps, replace=False)
    orders = [rng.permutation(len(rows)).reshape(args.steps, 2, args.pairs) for _ in range(args.passes)]
    precision = args.precision or ("bfloat16" if product_gain() >= MIN_GAIN else "float32")
    task = {"texts": [once[row] for row in rows], "steps": np.concatenate(orders).tolist(), "seed": args.seed}
    task["precision"] = precision
    figures: dict[str, Any] = {}
    for adapted, top_layers in (("all layers", None), ("top 2 layers", 2)):
        task["top_layers"] = top_layers
        runs = [
            (name, in_new_process("lora_trainers.py", name, threads=args.threads, task=task))
            for name in SYSTEMS * args.rounds
        ]
        best = {name: max((r for n, r in runs if n == name), key=lambda r: r["texts_per_s"]) for name in SYSTEMS}
        ratio = best[SYSTEMS[0]]["texts_per_s"] / best[SYSTEMS[1]]["texts_per_s"]
        figures[adapted] = best | {"ratio": round(ratio, 2)}
    return {
        "protocol": "lora-speed",
        "data_hash": hashlib.sha256("\n".join(task["texts"]).encode()).hexdigest()[:16],
        "seed": args.seed,
        "goal": "ratio >= 1",
        "machine": machine(),
        "threads": args.threads,
        "load_average": load_average(),
        "precision": precision,
        "rank": 8,
        "pairs_per_step": args.pairs,
        "steps": len(task["steps"]),
        "distinct_texts": len(rows),
        "figures": figures,
        "versions": versions("sentence_transformers", "peft"),
    }


if __name__ == "__main__":
    main()
