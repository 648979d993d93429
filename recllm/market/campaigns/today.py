"""What a shop's day begins with: its customers, who bought lately, what was answered, and what could go out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import RecllmError
from recllm.base.schema import Action, Occasion, Purpose
from recllm.market.audiences.contacts import first_channels
from recllm.market.audiences.exclusions import minors
from recllm.market.campaigns.goods import BUYER_DAYS, GoodsSource, goods_of_day
from recllm.market.experiments.feedback import ShownOutcome, shown_outcomes
from recllm.market.occasions.calendar import CalendarDay, ComingDay, profile_of, upcoming_days
from recllm.market.occasions.day import cases_of, open_shop_at
from recllm.market.occasions.detect import Shop
from recllm.shop.data.dataset import USER_COLUMN, utc
from recllm.shop.data.rhythm import ShoppingDays
from recllm.shop.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from recllm.recommend.recommender.recommender import Recommender

CHANNELS = (Purpose.EMAIL, Purpose.PUSH, Purpose.SMS)
CHART_DAYS = 28
ATTRIBUTION_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedPerson:
    """One customer of a suggestion; None where the past does not say."""

    user_id: str
    item_id: str | None
    days_since: float | None
    """Days since their last purchase."""
    usual_days: float | None
    """Median days between two of their shopping days."""
    probability: float | None
    """Of a purchase within seven days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OccasionSuggestion:
    """An occasion of today, or a day of the calendar that comes."""

    occasion: Occasion | CalendarDay
    people: tuple[SuggestedPerson, ...]
    """The likeliest first."""
    item_ids: tuple[str, ...]
    """What they would be written to about, the item of most people first; of a day its goods."""
    coming: ComingDay | None = None
    """Of a day of the calendar."""
    source: GoodsSource = GoodsSource.NONE
    """How the goods of the day are known."""


def suggest(workspace: Workspace, recommender: Callable[[], Recommender] | None = None) -> list[OccasionSuggestion]:
    """The days of the calendar that come, the next one first, and the occasions of now, that of most customers first.
    One customer may have several.

    People without a channel, and those who may be minors, are left out; a campaign leaves out more by its own limits.
    Learns when things are due, where no model of that is there yet, which takes minutes in a large shop. recommender:
    finds the goods of a day by their texts. Raises `DataError` for a log without times.
    """
    shop = open_shop_at(workspace, present(workspace))
    item_ids, (reachable, days) = shop.dataset.items["item_id"], customers_of(workspace, shop)
    suggestions = []
    for occasion, found_cases in cases_of(workspace, shop, tuple(Occasion))[0].items():
        cases = found_cases.filter(reachable[found_cases["user"].to_numpy()])
        cases = cases.sort(pl.col("chance").fill_null(0.0), "user", descending=[True, False])
        rows, counts = np.unique(cases["item"].drop_nulls().to_numpy(), return_counts=True)
        by_people = item_ids.gather(rows[np.argsort(-counts, kind="stable")]).to_list()
        columns = cases["user"], cases["item"].fill_null(-1), cases["chance"].fill_null(np.nan)
        people = _suggested(shop, days, *(column.to_numpy() for column in columns))
        suggestions.append(OccasionSuggestion(occasion=occasion, people=people, item_ids=tuple(by_people)))
    of_now = sorted((s for s in suggestions if s.people), key=lambda s: -len(s.people))
    return [*coming_days(workspace, shop, reachable, days, recommender), *of_now]


def coming_days(
    workspace: Workspace,
    shop: Shop,
    reachable: NDArray[np.bool_],
    days: ShoppingDays,
    recommender: Callable[[], Recommender] | None = None,
) -> list[OccasionSuggestion]:
    """The days of the calendar that come, the next one first, with its goods and all who may be written to and bought
    within `BUYER_DAYS`, the latest buyers first. reachable, days: see `customers_of`; recommender: as of `suggest`."""
    data, today = shop.dataset, utc(shop.now).astimezone(ZoneInfo(workspace.settings.timezone or "UTC")).date()
    coming_now = upcoming_days(workspace.settings, today)
    if not coming_now:
        return []
    since = np.where(reachable, days.since, np.inf)
    people = _suggested(shop, days, np.argsort(since, kind="stable")[: int((since <= BUYER_DAYS).sum())])
    suggestions: list[OccasionSuggestion] = []
    by_text: Recommender | None = None
    for coming in coming_now:
        goods = goods_of_day(workspace, data, coming)
        if goods.source is GoodsSource.NONE and recommender and profile_of(coming.day, workspace.settings).about:
            with suppress(RecllmError):  # without an encoder the shop chooses
                by_text = by_text or recommender()
                goods = goods_of_day(workspace, data, coming, by_text)
        suggestions.append(
            OccasionSuggestion(
                occasion=coming.day, people=people, item_ids=goods.item_ids, coming=coming, source=goods.source
            )
        )
    return [s for s in suggestions if s.people]


def customers_of(workspace: Workspace, shop: Shop) -> tuple[NDArray[np.bool_], ShoppingDays]:
    """Who agreed to a channel and is of age, (n_users,), and when each shops."""
    settings, data = workspace.settings.occasions, shop.dataset
    channels = first_channels(workspace.gate(), data.users[USER_COLUMN].to_list(), settings.channels)
    reachable = np.array([channel is not None for channel in channels], bool) & ~minors(data, settings.adult_age)
    bought = data.events.of(Action.PURCHASE)
    return reachable, ShoppingDays.of(bought.user, bought.at, data.n_users, shop.now)


def _suggested(
    shop: Shop,
    days: ShoppingDays,
    user_rows: NDArray[np.integer],
    items: NDArray[np.integer] | None = None,
    chance: NDArray[np.floating] | None = None,
) -> tuple[SuggestedPerson, ...]:
    """items: rows of the catalogue, -1 for none."""
    ids, item_ids = shop.dataset.users[USER_COLUMN].to_list(), shop.dataset.items["item_id"]
    return tuple(
        SuggestedPerson(
            user_id=ids[user],
            item_id=None if items is None or items[n] < 0 else item_ids[int(items[n])],
            days_since=_finite(days.since[user]),
            usual_days=_finite(days.usual_gap[user]),
            probability=None if chance is None else _finite(chance[n]),
        )
        for n, user in enumerate(user_rows.tolist())
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


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
    agreed = {purpose: len(gate.permitted_users(purpose)) for purpose in (Purpose.PERSONALISATION, *CHANNELS)}
    recent = gate.events(Purpose.ANALYTICS, since=first)
    return ShopFigures(
        counted_at=datetime.now(UTC),
        present=now,
        people=counts["users"],
        items=counts["items"] - counts["pending_items"],
        events=counts["events"],
        agreed=agreed,
        buyers_by_day=_buyers_by_day(recent, first, today),
        outcomes=_outcomes(recent, first, now),
        yesterday=_outcomes(recent, today - timedelta(days=1), today),
    )


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
