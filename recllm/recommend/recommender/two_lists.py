"""Recommendations of one customer as a marketing person reads them: to buy again, and new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recllm.base.schema import Action, Recommendation, SlateStatus
from recllm.recommend.recommender.recommender import Recommender
from recllm.text.items import item_names

SHOWN_ITEMS = 6
"""Items of each of the two lists."""
LIST_ITEMS = 20
"""Items that are ranked to fill the list of what was bought before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateLists:
    """Recommendations of one person as a marketing person reads them."""

    status: SlateStatus
    weekly: tuple[Recommendation, ...]
    """What they bought before."""
    new: tuple[Recommendation, ...]
    """What they never bought; everything where the list is not personal."""
    request_ids: tuple[str, ...]
    model_version: str | None

    @property
    def item_ids(self) -> set[str]:
        return {item.item_id for item in (*self.weekly, *self.new)}


def slate_lists(recommender: Recommender, name: str, *, explain: bool = True) -> SlateLists:
    """What the person may buy again, and what is new to them. explain: with reasons, which is slow."""
    (new,) = recommender.recommend(name, k=LIST_ITEMS, repeats=False, explain=False)
    if new.status not in (SlateStatus.PERSONAL, SlateStatus.TEXT_ONLY):
        popular = new.items[: 2 * SHOWN_ITEMS]
        return SlateLists(status=new.status, weekly=(), new=popular, request_ids=(new.request_id,), model_version=None)
    (everything,) = recommender.recommend(name, k=LIST_ITEMS, explain=False)
    rows = np.unique(recommender.people.histories([name]).events.of(Action.PURCHASE).item)
    bought = set(item_names(recommender.dataset.items[rows.tolist()], recommender.locale))
    repeated = [item.item_id for item in everything.items if item.title in bought][:SHOWN_ITEMS]
    # another item of a name that they bought is nothing new to them
    unknown = [item.item_id for item in new.items if item.title not in bought][:SHOWN_ITEMS]
    listed: tuple[Recommendation, ...] = ()
    request_ids: tuple[str, ...] = ()
    if repeated or unknown:
        (slate,) = recommender.recommend(
            name, k=len(repeated) + len(unknown), allow=(*repeated, *unknown), explain=explain
        )
        listed, request_ids = slate.items, (slate.request_id,)
    return SlateLists(
        status=new.status,
        weekly=tuple(item for item in listed if item.item_id in repeated),
        new=tuple(item for item in listed if item.item_id not in repeated),
        request_ids=request_ids,
        model_version=new.model_version,
    )
