"""One offer for each of many people, so that a campaign spreads over the catalogue, and what that costs.

People choose one after another, best first. The worth of an item that was offered n times so far is divided by
(1 + n) ^ spread: its odds, or by lift or margin what it is expected to bring. Greedy: the total is not the best there
is, but no person's offer depends on who comes later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.market.audiences.probabilities import OfferTable


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadFigures:
    """What spreading over the catalogue cost some people, and what it won."""

    spread: float
    people: int
    """With an offer."""
    items: int
    """Different items that are offered."""
    items_without: int
    """The same at a spread of 0."""
    probability: float
    """Mean chance that people buy what they are offered, in [0, 1]."""
    probability_without: float
    """The same at a spread of 0."""

    @property
    def given_up(self) -> float:
        """Mean probability that spreading gave up; below 0 where the order is by something else."""
        return self.probability_without - self.probability


def spread_offers(
    offers: OfferTable, order: NDArray[np.integer], spread: float
) -> tuple[NDArray[np.int64], SpreadFigures]:
    """The item of each person of the table, (n,), -1 for none, and what it costs; people outside of `order` keep their
    best.

    order: rows of the table, those who choose first first. spread: in [0, 1].
    """
    column = np.where(offers.item[:, 0] >= 0, 0, -1) if offers.item.shape[1] else np.full(len(offers.item), -1)
    n_offered = np.zeros(int(offers.item.max(initial=-1)) + 1, np.int64)
    for person in order.tolist() if spread else ():
        listed = offers.item[person]
        n_listed = int((listed >= 0).sum())
        if not n_listed:
            continue
        value, penalty = offers.offer_value[person, :n_listed], spread * np.log1p(n_offered[listed[:n_listed]])
        # what is worth less than nothing is worth less still
        column[person] = int(np.argmax(value * np.exp(-np.sign(value) * penalty)))
        n_offered[listed[column[person]]] += 1
    with_offer = order[column[order] >= 0]
    if not len(with_offer):
        return np.full(len(offers.item), -1), SpreadFigures(
            spread=spread, people=0, items=0, items_without=0, probability=0.0, probability_without=0.0
        )
    return np.where(column >= 0, offers.item[np.arange(len(column)), column], -1), SpreadFigures(
        spread=spread,
        people=len(with_offer),
        items=len(np.unique(offers.item[with_offer, column[with_offer]])),
        items_without=len(np.unique(offers.item[with_offer, 0])),
        probability=float(offers.probability[with_offer, column[with_offer]].mean()),
        probability_without=float(offers.probability[with_offer, 0].mean()),
    )
