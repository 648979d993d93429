"""How much the service takes on: so many answers at once, so many that wait, and so many requests of one caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from recllm.base.errors import RecllmError
from recllm.base.settings import ServiceSettings

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
    """At most so many requests a minute of each caller, over a moving window."""

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
