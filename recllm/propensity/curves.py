"""How good chances are, as data for a table or a picture.

reliability     mean probability and share of outcomes in bins of equal mass, with a 95 % interval (Wilson 1927).
lift@q          share of outcomes among the fraction q with the highest chances, over the share among all.
gain(q)         share of all outcomes that are among that fraction (cumulative gains).
auc             chance that one with the outcome ranks before one without (Mann and Whitney 1947), ties count half.

Equal chances are taken as they are spread over the tie: no order inside of a tie helps or harms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.metrics import calibration_error

Values = NDArray[np.float64]
Labels = NDArray[np.float64] | NDArray[np.bool_]
Z = 1.959964


@dataclass(frozen=True, slots=True)
class Bin:
    """People with similar chances. expected: mean probability; seen: share with the outcome, low and high around it."""

    n: int
    expected: float
    seen: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Of `n` held-out rows. fractions, gains, lifts: one entry per point of the curves, fractions ascending to 1."""

    n: int
    base_rate: float
    ece: float
    auc: float | None
    lift_at_10: float | None
    bins: tuple[Bin, ...]
    fractions: tuple[float, ...]
    gains: tuple[float, ...]
    lifts: tuple[float, ...]


def quality(probability: Values, label: Values, *, points: int = 50) -> Quality:
    """probability: (n,) in [0, 1]; label: (n,) of 0 and 1. AUC, lift and gains are left out when there is one class."""
    yes = label > 0
    mixed = bool(yes.any() and not yes.all())
    fractions = tuple(float(q) for q in np.linspace(1 / points, 1, points))
    gains = tuple(gain(probability, yes, q) for q in fractions) if yes.any() else ()
    return Quality(
        n=len(label),
        base_rate=float(yes.mean()) if len(label) else float("nan"),
        ece=calibration_error(probability, yes),
        auc=auc(probability, yes) if mixed else None,
        lift_at_10=lift(probability, yes, 0.1) if mixed else None,
        bins=reliability(probability, yes),
        fractions=fractions,
        gains=gains,
        lifts=tuple(g / q for g, q in zip(gains, fractions, strict=False)),
    )


def reliability(probability: Values, label: Labels, bins: int = 10) -> tuple[Bin, ...]:
    """At most `bins` bins of equal mass; equal probabilities share one."""
    if not len(probability):
        return ()
    order = np.sort(probability)
    edges = np.unique(order[(np.arange(1, bins) * len(order)) // bins])
    place = np.searchsorted(edges, probability, side="right")
    return tuple(_bin(probability[place == b], label[place == b]) for b in np.unique(place))


def _bin(probability: Values, label: Labels) -> Bin:
    n, seen = len(probability), float(np.mean(label > 0))
    middle = (seen + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(seen * (1 - seen) / n + Z**2 / (4 * n**2))
    return Bin(n, float(probability.mean()), seen, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def auc(score: Values, label: Labels) -> float:
    """NaN without both classes."""
    yes = label > 0
    n, m = int(yes.sum()), int((~yes).sum())
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((rank[yes].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def gain(score: Values, label: Labels, fraction: float) -> float:
    """Share of all outcomes among the `fraction` of people with the highest scores; ties are shared out evenly."""
    room, yes = fraction * len(score), label > 0
    levels, place, counts = np.unique(-score, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    share = np.clip((room - before) / counts, 0, 1)  # of each level that fits
    found = np.bincount(place, yes, minlength=len(levels))
    return float((share * found).sum() / max(yes.sum(), 1))


def lift(score: Values, label: Labels, fraction: float) -> float:
    return gain(score, label, fraction) / fraction
