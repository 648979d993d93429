"""What somebody typed and the next pages show again: in memory for an hour, for the browser that typed it alone.

It may be a person's own id, which no file, cookie or address of the console holds.
"""

from __future__ import annotations

import threading
import time

TYPED_SECONDS = 3_600
MAX_TYPED = 10_000
"""The oldest go first where more was typed."""


class TypedTexts:
    """By the browser's form token and a subject, such as a pseudonym; a restart forgets them."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def remember(self, browser: str, subject: str, text: str) -> None:
        with self._lock:
            self._forget_outdated()
            self._texts.pop((browser, subject), None)  # so that they stand in the order of their time
            self._texts[browser, subject] = (text, time.monotonic())

    def recall(self, browser: str, subject: str) -> str:
        """ "" where this browser typed nothing, or not lately."""
        with self._lock:
            self._forget_outdated()
            return self._texts.get((browser, subject), ("", 0.0))[0]

    def forget_browser(self, browser: str) -> None:
        self._forget(0, browser)

    def forget_subject(self, subject: str) -> None:
        self._forget(1, subject)

    def _forget(self, part: int, name: str) -> None:
        with self._lock:
            for key in [key for key in self._texts if key[part] == name]:
                del self._texts[key]

    def _forget_outdated(self) -> None:
        limit = time.monotonic() - TYPED_SECONDS
        while self._texts:
            key, (_, at) = next(iter(self._texts.items()))
            if at >= limit and len(self._texts) < MAX_TYPED:
                return
            del self._texts[key]
