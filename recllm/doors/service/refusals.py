"""Lines in the log about requests that were refused, which nobody can make so many of that a disk is full."""

from __future__ import annotations

import logging
import re
import time
from http import HTTPStatus
from threading import Lock

logger = logging.getLogger(__name__)

REFUSALS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""What a check or a limit answers with."""
SECONDS = 60.0
"""Between two lines of one kind."""
MAX_KINDS = 1_000
"""Kinds whose last line is remembered; beyond them nothing new is told until some of it is over."""

_KEY_ID = re.compile(r"rk_([0-9a-f]{12})_")


class RefusalLog:
    """Tells of each kind of refusal, which is who, what and the status, at once and then once a minute at most.

    A line's `unlogged` says how many of its kind there were since the last one. The metrics count all of them.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str, int], tuple[float, int]] = {}
        """Kind -> when its last line was written, and the refusals since."""
        self._lock = Lock()

    def add(self, actor: str, shop: str, operation: str, status: int, request_id: str, key_text: str | None) -> None:
        """One more. actor: "key:ID", "service:this machine", "console:this machine", "session:ID" for somebody of
        the company's directory, as the log of sign-ins has it, or "nobody" for who is not known. key_text: what was
        sent as a key; of it the log has the id that it claims, and no more."""
        kind, now = (actor, shop, operation, status), time.monotonic()
        with self._lock:
            at, unlogged = self._lines.get(kind, (now - SECONDS, 0))
            if now - at < SECONDS:
                self._lines[kind] = (at, unlogged + 1)
                return
            if len(self._lines) >= MAX_KINDS:
                self._lines = {kind: line for kind, line in self._lines.items() if now - line[0] < SECONDS}
                if len(self._lines) >= MAX_KINDS:
                    return
            self._lines[kind] = (now, 0)
        fields: dict[str, object] = {"actor": actor, "operation": operation, "status": status, "request_id": request_id}
        if shop:
            fields["shop"] = shop
        if actor == "nobody" and (claim := _KEY_ID.match(key_text or "")):
            fields["claimed_key"] = claim[1]
        if unlogged:
            fields["unlogged"] = unlogged
        logger.warning("refused", extra=fields)
