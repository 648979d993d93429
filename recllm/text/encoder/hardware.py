"""What this machine has, and how many threads work at once."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


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
