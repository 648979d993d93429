"""The figures of a shop's first page, counted in a thread: a page shows the last ones at once.

A person is due when their own usual time between two shopping days ends within the next `DUE_DAYS` days, and quiet when
they have lapsed, as for the occasion `win_back`. Both are the rules of `recllm.shop.data.rhythm`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.schema import Action, Purpose, Table
from recllm.doors.service.live import LiveShop
from recllm.market.experiments.feedback import ShownOutcome, shown_outcomes
from recllm.shop.data.dataset import utc
from recllm.shop.data.rhythm import LOST_DAYS, ShoppingDays
from recllm.shop.workspace.workspace import Workspace, present

logger = logging.getLogger(__name__)

CHANNELS = (Purpose.EMAIL, Purpose.PUSH, Purpose.SMS)
CHART_DAYS = 28
DUE_DAYS = 7
ATTRIBUTION_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonRhythm:
    """One person's shopping days."""

    user_id: str
    last: datetime
    """Their last purchase."""
    gap_days: float
    """Median days between two shopping days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopFigures:
    """Counts of a shop for its first page."""

    counted_at: datetime
    """By the machine's clock, UTC."""
    present: datetime
    people: int
    items: int
    events: int
    agreed: Mapping[Purpose, int]
    """People who may be used for a purpose now."""
    due: tuple[PersonRhythm, ...] = ()
    """Who is likely to shop within the next days, soonest first; people who agreed to personalisation."""
    quiet: tuple[PersonRhythm, ...] = ()
    """Who did not come back when they usually do, latest purchase first."""
    buyers_by_day: tuple[tuple[datetime, int], ...] = ()
    """People who bought on each of the last `CHART_DAYS` complete days, oldest first."""
    outcomes: tuple[ShownOutcome, ...] = ()
    """What followed what was shown in these days, by model."""
    yesterday: tuple[ShownOutcome, ...] = ()
    """The same for the last day that is over."""


def shop_figures(workspace: Workspace) -> ShopFigures:
    """Counted from the store; takes about a second for a million events."""
    gate = workspace.gate()
    with workspace.store().read() as reader:
        counts = reader.counts()
    now = utc(present(workspace))
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    first = today - timedelta(days=CHART_DAYS)
    agreed = {purpose: len(gate.permitted_users(purpose)) for purpose in (Purpose.PERSONALISATION, *CHANNELS)}
    recent = gate.events(Purpose.ANALYTICS, since=first)
    since = now - timedelta(days=LOST_DAYS)
    due, quiet = rhythms(gate.events(Purpose.PERSONALISATION, since=since, details=()), now)
    return ShopFigures(
        counted_at=datetime.now(UTC),
        present=now,
        people=counts["users"],
        items=counts["items"] - counts["pending_items"],
        events=counts["events"],
        agreed=agreed,
        due=due,
        quiet=quiet,
        buyers_by_day=_buyers_by_day(recent, first, today),
        outcomes=_outcomes(recent, first, now),
        yesterday=_outcomes(recent, today - timedelta(days=1), today),
    )


def rhythms(events: pl.DataFrame, now: datetime) -> tuple[tuple[PersonRhythm, ...], tuple[PersonRhythm, ...]]:
    """Who is due, soonest first, and who is quiet, latest first. events: user_id, event, timestamp."""
    bought = events.filter((pl.col("event") == Action.PURCHASE) & (pl.col("timestamp") < now))
    people = bought.group_by("user_id").agg(pl.col("timestamp").max()).sort("user_id")
    names, last = people["user_id"], people["timestamp"].to_list()
    user = bought["user_id"].replace_strict(names, np.arange(len(names)), return_dtype=pl.Int64).to_numpy()
    days = ShoppingDays.of(user, bought["timestamp"].dt.epoch("s").to_numpy(), len(names), int(now.timestamp()))

    def listed(mask: NDArray[np.bool_], order: NDArray[np.float64]) -> tuple[PersonRhythm, ...]:
        rows = np.flatnonzero(mask)
        rows = rows[np.argsort(order[rows], kind="stable")]
        return tuple(
            PersonRhythm(user_id=names[n], last=last[n], gap_days=float(days.usual_gap[n])) for n in rows.tolist()
        )

    return listed(days.due(DUE_DAYS), days.usual_gap - days.since), listed(days.lapsed, days.since)


def _buyers_by_day(events: pl.DataFrame, first: datetime, today: datetime) -> tuple[tuple[datetime, int], ...]:
    bought = events.filter((pl.col("event") == Action.PURCHASE) & (pl.col("timestamp") < today))
    counts = bought.group_by(day=pl.col("timestamp").dt.truncate("1d")).agg(n=pl.col("user_id").n_unique())
    n_by_day = {day: int(n) for day, n in counts.iter_rows()}
    days = (first + timedelta(days=n) for n in range(CHART_DAYS))
    return tuple((day, n_by_day.get(day, 0)) for day in days)


def _outcomes(events: pl.DataFrame, start: datetime, end: datetime) -> tuple[ShownOutcome, ...]:
    """What followed what was shown in [start, end)."""
    is_shown = pl.col("event") == Action.SHOWN
    in_time = pl.col("timestamp").is_between(start, end, closed="left")
    return shown_outcomes(events.filter(~is_shown | in_time), window_days=ATTRIBUTION_DAYS)


@dataclass(eq=False)
class FigureCache:
    """The last figures of each shop; newer ones are counted in a thread when the store has changed."""

    _figures: dict[str, tuple[tuple[int, int], ShopFigures]] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, shop: LiveShop) -> ShopFigures | None:
        """The last figures, perhaps of a moment ago; None while the first ones are counted. Raises `StoreError`."""
        with shop.workspace.store().read() as reader:
            marks = reader.marks()
        state = (marks.event_no, sum(marks.load_no.get(table, 0) for table in Table))
        latest = self._figures.get(shop.name)
        if latest is None or latest[0] != state:
            with self._lock:
                if shop.name not in self._running:
                    self._running.add(shop.name)
                    threading.Thread(target=self._count, args=(shop, state), daemon=True).start()
        return None if latest is None else latest[1]

    def _count(self, shop: LiveShop, state: tuple[int, int]) -> None:
        try:
            self._figures[shop.name] = (state, shop_figures(shop.workspace))
        except Exception:  # the next visit tries again
            logger.exception("figures were not counted", extra={"shop": shop.name})
        finally:
            with self._lock:
                self._running.discard(shop.name)
