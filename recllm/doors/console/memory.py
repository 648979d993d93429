"""What one console keeps in memory: sign-ins that have begun, typed texts, and the figures of each shop's first page.

A restart forgets them. A typed text may be a customer's own id, which no file, cookie or address of the console holds.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from recllm.base.errors import RecllmError
from recllm.base.schema import Table
from recllm.doors.service.live import LiveShop
from recllm.doors.service.oidc import SignInError, SignInProblem, SignInRequest
from recllm.market.campaigns.today import OccasionSuggestion, ShopFigures, shop_figures, suggest
from recllm.shop.workspace.console_sessions import ConsoleSession

logger = logging.getLogger(__name__)

PENDING_SECONDS = 600
"""Time that a visitor has at the provider."""
CONFIRM_SECONDS = 60
"""Least time between two questions to a provider whether it still lets a person in."""
MAX_PENDING = 1_000
TYPED_SECONDS = 3_600
MAX_TYPED = 10_000


def drop_old(entries: dict[Any, Any], begun_at: Callable[[Any], float], limit: float, max_entries: int) -> None:
    """Removes entries from before `limit`, and the oldest beyond `max_entries`. entries: in the order of time."""
    while entries:
        key = next(iter(entries))
        if begun_at(entries[key]) >= limit and len(entries) < max_entries:
            return
        del entries[key]


# --- typed texts -----------------------------------------------------------------------------------------------------


class TypedTexts:
    """Texts that the next pages show again for an hour, by session and subject."""

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


# --- figures of the first page ---------------------------------------------------------------------------------------


def _suggestions(shop: LiveShop) -> tuple[OccasionSuggestion, ...]:
    """None of a log that has no times, or of a shop that has no events yet."""
    try:
        return tuple(suggest(shop.workspace, shop.recommender if shop.ready else None))
    except RecllmError as error:
        logger.info("no suggestions: %s", error)
    except Exception:  # the other figures do not depend on it
        logger.exception("suggestions were not found")
    return ()


@dataclass(eq=False)
class FigureCache:
    """The last figures of each shop; newer ones are counted in a thread when the store has changed, or the recommender
    was opened, which knows the goods of a day."""

    _figures: dict[str, tuple[tuple[int, int, bool], ShopFigures]] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def latest(self, shop: LiveShop) -> ShopFigures | None:
        """The last figures without counting any; None before the first ones."""
        latest = self._figures.get(shop.name)
        return None if latest is None else latest[1]

    def get(self, shop: LiveShop) -> ShopFigures | None:
        """The last figures, perhaps of a moment ago; None while the first ones are counted. Raises `StoreError`."""
        with shop.workspace.store().read() as reader:
            marks, counts = reader.marks(), reader.counts()
        state = (marks.event_no, sum(marks.load_no.get(table, 0) for table in Table), shop.ready)
        latest = self._figures.get(shop.name)
        if latest is None or latest[0] != state:
            with self._lock:
                if shop.name not in self._running:
                    self._running.add(shop.name)
                    threading.Thread(target=self._count, args=(shop, state, counts), daemon=True).start()
        return None if latest is None else latest[1]

    def _count(self, shop: LiveShop, state: tuple[int, int, bool], counts: Mapping[str, int]) -> None:
        try:
            before = self._figures.get(shop.name)
            figures = shop_figures(shop.workspace, counts)
            self._figures[shop.name] = (state, replace(figures, suggestions=before and before[1].suggestions))
            self._figures[shop.name] = (state, replace(figures, suggestions=_suggestions(shop)))
        except Exception:  # the next visit tries again
            logger.exception("figures were not counted", extra={"shop": shop.name})
        finally:
            with self._lock:
                self._running.discard(shop.name)
