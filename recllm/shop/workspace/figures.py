"""Figures about groups of customers, for callers who may read no single customer's data.

Every size, share and sum about customers that leaves a workspace passes `FigureGate`:

- A group below `policy.group_floor` has no figure.
- A size gets normal noise of `SIZE_NOISE` floors, or `RELATIVE_NOISE` of a larger group, and is rounded to the floor.
  It is kept for `KEPT_DAYS`: the same question gets the same answer.
- A result (customers who converted, revenue) gets noise of half its standard error, and its interval is wider by that.

Two questions about the same customers get independent noise: equal answers would show that two groups are one. A caller
gets a limited number of sizes: over n pairs of groups that differ in one customer the mean difference is off by
`noise * sqrt(2 / n)`, 11 customers after the whole budget. A guess about one is right in 52 of 100 cases
(`eval/attack.py`).

Who sees exact figures, lists and predictions stands in CONTRIBUTING.md.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from math import isfinite, sqrt
from statistics import NormalDist

from recllm.base.schema import SESSION_PREFIX
from recllm.base.stats.intervals import ConfidenceInterval, normal_quantile
from recllm.shop.workspace.workspace import Workspace

SIZE_NOISE = 1.5
"""Standard deviation of a size, in floors."""

RELATIVE_NOISE = 0.02
"""Least standard deviation of a size, as a share of the group."""

SIZE_BUDGET = 200.0
"""Sizes with a noise of `SIZE_NOISE` floors that a caller gets in `policy.release_days`; one with k times the noise
counts 1 / k^2."""

KEPT_DAYS = 7
"""For so long a size is answered as it was first counted."""

TRAIT_NOISE = 0.5
"""Standard deviation of the number of customers in a group who have a trait, in floors."""

RESULT_NOISE = 0.5
"""Standard deviation of a result's noise, in standard errors of the result."""

LISTS_TELL = (
    "a list names its customers: two lists show who is on only one of them; "
    "pass on figures, not lists, to colleagues who do not write to customers"
)

_WIDER = sqrt(1 + RESULT_NOISE**2)


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupSizes:
    people: Mapping[str, int | None]
    """Name of the group -> customers; None for a group below the floor, or without budget."""
    next_on: datetime | None = None
    """When new groups are counted again; None while budget is left."""

    def notes(self) -> list[str]:
        """What a reader has to know of them, in a sentence."""
        if self.next_on is None:
            return []
        return [f"no sizes of new groups before {self.next_on:%Y-%m-%d}: this caller has used up its budget of sizes"]


