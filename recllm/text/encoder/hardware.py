"""What this machine has, and whether bfloat16 is worth it on it: measured, not assumed.

Processors with bfloat16 instructions run a BERT up to twice as fast with it, others several times slower. And the
vectors change a little. So a probe encodes some texts in both precisions; only a cosine of at least .999 for every
text together with a clear gain in time makes the answer yes. The answer is kept per model and machine.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from timeit import repeat
from typing import TYPE_CHECKING, Any, TypeVar

from recllm.text.encoder.json_cache import remembered

if TYPE_CHECKING:
    from recllm.base.schema import Encoder

Result = TypeVar("Result")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What training and encoding may use."""

    cores: int
    memory_gib: float
    """That this process may use."""
    gpu: str | None = None
    gpu_gib: float = 0.0
    bfloat16: bool = False
    """A product of matrices is faster in bfloat16 than in float32."""


def this_machine() -> Machine:
    """Measured in about a second."""
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    with contextlib.suppress(OSError, ValueError):  # the limit of this process's control group may be lower
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return Machine(
        cores=usable_cores(),
        memory_gib=round(memory / 2**30, 1),
        gpu=None if gpu is None else gpu.name,
        gpu_gib=0.0 if gpu is None else round(gpu.total_memory / 2**30, 1),
        bfloat16=product_gain() >= MIN_GAIN,
    )


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Cores that this process may use, at most OMP_NUM_THREADS where that is set, as torch counts them."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(usable_cores(), int(limit))) if limit.isdecimal() else usable_cores()


def workers() -> int:
    """Threads for blocks of arrays: what torch may use, and at most two, since each block takes memory."""
    torch = sys.modules.get("torch")  # asked where it is loaded, and not loaded to be asked
    return min(2, default_threads() if torch is None else torch.get_num_threads())


def map_blocks(function: Callable[[slice], Result], n: int, size: int) -> list[Result]:
    """`function` of each block of `size` out of n rows, in order, in as many threads as `workers`, one core each."""
    blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    if len(blocks) < 2:
        return [function(block) for block in blocks]
    with one_core_each() as pool:
        return list(pool.map(function, blocks))


@contextlib.contextmanager
def one_core_each() -> Iterator[ThreadPoolExecutor]:
    """As many threads as `workers`, in which products of matrices use one core: they leave the others to the other
    threads, and none waits for a core that is busy otherwise."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    n_workers = workers()
    set_threads = torch.set_num_threads if torch else lambda _: None
    try:
        set_threads(1)
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_workers, "block", set_threads, (1,)) as pool:
            yield pool
    finally:
        set_threads(threads)


def machine() -> str:
    """What decides about speed: processor, threads, GPU, version of torch. Read without importing torch."""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [model for path in gpus for model in _values(path, "Model")]
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
    return next(iter(_values(Path("/proc/cpuinfo"), "model name")), platform.processor())


def _values(path: Path, name: str) -> list[str]:
    """What stands behind the colon of each line of that name; none where the file is not there."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]


def product_gain() -> float:
    """Time of a float32 product of matrices divided by that of a bfloat16 one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(256, 384, dtype=dtype, device=device)
        return min(repeat(lambda: (a @ a.T).sum().item(), number=1, repeat=_ROUNDS + 1))

    with torch.inference_mode():
        return seconds(torch.float32) / seconds(torch.bfloat16)


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

    def measure() -> Probe:
        # A bare product of matrices shows in milliseconds where bfloat16 is only emulated; there no model is tried.
        return Probe(0.0, gain) if (gain := product_gain()) < MIN_GAIN else compare(exact, rounded())

    return remembered_probe(cache_dir, f"{exact.fingerprint} {machine()}", measure)


def remembered_probe(cache_dir: str | Path | None, key: str, measure: Callable[[], Probe]) -> Probe:
    """The probe kept in precision.json of `cache_dir` under `key`, or else a new one, which is kept there."""

    def valid(value: Any) -> bool:
        return isinstance(value, dict) and value.keys() == {"cosine", "gain"}

    path = None if cache_dir is None else Path(cache_dir) / PROBE_FILE
    answer = remembered(path, key, lambda: asdict(measure()), valid)
    return Probe(float(answer["cosine"]), float(answer["gain"]))


def compare(exact: Encoder, rounded: Encoder) -> Probe:
    """Lowest cosine and gain in time over the probe's texts, the best of three rounds each."""
    texts = [*PROBE_TEXTS, *(f"{text} / {number}" for number in range(3) for text in PROBE_TEXTS)]
    cosine = (exact.encode(texts) * rounded.encode(texts)).sum(axis=1).min()  # also warms both up
    exact_seconds = min(repeat(lambda: exact.encode(texts), number=1, repeat=_ROUNDS))
    return Probe(float(cosine), exact_seconds / min(repeat(lambda: rounded.encode(texts), number=1, repeat=_ROUNDS)))
