"""Where a version comes from: what it was trained on, why, and what the gate said of it.

A lineage is sealed in the version's manifest and never changes. Which versions served, and since when, stands in the
registry's log of decisions.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from recllm.base.documents import CountOrZero, Flag, FrozenModel, Text


class Origin(StrEnum):
    """What made a version."""

    TRAINED = "trained"
    """By hand, `recllm train`."""
    RETRAINED = "retrained"
    """By `recllm retrain`, and judged by the gate."""
    REFRESHED = "refreshed"
    """By a `recllm refresh` of earlier releases: the weights of its parent."""


class CheckKind(StrEnum):
    """What may say that a model is due for retraining."""

    DATA_DRIFT = "data_drift"
    SCORE_DRIFT = "score_drift"
    """Of earlier releases: how probabilities moved, which the calibration judges better."""
    CALIBRATION = "calibration"
    """Of the gate; in earlier releases it also said that a model was due."""
    AGE = "age"
    ERASURE = "erasure"
    """It learned from a customer who was erased since."""


class CheckVerdict(StrEnum):
    DUE = "due"
    NOT_DUE = "not_due"
    UNKNOWN = "unknown"
    """There is too little data to tell."""


class CheckFigure(FrozenModel):
    """One number of a check; None where it cannot be measured."""

    value: float | None
    low: float | None = None
    """The 95 % interval of the value, over people, where it has one."""
    high: float | None = None
    lower_limit: float | None = None
    upper_limit: float | None = None
    is_beyond: Flag = False
    """The value, or where it has one its interval, lies outside the limits."""


class RetrainCheck(FrozenModel):
    """One question to the log and the serving model.
    DUE where any figure is beyond its limits."""

    kind: CheckKind
    verdict: CheckVerdict
    figures: dict[str, CheckFigure]
    people: CountOrZero | None = None
    """People that the figures rest on, of the smaller side of a comparison; None where there are none."""


class GateVerdict(StrEnum):
    PASSED = "passed"
    REFUSED = "refused"


class GateReason(StrEnum):
    """Why a challenger passed (the first two) or was refused."""

    BETTER = "better"
    """An interval of the difference lies above zero, none reaches below the margin."""
    NOT_WORSE = "not_worse"
    """No interval reaches below the margin."""
    WORSE = "worse"
    """An interval of the difference lies below zero."""
    NOT_PROVEN = "not_proven"
    """An interval straddles zero and reaches below the margin: it may be worse by more than is allowed."""
    TOO_FEW_PEOPLE = "too_few_people"
    """Too few people bought in the window for an interval to mean anything."""
    MISCALIBRATED = "miscalibrated"
    """Its probabilities are beyond the limits of the calibration, and farther off than those that serve."""
    NARROW = "narrow"
    """Its lists show much less of the catalogue: of the gate of earlier releases."""


class GateComparison(FrozenModel):
    """A metric of the challenger and of the serving model on a slice, for the same people."""

    slice: Text
    metric: Text
    people: CountOrZero
    challenger: float
    serving: float
    difference: float
    """Mean over people of challenger - serving, and its 95 % interval (paired bootstrap)."""
    low: float
    high: float
    margin: float
    """By so much the challenger may be worse, in units of the metric."""


class GateReport(FrozenModel):
    """What was found when a challenger and the serving model were asked the same."""

    verdict: GateVerdict
    reasons: tuple[GateReason, ...]
    window_start: Text
    """ISO 8601, UTC. The challenger learned from nothing at or after it."""
    window_end: Text
    comparisons: tuple[GateComparison, ...]
    serving_seen_days: float
    """Days of the window that the serving model had learned from: above 0 it has an advantage."""
    serving_coverage: float | None = None
    """Share of the items on offer that the lists show, which the gate of earlier releases compared."""
    challenger_coverage: float | None = None
    serving_calibration: RetrainCheck | None = None
    challenger_calibration: RetrainCheck | None = None


class Lineage(FrozenModel):
    """What a version's manifest says of its origin."""

    origin: Origin
    parent: Text | None = None
    """The version that served when this one was made; None for the first."""
    data_hash: Text
    """Of what it was trained on, see `Dataset.data_hash`."""
    people: CountOrZero
    items: CountOrZero
    events: CountOrZero
    trained_from: Text
    """ISO 8601, UTC: the first event that it learned from."""
    trained_until: Text
    """It learned from nothing at or after this time."""
    last_load: CountOrZero | None = None
    """Number of the newest load of the store when it was published; None before that was written down."""
    checks: tuple[RetrainCheck, ...] = ()
    """Why it was trained, where `recllm retrain` did."""
    gate: GateReport | None = None
    privacy: dict[str, Any] | None = None
    """Of a version that an earlier release trained under differential privacy: it is not used any more."""

    @property
    def is_refused(self) -> bool:
        return self.gate is not None and self.gate.verdict is GateVerdict.REFUSED


class Taint(FrozenModel):
    """Of a version that learned from a customer who was erased since."""

    since: Text
    """ISO 8601, UTC: the first such erasure."""
    use_until: Text
    """ISO 8601, UTC: from then on it cannot be opened."""

    def has_ended(self, now: datetime) -> bool:
        """now: aware."""
        return datetime.fromisoformat(self.use_until) <= now
