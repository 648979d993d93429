"""Sign-ins through a provider that were begun and not finished: each is finished once, in time, by its own browser."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from recllm.doors.console.oidc import SignInError, SignInProblem, SignInRequest
from recllm.shop.workspace.console_sessions import ConsoleSession

PENDING_SECONDS = 600
"""So long somebody has at the provider."""
CONFIRM_SECONDS = 60
"""A provider is asked so often at most whether it still lets somebody in."""
MAX_PENDING = 1_000
"""The oldest go first where more have begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSignIn:
    """What the console has to know when a browser comes back, which brings no other cookie of the console along."""

    request: SignInRequest
    provider: str
    """`provider_id` of where it went."""
    browser: str = field(repr=False)
    """What the browser's cookie has to hold."""
    after: str
    """Path to go on to."""
    language: str
    shop: str
    """Name of the shop that was looked at; "" for none."""
    sessions: Mapping[str, ConsoleSession]
    """Name of a shop -> the browser's session there until now."""
    form_cookie: str = field(repr=False)
    is_confirmation: bool
    """Whether the console began it, to hear of the provider that the person is still let in."""


class PendingSignIns:
    """For one event loop, and for one process: a restart forgets them."""

    def __init__(self) -> None:
        self._pending: dict[str, PendingSignIn] = {}
        self._asked_at: dict[str, float] = {}
        """Id of a session -> when the provider was asked for it."""

    def add(self, sign_in: PendingSignIn) -> None:
        self._forget()
        self._pending[sign_in.request.state] = sign_in

    def may_confirm(self, session: ConsoleSession) -> bool:
        """Whether the provider may be asked for this session now, which counts as asking; not where that began just
        before: for another tab that opens with this one, whose way back would not know its cookie, or in vain."""
        now = time.time()
        self._asked_at = {name: at for name, at in self._asked_at.items() if now - CONFIRM_SECONDS < at <= now}
        if session.session_id in self._asked_at:
            return False
        self._asked_at[session.session_id] = now
        return True

    def take(self, state: str, browser: str) -> PendingSignIn:
        """The sign-in of a state, which cannot be had again. Raises `SignInError` for one that was never begun, is over
        or belongs to another browser."""
        self._forget()
        sign_in = self._pending.pop(state, None)
        if sign_in is None:
            raise SignInError(SignInProblem.STALE, "its state is unknown: it was finished before, or took too long")
        if not secrets.compare_digest(browser.encode(errors="replace"), sign_in.browser.encode()):
            cause = "the browser's cookie is missing: was it begun under another host than oidc.redirect_uri names?"
            raise SignInError(SignInProblem.STALE, cause)
        return sign_in

    def _forget(self) -> None:
        """Those that are over, and the oldest where there are too many: they stand in the order of their begin."""
        limit = time.time() - PENDING_SECONDS
        while self._pending:
            state, oldest = next(iter(self._pending.items()))
            if oldest.request.begun_at >= limit and len(self._pending) < MAX_PENDING:
                return
            del self._pending[state]
