"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
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
