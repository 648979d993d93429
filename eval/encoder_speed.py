"""How fast texts become vectors, against a plain `SentenceTransformer.encode` in the same run.

    python eval/encoder_speed.py [--plain 4000] [-o eval/results/encoder_speed.json]

The texts are those of the Complete Journey items sold before the test window of cj-next28, duplicates and all, as a
shop's catalogue has them. Ours encodes every one of them with an empty cache on disk, once in float32 and once with
the precision that the probe chooses, then again from the cache. The plain encoder gets a random sample, because its
speed per text does not depend on how many there are. It runs before and after ours, and the better run counts.
Ratios are of wall-clock time and, less disturbed by whatever else the machine does, of processor time. What is left of
the gain without duplicates stands under "library": the same distinct texts, the same precision, loaded models.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from inputs import finish, load_average, script_parser

from recllm.recommend.evaluation.benchmarks import cj_next28
from recllm.recommend.evaluation.tables import complete_journey
from recllm.text.encoder.batches import encode_unique
from recllm.text.encoder.hardware import PROBE_FILE, machine
from recllm.text.encoder.loading import DEFAULT_ENCODER, find_weights, load_encoder
from recllm.text.items import item_texts

SEED = 0


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--plain", type=int, default=4000, help="texts that the plain encoder gets")
    args = parser.parse_args()
    finish(measure(catalogue_texts(), args.plain), args.output)


def catalogue_texts() -> list[str]:
    """The text of each item in the catalogue of cj-next28, in catalogue order."""
    window = cj_next28(complete_journey().dataset())
    return item_texts(window.dataset.items[window.slice("ALL").items])


def measure(texts: Sequence[str], n_plain: int) -> dict[str, Any]:
    sample = [texts[row] for row in np.random.default_rng(SEED).choice(len(texts), n_plain, replace=False)]
    plain = plain_encoder()
    first, expected = timed(lambda: plain(sample))
    ours = {name: measure_ours(texts, sample, expected, name) for name in ("float32", "auto")}
    second, _ = timed(lambda: plain(sample))
    wall, processor = (min(a, b) / n_plain for a, b in zip(first, second, strict=True))  # seconds a text
    for figures in ours.values():
        for count, name in ((len(texts), "with_duplicates"), (len(set(texts)), "distinct")):
            figures[f"times_plain_{name}"] = round(wall / (figures["cold_seconds"] / count), 2)
            figures[f"times_plain_{name}_processor"] = round(processor / (figures["cold_processor_seconds"] / count), 2)
    return {
        "model": DEFAULT_ENCODER,
        "machine": machine(),
        "load_average": load_average(),
        "texts": len(texts),
        "distinct": len(set(texts)),
        "plain_texts": n_plain,
        "plain_texts_per_s": round(1 / wall, 1),
        "recllm": ours,
        "library": {name: against_library(sorted(set(sample)), name) for name in ("float32", "bfloat16")},
    }


def against_library(texts: Sequence[str], precision: Any) -> dict[str, float]:
    """Processor time of `SentenceTransformer.encode` over ours, and both's lowest cosine with the exact vectors."""
    exact = plain_encoder("float32")(texts)
    library, ours = plain_encoder(precision), load_encoder(precision=precision, progress=False)
    ours.encode(["warm up"])
    (_, theirs), rows = timed(lambda: library(texts))
    (_, processor_seconds), vectors = timed(lambda: ours.encode(texts))
    return {
        "times_recllm_processor": round(theirs / processor_seconds, 2),
        "lowest_cosine_library": round(float((rows * exact).sum(axis=1).min()), 5),
        "lowest_cosine_recllm": round(float((vectors * exact).sum(axis=1).min()), 5),
    }


def measure_ours(texts: Sequence[str], sample: Sequence[str], expected: np.ndarray, precision: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        encoder = load_encoder(cache_dir=folder, precision=precision, progress=False)
        encoder.encoder.encode(["warm up"])  # type: ignore[attr-defined]
        (cold, processor), (vectors, inverse) = timed(lambda: encode_unique(encoder, texts))
        (warm, _), (reread, _) = timed(lambda: encode_unique(encoder, texts))
        assert (vectors == reread).all()
        cosine = (encoder.encode(sample) * expected).sum(axis=1)
        probe = Path(folder) / PROBE_FILE
        return {
            "precision": encoder.encoder.precision,  # type: ignore[attr-defined]
            "probe": list(json.loads(probe.read_text()).values()) if probe.exists() else None,
            "cold_seconds": round(cold, 2),
            "cold_processor_seconds": round(processor, 2),
            "cold_texts_per_s": round(len(inverse) / cold, 1),
            "distinct_texts_per_s": round(len(vectors) / cold, 1),
            "from_disk_seconds": round(warm, 2),
            "lowest_cosine_with_plain": round(float(cosine.min()), 6),
        }


def plain_encoder(precision: str = "float32") -> Callable[[Sequence[str]], np.ndarray]:
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"dtype": getattr(torch, precision), "use_safetensors": True}
    model = SentenceTransformer(str(find_weights(DEFAULT_ENCODER).path), device="cpu", model_kwargs=options)
    model.encode(["warm up"])
    return lambda texts: model.encode(list(texts), show_progress_bar=False, normalize_embeddings=True)


def timed(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Seconds by the clock and of the processor, and the result."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - start, time.process_time() - processor), result


if __name__ == "__main__":
    main()
