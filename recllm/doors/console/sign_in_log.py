"""Every try to sign in is told in the log: that it succeeded, or why not; no key, no token and no name.

Whoever has no key can try as often as they like, so a minute has so many lines of failures, and of those beyond them
the number: nobody fills a disk, and nobody's success goes under.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

FAILURES_A_MINUTE = 60


class SignInLog:
    """The tries of one console."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._minute_end = clock, clock() + 60
        self._n_failures = 0
        self._lock = threading.Lock()

    def succeeded(self, way: str, shop: str, session_id: str, request_id: str) -> None:
        """Who it was, the audit log says. way: "a key", or a provider."""
        facts = {"outcome": "succeeded", "shop": shop, "session": session_id[:8], "request_id": request_id}
        logger.info("sign-in through %s: succeeded", way, extra=facts)

    def failed(self, way: str, cause: str, request_id: str, **facts: str) -> None:
        """cause: nothing secret, nothing of a person."""
        with self._lock:
            n_left_out = 0
            if self._clock() >= self._minute_end:
                n_left_out = max(0, self._n_failures - FAILURES_A_MINUTE)
                self._n_failures, self._minute_end = 0, self._clock() + 60
            self._n_failures += 1
            is_told = self._n_failures <= FAILURES_A_MINUTE
        if n_left_out:
            facts_of_many = {"outcome": "failed", "n": n_left_out}
            logger.warning("sign-in: %d failures had no line of their own", n_left_out, extra=facts_of_many)
        if is_told:
            extra = {"outcome": "failed", "request_id": request_id, **facts}
            logger.warning("sign-in through %s: %s", way, cause, extra=extra)
