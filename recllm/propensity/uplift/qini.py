"""How well uplifts order people: Qini and uplift curves (Radcliffe 2007; Gutierrez and Gérardy 2017).

People are ordered by their uplift, highest first. Among the first share q of them, with outcomes weighted by
1 / (chance of the own arm),

    curve(q)   (mean outcome of the treated - mean outcome of the others) · q       extra outcomes per person of all
    random(q)  curve(1) · q
    auuc       area under the curve
    qini       area between the curve and random; 0 is no better than chance

The same area with everybody's true uplift instead of outcomes needs a simulated log: `true_qini`. A tie is one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.propensity.uplift.trial import Trial

Values = NDArray[np.float64]
POINTS = 101


@dataclass(frozen=True, slots=True, kw_only=True)
class QiniCurve:
    """shares: ascending from 0 to 1. gains: extra outcomes per person of all when that share is treated."""

    shares: tuple[float, ...]
    gains: tuple[float, ...]
    qini: float
    auuc: float
    effect: float
    """gains at 1: the mean effect on everybody."""


def qini_curve(uplift: Values, trial: Trial) -> QiniCurve:
    """From outcomes of a trial, (n,)."""
    own = np.where(trial.treated, trial.propensity, 1 - trial.propensity)
    columns = [w / own for w in (trial.treated, trial.treated * trial.outcome)]
    columns += [w / own for w in (~trial.treated, ~trial.treated * trial.outcome)]
    n1, y1, n0, y0 = (_cumulated(uplift, column) for column in columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = np.where((n1 > 0) & (n0 > 0), y1 / n1 - y0 / n0, 0.0)
    return _curve(effect * np.linspace(0, 1, POINTS))


def true_qini(uplift: Values, truth: Values) -> QiniCurve:
    """From everybody's true uplift, (n,)."""
    return _curve(_cumulated(uplift, truth) / max(len(truth), 1))


def _curve(gains: Values) -> QiniCurve:
    shares = np.linspace(0, 1, POINTS)
    area = float(np.trapezoid(gains, shares))
    return QiniCurve(
        shares=tuple(map(float, shares)),
        gains=tuple(map(float, gains)),
        qini=area - float(gains[-1]) / 2,
        auuc=area,
        effect=float(gains[-1]),
    )


def _cumulated(uplift: Values, weight: Values) -> Values:
    """Sum of `weight` over the first share of people, at POINTS shares; people of equal uplift count in equal parts."""
    levels, place, counts = np.unique(-uplift, return_inverse=True, return_counts=True)
    sums = np.bincount(place, weight, minlength=len(levels))
    reached = np.concatenate([[0.0], np.cumsum(counts)]) / max(len(uplift), 1)
    return np.asarray(np.interp(np.linspace(0, 1, POINTS), reached, np.concatenate([[0.0], np.cumsum(sums)])))
