"""The people of a dataset as a prediction sees them, and past windows of the log as examples.

    |--- history ---|cut ---- horizon ----|                  features of the cut, label of the horizon
                                    |cut ---- horizon ----|  as_of

The latest cut lies one horizon before the end of the log, the others further back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.base.arrays import Ints, Mask, Rows, Values
from recllm.base.errors import DataError, PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.market.propensity.features import FeatureTable, person_features, target_features
from recllm.market.propensity.prediction import PredictionRequest
from recllm.shop.data.catalogue import SENSITIVE_TARGET, in_category, known_rows, sensitive_items
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, Events, utc
from recllm.shop.data.rhythm import LAPSED_GAPS, ShoppingDays

TO_LEARN, TO_COUNT = (50, 20), (20, 5)
"""Fewer people with, or without, the outcome teach nothing that could be checked."""
ACTIVE_DAYS, AWAY_GAPS = 91, 2.0
"""Usual gaps without an order after which leaving is asked about."""
MAX_WINDOWS = 12
_COLUMNS = ("label", "person", "window", "cut", "known_at")
"""Arrays of `Examples`."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """People of one dataset."""

    dataset: Dataset
    target: Mask | None = None
    """The items whose purchases count, (n_items,); all when None."""

    @classmethod
    def of(cls, dataset: Dataset, request: PredictionRequest, policy: Policy) -> Cohort:
        """Raises `UsageError` for an unknown item or an empty category, `PolicyError` for sensitive ones."""
        target = None
        if request.items:
            target = np.zeros(dataset.n_items, bool)
            target[known_rows(dataset, request.items)] = True
        elif request.category is not None:
            target = in_category(dataset.items, request.category)
            if not target.any():
                raise UsageError(f"no item in the category {request.category!r}; write a name, or a path as 'a > b'")
        if target is not None and sensitive_items(dataset.items.filter(target), policy).any():
            raise PolicyError(SENSITIVE_TARGET)
        return cls(dataset, target)

    def features(self, at: int) -> FeatureTable:
        """One row per person, of events before `at` (epoch seconds) alone."""
        table = person_features(self.dataset, at)
        return table if self.target is None else table.with_columns(target_features(self.dataset, at, self.target))

    def purchases(self, start: int, end: int) -> Events:
        """Those that count, with start <= time < end."""
        bought = self.dataset.between(start, end)
        return bought if self.target is None else bought.select(self.target[bought.item])

    def bought(self, start: int, end: int) -> Values:
        """1 for who buys what counts with start <= time < end, (n_users,)."""
        return (np.diff(self.purchases(start, end).indptr) > 0).astype(np.float64)

    def left(self, start: int, end: int) -> Values:
        """1 for who buys nothing that counts then, (n_users,)."""
        return 1 - self.bought(start, end)

    def with_history(self, at: int) -> Mask:
        """Who has done anything before a time, (n_users,)."""
        return np.asarray(np.diff(self.dataset.before(at).events.indptr) > 0)

    def user_rows(self, user_ids: list[str]) -> Ints:
        """Distinct rows of these ids, ascending; unknown ones are left out."""
        rows = self.dataset.user_rows(user_ids)
        return np.unique(rows[rows >= 0])

    def user_ids(self, rows: Rows) -> list[str]:
        return list(self.dataset.users[USER_COLUMN].gather(rows).to_list())

    def descending(self, rows: Rows, score: NDArray[np.floating]) -> Ints:
        """Positions in `rows`, highest score first; equal scores in the order of a hash of the id."""
        hashes = [
            hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for user_id in self.user_ids(rows)
        ]
        tie = np.argsort(np.argsort(np.array(hashes, dtype="S8"), kind="stable"), kind="stable")
        return np.asarray(np.lexsort((tie, -score)), np.int64)


Outcome = Callable[[Cohort, int, int], Values]
"""What everybody did with start <= time < end, (n_users,)."""
Eligible = Callable[[Cohort, int], Mask]
"""Who is asked about as of a time, (n_users,)."""


def order_days(cohort: Cohort, now: int) -> ShoppingDays:
    """The days with an order before `now`, epoch seconds."""
    orders = cohort.purchases(0, now)
    return ShoppingDays.of(orders.user, orders.at, cohort.dataset.n_users, now)


def missed_after(horizon_days: int, active_days: int | None, usual_gap: float) -> Eligible:
    """Who is active, and would have stayed away for `AWAY_GAPS` of their usual gaps, or more, after another horizon
    without an order. active_days: `ACTIVE_DAYS` or `LAPSED_GAPS` usual gaps, whichever is longer, when None.
    usual_gap: of people without one."""

    def missed(cohort: Cohort, at: int) -> Mask:
        past = order_days(cohort, at)
        gap = np.where(np.isnan(past.usual_gap), usual_gap, past.usual_gap)
        is_active = past.since < (active_days or np.maximum(ACTIVE_DAYS, LAPSED_GAPS * gap))
        return np.asarray(is_active & (past.since + horizon_days >= AWAY_GAPS * gap))

    return missed


@dataclass(frozen=True, eq=False)
class Examples:
    """One row per person and window."""

    features: FeatureTable
    label: Values
    """(n,), above 0 for the outcome."""
    person: Ints
    """(n,), row of the dataset's users, so that one person can be kept together."""
    window: Ints
    """(n,), 0 the latest."""
    cut: Ints
    """(n,), the features' time, epoch seconds."""
    known_at: Ints
    """(n,), when the label was known, epoch seconds."""

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The rows of all parts."""
        columns = {name: np.concatenate([getattr(window, name) for window in parts]) for name in _COLUMNS}
        return cls(FeatureTable.stacked([window.features for window in parts]), **columns)

    def rows(self, which: NDArray[np.generic]) -> Examples:
        """These rows only: a mask or row numbers."""
        return Examples(self.features.rows(which), **{name: getattr(self, name)[which] for name in _COLUMNS})

    def check(self, as_of: int) -> Examples:
        """Itself. Raises `DataError` ("leakage") when a label was not known at `as_of`."""
        late = self.known_at > as_of
        if late.any():
            raise DataError(
                f"leakage: {int(late.sum()):,} labels are known only by {utc(int(self.known_at.max())):%Y-%m-%d %H:%M},"
                f" and the model learns at {utc(as_of):%Y-%m-%d %H:%M}; use earlier windows"
            )
        return self

    def shortage(self, what: str, minimum: tuple[int, int] = TO_LEARN) -> str:
        """Of people, or of those with or without the outcome, in words; empty where there are the `minimum` of both."""
        positive = self.label > 0
        groups = (slice(None), positive, ~positive)
        people, happened, failed = (len(np.unique(self.person[rows])) for rows in groups)
        if people < minimum[0]:
            return f"{what}: {people} people with a past to learn from; at least {minimum[0]} are needed"
        if min(happened, failed) < minimum[1]:
            return (
                f"{what}: in the past windows it happened to {happened:,} people, and to {failed:,} it did not; "
                f"at least {minimum[1]} of each are needed"
            )
        return ""

    def check_classes(self, what: str, minimum: tuple[int, int] = TO_LEARN) -> Examples:
        """Itself. Raises `DataError` for too few people, or too few with or without the outcome."""
        if shortage := self.shortage(what, minimum):
            raise DataError(shortage)
        return self


def cuts(dataset: Dataset, horizon_days: int) -> list[int]:
    """Times of `MAX_WINDOWS` past windows at most, which do not overlap, latest first; each with at least a horizon of
    history. Raises `DataError` for a log too short to hold two of them."""
    times = past_starts(dataset, horizon_days, MAX_WINDOWS, history_days=horizon_days)
    if not times:
        raise DataError(
            f"the log spans {span_days(dataset):.0f} days, and a horizon of {horizon_days} days needs "
            f"{2 * horizon_days}: one window to learn from and as long before it; give a shorter --horizon"
        )
    return times


def past_starts(dataset: Dataset, days: int, limit: int, *, history_days: int) -> list[int]:
    """Starts of the latest windows of these days that lie within the log, `limit` at most, latest first, epoch seconds;
    before each lie at least `history_days` of the log. Raises `DataError` for an empty log."""
    if not len(dataset.events):
        raise DataError("the log is empty: no customer has agreed to model training, or no events were loaded")
    first, end = int(dataset.events.at.min()), int(dataset.events.at.max()) + 1
    starts = (end - n * days * DAY for n in range(1, limit + 1))
    return [start for start in starts if start >= first + history_days * DAY]


def span_days(dataset: Dataset) -> float:
    """Of a log with events."""
    return (int(dataset.events.at.max()) + 1 - int(dataset.events.at.min())) / DAY


def past_examples(
    cohort: Cohort, times: Sequence[int], horizon_days: int, outcome: Outcome, eligible: Eligible
) -> Examples:
    """The examples of all windows, latest first; `check`ed against the dataset's own time."""
    parts = []
    for number, at in enumerate(times):
        rows, end = np.flatnonzero(eligible(cohort, at)), at + horizon_days * DAY
        label = np.asarray(outcome(cohort, at, end), np.float64)[rows]
        window, cut, known_at = (np.full(len(rows), value, np.int64) for value in (number, at, end))
        parts.append(Examples(cohort.features(at).rows(rows), label, rows, window, cut, known_at))
    return Examples.joined(parts).check(cohort.dataset.as_of)
