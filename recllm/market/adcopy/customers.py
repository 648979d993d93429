"""What may be said of customers in a text, counted from their purchases: how often, how long ago, what it goes with.

    facts = customer_facts(events, catalogue, as_of, items, reasons, together, policy)      # a PersonFacts for each

What a customer only looked at is not said. Times are coarse (`PersonFacts.coarse`), so that customers who read the same
words share a text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    keys = catalogue.select(
        title=pl.col("title").str.strip_chars().str.to_lowercase().replace("", None),
        category=pl.col("category").list.join("\x1f").replace(dict.fromkeys(["", *map("\x1f".join, broad)])),
        brand=pl.col("brand").str.to_lowercase(),
    )
    codes = {name: _codes(keys[name]) for name in keys.columns}
    goes_with = None if together is None else together.tocsc()
    return [
        _facts(events.rows(np.array([n])), catalogue, codes, as_of, int(item), of_user, goes_with, policy, occasion)
        for n, (item, of_user) in enumerate(zip(items, reasons, strict=True))
    ]


def _codes(keys: pl.Series) -> NDArray[np.int64]:
    """One number for each key; a number of its own for each null."""
    codes = keys.rank("dense").cast(pl.Int64).fill_null(0).to_numpy().copy()
    missing = np.flatnonzero(codes == 0)
    codes[missing] = -1 - missing
    return codes


def _facts(
    history: Events,
    catalogue: pl.DataFrame,
    codes: Mapping[str, NDArray[np.int64]],
    now: int,
    item: int,
    reasons: Sequence[Reason],
    together: csc_matrix | None,
    policy: Policy,
    occasion: Occasion | None,
) -> PersonFacts:
    """codes: by which items are one thing to a customer: the same title, the narrowest category, the brand; (n,)."""
    is_purchase = history.action == ACTION_CODE[Action.PURCHASE]
    purchases, when = history.item[is_purchase], history.at[is_purchase]
    today = utc(now).date()

    def ago(seconds: int) -> Ago:
        return Ago.of((now - seconds) / DAY, today)

    def thing(row: int) -> ThingFacts | None:
        """None for no item, and for one of which nothing is said."""
        if row < 0:
            return None
        title, category, brand = catalogue.select("title", "category", "brand").row(row)
        is_sensitive = policy.is_sensitive((*(category or ()), title or ""))
        return None if is_sensitive else ThingFacts(title or "", tuple(category or ()), brand)

    facts: dict[str, Any] = {}
    days = np.unique(when // DAY)
    if occasion is Occasion.WELCOME and len(days) == 1 and now - when.max() <= FIRST_ORDER_DAYS * DAY:
        facts["first_order"] = thing(int(purchases[-1]))
    elif occasion is Occasion.WIN_BACK and len(days) > 1:
        away = (now - int(when.max())) / DAY
        if away >= AWAY_DAYS and away >= AWAY_GAPS * float(np.median(np.diff(days))):
            facts["away"] = ago(int(when.max()))
    if item < 0:
        return PersonFacts(**facts).coarse()
    is_same = codes["title"][purchases] == codes["title"][item]
    same = when[is_same]
    if len(same):
        facts |= {**_rhythm(same, now), "last": ago(int(same.max()))}
    is_recent = when >= now - YEAR_DAYS * DAY
    for name in ("category", "brand"):
        is_alike = is_recent & (codes[name][purchases] == codes[name][item])
        facts[f"{name}_bought"] = len(np.unique(when[is_alike] // DAY)) if codes[name][item] > 0 else 0
    carted = history.at[(history.action == ACTION_CODE[Action.CART]) & (history.item == item)]
    if len(carted) and now - carted.max() <= CART_DAYS * DAY and not (len(same) and same.max() > carted.max()):
        facts["in_cart"] = True
    companion = _companion(catalogue["item_id"], item, purchases, reasons, together)
    if (with_item := thing(companion)) is not None:
        facts |= {"with_item": with_item, "with_last": ago(int(when[purchases == companion].max()))}
    facts["because"] = thing(_named(catalogue["item_id"], item, purchases, reasons))
    facts["bought_last_year"] = bool((np.abs((now - same) / DAY - YEAR_DAYS) <= 30).any())
    return PersonFacts(**facts).coarse()


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
    ids: pl.Series,
    item: int,
    purchases: NDArray[np.integer],
    reasons: Sequence[Reason],
    together: csc_matrix | None,
) -> int:
    """The purchase that goes best with an item, one that a reason names before others; -1 for none."""
    if together is None:
        return -1
    column = slice(*together.indptr[item : item + 2])
    strength = dict(zip(together.indices[column].tolist(), together.data[column].tolist(), strict=True))
    named = {reason.evidence_id.partition(":")[2] for reason in reasons if reason.evidence_id.startswith("B:")}
    usable = [row for row in np.unique(purchases).tolist() if row in strength and row != item]
    return int(max(usable, key=lambda row: (ids[row] in named, strength[row]), default=-1))


def _named(ids: pl.Series, item: int, purchases: NDArray[np.integer], reasons: Sequence[Reason]) -> int:
    """The purchase of another item that a reason names, the clearest first; -1 for none."""
    row_of = {f"B:{ids[row]}": row for row in np.unique(purchases).tolist() if row != item}
    clear = (row_of[r.evidence_id] for r in reasons if r.delta >= CLEAR_DELTA and r.evidence_id in row_of)
    return int(next(clear, -1))
