"""Days of the calendar as campaigns: what fits a day, and who may be written to for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from recllm.base.errors import UsageError
from recllm.market.adcopy.names import name_and_size, written_out
from recllm.market.campaigns.target_text import fitting_items
from recllm.market.occasions.calendar import ComingDay, profile_of, season_lifts
from recllm.shop.data.catalogue import sensitive_items
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.shop.data.dataset import Dataset

MOST_GOODS = 20
"""Goods of a day, each with texts of its own."""
BUYER_DAYS = 365
"""Messages for a day go to those who bought within these days."""
SEND_AT = time(9)
"""By the shop's clock."""


class GoodsSource(StrEnum):
    """How the goods of a day are known."""

    SALES = "sales"
    """They sold more before the day in earlier years."""
    TEXT = "text"
    """They fit the day by their names and descriptions: the log is shorter than a year."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class DayGoods:
    """Ids of the goods of a day, the strongest first."""

    item_ids: tuple[str, ...] = ()
    source: GoodsSource = GoodsSource.NONE


def goods_of_day(
    workspace: Workspace, dataset: Dataset, coming: ComingDay, recommender: Recommender | None = None
) -> DayGoods:
    """Goods on offer of no sensitive category; of those that differ in size alone the strongest.

    recommender: finds goods by their texts where sales do not tell; None for sales alone.
    """
    lifts = season_lifts(dataset, coming, workspace.settings)
    if lifts is not None:
        offered = dataset.item_index.on_offer(dataset.as_of) & ~sensitive_items(dataset.items, workspace.policy)
        order = np.argsort(-lifts, kind="stable")
        rows = order[(lifts[order] > 0) & offered[order]].tolist()
        titles = dataset.items["title"].gather(rows).to_list()
        names = [name_and_size(written_out(title or ""))[0] for title in titles]
        kept_rows = [row for n, row in enumerate(rows) if names.index(names[n]) == n]
        if kept_rows:
            item_ids = dataset.items["item_id"].gather(kept_rows[:MOST_GOODS]).to_list()
            return DayGoods(item_ids=tuple(item_ids), source=GoodsSource.SALES)
    about = profile_of(coming.day, workspace.settings).about
    if recommender is None or not about:
        return DayGoods()
    try:
        return DayGoods(
            item_ids=tuple(fitting_items(recommender, about, None, limit=MOST_GOODS)), source=GoodsSource.TEXT
        )
    except UsageError:
        return DayGoods()


def goods_note(goods: DayGoods, name: str) -> str:
    """How the goods of a day were found, in words."""
    n = len(goods.item_ids)
    if goods.source is GoodsSource.SALES:
        return f"{n} products sold more before {name} in earlier years"
    if goods.source is GoodsSource.TEXT:
        return f"{n} products fit {name} by their descriptions; the log holds no earlier year"
    return f"no products are known to fit {name}"


def send_time(workspace: Workspace, coming: ComingDay, order_by: date | None = None) -> datetime | None:
    """When messages for a day go out: some days before it, a week before the last day to order at the latest; None for
    now."""
    zone = ZoneInfo(workspace.settings.timezone or "UTC")
    on = coming.on - timedelta(days=profile_of(coming.day, workspace.settings).write_before)
    if order_by is not None:
        on = min(on, order_by - timedelta(days=7))
    send = datetime.combine(on, SEND_AT, zone)
    return send if send > utc(present(workspace)) else None
