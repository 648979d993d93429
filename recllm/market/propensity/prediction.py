"""What is asked of a prediction, and the answer: people with a probability, a value or a date, why, and how good it is.

reliability     mean probability and share of outcomes in bins of equal mass, with a 95 % interval (Wilson 1927).
lift@q          share of outcomes among the fraction q with the highest probabilities, over the share among all.

How well uplifts order people: Qini and uplift curves (Radcliffe 2007; Gutierrez and Gérardy 2017). Among the first
share q of people by uplift, with outcomes weighted by 1 / (probability of the own arm),

    curve(q)   (mean outcome of the treated - mean outcome of the others) · q       extra outcomes per person of all
    auuc       area under the curve
    qini       area between the curve and curve(1) · q; 0 is no better than chance
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import InstanceOf, model_validator

from recllm.base.documents import plain
from recllm.base.errors import UsageError
from recllm.base.questions import PredictionKind, PredictionQuestion
from recllm.base.schema import Reason
from recllm.base.stats.intervals import share
from recllm.base.stats.probabilities import auc, calibration_error, mass_bins
from recllm.market.propensity.coupons import Coupons

Values = NDArray[np.float64]
Labels = NDArray[np.float64] | NDArray[np.bool_]
BINS = 10
SHARES = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """People with similar probabilities."""

    n: int
    expected: float
    """Mean probability."""
    observed: float = field(metadata={"json": "seen"})
    """Share with the outcome; low and high around it."""
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionQuality:
    """Of `n` held-out rows."""

    n: int
    base_rate: float
    ece: float
    """Expected calibration error."""
    auc: float | None
    """This and the lift are None where there is one class alone."""
    lift_at_10: float | None
    bins: tuple[CalibrationBin, ...]


def quality(probability: Values, label: Values) -> PredictionQuality:
    """probability: (n,) in [0, 1]; label: (n,) of 0 and 1.
    AUC and lift are left out when there is one class."""
    positive = label > 0
    mixed = bool(positive.any() and not positive.all())
    return PredictionQuality(
        n=len(label),
        base_rate=float(positive.mean()) if len(label) else float("nan"),
        ece=calibration_error(probability, positive),
        auc=auc(probability, positive) if mixed else None,
        lift_at_10=lift(probability, positive, 0.1) if mixed else None,
        bins=reliability(probability, positive),
    )


def reliability(probability: Values, label: Labels) -> tuple[CalibrationBin, ...]:
    """At most `BINS` bins of equal mass; equal probabilities share one."""
    number, calibration = mass_bins(probability, BINS), []
    for inside in (number == bin_number for bin_number in np.unique(number)):
        n, k = int(inside.sum()), int((label[inside] > 0).sum())
        observed, expected = share(k, n), float(probability[inside].mean())
        calibration.append(CalibrationBin(n, expected, observed.value, observed.low, observed.high))
    return tuple(calibration)


def lift(score: Values, label: Labels, fraction: float) -> float:
    """Share of the outcomes that are among the people with the highest scores, over the share of people."""
    hits = cumulative(score, label > 0, np.array([fraction]))[0]
    return float(hits) / max(int((label > 0).sum()), 1) / fraction


def cumulative(score: Values, weight: NDArray[np.generic], fractions: Values) -> Values:
    """Sum of `weight` over each of `fractions` of people, highest score first; people of equal score in equal parts."""
    levels, level, counts = np.unique(-score, return_inverse=True, return_counts=True)
    sums = np.bincount(level, weight, minlength=len(levels))
    reached = np.concatenate([[0], np.cumsum(counts)]) / max(len(score), 1)
    return np.asarray(np.interp(fractions, reached, np.concatenate([[0.0], np.cumsum(sums)])))


@dataclass(frozen=True, slots=True, kw_only=True)
class QiniCurve:
    """Figures of the curve, in extra outcomes per person of all."""

    qini: float
    auuc: float
    effect: float
    """curve(1): the mean effect on everybody."""


def qini_curve(uplift: Values, treated: NDArray[np.bool_], outcome: Values, propensity: Values) -> QiniCurve:
    """From outcomes of a trial with one arm and a control; (n,) each, propensity: to be treated."""
    means = []
    for arm, probability in ((treated, propensity), (~treated, 1 - propensity)):
        weight = cumulative(uplift, arm / probability, SHARES)
        outcomes = cumulative(uplift, arm * outcome / probability, SHARES)
        means.append(np.divide(outcomes, weight, out=np.full(len(SHARES), np.nan), where=weight > 0))
    # where an arm has no one yet there is nothing to compare
    return curve_of(np.nan_to_num(means[0] - means[1]) * SHARES)


def curve_of(gains: Values) -> QiniCurve:
    area = float(np.trapezoid(gains, SHARES))
    return QiniCurve(qini=area - float(gains[-1]) / 2, auuc=area, effect=float(gains[-1]))


class PredictionRequest(PredictionQuestion):
    """Raises `UsageError` for a horizon below a day, and for what does not fit the kind."""

    coupons: Path | InstanceOf[Coupons] | None = None
    """redeem alone, and needed there: the coupon tables or their folder."""
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
        row |= {name: plain(getattr(person, name)) for name in columns.get(prediction.kind, ())}
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
