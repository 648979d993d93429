"""How good probabilities are, as data for a table or a picture.

reliability     mean probability and share of outcomes in bins of equal mass, with a 95 % interval (Wilson 1927).
lift@q          share of outcomes among the fraction q with the highest probabilities, over the share among all.
gain(q)         share of all outcomes that are among that fraction (cumulative gains).

Equal probabilities are taken as they are spread over the tie: no order inside of a tie helps or harms.

How well uplifts order people: Qini and uplift curves (Radcliffe 2007; Gutierrez and Gérardy 2017). Among the first
share q of people by uplift, with outcomes weighted by 1 / (probability of the own arm),

    curve(q)   (mean outcome of the treated - mean outcome of the others) · q       extra outcomes per person of all
    auuc       area under the curve
    qini       area between the curve and curve(1) · q; 0 is no better than chance

The same area with everybody's true uplift instead of outcomes needs a simulated log: `true_qini`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recllm.base.stats.intervals import share
from recllm.base.stats.probabilities import auc, calibration_error, mass_bins

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
    fractions: tuple[float, ...]
    """Of people, ascending to 1: the points of both curves."""
    gains: tuple[float, ...]
    lifts: tuple[float, ...]


def quality(probability: Values, label: Values) -> PredictionQuality:
    """probability: (n,) in [0, 1]; label: (n,) of 0 and 1. AUC, lift and gains are left out when there is one class."""
    positive = label > 0
    mixed = bool(positive.any() and not positive.all())
    fractions = np.linspace(1 / 50, 1, 50)
    gains = gain(probability, positive, fractions) if positive.any() else np.zeros(0)
    return PredictionQuality(
        n=len(label),
        base_rate=float(positive.mean()) if len(label) else float("nan"),
        ece=calibration_error(probability, positive),
        auc=auc(probability, positive) if mixed else None,
        lift_at_10=lift(probability, positive, 0.1) if mixed else None,
        bins=reliability(probability, positive),
        fractions=tuple(fractions.tolist()),
        gains=tuple(gains.tolist()),
        lifts=tuple((gains / fractions[: len(gains)]).tolist()),
    )


def reliability(probability: Values, label: Labels) -> tuple[CalibrationBin, ...]:
    """At most `BINS` bins of equal mass; equal probabilities share one."""
    number, calibration = mass_bins(probability, BINS), []
    for inside in (number == bin_number for bin_number in np.unique(number)):
        n, k = int(inside.sum()), int((label[inside] > 0).sum())
        observed, expected = share(k, n), float(probability[inside].mean())
        calibration.append(CalibrationBin(n, expected, observed.value, observed.low, observed.high))
    return tuple(calibration)


def gain(score: Values, label: Labels, fractions: Values) -> Values:
    """Share of all outcomes among each of `fractions` of people, those with the highest scores."""
    positive = label > 0
    return cumulative(score, positive, fractions) / max(int(positive.sum()), 1)


def lift(score: Values, label: Labels, fraction: float) -> float:
    return float(gain(score, label, np.array([fraction]))[0]) / fraction


def cumulative(score: Values, weight: NDArray[np.generic], fractions: Values) -> Values:
    """Sum of `weight` over each of `fractions` of people, highest score first; people of equal score in equal parts."""
    levels, level, counts = np.unique(-score, return_inverse=True, return_counts=True)
    sums = np.bincount(level, weight, minlength=len(levels))
    reached = np.concatenate([[0], np.cumsum(counts)]) / max(len(score), 1)
    return np.asarray(np.interp(fractions, reached, np.concatenate([[0.0], np.cumsum(sums)])))


@dataclass(frozen=True, slots=True, kw_only=True)
class QiniCurve:
    """shares: ascending from 0 to 1. gains: extra outcomes per person of all when that share is treated."""

    shares: tuple[float, ...]
    gains: tuple[float, ...]
    qini: float
    auuc: float
    effect: float
    """gains at 1: the mean effect on everybody."""


def qini_curve(uplift: Values, treated: NDArray[np.bool_], outcome: Values, propensity: Values) -> QiniCurve:
    """From outcomes of a trial with one arm and a control; (n,) each, propensity: to be treated."""
    means = []
    for arm, probability in ((treated, propensity), (~treated, 1 - propensity)):
        weight = cumulative(uplift, arm / probability, SHARES)
        outcomes = cumulative(uplift, arm * outcome / probability, SHARES)
        means.append(np.divide(outcomes, weight, out=np.full(len(SHARES), np.nan), where=weight > 0))
    # where an arm has no one yet there is nothing to compare
    return _curve(np.nan_to_num(means[0] - means[1]) * SHARES)


def true_qini(uplift: Values, truth: Values) -> QiniCurve:
    """From everybody's true uplift, (n,)."""
    return _curve(cumulative(uplift, truth, SHARES) / max(len(truth), 1))


def _curve(gains: Values) -> QiniCurve:
    area = float(np.trapezoid(gains, SHARES))
    return QiniCurve(
        shares=tuple(SHARES.tolist()),
        gains=tuple(gains.tolist()),
        qini=area - float(gains[-1]) / 2,
        auuc=area,
        effect=float(gains[-1]),
    )
