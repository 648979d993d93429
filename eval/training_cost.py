"""What training costs as the log grows:  python eval/training_cost.py -o eval/results/training-cost.json

The scorer is trained on a quarter, a half and all people of Complete Journey's log before the test window, over the
same items, each size in a process of its own and without `min_steps`, which gives small logs more rounds. `exponent`:
slope of log seconds over log events from first to last, 1 when linear, less by what is done once. Texts are cached.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
from inputs import default_encoder, finish, in_new_process, peak_mib, script_parser

from recllm.evaluation.benchmarks import cj_next28
from recllm.evaluation.tables import complete_journey
from recllm.features.item_vectors import basics_of, basics_vectors, item_vectors
from recllm.schema import Encoder
from recllm.settings import ScorerTrainingSettings
from recllm.training.scorer import fit_scorer


def main() -> None:
    parser = script_parser(__doc__, "cache")
    parser.add_argument("--share", type=float, help="train on this share of the people and print its figures")
    parser.add_argument("--shares", default="0.25,0.5,1", help="of the people, with commas")
    args = parser.parse_args()
    if args.share:
        print(json.dumps(train(args.share, default_encoder(args))))
        return
    started, options = time.perf_counter(), ("--cache", str(args.cache))
    sizes = [in_new_process("training_cost.py", "--share", share, *options) for share in args.shares.split(",")]
    seconds, events = (np.log(sizes[-1][name] / sizes[0][name]) for name in ("seconds", "events"))
    record = {
        "protocol": "training-cost",
        "data_hash": sizes[-1]["data_hash"],
        "seed": 0,
        "seconds": round(time.perf_counter() - started, 1),
        "figures": {"sizes": sizes, "exponent": round(float(seconds / events), 2)},
        "goals": {"exponent": "<= 1.1"},
    }
    finish(record, args.output)


def train(share: float, encoder: Encoder) -> dict[str, Any]:
    past = cj_next28(complete_journey().dataset()).fit_on
    vectors = item_vectors(encoder, past)  # of the whole log: the same items at every size
    rows = np.sort(np.random.default_rng(0).permutation(past.n_users)[: round(share * past.n_users)])
    part = replace(past, users=past.users[rows.tolist()], events=past.events.rows(rows))
    basics = basics_vectors(encoder, basics_of(part.users))
    started = time.perf_counter()
    fit_scorer(part, vectors, basics, ScorerTrainingSettings(min_steps=0))
    return {
        "people": part.n_users,
        "events": len(part.events),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": peak_mib(),
        "data_hash": part.data_hash(),
    }


if __name__ == "__main__":
    main()
