"""The figures of a shop's first page, counted beside the answers: a page shows the last ones at once.

A person is due when their own usual time between two shopping days ends within the next `DUE_DAYS` days, and quiet when
`QUIET_GAPS` times that time, and at least `QUIET_DAYS` days, have passed. Both are rules and no model; they take people
with at least `MIN_VISITS` shopping days in the last `RHYTHM_DAYS` days.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import polars as pl

from recllm.data.dataset import utc
from recllm.jobs.feedback import ShownOutcome, shown_outcomes
from recllm.schema import Action, Purpose, Table
from recllm.service.live import LiveShop
from recllm.workspace.workspace import Workspace, present

logger = logging.getLogger(__name__)

CHANNELS = (Purpose.EMAIL, Purpose.PUSH, Purpose.SMS)
CHART_DAYS = 28
RHYTHM_DAYS = 180
MIN_VISITS = 4
DUE_DAYS = 7
QUIET_GAPS = 3.0
QUIET_DAYS = 28
ATTRIBUTION_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonRhythm:
    """One person's shopping days."""

    user_id: str
    last: datetime
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
    """People who bought on each of the last `CHART_DAYS` days that are over, oldest first; of those who may be
    counted."""
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
    due, quiet = rhythms(gate.events(Purpose.PERSONALISATION, since=now - timedelta(days=RHYTHM_DAYS), details=()), now)
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
    """Who is due and who is quiet, by the rules of this module. events: user_id, event, timestamp."""
    days = (
        events.filter((pl.col("event") == Action.PURCHASE) & (pl.col("timestamp") < now))
        .select("user_id", day=pl.col("timestamp").dt.truncate("1d"))
        .unique()
        .sort("user_id", "day")
    )
    people = days.group_by("user_id").agg(
        n=pl.len(), last=pl.col("day").max(), gap=pl.col("day").diff().dt.total_days().median()
    )
    people = people.filter((pl.col("n") >= MIN_VISITS) & (pl.col("gap") > 0))
    since = (pl.lit(now) - pl.col("last")).dt.total_hours() / 24
    people = people.with_columns(since=since)
    left = pl.col("gap") - pl.col("since")
    due = people.filter(left.is_between(0, DUE_DAYS)).sort(left, "user_id")
    is_quiet = (pl.col("since") > QUIET_GAPS * pl.col("gap")) & (pl.col("since") > QUIET_DAYS)
    quiet = people.filter(is_quiet).sort("last", "user_id", descending=[True, False])
    return _people(due), _people(quiet)


def _people(frame: pl.DataFrame) -> tuple[PersonRhythm, ...]:
    rows = frame.select("user_id", "last", "gap").iter_rows()
    return tuple(PersonRhythm(user_id=name, last=last, gap_days=float(gap)) for name, last, gap in rows)


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
