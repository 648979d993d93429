"""What is asked of a prediction, and the answer: people with a probability, a value or a date, why, and how good it is.

A request says at once what is wrong in it, before anything is loaded.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import InstanceOf, model_validator

from recllm.base.documents import guarded, plain, write_csv
from recllm.base.errors import UsageError
from recllm.base.schema import Reason
from recllm.market.propensity.coupons import Coupons
from recllm.market.propensity.quality import PredictionQuality
from recllm.market.propensity.question import PredictionKind, PredictionQuestion

CSV_COLUMNS = ("user_id", "probability", "value", "date", "earliest", "latest", "reasons")


class PredictionRequest(PredictionQuestion):
    """Raises `UsageError` for a horizon below a day, and for what does not fit the kind."""

    coupons: Path | InstanceOf[Coupons] | None = None
    """redeem alone, and needed there: the coupon tables or their folder, see `recllm.market.propensity.coupons`."""
    campaign: str | None = None
    """redeem alone: its id; the latest when None."""
    locale: str = "en"
    """Language of the reasons."""
    seed: int = 0

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        leave, redeem = PredictionKind.LEAVE, PredictionKind.REDEEM
        kinds = {"active_days": leave, "coupons": redeem, "campaign": redeem}
        unfit = [name for name, kind in kinds.items() if getattr(self, name) is not None and kind != self.kind]
        if unfit:
            raise UsageError(f"{', '.join(unfit)} is not for the kind {self.kind}")
        if self.items and self.category is not None:
            raise UsageError("a prediction is of items or of a category: give one of them")
        if self.targeted and self.kind == leave:
            raise UsageError("leaving is about any purchase; use buy for --item and --category")
        if self.targeted and self.kind == redeem:
            raise UsageError("redeem is about a campaign's own products; leave out --item and --category")
        if self.coupons is None and self.kind == redeem:
            raise UsageError(
                "redeem needs coupon tables: give --coupons FOLDER with mailings, products and redemptions"
            )
        return self

    @property
    def targeted(self) -> bool:
        """Whether only some items count."""
        return bool(self.items) or self.category is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPrediction:
    """One person."""

    user_id: str
    """The dataset's: a pseudonym where the shop's ids are kept apart."""
    probability: float
    """Calibrated, in [0, 1], of the kind's event; for a value, of any purchase."""
    value: float | None = None
    """Money within the horizon; for that kind alone."""
    date: dt.date | None = None
    """Of the next order; None where that is beyond the horizon."""
    earliest: dt.date | None = None
    """The next order comes between this and `latest` with a probability of 80 %."""
    latest: dt.date | None = None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answer to one request."""

    kind: PredictionKind
    horizon_days: int
    as_of: dt.datetime
    meaning: str
    """What the numbers are, in the language of the reasons."""
    people: tuple[UserPrediction, ...]
    """Most likely, most valuable or soonest first."""
    quality: PredictionQuality
    checked: str
    """The past window on which `quality` was measured, in words."""
    figures: dict[str, float] = field(default_factory=dict)
    """Further figures of the past window, by name, e.g. the mean absolute error of a value."""
    left_out: dict[str, int] = field(default_factory=dict)
    """People who are not predicted, by why."""
    notes: tuple[str, ...] = ()


def prediction_document(prediction: Prediction, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints. ids: pseudonym -> the shop's own id, where it is known."""
    ids, quality = ids or {}, prediction.quality
    columns = {PredictionKind.VALUE: ("value",), PredictionKind.NEXT_ORDER: ("date", "earliest", "latest")}
    people = []
    for person in prediction.people:
        row = {"user_id": ids.get(person.user_id, person.user_id), "probability": person.probability}
        row |= {name: _text_of_date(getattr(person, name)) for name in columns.get(prediction.kind, ())}
        people.append(row | {"reasons": plain(person.reasons)})
    return {
        "kind": prediction.kind.value,
        "horizon_days": prediction.horizon_days,
        "as_of": plain(prediction.as_of),
        "meaning": prediction.meaning,
        "people": people,
        "calibration": {
            "ece": quality.ece,
            "checked": prediction.checked,
            "n": quality.n,
            "base_rate": quality.base_rate,
            "auc": quality.auc,
            "lift@10%": quality.lift_at_10,
            "reliability": plain(quality.bins),
            **prediction.figures,
        },
        "left_out": dict(prediction.left_out),
        "notes": list(prediction.notes),
    }


def write_prediction_csv(prediction: Prediction, file: Path, ids: Mapping[str, str] | None = None) -> None:
    """One line per person, `CSV_COLUMNS`; reasons joined by " | ". UTF-8."""
    rows = [
        (
            guarded((ids or {}).get(person.user_id, person.user_id)),
            f"{person.probability:.6f}",
            "" if person.value is None else f"{person.value:.2f}",
            *(_text_of_date(date) or "" for date in (person.date, person.earliest, person.latest)),
            guarded(" | ".join(reason.text for reason in person.reasons)),
        )
        for person in prediction.people
    ]
    write_csv(file, CSV_COLUMNS, rows)


def _text_of_date(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value
