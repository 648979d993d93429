"""From scores to probabilities, how good these are, and whether two samples are distributed alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recllm.base.arrays import Array, Ints, Mask, Values
from recllm.base.errors import UsageError

Labels = Mask

STEPS = 100
"""Of Newton's method at most; a slope that the data do not bound ends there."""


def sigmoid(logit: ArrayLike) -> Array:
    """1 / (1 + exp(-logit)), always within (0, 1) in double precision. It needs no scipy, whose import costs an answer
    of a new process a tenth of its time."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


def log_odds(probability: ArrayLike) -> Array:
    """log(p / (1 - p)), the inverse of `sigmoid`; finite for 0 and 1 too."""
    p = np.asarray(probability)
    return np.asarray(np.log(np.clip(p, 1e-9, 1 - 1e-9) / np.clip(1 - p, 1e-9, 1)))


def logistic_line(
    logit: NDArray[np.floating],
    target: Array,
    weight: NDArray[np.floating] | float = 1.0,
    *,
    start: ArrayLike = (1.0, 0.0),
    strength: ArrayLike = (1e-9, 1e-9),
) -> Values:
    """Slope and intercept (2,) of the likeliest sigmoid(slope * logit + intercept), by Newton's method (Platt 1999).

    logit, target, weight: (n,); target in [0, 1]. strength: pull of the two towards 1 and 0.
    """
    x = np.stack([logit, np.ones(len(logit))], axis=1).astype(np.float64)
    line, pull = np.array(start, np.float64), np.asarray(strength)
    for _ in range(STEPS):
        p = sigmoid(x @ line)
        gradient = x.T @ (weight * (target - p)) - pull * (line - [1.0, 0.0])
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(pull)
        step = np.linalg.solve(curvature, gradient)
        line += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    return line


# --- how good probabilities are --------------------------------------------------------------------------------------


def accuracy(probability: NDArray[np.floating], label: Labels, threshold: float = 0.5) -> float:
    """Share of pairs where (probability >= threshold) equals the label, both of shape (n,).

    It flatters a model on rare events: with 1 % buyers, "no customer buys" scores 0.99.
    """
    _check_shapes("accuracy", probability, label)
    return float(np.mean((probability >= threshold) == label.astype(bool))) if len(label) else float("nan")


def mass_bins(values: NDArray[np.floating], bins: int) -> Ints:
    """The bin of each value, (n,), among at most `bins` of equal mass, ascending; equal values share a bin."""
    ascending = np.sort(values)
    edges = np.unique(ascending[(np.arange(1, bins) * len(ascending)) // bins]) if len(values) else values
    return np.asarray(np.searchsorted(edges, values, side="right"), np.int64)


def calibration_error(probability: NDArray[np.floating], label: Labels, bins: int = 15) -> float:
    """Expected calibration error: mean gap between mean probability and share of true labels over `bins` bins of equal
    mass, weighted by their size; in [0, 1], 0 is calibrated. Shapes (n,); NaN without pairs.

    Source: Naeini et al. 2015, with bins of equal mass as Nixon et al. 2019 advise. Equal probabilities share a bin.
    """
    _check_shapes("calibration_error", probability, label)
    if not len(label):
        return float("nan")
    gap = np.bincount(mass_bins(probability, bins), probability.astype(np.float64) - label)
    return float(np.abs(gap).sum() / len(label))


def auc(score: NDArray[np.floating], label: Array) -> float:
    """Chance that a random true label has a higher score than a random false one, ties half; NaN without both."""
    from scipy.stats import rankdata

    positive = label > 0
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def _check_shapes(name: str, probability: NDArray[np.floating], label: Labels) -> None:
    if probability.shape != label.shape:
        raise UsageError(f"{name}: {probability.shape} probabilities for {label.shape} labels")


# --- whether two samples are distributed alike ------------------------------------------------------------------------
