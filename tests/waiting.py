"""Waiting for what another thread or process does, and doing several things at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 120) -> T:
    """The first true answer of the condition; the limit only keeps what is broken from hanging the tests.

    The longer it takes, the less often it is asked: the answer may cost as much time as what is waited for.
    """
    start = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - start
        assert waited < seconds, "it did not happen"
        time.sleep(min(max(waited / 8, 0.01), 0.25))
    return value


def at_once(*calls: Callable[[], T]) -> list[T]:
    """What the calls return, in their order; all begin at the same moment, each in a thread of its own."""
    start = Barrier(len(calls))

    def begin(call: Callable[[], T]) -> T:
        start.wait(60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(begin, calls))
