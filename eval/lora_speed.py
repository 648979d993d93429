"""How fast LoRA trains, against the trainer of sentence-transformers:  python eval/lora_speed.py -o FILE

Both get the same steps: pairs of item texts of Complete Journey, no text twice in a step, the same rank-8 adapter on
the same layers of MiniLM, in-batch softmax at temperature 1 / 20, no dropout, the same precision and threads. Each run
is a process of its own; they take turns, and the better of each counts. Seconds go from the loaded model to the last
step: tokenising is in them, and so is what `recllm.training.lora` computes once of the layers below the adapted ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SYSTEMS = ("recllm", "sentence-transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="of a step")
    parser.add_argument("--steps", type=int, default=8, help="of a pass over the texts")
    parser.add_argument("--passes", type=int, default=3, help="each over the same texts in another order")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each system and setting")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="what the machine gains by otherwise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    text = json.dumps(measure(args), indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from encoder_speed import catalogue_texts

    from recllm.encoder.precision import MIN_GAIN, machine, product_gain
    from recllm.evaluation.report import commit, hardware, versions

    once = sorted(set(catalogue_texts()))
    rng = np.random.default_rng(args.seed)
    rows = rng.choice(len(once), 2 * args.pairs * args.steps, replace=False)
    orders = [rng.permutation(len(rows)).reshape(args.steps, 2, args.pairs) for _ in range(args.passes)]
    precision = args.precision or ("bfloat16" if product_gain() >= MIN_GAIN else "float32")
    task = {"texts": [once[row] for row in rows], "steps": np.concatenate(orders).tolist(), "seed": args.seed}
    task["precision"] = precision
    figures: dict[str, Any] = {}
    for adapted, top_layers in (("all layers", None), ("top 2 layers", 2)):
        runs = [(name, child(name, task | {"top_layers": top_layers}, args.threads)) for name in SYSTEMS * args.rounds]
        best = {name: max((r for n, r in runs if n == name), key=lambda r: r["texts_per_s"]) for name in SYSTEMS}
        ratio = best[SYSTEMS[0]]["texts_per_s"] / best[SYSTEMS[1]]["texts_per_s"]
        figures[adapted] = best | {"ratio": round(ratio, 2)}
    return {
        "protocol": "lora-speed",
        "commit": commit(),
        "data_hash": hashlib.sha256("\n".join(task["texts"]).encode()).hexdigest()[:16],
        "seed": args.seed,
        "goal": "ratio >= 1",
        "machine": machine(),
        "threads": args.threads,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "precision": precision,
        "rank": 8,
        "pairs_per_step": args.pairs,
        "steps": len(task["steps"]),
        "distinct_texts": len(rows),
        "figures": figures,
        "hardware": hardware(),
        "versions": versions() | {name: __import__(name).__version__ for name in ("sentence_transformers", "peft")},
    }


def child(system: str, task: dict[str, Any], threads: int) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, str(HERE / "lora_trainers.py"), system]
    env = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    print(system, found, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
