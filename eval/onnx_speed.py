"""How fast an exported encoder is, against a plain `SentenceTransformer.encode` in the same run.

    python eval/onnx_speed.py [-o eval/results/onnx-speed.json]

int8 encodes every item text of the catalogue of cj-next28, duplicates and all, with an empty cache on disk; the plain
encoder gets a random sample before and after, and its better run counts. All three precisions then encode the same
distinct texts. Ratios are of wall-clock time and, less disturbed by other work, of processor time. How near the
vectors are to the original's is told as cosine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from encoder_speed import SEED, catalogue_texts, encode_catalogue, plain_encoder, timed
from inputs import finish, load_average, script_parser

from recllm.recommend.evaluation.report import versions
from recllm.text.encoder.loading import DEFAULT_ENCODER, load_encoder
from recllm.text.encoder.onnx import export_onnx


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--plain", type=int, default=2000, help="texts that the plain encoder gets")
    parser.add_argument("--distinct", type=int, default=3000, help="distinct texts that every precision gets")
    args = parser.parse_args()
    finish(measure(catalogue_texts(), args.plain, args.distinct), args.output)


def measure(texts: Sequence[str], n_plain: int, n_distinct: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    sample = [texts[row] for row in rng.choice(len(texts), n_plain, replace=False)]
    once = sorted(set(texts))
    sample_once = [once[row] for row in rng.choice(len(once), n_distinct, replace=False)]
    plain = plain_encoder()
    first, _ = timed(lambda: plain(sample))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        exact = load_encoder(device="cpu", progress=False)
        started = time.perf_counter()
        export_onnx(exact, folder, texts=once)  # type: ignore[arg-type]
        exported = time.perf_counter() - started
        export_onnx(exact, folder.with_name("exact"), texts=once, int8=False)  # type: ignore[arg-type]
        int8 = encode_catalogue(texts, folder)
        second, _ = timed(lambda: plain(sample))
        alone = distinct_alone(sample_once, folder)
        start = cold_start(folder)
        sizes = {path.name: round(path.stat().st_size / 1e6, 1) for path in Path(scratch).glob("*/*.onnx")}
    wall, processor = (min(a, b) / n_plain for a, b in zip(first, second, strict=True))  # seconds a text
    for count, name in ((len(texts), "with_duplicates"), (len(once), "distinct")):
        int8[f"times_plain_{name}"] = round(wall / (int8["seconds"] / count), 2)
        int8[f"times_plain_{name}_processor"] = round(processor / (int8["processor_seconds"] / count), 2)
    for figures in alone.values():
        figures["times_plain"] = round(wall * figures["texts_per_s"], 2)
        figures["times_plain_processor"] = round(processor * figures.pop("texts_per_processor_s"), 2)
    return {
        "protocol": "onnx-speed",
        "model": DEFAULT_ENCODER,
        "load_average": load_average(),
        "texts": len(texts),
        "distinct": len(once),
        "plain_texts": n_plain,
        "plain_texts_per_s": round(1 / wall, 1),
        "export_seconds": round(exported, 1),
        "megabytes": sizes,
        "first_vector_seconds": start,
        "catalogue_int8": int8,
        "goal": "catalogue_int8.times_plain_with_duplicates >= 4",
        "distinct_texts": n_distinct,
        "distinct_alone": alone,
        "versions": versions("onnxruntime"),
    }


def distinct_alone(texts: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Each precision on the same distinct texts, without a cache."""
    encoders = {
        "torch float32": load_encoder(device="cpu", progress=False),
        "onnx float32": load_encoder(folder.with_name("exact"), progress=False),
        "onnx int8": load_encoder(folder, progress=False),
    }
    figures: dict[str, dict[str, Any]] = {}
    expected = None
    for name, encoder in encoders.items():
        encoder.encode(texts[:64])
        (wall, processor), vectors = timed(lambda encoder=encoder: encoder.encode(texts))
        expected = vectors if expected is None else expected
        cosine = (vectors * expected).sum(axis=1)
        figures[name] = {
            "texts_per_s": round(len(texts) / wall, 1),
            "texts_per_processor_s": len(texts) / processor,
            "lowest_cosine": round(float(cosine.min()), 5),
            "mean_cosine": round(float(cosine.mean()), 5),
        }
    return figures


def cold_start(folder: Path) -> dict[str, float]:
    """Seconds of a new process to its first vector: from the export, and from the weights."""
    spent = {}
    for name, arguments in (("onnx int8", f"{str(folder)!r}"), ("torch float32", "device='cpu'")):
        code = f"from recllm.text.encoder.loading import load_encoder; load_encoder({arguments}).encode(['milk'])"
        runs = []
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            runs.append(time.perf_counter() - started)
        spent[name] = round(min(runs), 2)
    return spent


if __name__ == "__main__":
    main()
