"""What a prediction is: people with a chance, a value or a date, why, and how good such predictions were before."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum

from recllm.propensity.curves import Quality
from recllm.schema import Reason


class Kind(StrEnum):
    """What can be predicted of a person."""

    BUY = "buy"
    LEAVE = "leave"
    REDEEM = "redeem"
    NEXT_ORDER = "next-order"
    VALUE = "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One person. user_id: the dataset's, a pseudonym where the shop's ids are kept apart.

    probability: calibrated, in [0, 1], of the kind's event; for a value, of any purchase. value: money, for that kind.
    date: of the next order, with the days between which it lies with 80 %; None where that is beyond the horizon.
    """

    user_id: str
    probability: float
    value: float | None = None
    date: dt.date | None = None
    earliest: dt.date | None = None
    latest: dt.date | None = None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """people: most likely, most valuable or soonest first. checked: on which past window `quality` was measured."""

    kind: Kind
    horizon_days: int
    as_of: dt.datetime
    meaning: str
    people: tuple[Predicted, ...]
    quality: Quality
    checked: str
    figures: dict[str, float] = field(default_factory=dict)
    """Further figures of the past window, by name, e.g. the mean absolute error of a value."""
    left_out: dict[str, int] = field(default_factory=dict)
    """People who are not predicted, by why."""
    notes: tuple[str, ...] = ()
