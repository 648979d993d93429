"""One function for many shards: in this process, or in a pool of processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from recllm.base.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

logger = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

DEATHS = 2
"""A shard whose process was killed so often has failed; the second time it runs alone, so that it is to blame."""


class Engine(StrEnum):
    HERE = "here"
    PROCESSES = "processes"


Work = Callable[[Callable[[int], Outcome], Sequence[int], Callable[[int, str], Outcome]], Iterator[Outcome]]
"""(work, shards, lost) -> what `work` returns for each shard, as they end; what it raises is raised here.

work: can be pickled, and may be called again for the same shard: that of a process which was killed is. lost: what is
returned for a shard whose process was killed `DEATHS` times, with words on why.
"""


@contextmanager
def open_workers(engine: Engine, workers: int) -> Iterator[Work[Any]]:
    """Where shards are worked on: processes end with the block, and what one has opened for one call serves the next.

    Raises `UsageError` for no worker.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; give at least 1")
    if engine is Engine.HERE:
        yield lambda work, shards, lost: map(work, shards)
        return
    processes = ProcessWorkers(workers)
    try:
        yield processes.outcomes
    finally:
        processes.close()


class ProcessWorkers:
    """A pool, replaced when one of its processes dies."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def outcomes(
        self, work: Callable[[int], Outcome], shards: Sequence[int], lost: Callable[[int, str], Outcome]
    ) -> Iterator[Outcome]:
        suspects = yield from self._worked(work, shards, self._workers)
        for shard in sorted(suspects):  # alone, so that no other shard is blamed for it
            if (yield from self._worked(work, [shard], 1)):
                reason = (
                    f"the process of shard {shard} was killed {DEATHS} times (of this machine), most likely for want "
                    "of memory: more shards make each smaller, fewer workers leave each more"
                )
                yield lost(shard, reason)

    def _worked(
        self, work: Callable[[int], Outcome], shards: Sequence[int], at_once: int
    ) -> Generator[Outcome, None, list[int]]:
        """Yields outcomes; returns the shards that were in work when a process died."""
        from concurrent.futures import FIRST_COMPLETED, wait
        from concurrent.futures.process import BrokenProcessPool

        waiting, suspects = list(shards)[::-1], list[int]()
        running: dict[Future[Outcome], int] = {}
        while waiting or running:
            try:
                while waiting and len(running) < at_once:
                    running[self._open().submit(work, waiting[-1])] = waiting[-1]
                    waiting.pop()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del running[future]
            except BrokenProcessPool:
                logger.warning("a process was killed while it worked on %s", sorted(running.values()))
                suspects += running.values()
                running.clear()
                self.close()
        return suspects

    def _open(self) -> ProcessPoolExecutor:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        if self._pool is None:
            spawn, initargs = multiprocessing.get_context("spawn"), (self._workers,)
            self._pool = ProcessPoolExecutor(self._workers, spawn, initializer=share_cores, initargs=initargs)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def share_cores(workers: int) -> None:
    """Gives each process its share of the machine's cores as threads. The libraries read these variables when they are
    imported, which is later."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(name, threads)
