"""One function for many shards: in this process, in a pool of processes, or in Ray's actors on many machines.

Ray's core actors over shards and not Ray Data: blocks of its own would hold several times the memory of a shard.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from recllm.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import ModuleType

logger = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

DEATHS = 2
"""A shard whose process was killed so often has failed; the second time it runs alone, so that it is to blame."""


class Engine(StrEnum):
    HERE = "here"
    PROCESSES = "processes"
    RAY = "ray"


def shard_outcomes(
    work: Callable[[int], Outcome],
    shards: Sequence[int],
    engine: Engine,
    *,
    workers: int,
    lost: Callable[[int, str], Outcome],
) -> Iterator[Outcome]:
    """What `work` returns for each shard, as they end; what it raises is raised here.

    work: can be pickled, and may be called again for the same shard: that of a process which was killed is. lost: what
    is returned for a shard whose process was killed `DEATHS` times, with words on why. Raises `MissingExtraError` for
    Ray without its extra, `UsageError` for no worker or no cluster.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; give at least 1")
    if engine is Engine.RAY:
        yield from _on_ray(work, shards, workers, lost)
    elif engine is Engine.PROCESSES:
        yield from _in_processes(work, shards, workers, lost)
    else:
        yield from map(work, shards)


def _killed(shard: int, reason: str) -> str:
    return (
        f"the process of shard {shard} was killed {DEATHS} times ({reason}), most likely for want of memory: "
        "more shards make each smaller, fewer workers leave each more"
    )


def _in_processes(
    work: Callable[[int], Outcome], shards: Sequence[int], workers: int, lost: Callable[[int, str], Outcome]
) -> Iterator[Outcome]:
    suspects: list[int] = []
    yield from _pool(work, list(shards), workers, suspects)
    for shard in sorted(suspects):  # alone, so that nobody else is blamed for it
        dead: list[int] = []
        yield from _pool(work, [shard], 1, dead)
        if dead:
            yield lost(shard, _killed(shard, "of this machine"))


def _pool(work: Callable[[int], Outcome], waiting: list[int], workers: int, suspects: list[int]) -> Iterator[Outcome]:
    """Outcomes of a pool, made anew when one of its processes dies; the shards that were in work then are suspects."""
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    waiting = waiting[::-1]
    while waiting:
        running: dict[Future[Outcome], int] = {}
        with ProcessPoolExecutor(
            min(workers, len(waiting)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_share_cores,
            initargs=(workers,),
        ) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < workers:
                        running[pool.submit(work, waiting[-1])] = waiting[-1]
                        waiting.pop()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield future.result()
                        del running[future]
            except BrokenProcessPool:
                logger.warning("a process was killed while it worked on %s", sorted(running.values()))
                suspects += running.values()


def _share_cores(workers: int) -> None:
    """So many processes of one machine compute with as many threads as it has cores, and not with the square. Read by
    the libraries when they are imported, which is later."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(name, threads)


class _Actor:
    """What Ray makes an actor of: a process that keeps what `work` has opened. It has one core, and one thread."""

    def __init__(self, work: Callable[[int], Any]) -> None:
        self._work = work

    def is_ready(self) -> bool:
        return True

    def work(self, shard: int) -> Any:
        return self._work(shard)


def _on_ray(
    work: Callable[[int], Outcome], shards: Sequence[int], workers: int, lost: Callable[[int, str], Outcome]
) -> Iterator[Outcome]:
    ray = import_ray()
    started_here = not ray.is_initialized()
    if started_here:
        connect(ray, workers)
    remote = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
    waiting, deaths = list(shards)[::-1], dict.fromkeys(shards, 0)
    running: dict[Any, tuple[int, Any]] = {}
    idle = [remote.remote(work) for _ in range(min(workers, len(waiting)))]
    try:
        try:
            ray.get([actor.is_ready.remote() for actor in idle])
        except ray.exceptions.RayError as error:  # recllm is not installed there, or another version of it
            raise UsageError(f"Ray's actors cannot start: {str(error).strip().splitlines()[-1][:300]}") from error
        while waiting or running:
            while waiting and idle:
                shard, actor = waiting.pop(), idle.pop()
                running[actor.work.remote(shard)] = shard, actor
            (reference, *_), _ = ray.wait(list(running), num_returns=1)
            shard, actor = running.pop(reference)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayTaskError as error:  # `work` itself raised
                raise error.cause from error
            except ray.exceptions.RayError as error:  # its process or its machine is gone
                reason = type(error).__name__
                logger.warning("an actor was lost while it worked on shard %d: %s", shard, reason)
                ray.kill(actor)
                idle.append(remote.remote(work))
                deaths[shard] += 1
                if deaths[shard] < DEATHS:
                    waiting.insert(0, shard)
                else:
                    yield lost(shard, _killed(shard, reason))
            else:
                idle.append(actor)
                yield outcome
    finally:
        for actor in [*idle, *(actor for _, actor in running.values())]:
            ray.kill(actor)
        if started_here:
            ray.shutdown()


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
