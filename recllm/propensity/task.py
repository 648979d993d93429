"""A request with everything that is needed to answer it, and what the kinds of prediction have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import utc
from recllm.errors import NothingToDo
from recllm.policy import Policy
from recllm.propensity.cohort import Cohort, Eligible, Mask, Outcome
from recllm.propensity.examples import MAX_WINDOWS, Examples, cuts, past_examples
from recllm.propensity.features import FeatureTable
from recllm.propensity.prediction import Prediction, UserPrediction
from recllm.propensity.quality import quality
from recllm.propensity.reasons import GroupReasonWriter, Score, background, group_deltas
from recllm.propensity.request import PredictionRequest
from recllm.schema import Reason
from recllm.settings import PredictionReasonSettings, PropensitySettings
from recllm.text.templates import Prompts


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictionTask:
    """Who is learned from and who is predicted."""

    request: PredictionRequest
    learn: Cohort
    ask: Cohort
    """As of its dataset's own time."""
    policy: Policy = field(default_factory=Policy)
    settings: PropensitySettings = field(default_factory=PropensitySettings)
    reason_settings: PredictionReasonSettings = field(default_factory=PredictionReasonSettings)

    @property
    def now(self) -> int:
        """Of the people who are predicted, epoch seconds."""
        return self.ask.dataset.as_of

    def examples(self, outcome: Outcome, eligible: Eligible, max_windows: int = MAX_WINDOWS) -> Examples:
        """The past windows of the people who are learned from."""
        horizon = self.request.horizon_days
        times = cuts(self.learn.dataset, horizon, max_windows=max_windows)
        return past_examples(self.learn, times, horizon, outcome, eligible)

    def user_rows(self, eligible: Mask) -> NDArray[np.int64]:
        """Who is predicted. Raises `NothingToDo` for nobody."""
        rows = np.flatnonzero(eligible)
        if not len(rows):
            people = f"of {self.ask.dataset.n_users:,} people none has a past that counts"
            raise NothingToDo(f"nobody to predict: {people}")
        return rows

    def reasons(
        self,
        score: Score,
        inputs: Callable[[FeatureTable], FeatureTable],
        learned: FeatureTable,
        table: FeatureTable,
        outcome: str = "chance",
    ) -> list[tuple[Reason, ...]]:
        """The reasons of each row of `table`; nothing without `explain`.

        inputs: a table to what `score` is given the values of. learned: the people that others are drawn from.
        """
        if not self.request.explain or not len(table):
            return [()] * len(table)
        others = inputs(background(learned, self.reason_settings)).values
        groups, deltas = group_deltas(score, inputs(table), others)
        writer = GroupReasonWriter(self.request.locale, self.policy, self.reason_settings, outcome, self._target_name())
        return [
            writer.reasons(groups, delta, dict(zip(table.names, map(float, row), strict=True)))
            for delta, row in zip(deltas, table.values, strict=True)
        ]

    def _target_name(self) -> str | None:
        """What is asked about in words, e.g. a category; None for everything, or several items."""
        request, items = self.request, self.ask.dataset.items
        if request.category is not None or len(request.items) != 1:
            return request.category
        row = int(self.ask.dataset.item_rows(request.items)[0])
        return str(items["title"][row] or request.items[0])

    def people(
        self,
        rows: NDArray[np.int64],
        rank_by: NDArray[np.floating],
        reasons: Sequence[tuple[Reason, ...]],
        **columns: Sequence[Any],
    ) -> tuple[UserPrediction, ...]:
        """`rows` of those who are asked about, highest `rank_by` first. columns: fields of `UserPrediction`."""
        ids = self.ask.user_ids(rows)
        return tuple(
            UserPrediction(user_id=ids[n], reasons=reasons[n], **{name: column[n] for name, column in columns.items()})
            for n in self.ask.descending(rows, rank_by)
        )

    def prediction(
        self,
        people: tuple[UserPrediction, ...],
        probability: NDArray[np.float64],
        label: NDArray[np.float64],
        cut: NDArray[np.int64] | None,
        *,
        as_of: int | None = None,
        active_days: int = 0,
        n_campaigns: int = 0,
        **fields: Any,
    ) -> Prediction:
        """The answer. probability, label: of people who were not learned from, for the quality.

        cut: times of the past windows that these are of; None for people by other people. as_of: epoch seconds, now
        when None. active_days, n_campaigns: for the words about the prediction. fields: further ones of `Prediction`.
        """
        kind, horizon, locale = self.request.kind, self.request.horizon_days, self.request.locale
        prompts, day = Prompts.load(), None if cut is None else f"{utc(int(cut.min())):%Y-%m-%d}"
        return Prediction(
            kind=kind,
            horizon_days=horizon,
            as_of=utc(self.now if as_of is None else as_of),
            meaning=prompts.render("behaviour.meaning", locale, kind=str(kind), active=active_days),
            people=people,
            quality=quality(probability, label),
            checked=prompts.render("behaviour.checked", locale, days=horizon, day=day, campaigns=n_campaigns),
            **fields,
        )


def no_past(eligible: Mask) -> dict[str, int]:
    """How many are left out because nothing of them counts."""
    missing = int((~eligible).sum())
    return {"no_past": missing} if missing else {}
