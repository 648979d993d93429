"""How much the service takes on: answers at once, waiting requests, requests of one caller, jobs in the background."""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from recllm.base.errors import RecllmError, UnknownIdError
from recllm.base.service_settings import ServiceSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class OverloadError(RecllmError):
    """The service has no room for the request; `retry_seconds` later it may."""

    def __init__(self, message: str, *, status: int, retry_seconds: int) -> None:
        super().__init__(message)
        self.status = status
        self.retry_seconds = retry_seconds


class Capacity:
    """Workers that compute answers, and the queue before them; for one event loop."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._workers = CapacityLimiter(settings.workers)
        self.n_waiting = 0
        """Requests that have no worker yet."""

    async def run(self, answer: Callable[[], T]) -> T:
        """The answer, computed in a thread. Raises `OverloadError` when too many wait, or it waited too long."""
        settings = self._settings
        if self.n_waiting >= settings.waiting and self._workers.available_tokens <= 0:
            raise OverloadError("too many requests are waiting; try again in a second", status=429, retry_seconds=1)
        self.n_waiting += 1
        try:
            with anyio.fail_after(settings.deadline_seconds):
                await self._workers.acquire_on_behalf_of(answer)
        except TimeoutError:
            raise OverloadError(
                f"no worker was free within {settings.deadline_seconds:g} s; try again later",
                status=503,
                retry_seconds=max(1, round(settings.deadline_seconds)),
            ) from None
        finally:
            self.n_waiting -= 1
        try:
            return await anyio.to_thread.run_sync(answer)
        finally:
            self._workers.release_on_behalf_of(answer)


class RateLimit:
    """A limit of requests a minute for each caller, over a moving window."""

    def __init__(self, requests_per_minute: int | None) -> None:
        self._limit = None
        if requests_per_minute is not None:
            from limits import RateLimitItemPerMinute
            from limits.storage import MemoryStorage
            from limits.strategies import SlidingWindowCounterRateLimiter

            self._limit = RateLimitItemPerMinute(requests_per_minute)
            self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, caller: str) -> None:
        """One more request of a caller. Raises `OverloadError` when it is one too many."""
        if self._limit is not None and not self._limiter.hit(self._limit, caller):
            raise OverloadError(
                f"more than {self._limit.amount} requests in a minute; wait, or raise service.requests_per_minute",
                status=429,
                retry_seconds=60,
            )


# --- jobs in the background -------------------------------------------------------------------------------------------

MAX_JOBS = 200
"""Jobs that are remembered; of those that ended the oldest is forgotten first."""

Progress = Callable[[str], None]
Work = Callable[[Progress], Any]
"""What is done; it says what it is about to do, and may be cancelled there."""


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One piece of work in its current state."""

    job_id: str
    shop: str
    about: str
    """What it is for, such as the id of a campaign."""
    state: JobState
    created_at: datetime
    step: int = 0
    """Steps that were begun."""
    progress: str = ""
    """What is being done, for people."""
    cancelling: bool = False
    """Whether it ends before its next step."""
    error_type: str | None = None
    error: str | None = None
    """Why it failed, for people."""
    result: Any = None
    ended_at: datetime | None = None


class _CancelledError(Exception):
    """Raised within the work, at its next step."""


class Background:
    """One thread that does jobs in the order of their coming, as long as the process lives; nothing outlasts it."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: SimpleQueue[tuple[str, Work] | None] = SimpleQueue()
        self._lock = Lock()
        self._thread = Thread(target=self._run, name="background", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Cancel everything. A running job ends before its next step; this does not wait for it."""
        with self._lock:
            names = [name for name, job in self._jobs.items() if job.state not in ENDED]
        for name in names:
            self._cancel(name)
        self._queue.put(None)

    def submit(self, shop: str, about: str, work: Work) -> Job:
        """Raises `OverloadError` when too many wait."""
        with self._lock:
            waiting = sum(job.state is JobState.QUEUED for job in self._jobs.values())
            if waiting > self._max_waiting:
                raise OverloadError("too many jobs are waiting; try again in a minute", status=429, retry_seconds=60)
            job = Job(
                job_id=uuid.uuid4().hex, shop=shop, about=about, state=JobState.QUEUED, created_at=datetime.now(UTC)
            )
            self._jobs[job.job_id] = job
            ended = [name for name, old in self._jobs.items() if old.state in ENDED]
            for name in ended[: max(0, len(self._jobs) - MAX_JOBS)]:
                del self._jobs[name]
        self._queue.put((job.job_id, work))
        return job

    def job(self, shop: str, job_id: str) -> Job:
        """Raises `UnknownIdError` for a job that is none of the shop's."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None or job.shop != shop:
            raise UnknownIdError("no such job; jobs are forgotten when the service ends")
        return job

    def open_job(self, shop: str, about: str) -> Job | None:
        """The job about something that has not ended."""
        return next((job for job in self._about(shop, about) if job.state not in ENDED), None)

    def latest_job(self, shop: str, about: str) -> Job | None:
        """The newest job about something, ended or not."""
        return next(reversed(self._about(shop, about)), None)

    def _about(self, shop: str, about: str) -> list[Job]:
        """Oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if (job.shop, job.about) == (shop, about)]

    def cancel(self, shop: str, job_id: str) -> Job:
        """One that waits is cancelled at once, one that runs before its next step, one that ended stays as it is."""
        self.job(shop, job_id)
        return self._cancel(job_id)

    def _cancel(self, job_id: str) -> Job:
        with self._lock:
            job = self._jobs[job_id]
            if job.state is JobState.QUEUED:
                job = replace(job, state=JobState.CANCELLED, ended_at=datetime.now(UTC))
            elif job.state is JobState.RUNNING:
                job = replace(job, cancelling=True)
            self._jobs[job_id] = job
        return job

    def _change(self, job_id: str, **changes: Any) -> Job:
        with self._lock:
            job = self._jobs[job_id] = replace(self._jobs[job_id], **changes)
        return job

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            self._do(*task)

    def _do(self, job_id: str, work: Work) -> None:
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.state is not JobState.QUEUED:
                return
            self._jobs[job_id] = replace(job, state=JobState.RUNNING)

        def tell(progress: str) -> None:
            with self._lock:
                job = self._jobs[job_id]
                if job.cancelling:
                    raise _CancelledError
                self._jobs[job_id] = replace(job, step=job.step + 1, progress=progress)

        ended: dict[str, Any] = {}
        try:
            ended = {"state": JobState.DONE, "result": work(tell)}
        except _CancelledError:
            ended = {"state": JobState.CANCELLED}
        except RecllmError as error:
            ended = {"state": JobState.FAILED, "error_type": type(error).__name__, "error": str(error)}
        except Exception:
            logger.exception("a job failed", extra={"job_id": job_id})
            ended = {"state": JobState.FAILED, "error_type": "internal", "error": "something failed; the log has more"}
        self._change(job_id, ended_at=datetime.now(UTC), **ended)
