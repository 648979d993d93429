"""Past windows of the log as examples: features as of a cut, and what happened in the days after it.

    |--- history ---|cut ---- horizon ----|                  features of the cut, label of the horizon
                                    |cut ---- horizon ----|  as_of

The latest cut lies one horizon before the end of the log, the others further back. A label counts only when all of its
window is known: `Examples.check` refuses a table that holds a label from after the time at which it is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, utc
from recllm.errors import DataError, UsageError
from recllm.propensity.table import Features, stacked

LEAST_PEOPLE = 50
LEAST_OF_A_CLASS = 20
"""Fewer people with, or without, the outcome teach nothing that could be checked."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One row per person and window.

    label: float64 (n,). person: int64 (n,), row of the dataset's users, so that one person can be kept together.
    window: int64 (n,), 0 the latest. cut: int64 (n,), the features' time; known: int64 (n,), when the label was known
    (both epoch seconds).
    """

    features: Features
    label: NDArray[np.float64]
    person: NDArray[np.int64]
    window: NDArray[np.int64]
    cut: NDArray[np.int64]
    known: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, which: NDArray[np.generic]) -> Examples:
        kept = (getattr(self, name)[which] for name in ("label", "person", "window", "cut", "known"))
        return Examples(self.features.rows(which), *kept)

    def with_label(self, label: NDArray[np.generic]) -> Examples:
        values = np.asarray(label, np.float64)
        return Examples(self.features, values, self.person, self.window, self.cut, self.known)

    def check(self, as_of: int) -> Examples:
        """Itself. Raises `DataError` ("leakage") when a label was not known at `as_of`, or before its features' end."""
        late, turned = self.known > as_of, self.known < self.cut
        if late.any():
            raise DataError(
                f"leakage: {int(late.sum()):,} labels are known only by {utc(int(self.known.max())):%Y-%m-%d %H:%M}, "
                f"and the model learns at {utc(as_of):%Y-%m-%d %H:%M}; use earlier windows"
            )
        if turned.any():
            raise DataError(f"leakage: {int(turned.sum()):,} rows have features from after their label's window")
        return self

    @property
    def learnable(self) -> bool:
        """Whether there are enough people, and enough with and without the outcome."""
        people, with_it, without = self._people()
        return people >= LEAST_PEOPLE and min(with_it, without) >= LEAST_OF_A_CLASS

    def _people(self) -> tuple[int, int, int]:
        """Distinct people: all, those with the outcome in some window, and those without it in some window."""
        with_it = self.label > 0
        with_, without = self.person[with_it], self.person[~with_it]
        return len(np.unique(self.person)), len(np.unique(with_)), len(np.unique(without))

    def check_classes(self, what: str) -> Examples:
        """Itself. Raises `DataError` for too few people, or too few with or without the outcome."""
        people, with_it, without = self._people()
        if people < LEAST_PEOPLE:
            raise DataError(f"{what}: {people} people with a past to learn from; at least {LEAST_PEOPLE} are needed")
        if min(with_it, without) < LEAST_OF_A_CLASS:
            raise DataError(
                f"{what}: in the past windows it happened to {with_it:,} people, and to {without:,} it did not; "
                f"at least {LEAST_OF_A_CLASS} of each are needed"
            )
        return self


Table = Callable[[Dataset, int], Features]
"""Features of everybody in a dataset as of a time."""
Outcome = Callable[[Dataset, int, int], NDArray[np.float64]]
"""What everybody did with start <= time < end, (n_users,)."""
Eligible = Callable[[Dataset, int], NDArray[np.bool_]]
"""Who is asked about as of a time, (n_users,)."""


def cuts(dataset: Dataset, horizon_days: int, *, most: int = 12) -> list[int]:
    """Times of past windows that do not overlap, latest first; each with at least a horizon of history.

    Raises `UsageError` for a horizon below a day, `DataError` for a log too short to hold two of them.
    """
    if horizon_days < 1:
        raise UsageError(f"a horizon of {horizon_days} days: give at least 1")
    if not len(dataset.events):
        raise DataError("the log is empty: nobody has agreed to model training, or no events were loaded")
    first, horizon = int(dataset.events.at.min()), horizon_days * DAY
    end = int(dataset.events.at.max()) + 1
    found = [end - n * horizon for n in range(1, most + 1) if end - n * horizon - horizon >= first]
    if not found:
        span = (end - first) / DAY
        raise DataError(
            f"the log spans {span:.0f} days, and a horizon of {horizon_days} days needs {2 * horizon_days}: "
            "one window to learn from and as long before it; give a shorter --horizon"
        )
    return found


def past_examples(
    dataset: Dataset, times: Sequence[int], horizon_days: int, table: Table, outcome: Outcome, eligible: Eligible
) -> Examples:
    """The examples of all windows, latest first; `check`ed against the dataset's own time."""
    parts = [_window(dataset, number, at, horizon_days, table, outcome, eligible) for number, at in enumerate(times)]
    joined = joined_examples(parts)
    return joined.check(dataset.as_of)


def joined_examples(parts: Sequence[Examples]) -> Examples:
    def whole(name: str) -> NDArray[np.generic]:
        return np.concatenate([getattr(part, name) for part in parts])

    rest = [whole(name) for name in ("label", "person", "window", "cut", "known")]
    return Examples(stacked([part.features for part in parts]), *rest)  # type: ignore[arg-type]


def _window(
    dataset: Dataset, number: int, at: int, horizon_days: int, table: Table, outcome: Outcome, eligible: Eligible
) -> Examples:
    rows, end = np.flatnonzero(eligible(dataset, at)), at + horizon_days * DAY
    same = np.full(len(rows), 1, np.int64)
    label = np.asarray(outcome(dataset, at, end), np.float64)[rows]
    return Examples(table(dataset, at).rows(rows), label, rows, number * same, at * same, end * same)
