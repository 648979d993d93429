"""Items that fit the intent of an offer, person by person.

remind       what the person bought before
win_back     what they bought on several trips, did not return since, and have not bought for a while
cross_sell   what goes with something that they bought lately or have in the cart (`features.together`), and
             that they did not buy in that time

Purchases of a sensitive category call for nothing: an offer that goes with one would reveal it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.arrays import Ints, Mask, Rows
from recllm.base.schema import Action, Intent, NoteKind
from recllm.base.settings import OfferSettings
from recllm.shop.data.dataset import DAY, Events
from recllm.shop.data.interactions import Pairs, Tally, merged_lines
from recllm.shop.data.rhythm import ShoppingDays

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PERSONAL_INTENTS = (Intent.REMIND, Intent.CROSS_SELL, Intent.WIN_BACK)
"""Of which each person has items of their own."""

WIN_BACK_PURCHASES = 2  # trips on which an item was bought at least to be worth winning back

Remark = tuple[NoteKind, float]
"""What is to be said of a person's offers, and the number of days in it."""

WEEKLY_DAYS = (5.0, 9.0)
"""Median days between shopping days of a weekly shopper."""


@dataclass(frozen=True, eq=False)
class FittingItems:
    """Items that fit an intent, of n people in compressed rows."""

    indptr: Ints
    item: Ints
    """Rows of the catalogue, ascending for each person."""
    cause: Ints
    """The purchase that each goes with, a row of the catalogue; -1 for none."""
    remarks: tuple[Remark | None, ...]
    """Of each person."""

    def of(self, person: int) -> Ints:
        """A person's items."""
        return self.item[self.indptr[person] : self.indptr[person + 1]]

    def of_offers(self, person: int) -> tuple[dict[int, int], Remark | None]:
        """A person's items with what each goes with, and what is to be said of them."""
        own_rows = slice(self.indptr[person], self.indptr[person + 1])
        pairs = zip(self.item[own_rows].tolist(), self.cause[own_rows].tolist(), strict=True)
        return {item: cause for item, cause in pairs if cause >= 0}, self.remarks[person]

    def groups(self, allowed: Mask) -> Iterator[tuple[Ints, Mask]]:
        """Each person alone, with the items of theirs that are allowed, (n_items,)."""
        for person in range(len(self.remarks)):
            fits = np.zeros_like(allowed)
            fits[self.of(person)] = True
            yield np.array([person]), allowed & fits

    def pairs(self, people: slice, allowed: Mask) -> Pairs:
        """The items of some of these people, numbered from the first of the slice, that are allowed, (n_items,)."""
        start, stop, _ = people.indices(len(self.remarks))
        own_rows = slice(self.indptr[start], self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - self.indptr[start]
        return Pairs(indptr, self.item[own_rows].astype(np.int32)).select(allowed[self.item[own_rows]])


def fitting_items(
    intent: Intent,
    histories: Events,
    as_of: int,
    settings: OfferSettings,
    together: Callable[[], csr_matrix],
    sensitive: Callable[[Ints], Mask],
    cart: Rows | None = None,
) -> FittingItems | None:
    """What fits, of n people with these histories; None where the intent leaves nothing out person by person.

    together: gives what goes together, see `features.together`; sensitive: which rows of the catalogue are of a
    sensitive category; cart: rows that everybody has in the cart now.
    """
    purchases = merged_lines(histories.of(Action.PURCHASE))
    match intent:
        case Intent.REMIND:
            n_items = int(histories.item.max(initial=-1)) + 1 or 1
            n = len(purchases.indptr) - 1
            keys = Tally.of(purchases.user, purchases.item, n_items).keys
            return _of_keys(keys, n, n_items, None, [None] * n)
        case Intent.WIN_BACK:
            return _lapsed(purchases, histories.of(Action.RETURN), as_of, settings)
        case Intent.CROSS_SELL:
            cart = np.zeros(0, np.int64) if cart is None else cart
            return _complements(purchases, as_of, settings, together(), sensitive, cart)
    return None


def shops_weekly(purchases: Events) -> bool:
    """Whether one person's shopping days lie about a week apart, of four days at least."""
    midnight = (int(purchases.at.max(initial=0)) // DAY + 1) * DAY
    days = ShoppingDays.of(np.zeros(len(purchases), np.int64), purchases.at, 1, midnight)
    return bool(days.n_days[0] >= 4 and WEEKLY_DAYS[0] <= days.usual_gap[0] <= WEEKLY_DAYS[1])


def _of_keys(keys: Ints, n: int, n_items: int, cause: Ints | None, remarks: list[Remark | None]) -> FittingItems:
    """keys: person * n_items + item, ascending."""
    indptr = np.searchsorted(keys, np.arange(n + 1) * n_items).astype(np.int64)
    return FittingItems(indptr, keys % n_items, np.full(len(keys), -1) if cause is None else cause, tuple(remarks))


def _lapsed(purchases: Events, returns: Events, as_of: int, settings: OfferSettings) -> FittingItems:
    n = len(purchases.indptr) - 1
    n_items = int(max(purchases.item.max(initial=-1), returns.item.max(initial=-1))) + 1 or 1
    bought = Tally.of(purchases.user, purchases.item, n_items)
    until = as_of - settings.win_back_days * DAY
    last = bought.largest(purchases.at)
    fits = (bought.total() >= WIN_BACK_PURCHASES) & (last < until) & (bought.last(returns) < last)
    latest = np.full(n, np.iinfo(np.int64).min)
    np.maximum.at(latest, purchases.user, purchases.at)
    counts = np.bincount(bought.user[fits], minlength=n)
    remarks: list[Remark | None] = [
        (NoteKind.NOTHING_TO_WIN_BACK, settings.win_back_days)
        if not counts[person]
        else (NoteKind.STILL_BUYS, (as_of - at) / DAY)
        if at >= until
        else None
        for person, at in enumerate(latest.tolist())
    ]
    return _of_keys(bought.keys[fits], n, n_items, None, remarks)


def _complements(
    purchases: Events,
    as_of: int,
    settings: OfferSettings,
    together: csr_matrix,
    sensitive: Callable[[Ints], Mask],
    cart: Rows,
) -> FittingItems:
    n, n_items = len(purchases.indptr) - 1, together.shape[0]
    late = purchases.select(purchases.at >= as_of - settings.cross_sell_days * DAY)
    keys, causes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    remarks: list[Remark | None] = []
    for person in range(n):
        recent = np.union1d(late.item[late.indptr[person] : late.indptr[person + 1]], cart).astype(np.int64)
        may_be_named = recent[~sensitive(recent)] if len(recent) else recent
        of_recent = together[may_be_named].tocoo()
        apart = ~np.isin(of_recent.col, recent)
        item, z = of_recent.col[apart].astype(np.int64), of_recent.data[apart]
        cause = may_be_named[of_recent.row[apart]]
        strongest = np.lexsort((cause, -z, item))
        first = np.flatnonzero(np.diff(item[strongest], prepend=-1))
        keys.append(person * n_items + item[strongest][first])
        causes.append(cause[strongest][first])
        kind = NoteKind.NOTHING_GOES_WITH if len(recent) else NoteKind.NO_RECENT_PURCHASE
        remarks.append(None if len(first) else (kind, settings.cross_sell_days))
    return _of_keys(np.concatenate(keys), n, n_items, np.concatenate(causes), remarks)