@dataclass(frozen=True, eq=False)
class FigureGate:
    """What one caller may learn about groups of customers."""

    workspace: Workspace
    caller: str | None = None
    """Who asks, for the budget; None for the owner of the machine, who gets exact figures."""
    now: datetime | None = None
    """The clock; UTC now when None."""

    @property
    def at(self) -> datetime:
        return self.now or datetime.now(UTC)

    @cached_property
    def is_small_shop(self) -> bool:
        """Whether the shop has too few customers for figures that hide one of them."""
        with self.workspace.store().read() as reader:
            return reader.n_customers() < self.workspace.policy.small_shop

    @cached_property
    def is_exact(self) -> bool:
        """Whether this caller gets figures without noise."""
        return self.caller is None or self.workspace.policy.group_floor <= 1 or self.is_small_shop

    @cached_property
    def floor(self) -> int:
        """Smallest group that has a figure; 1 in a small shop."""
        return 1 if self.is_small_shop else self.part_floor

    @property
    def part_floor(self) -> int:
        """Smallest part of a result that has a figure: the policy's floor, also in a small shop."""
        return max(1, self.workspace.policy.group_floor)

    def unconsented(self, consenting: Collection[str]) -> int:
        """Customers of the store but these, without anonymous sessions. consenting: pseudonyms."""
        with self.workspace.store().read() as reader:
            names = reader.users()["user_id"].to_list()
        permitted = set(consenting)
        return sum(name not in permitted and not name.startswith(SESSION_PREFIX) for name in names)

    # --- sizes of groups that a caller chooses ------------------------------------------------------------------------

    def sizes(self, question: object, counts: Mapping[str, int], *, disjoint: bool = False) -> GroupSizes:
        """question: what is asked, as text; with a group's name it says which size is meant. counts: name -> customers.
        disjoint: no customer is in two of the groups; together they then cost as two, because one customer more changes
        two sizes at most."""
        if self.is_exact:
            return GroupSizes(people={name: self.people(n) for name, n in counts.items()})
        floor, share = self.floor, min(1.0, 2 / max(1, len(counts))) if disjoint else 1.0
        digests, costs, sizes = dict[str, bytes](), dict[bytes, float](), dict[bytes, int | None]()
        for name, n in counts.items():
            noise = max(SIZE_NOISE * floor, RELATIVE_NOISE * n)
            noisy = n + noise * NormalDist().inv_cdf((secrets.randbits(64) + 0.5) / 2**64)  # unpredictable
            step = floor * max(1, round(noise / (SIZE_NOISE * floor)))
            digest = digests[name] = self._digest("size", question, name)
            costs[digest] = share * (SIZE_NOISE * floor / noise) ** 2
            sizes[digest] = max(1, round(noisy / step)) * step if noisy >= floor else None
        paid_sizes, next_on = self._paid(costs, sizes)
        return GroupSizes(people={name: paid_sizes.get(digest) for name, digest in digests.items()}, next_on=next_on)

    def trait_noise(self, question: object) -> Callable[[str], float] | None:
        """Trait -> noise of the number of a group's customers who have it; None without budget. question: that of the
        group, as in `sizes`."""
        if self.is_exact:
            return lambda trait: 0.0
        digest = self._digest("traits", question)
        if digest not in self._paid({digest: (SIZE_NOISE / TRAIT_NOISE) ** 2}, {digest: None})[0]:
            return None
        return lambda trait: TRAIT_NOISE * self.floor * self._noise(question, trait)

    def total(self, mean: float, size: int, question: object) -> float:
        """A sum over a group of a reported size, rounded to two significant digits. mean: of one customer. The noise is
        that of a size, but not the same, and stays as long as the reported size does."""
        noise = max(SIZE_NOISE * self.floor, RELATIVE_NOISE * size) * self._normal("total", question, size)
        return float(f"{mean * max(0.0, size + noise):.2g}")

    def _paid(
        self, costs: Mapping[bytes, float], sizes: Mapping[bytes, int | None]
    ) -> tuple[Mapping[bytes, int | None], datetime | None]:
        """The sizes of these questions that are kept already or that the caller's budget pays for, and when there is
        budget again if it does not pay for all."""
        days = timedelta(days=self.workspace.policy.release_days)
        paid_sizes, oldest = self.workspace.store().keep_sizes(
            self.caller or "",
            costs,
            sizes,
            budget=SIZE_BUDGET,
            at=self.at,
            answered_since=self.at - timedelta(days=KEPT_DAYS),
            since=self.at - days,
        )
        return paid_sizes, None if costs.keys() <= paid_sizes.keys() else oldest + days

    # --- figures of groups that a caller cannot choose ----------------------------------------------------------------

    def people(self, n: int, *question: object) -> int | None:
        """A number of customers, rounded to the floor; None below it. question: what is counted."""
        if self.is_exact:
            return n if n >= self.floor or not n else None
        noisy = n + self.floor / 4 * self._noise("people", *question)
        return max(1, round(noisy / self.floor)) * self.floor if n >= self.floor else None

    def listed(self, n: int, *question: object) -> int | None:
        """As `people`, of the customers of a list: the exact number for callers who may see the list, however few."""
        return n if self.is_exact else self.people(n, *question)

    def count(self, n: int, *question: object) -> int:
        """A number of clicks, purchases or the like, whose standard error is about its root."""
        return n if self.is_exact else max(0, round(self._with_noise(n, sqrt(n + 1), "count", *question)))

    def amount(self, value: float, error: float, *question: object) -> float:
        """Money or a mean. error: its standard error. Rounded to two significant digits."""
        if self.is_exact or not value:
            return value
        return float(f"{self._with_noise(value, error, 'amount', *question):.2g}")

    def interval(self, interval: ConfidenceInterval, *question: object) -> ConfidenceInterval:
        """A value with its interval at `LEVEL`, wider by the noise."""
        error = (interval.high - interval.low) / (2 * normal_quantile())
        if self.is_exact or not isfinite(error):
            return interval
        return self.moved(interval, self._with_noise(interval.value, error, "interval", *question))

    def share(self, interval: ConfidenceInterval, *question: object) -> ConfidenceInterval:
        """The same of a share, which stays in [0, 1]."""
        noisy = self.interval(interval, *question)
        value, low, high = (min(1.0, max(0.0, end)) for end in (noisy.value, noisy.low, noisy.high))
        return ConfidenceInterval(value, low, high)

    def moved(self, interval: ConfidenceInterval, value: float) -> ConfidenceInterval:
        """An interval around a value that got noise of `RESULT_NOISE` standard errors."""
        wider = 1.0 if self.is_exact else _WIDER
        low = value - wider * (interval.value - interval.low)
        high = value + wider * (interval.high - interval.value)
        return replace(interval, value=value, low=low, high=high)

    def _with_noise(self, value: float, error: float, *question: object) -> float:
        return value + RESULT_NOISE * error * self._noise(value, *question)

    def _noise(self, *question: object) -> float:
        """A standard normal number: one for each question, day and workspace."""
        return self._normal("noise", self.at.date(), *question)

    def _normal(self, *parts: object) -> float:
        return NormalDist().inv_cdf((int.from_bytes(self._digest(*parts)[:8], "big") + 0.5) / 2**64)

    def _digest(self, *parts: object) -> bytes:
        """A keyed digest, so that nothing can be tried out without the workspace's key."""
        digest = hashlib.blake2b(key=self.workspace.signing_key("figures"), digest_size=16)
        for question in parts:
            text = str(question).encode("utf-8", "surrogatepass")
            digest.update(len(text).to_bytes(4, "big") + text)
        return digest.digest()
