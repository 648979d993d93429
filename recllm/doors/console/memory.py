"""What one console keeps in memory: sign-ins that have begun, typed texts, and the log of sign-ins.

A restart forgets them. A typed text may be a customer's own id, which no file, cookie or address of the console holds.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recllm.doors.service.oidc import SignInError, SignInProblem, SignInRequest
from recllm.shop.workspace.console_sessions import ConsoleSession

logger = logging.getLogger(__name__)

PENDING_SECONDS = 600
"""Time that a visitor has at the provider."""
CONFIRM_SECONDS = 60
"""Least time between two questions to a provider whether it still lets a person in."""
MAX_PENDING = 1_000
TYPED_SECONDS = 3_600
MAX_TYPED = 10_000
FAILURES_A_MINUTE = 60


def drop_old(entries: dict[Any, Any], begun_at: Callable[[Any], float], limit: float, max_entries: int) -> None:
    """Removes entries from before `limit`, and the oldest beyond `max_entries`. entries: in the order of time."""
    while entries:
        key = next(iter(entries))
        if begun_at(entries[key]) >= limit and len(entries) < max_entries:
            return
        del entries[key]


# --- typed texts -----------------------------------------------------------------------------------------------------


class TypedTexts:
    """Texts that the next pages show again for an hour, by the browser's form token and a subject."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def remember(self, browser: str, subject: str, text: str) -> None:
        with self._lock:
            self._drop_old()
            self._texts.pop((browser, subject), None)  # the order is that of time
            self._texts[browser, subject] = (text, time.monotonic())

    def recall(self, browser: str, subject: str) -> str:
        """ "" where this browser typed nothing in the last hour."""
        with self._lock:
            self._drop_old()
            return self._texts.get((browser, subject), ("", 0.0))[0]

    def forget_browser(self, browser: str) -> None:
        self._forget(0, browser)

    def forget_subject(self, subject: str) -> None:
        self._forget(1, subject)

    def _forget(self, position: int, name: str) -> None:
        with self._lock:
            for key in [key for key in self._texts if key[position] == name]:
                del self._texts[key]

    def _drop_old(self) -> None:
        drop_old(self._texts, lambda entry: entry[1], time.monotonic() - TYPED_SECONDS, MAX_TYPED)


# --- sign-ins through a provider -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSignIn:
    """What the console needs when a browser comes back from a provider, which sends no other cookie of the console."""

    request: SignInRequest
    provider: str
    """`provider_id` of the provider."""
    browser: str = field(repr=False)
    """Value that the browser's cookie has to hold."""
    after: str
    """Path of the next page."""
    language: str
    shop: str
    """Name of the shop that was looked at; "" for none."""
    sessions: Mapping[str, ConsoleSession]
    """Name of a shop -> the browser's session there until now."""
    form_cookie: str = field(repr=False)
    is_confirmation: bool
    """Whether the console began it, to hear that the provider still lets the person in."""


class PendingSignIns:
    """Sign-ins that have begun: each is finished once, in time, by its own browser. For one event loop."""

    def __init__(self) -> None:
        self._pending: dict[str, PendingSignIn] = {}
        self._asked_at: dict[str, float] = {}
        """Id of a session -> when the provider was asked for it."""

    def add(self, sign_in: PendingSignIn) -> None:
        self._drop_old()
        self._pending[sign_in.request.state] = sign_in

    def may_confirm(self, session: ConsoleSession) -> bool:
        """Whether the provider may be asked for this session now; not twice within `CONFIRM_SECONDS`."""
        now = time.time()
        self._asked_at = {name: at for name, at in self._asked_at.items() if now - CONFIRM_SECONDS < at <= now}
        if session.session_id in self._asked_at:
            return False
        self._asked_at[session.session_id] = now
        return True

    def take(self, state: str, browser: str) -> PendingSignIn:
        """The sign-in of a state, once. Raises `SignInError` for one that is unknown, over or another browser's."""
        self._drop_old()
        sign_in = self._pending.pop(state, None)
        if sign_in is None:
            raise SignInError(SignInProblem.STALE, "its state is unknown: it was finished before, or took too long")
        if not secrets.compare_digest(browser.encode(errors="replace"), sign_in.browser.encode()):
            cause = "the browser's cookie is missing: was it begun under another host than oidc.redirect_uri names?"
            raise SignInError(SignInProblem.STALE, cause)
        return sign_in

    def _drop_old(self) -> None:
        drop_old(self._pending, lambda entry: entry.request.begun_at, time.time() - PENDING_SECONDS, MAX_PENDING)


# --- the log of sign-ins ---------------------------------------------------------------------------------------------


class SignInLog:
    """Logs each attempt to sign in, without keys, tokens and names. Of failures beyond `FAILURES_A_MINUTE` only the
    number is logged, so that attempts without a key cannot fill a disk."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._minute_end = clock, clock() + 60
        self._n_failures = 0
        self._lock = threading.Lock()

    def succeeded(self, way: str, shop: str, session_id: str, request_id: str) -> None:
        """way: "a key", or a provider. The audit log names the person."""
        facts = {"outcome": "succeeded", "shop": shop, "session": session_id[:8], "request_id": request_id}
        logger.info("sign-in through %s: succeeded", way, extra=facts)

    def failed(self, way: str, cause: str, request_id: str, **facts: str) -> None:
        """cause: without secrets and personal data."""
        with self._lock:
            n_left_out = 0
            if self._clock() >= self._minute_end:
                n_left_out = max(0, self._n_failures - FAILURES_A_MINUTE)
                self._n_failures, self._minute_end = 0, self._clock() + 60
            self._n_failures += 1
            is_logged = self._n_failures <= FAILURES_A_MINUTE
        if n_left_out:
            facts_of_many = {"outcome": "failed", "n": n_left_out}
            logger.warning("sign-in: %d failures had no line of their own", n_left_out, extra=facts_of_many)
        if is_logged:
            extra = {"outcome": "failed", "request_id": request_id, **facts}
            logger.warning("sign-in through %s: %s", way, cause, extra=extra)
