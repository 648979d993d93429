"""One function for many shards: in this process, in a pool of processes, or in Ray on many machines.

Ray's core tasks over shards and not Ray Data: blocks of its own would hold several times the memory of a shard.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from recllm.base.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor
    from types import ModuleType

logger = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

DEATHS = 2
"""A shard whose process was killed so often has failed; the second time it runs alone, so that it is to blame."""


class Engine(StrEnum):
    HERE = "here"
    PROCESSES = "processes"
    RAY = "ray"


Work = Callable[[Callable[[int], Outcome], Sequence[int], Callable[[int, str], Outcome]], Iterator[Outcome]]
"""(work, shards, lost) -> what `work` returns for each shard, as they end; what it raises is raised here.

work: can be pickled, and may be called again for the same shard: that of a process which was killed is. lost: what is
returned for a shard whose process was killed `DEATHS` times, with words on why.
"""


@contextmanager
def open_workers(engine: Engine, workers: int) -> Iterator[Work[Any]]:
    """Where shards are worked on: processes, or a connection to Ray, end with the block, and what a process has opened
    for one call serves the next.

    Raises `MissingExtraError` for Ray without its extra, `UsageError` for no worker or no cluster.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; give at least 1")
    match engine:
        case Engine.HERE:
            yield lambda work, shards, lost: map(work, shards)
        case Engine.PROCESSES:
            processes = ProcessWorkers(workers)
            try:
                yield processes.outcomes
            finally:
                processes.close()
        case Engine.RAY:
            ray = import_ray()
            started_here = not ray.is_initialized()
            if started_here:
                connect(ray, workers)
            try:
                yield _Ray(ray, workers).outcomes
            finally:
                if started_here:
                    ray.shutdown()


def _with_number(work: Callable[[int], Outcome], shard: int) -> tuple[int, Outcome]:
    return shard, work(shard)


def _killed(shard: int, reason: str) -> str:
    return (
        f"the process of shard {shard} was killed {DEATHS} times ({reason}), most likely for want of memory: "
        "more shards make each smaller, fewer workers leave each more"
    )


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
                yield lost(shard, _killed(shard, "of this machine"))

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
            self._pool = ProcessPoolExecutor(self._workers, spawn, initializer=_share_cores, initargs=initargs)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _share_cores(workers: int) -> None:
    """Gives each process its share of the machine's cores as threads. The libraries read these variables when they are
    imported, which is later."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(name, threads)


class _Ray:
    """Tasks of Ray. The process of one is used for the next ones; where it is lost Ray starts another."""

    def __init__(self, ray: ModuleType, workers: int) -> None:
        self._ray, self._workers = ray, workers
        self._remote = ray.remote(num_cpus=1, max_retries=DEATHS - 1)(_with_number)

    def outcomes(
        self, work: Callable[[int], Outcome], shards: Sequence[int], lost: Callable[[int, str], Outcome]
    ) -> Iterator[Outcome]:
        ray, of_all = self._ray, self._ray.put(work)
        waiting, running = list(shards)[::-1], dict[Any, int]()
        while waiting or running:
            while waiting and len(running) < self._workers:
                shard = waiting.pop()
                running[self._remote.remote(of_all, shard)] = shard
            (reference, *_), _ = ray.wait(list(running))
            shard = running.pop(reference)
            try:
                _, outcome = ray.get(reference)
            except ray.exceptions.RayTaskError as error:  # `work` itself raised
                raise error.cause from error
            except ray.exceptions.RayError as error:  # its process or its machine is gone
                outcome = lost(shard, _killed(shard, type(error).__name__))
            yield outcome


def import_ray() -> ModuleType:
    """Raises `MissingExtraError` without the extra."""
    import secrets

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers that it runs
    if not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules:  # it reads these when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    return ray


def connect(ray: ModuleType, workers: int) -> None:
    """To the cluster of `RAY_ADDRESS`, else to one of this machine, whose ports ask for a token that only its processes
    have. Raises `UsageError` where there is none."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address="local", num_cpus=workers, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise UsageError(f"Ray cannot be reached at {where}: {str(error)[:200]}") from error
