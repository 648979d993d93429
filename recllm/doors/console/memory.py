"""What one console keeps in memory.

A restart forgets them. A typed text may be a customer's own id, which no file, cookie or address of the console holds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Generic, TypeVar

import polars as pl

from recllm.base.errors import RecllmError
from recllm.base.schema import Action, Purpose, Table
from recllm.doors.service.live import LiveShop
from recllm.doors.service.oidc import SignInRequest
from recllm.market.experiments.feedback import ShownOutcome, shown_outcomes
from recllm.market.occasions.suggest import OccasionSuggestion, suggest
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.console_sessions import ConsoleSession
from recllm.shop.workspace.workspace import Workspace, present

logger = logging.getLogger(__name__)
Entry = TypeVar("Entry")

PENDING_SECONDS = 600
"""Time that a visitor has at the provider."""
CONFIRM_SECONDS = 60
"""Least time between two questions to a provider whether it still lets a person in."""
MAX_PENDING = 1_000
TYPED_SECONDS = 3_600
MAX_TYPED = 10_000
CHANNELS = (Purpose.EMAIL, Purpose.PUSH, Purpose.SMS)
CHART_DAYS = 28
ATTRIBUTION_DAYS = 7


class RecentEntries(Generic[Entry]):
    """Entries of the last seconds by the names of their key, the oldest of too many forgotten. For any threads."""

    def __init__(self, seconds: float, max_entries: int) -> None:
        self._seconds, self._max_entries = seconds, max_entries
        self._entries: dict[tuple[str, ...], tuple[float, Entry]] = {}
        self._lock = threading.Lock()

    def put(self, entry: Entry, *key: str) -> None:
        with self._lock:
            self._entries.pop(key, None)  # the order is that of time
            self._entries[key] = monotonic(), entry
            self._drop_old()

    def get(self, *key: str) -> Entry | None:
        with self._lock:
            self._drop_old()
            return self._entries[key][1] if key in self._entries else None

    def take(self, *key: str) -> Entry | None:
        """The entry, once."""
        entry = self.get(*key)
        with self._lock:
            return entry if self._entries.pop(key, None) else None

    def forget(self, name: str) -> None:
        """Removes the entries that have this name in their key."""
        with self._lock:
            self._entries = {key: entry for key, entry in self._entries.items() if name not in key}

    def _drop_old(self) -> None:
        limit = monotonic() - self._seconds
        while self._entries:
            key = next(iter(self._entries))
            if self._entries[key][0] >= limit and len(self._entries) <= self._max_entries:
                return
            del self._entries[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSignIn:
    """A sign-in that has begun at a provider."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopFigures:
    """Counts of a shop for its first page."""

    counted_at: datetime
    """By the machine's clock, UTC."""
    people: int
    agreed: Mapping[Purpose, int]
    """People who may be used for a purpose now."""
    buyers_by_day: tuple[tuple[datetime, int], ...] = ()
    """People who bought on each of the last `CHART_DAYS` complete days, oldest first."""
    outcomes: tuple[ShownOutcome, ...] = ()
    """What followed what was shown in these days, by model."""
    yesterday: tuple[ShownOutcome, ...] = ()
    """The same for the last day that is over."""
    suggestions: tuple[OccasionSuggestion, ...] | None = None
    """What could go out; None while it is being looked for."""


def shop_figures(workspace: Workspace, counts: Mapping[str, int]) -> ShopFigures:
    """Takes about a second for a million events. counts: of the store."""
    gate = workspace.gate()
    now = utc(present(workspace))
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    first = today - timedelta(days=CHART_DAYS)
    recent = gate.events(Purpose.ANALYTICS, since=first)
    bought = recent.filter((pl.col("event") == Action.PURCHASE) & (pl.col("timestamp") < today))
    buyers = bought.group_by(day=pl.col("timestamp").dt.truncate("1d")).agg(n=pl.col("user_id").n_unique())
    n_by_day = {day: int(n) for day, n in buyers.iter_rows()}
    days = [first + timedelta(days=n) for n in range(CHART_DAYS)]

    def outcomes(start: datetime, end: datetime) -> tuple[ShownOutcome, ...]:
        """What followed what was shown in [start, end)."""
        is_shown = pl.col("event") == Action.SHOWN
        in_time = pl.col("timestamp").is_between(start, end, closed="left")
        return shown_outcomes(recent.filter(~is_shown | in_time), window_days=ATTRIBUTION_DAYS)

    return ShopFigures(
        counted_at=datetime.now(UTC),
        people=counts["users"],
        agreed={p: len(gate.permitted_users(p)) for p in (Purpose.PERSONALISATION, *CHANNELS)},
        buyers_by_day=tuple((day, n_by_day.get(day, 0)) for day in days),
        outcomes=outcomes(first, now),
        yesterday=outcomes(today - timedelta(days=1), today),
    )


def _suggestions(shop: LiveShop) -> tuple[OccasionSuggestion, ...]:
    """None of a log that has no times, or of a shop that has no events yet."""
    try:
        return tuple(suggest(shop.workspace))
    except RecllmError as error:
        logger.info("no suggestions: %s", error)
    except Exception:  # the other figures do not depend on it
        logger.exception("suggestions were not found")
    return ()


@dataclass(eq=False)
class FigureCache:
    """The last figures of each shop; newer ones are counted in a thread when the store has changed."""

    _figures: dict[str, tuple[tuple[int, int], ShopFigures]] = field(default_factory=dict)
    _threads: dict[str, threading.Thread] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def latest(self, shop: LiveShop) -> ShopFigures | None:
        """The last figures without counting any; None before the first ones."""
        latest = self._figures.get(shop.name)
        return None if latest is None else latest[1]

    def get(self, shop: LiveShop) -> ShopFigures | None:
        """The last figures, perhaps of a moment ago; None while the first ones are counted. Raises `StoreError`."""
        with shop.workspace.store().read() as reader:
            marks, counts = reader.marks(), reader.counts()
        state = (marks.event_no, sum(marks.load_no.get(table, 0) for table in Table))
        latest = self._figures.get(shop.name)
        if latest is None or latest[0] != state:
            with self._lock:
                if shop.name not in self._threads or not self._threads[shop.name].is_alive():
                    thread = threading.Thread(target=self._count, args=(shop, state, counts), daemon=True)
                    thread.start()
                    self._threads[shop.name] = thread
        return None if latest is None else latest[1]

    def _count(self, shop: LiveShop, state: tuple[int, int], counts: Mapping[str, int]) -> None:
        try:
            before = self._figures.get(shop.name)
            figures = shop_figures(shop.workspace, counts)
            self._figures[shop.name] = (state, replace(figures, suggestions=before and before[1].suggestions))
            self._figures[shop.name] = (state, replace(figures, suggestions=_suggestions(shop)))
        except Exception:  # the next visit tries again
            logger.exception("figures were not counted", extra={"shop": shop.name})
