"""Whether bfloat16 is worth it on this machine: measured, not assumed.

Processors with bfloat16 instructions run a BERT up to twice as fast with it, others several times slower. And the
vectors change a little. So a probe encodes some texts in both precisions; only a cosine of at least .999 for every
text together with a clear gain in time makes the answer yes. The answer is kept per model and machine.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recllm.encoder.json_cache import remembered

if TYPE_CHECKING:
    from recllm.schema import Encoder

MIN_COSINE = 0.999
MIN_GAIN = 1.2
"""Times faster than float32; below it the difference in the vectors buys nothing."""

PROBE_FILE = "precision.json"
_ROUNDS = 3

PROBE_TEXTS = (
    "GROCERY FROZEN ICE CREAM traditional, private label, 56 OZ",
    "women's waterproof trail running shoes, size 39",
    "Wireless noise-cancelling headphones with 30 hours of battery life",
    "2014 秋装 新款 打底衫 韩版 女装 长袖 纯棉",
    "age 35-44, income 50-74K, two adults with kids",
    "milk",
    "USB-C",
    "The person bought coffee every nine days, mostly ground coffee of a national brand, and lately bought filters, "
    "oat milk and dark chocolate; looked at an espresso machine and a grinder twice without buying.",
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured. `cosine` is the lowest over the probe's texts; `gain` is float32 time / bfloat16 time."""

    cosine: float
    gain: float

    @property
    def pays(self) -> bool:
        return self.cosine >= MIN_COSINE and self.gain >= MIN_GAIN


def probe_bfloat16(exact: Encoder, rounded: Callable[[], Encoder], cache_dir: str | Path | None = None) -> Probe:
    """Compare the float32 encoder with the bfloat16 one that `rounded` loads, or look up an earlier comparison.

    `cache_dir` is where answers are kept, in precision.json; without it each call measures (about a second).
    """
    key = f"{exact.fingerprint} {machine()}"

    def measure() -> Probe:
        # A bare product of matrices tells in milliseconds where bfloat16 is only emulated; there no model is tried.
        return Probe(0.0, gain) if (gain := product_gain()) < MIN_GAIN else compare(exact, rounded())

    return remembered_probe(cache_dir, key, measure)


def remembered_probe(cache_dir: str | Path | None, key: str, measure: Callable[[], Probe]) -> Probe:
    """The probe kept in precision.json of `cache_dir` under `key`, or else a new one, which is kept there."""

    def valid(value: Any) -> bool:
        return isinstance(value, dict) and value.keys() == {"cosine", "gain"}

    path = None if cache_dir is None else Path(cache_dir) / PROBE_FILE
    answer = remembered(path, key, lambda: asdict(measure()), valid)
    return Probe(float(answer["cosine"]), float(answer["gain"]))


def machine() -> str:
    """What decides about speed: processor, threads, GPU, version of torch. Read without importing torch."""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [line.partition(":")[2].strip() for path in gpus for line in _lines(path) if line.startswith("Model")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return " ".join(
        (
            platform.machine(),
            processor_name(),
            f"{default_threads()} threads",
            f"torch {version('torch')}",
            f"{', '.join(models) or 'no GPU'}{'' if visible is None else f' visible: {visible}'}",
        )
    )


def processor_name() -> str:
    names = (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return next(names, platform.processor())


def default_threads() -> int:
    """Cores that this process may use, at most OMP_NUM_THREADS where that is set, as torch counts them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdecimal() else cores


def compare(exact: Encoder, rounded: Encoder) -> Probe:
    """Lowest cosine and gain in time over the probe's texts, the best of three rounds each."""
    texts = [*PROBE_TEXTS, *(f"{text} / {number}" for number in range(3) for text in PROBE_TEXTS)]
    cosine = (exact.encode(texts) * rounded.encode(texts)).sum(axis=1).min()  # also warms both up
    exact_seconds = min(_seconds(exact, texts) for _ in range(_ROUNDS))
    return Probe(float(cosine), exact_seconds / min(_seconds(rounded, texts) for _ in range(_ROUNDS)))


def _seconds(encoder: Encoder, texts: Sequence[str]) -> float:
    start = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - start


def product_gain() -> float:
    """Time of a float32 product of matrices divided by that of a bfloat16 one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(256, 384, dtype=dtype, device=device)
        times = []
        for _ in range(_ROUNDS + 1):
            start = time.perf_counter()
            (a @ a.T).sum().item()
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.inference_mode():
        return seconds(torch.float32) / seconds(torch.bfloat16)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
