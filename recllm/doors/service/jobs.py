"""Jobs in the background, one after the other."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from queue import SimpleQueue
from threading import RLock, Thread
from typing import Any

from recllm.base.errors import DataError, NothingToDo, RecllmError, UnknownIdError
from recllm.doors.service.refusals import OverloadError

logger = logging.getLogger(__name__)

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
    keys: tuple[str, ...] = ()
    """Those of `DataError`."""
    left_out: Mapping[str, int | None] = field(default_factory=dict)
    """Those of `NothingToDo`."""
    result: Any = None
    ended_at: datetime | None = None


class _CancelledError(Exception):
    """Raised within the work, at its next step."""


class Background:
    """One thread that does jobs in the order of their coming; nothing outlasts the process."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._jobs: dict[str, Job] = {}
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = RLock()
        self._thread = Thread(target=self._run, name="background", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Cancel everything. A running job ends before its next step; this does not wait for it."""
        for job in list(self._jobs.values()):
            self.cancel(job.shop, job.job_id)
        self._queue.put(None)

    def submit(self, shop: str, about: str, work: Work, result: Any = None) -> Job:
        """Raises `OverloadError` when too many wait. result: of the job, until the work returns another one."""
        with self._lock:
            if sum(job.state is JobState.QUEUED for job in self._jobs.values()) > self._max_waiting:
                raise OverloadError("too many jobs are waiting; try again in a minute")
            now, state = datetime.now(UTC), JobState.QUEUED
            job = Job(job_id=uuid.uuid4().hex, shop=shop, about=about, state=state, created_at=now, result=result)
            self._jobs[job.job_id] = job
            ended = [name for name, old in self._jobs.items() if old.state in ENDED]
            for name in ended[: max(0, len(self._jobs) - MAX_JOBS)]:
                del self._jobs[name]
        self._queue.put(partial(self._do, job.job_id, work))
        return job

    def submit_alone(self, shop: str, about: str, work: Work, result: Any = None) -> Job | None:
        """As `submit`, but None while another job about the same thing has not ended."""
        with self._lock:
            return None if self.open_job(shop, about) else self.submit(shop, about, work, result)

    def job(self, shop: str, job_id: str) -> Job:
        """Raises `UnknownIdError` for a job that is none of the shop's."""
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
        with self._lock:
            return [job for job in self._jobs.values() if (job.shop, job.about) == (shop, about)]

    def cancel(self, shop: str, job_id: str) -> Job:
        """One that waits is cancelled at once, one that runs before its next step, one that ended stays as it is."""
        with self._lock:
            job = self.job(shop, job_id)
            if job.state is JobState.QUEUED:
                job = replace(job, state=JobState.CANCELLED, ended_at=datetime.now(UTC))
            elif job.state is JobState.RUNNING:
                job = replace(job, cancelling=True)
            self._jobs[job_id] = job
        return job

    def _change(self, job_id: str, **changes: Any) -> None:
        """Raises `_CancelledError` for a job that is to end before its next step, or was forgotten."""
        with self._lock:
            job = self._jobs.get(job_id)
            if "ended_at" not in changes and (job is None or job.cancelling or job.state in ENDED):
                raise _CancelledError
            if job is not None:
                self._jobs[job_id] = replace(job, **changes, step=job.step + ("progress" in changes))

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            task()

    def _do(self, job_id: str, work: Work) -> None:
        ended: dict[str, Any] = {}
        try:
            self._change(job_id, state=JobState.RUNNING)
            ended = {"state": JobState.DONE, "result": work(lambda progress: self._change(job_id, progress=progress))}
        except _CancelledError:
            ended = {"state": JobState.CANCELLED}
        except RecllmError as error:
            ended = {"state": JobState.FAILED, "error_type": type(error).__name__, "error": str(error)}
            ended["keys"] = error.keys if isinstance(error, DataError) else ()
            ended["left_out"] = error.left_out if isinstance(error, NothingToDo) else {}
        except Exception:
            logger.exception("a job failed", extra={"job_id": job_id})
            ended = {"state": JobState.FAILED, "error_type": "internal", "error": "something failed; the log has more"}
        self._change(job_id, ended_at=datetime.now(UTC), **ended)
