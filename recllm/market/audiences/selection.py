"""From everybody's score to the people who are addressed: order, limits, holdout, group floor.

A hash of the campaign and the id says who is held out, whatever the day and the size; the others are addressed from
the highest score down until the size or the budget is reached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recllm.base.arrays import Ints, Mask, Rows, Values
from recllm.base.errors import PolicyError, UsageError
from recllm.market.audiences.probabilities import OfferTable, UserScores
from recllm.market.audiences.request import AudienceLimits


@dataclass(frozen=True, eq=False)
class Selection:
    """Positions in the list of people that was cut, int64, best first."""

    addressed: Ints
    holdout: Ints
    beyond_limit: int = 0
    """People who come after the last that size or budget allow."""
    unprofitable: int = 0
    """People whose expected margin does not pay the contact."""


def select(scores: UserScores, user_ids: Sequence[str], campaign: str, limits: AudienceLimits) -> Selection:
    """user_ids: of the people of `scores`, for the draws alone: ties are broken by a hash, never by the id itself.
    Raises `UsageError` for a margin without probabilities."""
    order = np.lexsort((draws(user_ids, campaign, f"{limits.salt}\0order"), -scores.score))
    profitable = order
    if limits.margin is not None:
        profitable = order[(scores.gains() * limits.margin > (limits.cost or 0.0))[order]]
    holdout = draws(user_ids, campaign, limits.salt)[profitable] < limits.holdout
    end, limit = len(profitable), limits.max_contacts
    if limit is not None:
        end = min(int(np.searchsorted(np.cumsum(~holdout), limit)) + 1, end) if limit else 0
    reached, holdout = profitable[:end], holdout[:end]
    return Selection(
        reached[~holdout],
        reached[holdout],
        beyond_limit=len(profitable) - end,
        unprofitable=len(order) - len(profitable),
    )


def globally_held_out(ids: Sequence[str], share: float, salt: str) -> Mask:
    """Who of some people is among the `share` who get nothing personal, to measure the whole by; (n,).

    share: in [0, 1]; who is held out at a smaller share is so at a larger one. salt: another one draws other people.
    Raises `UsageError` for a share out of its range.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"the share of the global holdout is {share}; give 0 to 1")
    return draws(ids, "global holdout", salt) < share


def draws(ids: Sequence[str], campaign: str, salt: str = "") -> Values:
    """A number in [0, 1) for each id: the first 52 bits of SHA-256 over salt, campaign and id."""
    head = hashlib.sha256(f"{salt}\0{campaign}\0".encode())
    numbers = np.empty(len(ids))
    for position, user_id in enumerate(ids):
        digest = head.copy()
        digest.update(user_id.encode("utf-8", "surrogatepass"))
        numbers[position] = (int.from_bytes(digest.digest()[:8], "big") >> 12) / 2**52
    return numbers


def check_floor(n: int, floor: int) -> None:
    """Raises `PolicyError` for a group of at least one and fewer than `floor` people."""
    if 0 < n < floor:
        raise PolicyError(
            f"the group is smaller than {floor} people, the least that may be addressed as one "
            "(group_floor in [policy]); ask for more people or a wider target"
        )


def spread_offers(offers: OfferTable, order: Rows, spread: float) -> Ints:
    """The item of each person of the table, (n,), -1 for none; people outside of `order` keep their best.
    order: rows of the table, those who choose first first. spread: in [0, 1]."""
    column = np.where(offers.item[:, 0] >= 0, 0, -1) if offers.item.shape[1] else np.full(len(offers.item), -1)
    n_offered = np.zeros(int(offers.item.max(initial=-1)) + 1, np.int64)
    for person in order.tolist() if spread else ():
        listed = offers.item[person]
        n_listed = int((listed >= 0).sum())
        if not n_listed:
            continue
        value = offers.offer_value[person, :n_listed]
        penalty = spread * np.log1p(n_offered[listed[:n_listed]])
        # what is worth less than nothing is worth less still
        column[person] = int(np.argmax(value * np.exp(-np.sign(value) * penalty)))
        n_offered[listed[column[person]]] += 1
    return np.where(column >= 0, offers.item[np.arange(len(column)), column], -1)
