"""What `recllm advise` promises against what training takes:  nice python eval/advise_accuracy.py

On four logs: Complete Journey, Online Retail, Beauty and Industrial, each cut to a share of its people, so that all of
it fits into an hour of a busy machine; `--share 1` for whole ones. Each log runs in a process of its own with an empty
cache of vectors: the advice with its probe, `Recommender.fit` with the advised settings, and the probe once more. The
promise is that of the probe before the run. All are seconds of the clock, since a person waits by the clock; others may
work on the machine meanwhile: the load is recorded, and the second probe says how much it changed. A ratio is
promised / real; a factor of two is the goal.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from inputs import RESULTS, finish, in_new_process, load_average, script_parser

from recllm.data.dataset import Dataset
from recllm.encoder.hardware import machine, workers
from recllm.encoder.loading import load_encoder
from recllm.evaluation.tables import complete_journey, read_folder
from recllm.recommender.recommender import Recommender
from recllm.text.items import item_texts
from recllm.training.advise import advise
from recllm.training.probe import measure_parts, with_measured_cost

SHARES = {"complete-journey": 0.03, "online-retail": 0.1, "beauty": 0.03, "industrial": 0.15}
FOLDERS = {
    "online-retail": "online_retail_uci",
    "beauty": "amazon_beauty_p5",
    "industrial": "minionerec_Industrial_and_Scientific",
}


def main() -> None:
    parser = script_parser(__doc__, "data")
    parser.set_defaults(output=RESULTS / "advise.json")
    parser.add_argument("--log", choices=sorted(SHARES), help="measure one log and print its figures")
    parser.add_argument(
        "--logs", default=",".join(SHARES), help="names with commas; earlier figures of others are kept"
    )
    parser.add_argument("--share", type=float, help="share of the people; that of the log otherwise")
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of each process")
    args = parser.parse_args()
    if args.log:
        print(json.dumps(measured(args.log, args.data, args.share or SHARES[args.log])))
        return
    before = json.loads(args.output.read_text("utf-8"))["logs"] if args.output.exists() else {}
    logs = {name: figures for name, figures in before.items() if name not in args.logs.split(",")}
    for name in args.logs.split(","):
        options = ["--log", name, "--data", str(args.data), *(["--share", str(args.share)] if args.share else [])]
        logs[name] = in_new_process("advise_accuracy.py", *options, threads=args.threads)
        ratios = [figures["ratio"] for figures in logs.values()]
        record = {
            "script": "eval/advise_accuracy.py",
            "machine": machine(),
            "logs": logs,
            "within_factor_two": sum(0.5 <= ratio <= 2 for ratio in ratios),
            "worst_ratio": max(ratios, key=lambda ratio: max(ratio, 1 / ratio)),
        }
        finish(record, args.output)


def measured(name: str, data: Path, share: float) -> dict[str, Any]:
    dataset = cut(name, data, share)
    texts, lines, load = item_texts(dataset.items), list[str](), load_average()
    with tempfile.TemporaryDirectory() as scratch:
        advice = advise(dataset, texts)
        assert advice.training is not None
        encoder = load_encoder(advice.encoder, cache_dir=Path(scratch), precision="auto", progress=False)
        stored = advice.cost
        advice = with_measured_cost(advice, dataset, texts, encoder)
        marks, cpu = [time.perf_counter()], time.process_time()
        recommender = Recommender(dataset, encoder)
        _ = recommender.item_vectors
        marks.append(time.perf_counter())
        recommender.fit(advice.training, interests=advice.interests, progress=lines.append)
        marks.append(time.perf_counter())
        cpu = time.process_time() - cpu
        again = measure_parts(dataset, texts, encoder, advice.training, advice.interests)
    epochs = [int(m[1]) for line in lines if (m := re.match(r"sequence model, epoch (\d+)", line))]
    encode, fit = np.diff(marks).tolist()
    promised, real = 60 * advice.cost.minutes, encode + fit
    return {
        "share_of_people": share,
        "people": dataset.n_users,
        "items": dataset.n_items,
        "events": len(dataset.events),
        "texts": advice.survey.distinct_texts,
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
        "workers": workers(),
        "promised_seconds": round(promised, 1),
        "real_seconds": round(real, 1),
        "processor_seconds": round(cpu, 1),
        "ratio": round(promised / real, 3),
        "ratio_of_the_probe_after": round(again.seconds / real, 3),
        "ratio_without_a_probe": round(60 * stored.minutes / real, 3),
        "promised": {k: round(v * 60, 1) for k, v in asdict(advice.cost).items() if k.endswith("_minutes")},
        "real": {"encode": round(encode, 1), "fit": round(fit, 1)},
        "sequence_epochs": max(epochs, default=0),
        "probe": asdict(again),
        "load_before_and_after": [load, load_average()],
    }


def cut(name: str, data: Path, share: float) -> Dataset:
    """What a model may learn from of the log, with a random share of its people and the items that they bought."""
    tables = complete_journey() if name == "complete-journey" else read_folder(data / FOLDERS[name])
    events = tables.interactions
    if "split" in events.columns and (events["split"] == "train").any():
        events = events.filter(events["split"] == "train")
    people = events["user_id"].unique().sort()
    sample = people.sample(int(share * len(people)), seed=0).implode()
    dataset = replace(tables, users=None).dataset(events.filter(events["user_id"].is_in(sample)))
    return dataset.with_items(np.bincount(dataset.events.item, minlength=dataset.n_items) > 0)


if __name__ == "__main__":
    main()
