"""What the service refuses: with which status and words, and what the log has of it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from errno import EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOSPC, EPERM, EROFS
from http import HTTPStatus
from threading import Lock

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from recllm.base.errors import (
    ConflictError,
    DataError,
    GenerationError,
    NothingToDo,
    PolicyError,
    RecllmError,
    UnknownIdError,
    UsageError,
)

logger = logging.getLogger(__name__)


class OverloadError(RecllmError):
    """The service has no room for the request; `retry_seconds` later it may."""

    def __init__(self, message: str, *, status: int = 429, retry_seconds: int = 60) -> None:
        super().__init__(message)
        self.status = status
        self.retry_seconds = retry_seconds


STATUS: Sequence[tuple[type[RecllmError], HTTPStatus]] = (
    (PolicyError, HTTPStatus.FORBIDDEN),
    (NothingToDo, HTTPStatus.NOT_FOUND),
    (UnknownIdError, HTTPStatus.NOT_FOUND),
    (ConflictError, HTTPStatus.CONFLICT),
    (UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (DataError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (GenerationError, HTTPStatus.BAD_GATEWAY),
    (RecllmError, HTTPStatus.SERVICE_UNAVAILABLE),
)
"""Status of a kind of error, the first that fits: the store, the model and what is being opened may be back."""

MAX_FAULTS = 20
"""Faults of a request that one message names."""
MAX_NAME = 80
"""Signs of a field's name in a message; a caller may have chosen it."""

DISK_REFUSALS = frozenset((EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOSPC, EPERM, EROFS))
"""Errors of this machine that may be over later, such as a full disk; any other `OSError` is a bug."""

CANNOT_ANSWER = "the shop cannot answer now; the log says why"


def error_answer(
    request: Request, status: int, kind: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    request_id = getattr(request.state, "request_id", "")
    body = {"error": {"type": kind, "message": message, "request_id": request_id}}
    return JSONResponse(body, status, headers)


async def refused(request: Request, error: Exception) -> Response:
    """The reason of a refusal, in one line."""
    if isinstance(error, OverloadError):
        return error_answer(request, error.status, "overload", str(error), {"Retry-After": str(error.retry_seconds)})
    if isinstance(error, RecllmError):
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return error_answer(request, status, type(error).__name__, str(error))
        # the message may name files of this machine
        logger.warning("refused: %s", error, extra={"request_id": request.state.request_id})
        return error_answer(request, status, type(error).__name__, CANNOT_ANSWER)
    if isinstance(error, RequestValidationError):
        # what was sent is not repeated: it may hold a customer's id
        faults = error.errors()
        messages = [
            f"{'.'.join(str(step)[:MAX_NAME] for step in fault['loc'][1:])}: {fault['msg']}"
            for fault in faults[:MAX_FAULTS]
        ]
        if len(faults) > MAX_FAULTS:
            messages.append(f"and {len(faults) - MAX_FAULTS} more")
        return error_answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, "validation", "; ".join(messages))
    assert isinstance(error, HTTPException)  # noqa: S101 - the handlers are registered for these four alone
    return error_answer(request, error.status_code, "http", str(error.detail), dict(error.headers or {}))


async def disk_refused(request: Request, error: Exception) -> Response:
    """Answers 503 to what this machine may allow later."""
    if not isinstance(error, OSError) or error.errno not in DISK_REFUSALS:
        raise error
    logger.error("this machine refused what a request needs", exc_info=error)
    return error_answer(request, HTTPStatus.SERVICE_UNAVAILABLE, "StoreError", CANNOT_ANSWER)


REFUSALS = frozenset({400, 401, 403, 413, 422, 429})
"""What a check or a limit answers with."""
SECONDS = 60.0
"""In which a kind has one line."""
UNKNOWN = "nobody"
"""Name of an unknown caller in the log."""
MAX_KINDS = 1_000
"""Kinds that are logged in a minute at most."""

_KEY_ID = re.compile(r"[rp]k_([0-9a-f]{12})_")


class RefusalLog:
    """Logs each kind of refusal (caller, operation, status) once a minute.
    The metrics count all of them."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str, str, int]] = set()
        """Kinds of this minute."""
        self._began = 0.0
        """When this minute began, by the monotonic clock."""
        self._lock = Lock()

    def add(self, actor: str, shop: str, operation: str, status: int, request_id: str, key_text: str | None) -> None:
        """One more refusal. actor: "key:ID", "service:this machine", "console:this machine", "session:ID" for a person
        of the company's directory, or `UNKNOWN`. key_text: sent as a key; the log has only the id in it."""
        kind, now = (actor, shop, operation, status), time.monotonic()
        with self._lock:
            if now - self._began >= SECONDS:
                self._began = now
                self._logged.clear()
            if kind in self._logged or len(self._logged) >= MAX_KINDS:
                return
            self._logged.add(kind)
        fields: dict[str, object] = {"actor": actor, "operation": operation, "status": status, "request_id": request_id}
        if shop:
            fields["shop"] = shop
        if actor == UNKNOWN and (claim := _KEY_ID.match(key_text or "")):
            fields["claimed_key"] = claim[1]
        logger.warning("refused", extra=fields)
