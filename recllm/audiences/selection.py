"""From everybody's probability to the people who are addressed: order, cut, holdout, floor.

The list is walked from the most likely person down. A hash of the campaign and the id says who is held out; the others
are addressed until the size or the budget is reached. So people held out are as likely as those addressed, and who they
are changes neither with the day nor with the size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.data.interactions import Floats
from recllm.errors import PolicyError, UsageError

WORTHLESS, CUT = "not_worth_the_contact", "beyond_the_cut"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """size: people addressed at most. budget: money, spent at `cost` per contact. margin: money that a conversion
    brings; then only people with p * margin > cost are addressed. holdout: share in [0, 1) that is kept out for
    comparison. salt: of the draw. Raises `UsageError` for what cannot be."""

    size: int | None = None
    budget: float | None = None
    cost: float | None = None
    margin: float | None = None
    holdout: float = 0.1
    salt: str = ""

    def __post_init__(self) -> None:
        _check(self.size is None or self.size >= 0, f"size is {self.size}; give a number of people")
        for name in ("budget", "cost", "margin"):
            value = getattr(self, name)
            _check(value is None or 0 <= value < math.inf, f"{name} is {value}; give an amount of 0 or more")
        _check(0 <= self.holdout < 1, f"holdout is {self.holdout}; give a share of 0 or more and below 1")
        _check(self.budget is None or bool(self.cost), "a budget needs the cost of a contact, above 0")

    @property
    def most(self) -> int | None:
        """People that can be addressed; None for no limit."""
        paid = None if self.budget is None or not self.cost else int(self.budget / self.cost + 1e-9)
        limits = [limit for limit in (self.size, paid) if limit is not None]
        return min(limits) if limits else None


@dataclass(frozen=True, eq=False)
class Selection:
    """Places in the list that was cut. addressed and held: best first; worthless and beyond: how many others."""

    addressed: NDArray[np.int64]
    held: NDArray[np.int64]
    worthless: int
    beyond: int


def select(
    order: NDArray[np.float64], probability: Floats | None, ids: Sequence[str], campaign: str, cut: Cut
) -> Selection:
    """order: (n,), the highest first. probability: (n,), for a margin. ids: people's, for the draws alone.

    Ties are broken by a hash, never by the id or its place. Raises `UsageError` for a margin without probabilities.
    """
    draw, tie = draws(ids, campaign, cut.salt), draws(ids, campaign, f"{cut.salt}\0order")
    ranked = np.lexsort((tie, -order))
    worth = ranked[_pays(probability, cut, len(ranked))[ranked]]
    held = draw[worth] < cut.holdout
    kept = len(worth)
    if cut.most is not None:
        kept = min(int(np.searchsorted(np.cumsum(~held), cut.most)) + 1, kept) if cut.most else 0
    taken, held = worth[:kept], held[:kept]
    return Selection(taken[~held], taken[held], len(ranked) - len(worth), len(worth) - kept)


def draws(ids: Sequence[str], campaign: str, salt: str = "") -> NDArray[np.float64]:
    """A number in [0, 1) for each id: the first 52 bits of SHA-256 over salt, campaign and id."""
    head = hashlib.sha256(f"{salt}\0{campaign}\0".encode())
    out = np.empty(len(ids))
    for place, one in enumerate(ids):
        digest = head.copy()
        digest.update(one.encode("utf-8", "surrogatepass"))
        out[place] = (int.from_bytes(digest.digest()[:8], "big") >> 12) / 2**52
    return out


def check_floor(n: int, floor: int) -> None:
    """Raises `PolicyError` for a group of at least one and fewer than `floor` people."""
    if 0 < n < floor:
        raise PolicyError(
            f"the group is smaller than {floor} people, the least that may be addressed as one "
            "(group_floor in [policy]); ask for more people or a wider target"
        )


def _pays(probability: Floats | None, cut: Cut, n: int) -> NDArray[np.bool_]:
    if cut.margin is None:
        return np.ones(n, bool)
    if probability is None:
        raise UsageError("a margin needs probabilities, and this target has only likenesses; leave it out")
    return np.asarray(probability.astype(np.float64) * cut.margin - (cut.cost or 0.0) > 0)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)
