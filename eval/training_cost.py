"""What training costs as the log grows:  python eval/training_cost.py -o eval/results/training-cost.json

The scorer is trained on a quarter, a half and all people of Complete Journey's log before the test window, over the
same items, each size in a process of its own and without `min_steps`, which gives small logs more rounds. `exponent`:
slope of log seconds over log events from first to last, 1 when linear, less by what is done once. Texts are cached.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recllm.encoder.loading import DEFAULT_ENCODER, load_encoder
from recllm.evaluation.protocols import cj_next28
from recllm.evaluation.report import commit, hardware, versions
from recllm.evaluation.tables import complete_journey
from recllm.features.item_vectors import basics_of, basics_vectors, item_vectors
from recllm.settings import ScorerTrainingSettings
from recllm.training.scorer import fit_scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, help="train on this share of the people and print its figures")
    parser.add_argument("--shares", default="0.25,0.5,1", help="of the people, with commas")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.share:
        print(json.dumps(train(args.share)))
        return
    started, sizes = time.perf_counter(), []
    for share in args.shares.split(","):
        done = subprocess.run([sys.executable, __file__, "--share", share], stdout=subprocess.PIPE, check=True)
        sizes.append(json.loads(done.stdout.splitlines()[-1]))
        print(sizes[-1], flush=True)
    seconds, events = (np.log(sizes[-1][name] / sizes[0][name]) for name in ("seconds", "events"))
    print("exponent", exponent := round(float(seconds / events), 2))
    record = {
        "protocol": "training-cost",
        "commit": commit(),
        "data_hash": sizes[-1]["data_hash"],
        "seed": 0,
        "seconds": round(time.perf_counter() - started, 1),
        "figures": {"sizes": sizes, "exponent": exponent},
        "goals": {"exponent": "<= 1.1"},
        "hardware": hardware(),
        "versions": versions(),
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def train(share: float) -> dict[str, Any]:
    past = cj_next28(complete_journey().dataset()).fit_on
    encoder = load_encoder(DEFAULT_ENCODER, cache_dir=Path.home() / ".cache" / "recllm", precision="auto")
    vectors = item_vectors(encoder, past)  # of the whole log: the same items at every size
    rows = np.sort(np.random.default_rng(0).permutation(past.n_users)[: round(share * past.n_users)])
    part = replace(past, users=past.users[rows.tolist()], events=past.events.rows(rows))
    told = basics_vectors(encoder, basics_of(part.users))
    started = time.perf_counter()
    fit_scorer(part, vectors, told, ScorerTrainingSettings(min_steps=0))
    return {
        "people": part.n_users,
        "events": len(part.events),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "data_hash": part.data_hash(),
    }


if __name__ == "__main__":
    main()
