"""What this machine has: cores, memory, GPU, and how fast it multiplies."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from recllm.encoder.precision import MIN_GAIN, default_threads, product_gain

_SIZE = 384
_ROUNDS = 7

Result = TypeVar("Result")


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
    product_seconds: float = 0.0
    """Of one product of matrices, to compare machines by; 0 when it was not measured."""


def this_machine() -> Machine:
    """Measured in about a second."""
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(memory_bytes() / 2**30, 1),
        gpu=None if gpu is None else gpu.name,
        gpu_gib=0.0 if gpu is None else round(gpu.total_memory / 2**30, 1),
        bfloat16=product_gain() >= MIN_GAIN,
        product_seconds=product_seconds(),
    )


def workers(limit: int = 2) -> int:
    """Threads for blocks of arrays: what torch may use, and at most `limit`, since each block takes memory."""
    torch = sys.modules.get("torch")  # asked where it is loaded, and not loaded to be asked
    return min(limit, default_threads() if torch is None else torch.get_num_threads())


def map_blocks(function: Callable[[slice], Result], n: int, size: int) -> list[Result]:
    """`function` of each block of `size` out of n rows, in order, in as many threads as `workers`, one core each."""
    blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    if len(blocks) < 2:
        return [function(block) for block in blocks]
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    one_thread = (torch.set_num_threads, (1,)) if torch else (None, ())
    try:  # products of matrices leave the other core to the other block
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers(), "block", *one_thread) as pool:
            return list(pool.map(function, blocks))
    finally:
        if torch:
            torch.set_num_threads(threads)


def product_seconds() -> float:
    """Processor seconds of one float32 product of matrices, on one thread; the best of a few."""
    import torch

    a = torch.ones(8 * _SIZE, _SIZE)
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(_ROUNDS):
            started = time.process_time()
            (a @ a[:_SIZE].T).sum().item()
            seconds.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return round(min(seconds), 6)


def memory_bytes() -> int:
    """Memory of the machine, or the limit of this process's control group where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return total
