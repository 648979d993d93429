"""What may be said of customers in a text, counted from their purchases: how often, how long ago, what it goes with.

    facts = customer_facts(events, catalogue, as_of, items, reasons, together, policy)      # a PersonFacts for each

What a customer only looked at is not said. Times are coarse (`PersonFacts.coarse`), so that customers who read the same
words share a text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.policy import Policy
from recllm.base.schema import ACTION_CODE, Action, Occasion, Reason
from recllm.market.adcopy.request import Ago, PersonFacts, ThingFacts
from recllm.shop.data.dataset import DAY, Events, utc

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

STEADY_DAYS = 3
"""Days with a purchase from which on a rhythm is known."""
STEADY_SPREAD = 0.35
"""Most that the middle half of the gaps lies from their median, as a share of it."""
CART_DAYS = 14.0
YEAR_DAYS = 365.0
AWAY_DAYS, AWAY_GAPS = 60.0, 2.0
"""A customer stayed away for these days, and these many usual gaps."""
FIRST_ORDER_DAYS = 21.0
CLEAR_DELTA = 0.2
"""Least fall of the logit without a purchase, for it to be given as the reason."""


def customer_facts(
    events: Events,
    catalogue: pl.DataFrame,
    as_of: int,
    items: Sequence[int],
    reasons: Sequence[Sequence[Reason]],
    together: csr_matrix | None,
    policy: Policy,
    occasion: Occasion | None = None,
    broad: Collection[tuple[str, ...]] = (),
) -> list[PersonFacts]:
    """For each customer (a run of `events`) and item (row of the catalogue, as `Dataset.items`; -1 for none).

    reasons: of each, the clearest first: a purchase named there may be named with the item where the two are bought
    together more often than chance. together: see `recllm.learn.features.together`; None where it is not known. broad:
    paths of categories that hold most of what is bought, and say nothing of a customer.
    """
    things = _Things.of(catalogue, broad)
    goes_with = None if together is None else together.tocsc()
    return [
        _facts(events.rows(np.array([n])), things, as_of, int(item), of_user, goes_with, policy, occasion)
        for n, (item, of_user) in enumerate(zip(items, reasons, strict=True))
    ]


@dataclass(frozen=True, eq=False)
class _Things:
    """Codes by which items are one thing to a customer: the same title, the narrowest category, the brand; (n,)."""

    frame: pl.DataFrame
    name: NDArray[np.int64]
    category: NDArray[np.int64]
    brand: NDArray[np.int64]

    @classmethod
    def of(cls, catalogue: pl.DataFrame, broad: Collection[tuple[str, ...]]) -> _Things:
        keys = catalogue.select(
            pl.col("title").str.strip_chars().str.to_lowercase().replace("", None),
            pl.col("category").list.join("\x1f").replace(dict.fromkeys(["", *map("\x1f".join, broad)])),
            pl.col("brand").str.to_lowercase(),
        )
        return cls(catalogue, *(_codes(keys[name]) for name in ("title", "category", "brand")))


def _codes(keys: pl.Series) -> NDArray[np.int64]:
    """One number for each key; a number of its own for each null."""
    codes = keys.rank("dense").cast(pl.Int64).fill_null(0).to_numpy().copy()
    missing = np.flatnonzero(codes == 0)
    codes[missing] = -1 - missing
    return codes


def _facts(
    history: Events,
    things: _Things,
    now: int,
    item: int,
    reasons: Sequence[Reason],
    together: csc_matrix | None,
    policy: Policy,
    occasion: Occasion | None,
) -> PersonFacts:
    bought_items, at = history.item, history.at
    is_purchase = history.action == ACTION_CODE[Action.PURCHASE]
    in_cart = history.action == ACTION_CODE[Action.CART]
    purchases, when = bought_items[is_purchase], at[is_purchase]
    today = utc(now).date()

    def ago(seconds: int) -> Ago:
        return Ago.of((now - seconds) / DAY, today)

    facts: dict[str, object] = {}
    days = np.unique(when // DAY)
    if occasion is Occasion.WELCOME and len(days) == 1 and now - when.max() <= FIRST_ORDER_DAYS * DAY:
        first = int(purchases[-1])
        if not _is_sensitive(things.frame, first, policy):
            facts["first_order"] = _thing(things.frame, first)
    elif occasion is Occasion.WIN_BACK and len(days) > 1:
        away = (now - int(when.max())) / DAY
        if away >= AWAY_DAYS and away >= AWAY_GAPS * float(np.median(np.diff(days))):
            facts["away"] = ago(int(when.max()))
    if item < 0:
        return PersonFacts(**facts).coarse()  # type: ignore[arg-type]
    same = when[things.name[purchases] == things.name[item]]
    if len(same):
        facts |= {**_rhythm(same, now), "last": ago(int(same.max()))}
    recent = purchases[when >= now - YEAR_DAYS * DAY]
    recent_days = when[when >= now - YEAR_DAYS * DAY] // DAY
    for name, codes in (("category_bought", things.category), ("brand_bought", things.brand)):
        facts[name] = len(np.unique(recent_days[codes[recent] == codes[item]])) if codes[item] > 0 else 0
    carted = at[in_cart & (bought_items == item)]
    if len(carted) and now - carted.max() <= CART_DAYS * DAY and not (len(same) and same.max() > carted.max()):
        facts["in_cart"] = True
    if (companion := _companion(things.frame, item, purchases, reasons, together)) >= 0 and not _is_sensitive(
        things.frame, companion, policy
    ):
        facts["with_item"] = _thing(things.frame, companion)
        facts["with_last"] = ago(int(when[purchases == companion].max()))
    if (named := _named(things.frame, item, purchases, reasons)) >= 0 and not _is_sensitive(
        things.frame, named, policy
    ):
        facts["because"] = _thing(things.frame, named)
    same_day = when[(things.name[purchases] == things.name[item]) & (np.abs((now - when) / DAY - YEAR_DAYS) <= 30)]
    facts["bought_last_year"] = bool(len(same_day))
    return PersonFacts(**facts).coarse()  # type: ignore[arg-type]


def _rhythm(at: NDArray[np.int64], now: int) -> Mapping[str, object]:
    """times_bought, and every_days and waited of a steady buyer."""
    days = np.unique(at // DAY)
    gaps = np.diff(days)
    if len(days) < STEADY_DAYS:
        return {"times_bought": len(days)}
    median = float(np.median(gaps))
    low, high = np.quantile(gaps, (0.25, 0.75))
    if high - median > STEADY_SPREAD * median or median - low > STEADY_SPREAD * median:
        return {"times_bought": len(days)}
    return {"times_bought": len(days), "every_days": median, "waited": (now - float(at.max())) / DAY / median}


def _companion(
    catalogue: pl.DataFrame,
    item: int,
    purchases: NDArray[np.integer],
    reasons: Sequence[Reason],
    together: csc_matrix | None,
) -> int:
    """The purchase that goes best with an item, one that a reason names before others; -1 for none."""
    if together is None or not len(purchases):
        return -1
    column = slice(*together.indptr[item : item + 2])
    strength = dict(zip(together.indices[column].tolist(), together.data[column].tolist(), strict=True))
    usable = [row for row in np.unique(purchases).tolist() if row in strength and row != item]
    if not usable:
        return -1
    named = {reason.evidence_id.partition(":")[2] for reason in reasons if reason.evidence_id.startswith("B:")}
    ids = catalogue["item_id"]
    return int(max(usable, key=lambda row: (ids[row] in named, strength[row])))


def _named(catalogue: pl.DataFrame, item: int, purchases: NDArray[np.integer], reasons: Sequence[Reason]) -> int:
    """The purchase of another item that a reason names, the clearest first; -1 for none."""
    ids = catalogue["item_id"]
    for reason in reasons:
        source, _, evidence = reason.evidence_id.partition(":")
        rows = [row for row in np.unique(purchases).tolist() if source == "B" and ids[row] == evidence and row != item]
        if rows and reason.delta >= CLEAR_DELTA:
            return int(rows[0])
    return -1


def _thing(items: pl.DataFrame, row: int) -> ThingFacts:
    title, category, brand = items.select("title", "category", "brand").row(row)
    return ThingFacts(title or "", tuple(category or ()), brand)


def _is_sensitive(items: pl.DataFrame, row: int, policy: Policy) -> bool:
    thing = _thing(items, row)
    return policy.is_sensitive((*thing.category, thing.title))
