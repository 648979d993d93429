"""Past windows of the log as examples: features as of a cut, and what happened in the days after it.

    |--- history ---|cut ---- horizon ----|                  features of the cut, label of the horizon
                                    |cut ---- horizon ----|  as_of

The latest cut lies one horizon before the end of the log, the others further back. A label counts only when all of its
window is known: `Examples.check` refuses a table that holds a label from after the time at which it is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, utc
from recllm.errors import DataError
from recllm.propensity.cohort import Cohort, Eligible, Outcome
from recllm.propensity.features import FeatureTable

MIN_PEOPLE = 50
MIN_PEOPLE_OF_A_CLASS = 20
"""Fewer people with, or without, the outcome teach nothing that could be checked."""

MAX_WINDOWS = 12

_COLUMNS = ("label", "person", "window", "cut", "known_at")
"""Arrays of `Examples`."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One row per person and window."""

    features: FeatureTable
    label: NDArray[np.float64]
    """(n,), above 0 for the outcome."""
    person: NDArray[np.int64]
    """(n,), row of the dataset's users, so that one person can be kept together."""
    window: NDArray[np.int64]
    """(n,), 0 the latest."""
    cut: NDArray[np.int64]
    """(n,), the features' time, epoch seconds."""
    known_at: NDArray[np.int64]
    """(n,), when the label was known, epoch seconds."""

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The rows of all parts. Raises `DataError` where their columns differ."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        return cls(FeatureTable.stacked([part.features for part in parts]), **columns)

    def rows(self, which: NDArray[np.generic]) -> Examples:
        """These rows only: a mask or row numbers."""
        return Examples(self.features.rows(which), **{name: getattr(self, name)[which] for name in _COLUMNS})

    def with_label(self, label: NDArray[np.generic]) -> Examples:
        return replace(self, label=np.asarray(label, np.float64))

    def check(self, as_of: int) -> Examples:
        """Itself. Raises `DataError` ("leakage") when a label was not known at `as_of`, or before its features' end."""
        late, reversed_ = self.known_at > as_of, self.known_at < self.cut
        if late.any():
            raise DataError(
                f"leakage: {int(late.sum()):,} labels are known only by {utc(int(self.known_at.max())):%Y-%m-%d %H:%M},"
                f" and the model learns at {utc(as_of):%Y-%m-%d %H:%M}; use earlier windows"
            )
        if reversed_.any():
            raise DataError(f"leakage: {int(reversed_.sum()):,} rows have features from after their label's window")
        return self

    def _people(self) -> tuple[int, int, int]:
        """Distinct people: all, those with the outcome in some window, and those without it in some window."""
        positive = self.label > 0
        return (
            len(np.unique(self.person)),
            len(np.unique(self.person[positive])),
            len(np.unique(self.person[~positive])),
        )

    @property
    def learnable(self) -> bool:
        """Whether there are enough people, and enough with and without the outcome."""
        people, positive, negative = self._people()
        return people >= MIN_PEOPLE and min(positive, negative) >= MIN_PEOPLE_OF_A_CLASS

    def check_classes(self, what: str) -> Examples:
        """Itself. Raises `DataError` for too few people, or too few with or without the outcome."""
        people, positive, negative = self._people()
        if people < MIN_PEOPLE:
            raise DataError(f"{what}: {people} people with a past to learn from; at least {MIN_PEOPLE} are needed")
        if min(positive, negative) < MIN_PEOPLE_OF_A_CLASS:
            raise DataError(
                f"{what}: in the past windows it happened to {positive:,} people, and to {negative:,} it did not; "
                f"at least {MIN_PEOPLE_OF_A_CLASS} of each are needed"
            )
        return self


def cuts(dataset: Dataset, horizon_days: int, *, max_windows: int = MAX_WINDOWS) -> list[int]:
    """Times of past windows that do not overlap, latest first; each with at least a horizon of history.

    Raises `DataError` for a log too short to hold two of them.
    """
    if not len(dataset.events):
        raise DataError("the log is empty: nobody has agreed to model training, or no events were loaded")
    first, horizon = int(dataset.events.at.min()), horizon_days * DAY
    end = int(dataset.events.at.max()) + 1
    times = [end - n * horizon for n in range(1, max_windows + 1) if end - n * horizon - horizon >= first]
    if not times:
        raise DataError(
            f"the log spans {(end - first) / DAY:.0f} days, and a horizon of {horizon_days} days needs "
            f"{2 * horizon_days}: one window to learn from and as long before it; give a shorter --horizon"
        )
    return times


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
