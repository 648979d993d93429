"""The people of a dataset as a prediction sees them: who has a past, which purchases count, features as of a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.data.catalogue import SENSITIVE_TARGET, in_category, known_rows, sensitive_items
from recllm.data.dataset import DAY, USER_COLUMN, Dataset, Events
from recllm.errors import PolicyError, UsageError
from recllm.policy import Policy
from recllm.propensity.features import Basics, FeatureTable, person_features, target_features
from recllm.propensity.request import PredictionRequest
from recllm.schema import Action

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cohort:
    """People of one dataset."""

    dataset: Dataset
    target: Mask | None = None
    """The items whose purchases count, (n_items,); all when None."""
    basics: Basics | None = None
    """The answers of people that become columns; none when None."""

    @classmethod
    def of(cls, dataset: Dataset, request: PredictionRequest, policy: Policy, basics: Basics | None = None) -> Cohort:
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
        return cls(dataset, target, basics)

    def features(self, at: int) -> FeatureTable:
        """One row per person, of events before `at` (epoch seconds) alone."""
        table = person_features(self.dataset, at, basics=self.basics)
        return table if self.target is None else table.beside(target_features(self.dataset, at, self.target))

    def purchases(self, start: int, end: int) -> Events:
        """Those that count, with start <= time < end."""
        bought = self.dataset.between(start, end)
        return bought if self.target is None else bought.select(self.target[bought.item])

    def bought(self, start: int, end: int) -> NDArray[np.float64]:
        """1 for who buys what counts with start <= time < end, (n_users,)."""
        return (np.diff(self.purchases(start, end).indptr) > 0).astype(np.float64)

    def with_history(self, at: int) -> Mask:
        """Who has done anything before a time, (n_users,)."""
        return np.asarray(np.diff(self.dataset.before(at).events.indptr) > 0)

    def user_rows(self, user_ids: list[str]) -> NDArray[np.int64]:
        """Distinct rows of these ids, ascending; unknown ones are left out."""
        rows = self.dataset.user_rows(user_ids)
        return np.unique(rows[rows >= 0])

    def user_ids(self, rows: NDArray[np.integer]) -> list[str]:
        return list(self.dataset.users[USER_COLUMN].gather(rows).to_list())

    def descending(self, rows: NDArray[np.integer], score: NDArray[np.floating]) -> NDArray[np.int64]:
        """Positions in `rows`, highest score first; equal scores in the order of a hash of the id."""
        hashes = [
            hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for user_id in self.user_ids(rows)
        ]
        tie = np.argsort(np.argsort(np.array(hashes, dtype="S8"), kind="stable"), kind="stable")
        return np.asarray(np.lexsort((tie, -score)), np.int64)


Outcome = Callable[[Cohort, int, int], NDArray[np.float64]]
"""What everybody did with start <= time < end, (n_users,)."""
Eligible = Callable[[Cohort, int], Mask]
"""Who is asked about as of a time, (n_users,)."""


def active_within(days: int) -> Eligible:
    """Who has bought anything within so many days before a time."""

    def active(cohort: Cohort, at: int) -> Mask:
        return np.asarray(np.diff(cohort.dataset.between(at - days * DAY, at, Action.PURCHASE).indptr) > 0)

    return active
