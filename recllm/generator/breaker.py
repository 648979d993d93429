"""A circuit breaker (Nygard, Release It!, 2007): after some failures within a time nobody is asked for a while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

Clock = Callable[[], float]


class Breaker:
    """Closed: all may pass. Open, after `failures` of them within `window` seconds: nobody, for `rest` seconds. Then
    half open: one may try; a success closes it, a failure opens it again.

    `clock` gives seconds and never goes back.
    """

    def __init__(
        self, *, failures: int = 3, window: float = 60.0, rest: float = 30.0, clock: Clock = time.monotonic
    ) -> None:
        self._limit, self._window, self._rest, self._clock = failures, window, rest, clock
        self._failed: deque[float] = deque(maxlen=failures)
        self._opened: float | None = None

    @property
    def state(self) -> str:
        """ "closed", "open" or "half-open"."""
        if self._opened is None:
            return "closed"
        return "open" if self._clock() - self._opened < self._rest else "half-open"

    @property
    def wait(self) -> float:
        """Seconds until somebody may try again; 0 when one may now."""
        return 0.0 if self._opened is None else max(0.0, self._opened + self._rest - self._clock())

    def succeeded(self) -> None:
        self._failed.clear()
        self._opened = None

    def failed(self) -> None:
        now, half = self._clock(), self.state == "half-open"
        self._failed.append(now)
        if half or (len(self._failed) == self._limit and now - self._failed[0] <= self._window):
            self._opened = now
