"""How long encoders take for a shop's catalogue, ours and a plain one: for speed.py.

The texts are those of the Complete Journey items sold before the test window of cj-next28, duplicates and all, as a
shop's catalogue has them. The plain encoder gets a random sample, because its speed per text does not depend on how
many there are. It runs before and after ours, and the better run counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recllm.recommend.evaluation.benchmarks import cj_next28, complete_journey
from recllm.text.encoder.batches import encode_unique
from recllm.text.encoder.loading import DEFAULT_ENCODER, find_weights, load_encoder
from recllm.text.items import item_texts

SEED = 0


def catalogue_texts() -> list[str]:
    """The text of each item in the catalogue of cj-next28, in catalogue order."""
    window = cj_next28(complete_journey())
    return item_texts(window.dataset.items[window.slice("ALL").items])


def plain_encoder() -> Callable[[Sequence[str]], np.ndarray]:
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"dtype": torch.float32, "use_safetensors": True}
    model = SentenceTransformer(str(find_weights(DEFAULT_ENCODER).path), device="cpu", model_kwargs=options)
    model.encode(["warm up"])
    return lambda texts: model.encode(list(texts), show_progress_bar=False, normalize_embeddings=True)


def encode_catalogue(texts: Sequence[str], model: str | Path = DEFAULT_ENCODER) -> dict[str, Any]:
    """All texts with an empty cache on disk, as a new shop has it, and again from the cache."""
    with tempfile.TemporaryDirectory() as cache:
        encoder = load_encoder(model, cache_dir=cache, progress=False)
        encoder.encoder.encode(["warm up"])  # type: ignore[attr-defined]
        (wall, processor), (vectors, _) = timed(lambda: encode_unique(encoder, texts))
        (warm, _), (reread, _) = timed(lambda: encode_unique(encoder, texts))
        assert (vectors == reread).all()
        return {
            "seconds": round(wall, 2),
            "processor_seconds": round(processor, 2),
            "texts_per_s": round(len(texts) / wall, 1),
            "from_disk_seconds": round(warm, 2),
        }


def timed(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Seconds by the clock and of the processor, and the result."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - start, time.process_time() - processor), result
