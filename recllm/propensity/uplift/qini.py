"""How well uplifts order people: Qini and uplift curves (Radcliffe 2007; Gutierrez and Gérardy 2017).

People are ordered by their uplift, highest first. Among the first share q of them, with outcomes weighted by
1 / (probability of the own arm),

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

from recllm.propensity.quality import cumulative
from recllm.propensity.uplift.trial import RandomisedTrial

Values = NDArray[np.float64]
SHARES = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True, kw_only=True)
class QiniCurve:
    """shares: ascending from 0 to 1. gains: extra outcomes per person of all when that share is treated."""

    shares: tuple[float, ...]
    gains: tuple[float, ...]
    qini: float
    auuc: float
    effect: float
    """gains at 1: the mean effect on everybody."""


def qini_curve(uplift: Values, trial: RandomisedTrial) -> QiniCurve:
    """From outcomes of a trial, (n,)."""
    means = []
    for arm, probability in ((trial.treated, trial.propensity), (~trial.treated, 1 - trial.propensity)):
        weight = cumulative(uplift, arm / probability, SHARES)
        outcomes = cumulative(uplift, arm * trial.outcome / probability, SHARES)
        means.append(np.divide(outcomes, weight, out=np.full(len(SHARES), np.nan), where=weight > 0))
    # where an arm has nobody yet there is nothing to compare
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
