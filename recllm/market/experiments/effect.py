"""The difference of two variants, with an interval that holds at every look.

The unit is the person, since people are what was drawn: each gives one numerator (clicks, orders, revenue) and one
denominator (showings; 1 for a mean per person). A variant's value is sum of numerators / sum of denominators, and its
variance that of the linearised (numerator - value * denominator) / mean denominator (delta method; Deng et al. 2018).

fixed          Welch's t. Right at one look that was chosen in advance; looked at daily it finds differences that are
               not there in a fifth to a half of all experiments.
always valid   the normal mixture as an asymptotic confidence sequence (Robbins 1970; Johari et al. 2022; Waudby-Smith
               et al. 2024, theorem 2.2). Holds the truth at all looks together, so a test may be ended at any of them.

The sequence counts time in people. A person's numerator also grows after they joined; the multiplier never falls below
3.03 standard errors at 95 %, which is enough while the information in the log grows up to sixtyfold
(`eval/experiments.py`).

A covariate from before the experiment, such as what each person spent in the month before, takes out what it explains
(CUPED; Deng et al. 2013) and narrows both intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, log, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recllm.base.errors import DataError
from recllm.base.stats.intervals import Interval
from recllm.market.experiments.split import Experiment, RatioVerdict, SampleRatio, check_sample_ratio

Values = NDArray[np.float64]

ALPHA = 0.05
"""Chance that an always-valid interval ever misses the truth."""

PLANNED_PEOPLE = 5_000
"""Of both variants together: where the always-valid interval is narrowest against the fixed one. It is at most a tenth
wider between half and six times as many."""

MIN_PEOPLE = 50
"""Of each variant: with fewer the sums of people are too far from normal, and nothing is said."""


class Verdict(StrEnum):
    """The verdict of the always-valid interval about a variant against the control."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


class Direction(StrEnum):
    """Which values of a metric are good."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """A variant's people: their number, means and co-moments. Parts with different people add
    up with `+`, so a log can be read in pieces; all rows of one person belong to one piece.
    """

    people: int
    means: Values
    """(3,): numerator, denominator, covariate."""
    scatter: Values
    """(3, 3): sums over people of products of deviations from the means."""

    @classmethod
    def of(cls, numerators: ArrayLike, denominators: ArrayLike = 1.0, covariates: ArrayLike = 0.0) -> Moments:
        """One entry per person, (people,); people who did nothing count with 0. A single number stands for everybody.

        Raises `DataError` for numbers that are not finite, a negative denominator, or arrays of different lengths.
        """
        columns = [np.asarray(values, np.float64) for values in (numerators, denominators, covariates)]
        shape = columns[0].shape
        if len(shape) != 1 or any(column.shape not in ((), shape) for column in columns):
            raise DataError("moments: give one numerator, denominator and covariate for each person")
        table = np.stack(np.broadcast_arrays(*columns), axis=1)
        if not np.isfinite(table).all() or (table[:, 1] < 0).any():
            raise DataError("moments: numerators and covariates are finite, denominators are 0 or more")
        if not len(table):
            return cls(0, np.zeros(3), np.zeros((3, 3)))
        means = table.mean(axis=0)
        return cls(len(table), means, (table - means).T @ (table - means))

    def __add__(self, addend: Moments) -> Moments:
        """Of the people of both (Chan et al. 1979)."""
        people = self.people + addend.people
        if not people:
            return self
        gap = addend.means - self.means
        means = self.means + gap * (addend.people / people)
        between = np.outer(gap, gap) * (self.people * addend.people / people)
        return Moments(people, means, self.scatter + addend.scatter + between)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A variant against the control, by one metric."""

    control: float
    """Sum of numerators / sum of denominators, after the covariate's part; NaN without people."""
    treatment: float
    difference: float
    """treatment - control."""
    relative_difference: float
    """difference / control; NaN where the control is 0."""
    interval: Interval
    """Of the difference at one look chosen in advance, at 1 - alpha."""
    always_valid_interval: Interval
    """Of the difference at all looks together."""
    verdict: Verdict


def always_valid_multiplier(people: int, planned_people: int = PLANNED_PEOPLE, alpha: float = ALPHA) -> float:
    """Half the width of the always-valid interval in standard errors of the difference.

    people: of both variants so far, at least 1. Waudby-Smith et al. 2024, theorem 2.2 and its appendix on the choice of
    rho.
    """
    rho_squared = (-2 * log(alpha) + log(1 - 2 * log(alpha))) / planned_people
    growth = people * rho_squared + 1
    return sqrt(growth / (growth - 1) * log(growth / alpha**2))


def estimate_effect(
    control: Moments, treatment: Moments, *, better: Direction = Direction.HIGHER, alpha: float = ALPHA
) -> Effect:
    """treatment - control with both intervals."""
    if min(control.people, treatment.people) < 2 or min(control.means[1], treatment.means[1]) <= 0:
        nothing = Interval(-inf, inf)
        return _effect(_ratio(control), _ratio(treatment), nothing, nothing, better)

    from scipy.special import stdtrit

    # how much of a person's linearised metric a unit of the covariate explains, and the covariate's mean
    pooled = control + treatment
    linear, variance = np.array([1.0, -_ratio(pooled), 0.0]) / pooled.means[1], float(pooled.scatter[2, 2])
    theta, center = float(linear @ pooled.scatter[:, 2]) / variance if variance > 0 else 0.0, float(pooled.means[2])
    control_value, control_variance = _value_and_variance(control, theta, center)
    treatment_value, treatment_variance = _value_and_variance(treatment, theta, center)
    difference, variance = treatment_value - control_value, treatment_variance + control_variance
    error, people = sqrt(variance), control.people + treatment.people
    # Welch and Satterthwaite's degrees of freedom
    spread = control_variance**2 / (control.people - 1) + treatment_variance**2 / (treatment.people - 1)
    degrees = variance**2 / spread if spread > 0 else people - 2
    fixed = float(stdtrit(degrees, 1 - alpha / 2)) * error
    always = always_valid_multiplier(people, alpha=alpha) * error
    if min(control.people, treatment.people) < MIN_PEOPLE:
        always = inf
    return _effect(
        control_value,
        treatment_value,
        Interval(difference - fixed, difference + fixed),
        Interval(difference - always, difference + always),
        better,
    )


def _effect(control: float, treatment: float, fixed: Interval, always: Interval, better: Direction) -> Effect:
    difference = treatment - control
    verdict = Verdict.UNDECIDED
    if not always.holds(0.0):
        verdict = Verdict.BETTER if (difference > 0) == (better is Direction.HIGHER) else Verdict.WORSE
    return Effect(
        control=control,
        treatment=treatment,
        difference=difference,
        relative_difference=difference / control if control else float("nan"),
        interval=fixed,
        always_valid_interval=always,
        verdict=verdict,
    )


def _ratio(moments: Moments) -> float:
    numerator, denominator, _ = moments.means
    return float(numerator / denominator) if denominator > 0 else float("nan")


def _value_and_variance(moments: Moments, theta: float, center: float) -> tuple[float, float]:
    """A variant's value without the covariate's part, and the variance of that value."""
    value = _ratio(moments)
    linear = np.array([1.0, -value, -theta * moments.means[1]]) / moments.means[1]
    variance = max(0.0, float(linear @ moments.scatter @ linear)) / (moments.people - 1)
    return value - theta * (float(moments.means[2]) - center), variance / moments.people


# --- a whole experiment -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantComparison:
    """A variant against the control."""

    variant: str
    metric: Effect
    guard: Effect | None
    """None where the experiment has no guard. `Verdict.WORSE` means that the variant raises it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentReport:
    """The results of an experiment now."""

    sample_ratio: SampleRatio
    comparisons: tuple[VariantComparison, ...]
    """One for each variant but the control, in the experiment's order."""


def analyse(
    experiment: Experiment,
    metric: Mapping[str, Moments],
    guard: Mapping[str, Moments] | None = None,
) -> ExperimentReport:
    """metric, guard: moments by variant over all people who were logged with it, people who did nothing included.

    `ALPHA` is divided by the number of comparisons (Bonferroni). While the sample ratio is a mismatch every verdict is
    `Verdict.UNDECIDED`. Raises `DataError` where a variant, or the guard's
    moments of an experiment with a guard, are missing.
    """
    names = [variant.name for variant in experiment.variants]
    for moments in (metric, guard):
        if moments is not None and set(moments) != set(names):
            raise DataError(f"experiment {experiment.name!r}: moments of {sorted(moments)}; give those of {names}")
    if (guard is None) != (experiment.guard is None):
        raise DataError(f"experiment {experiment.name!r}: its guard is {experiment.guard!r}; give moments of just that")
    people = {name: metric[name].people for name in names}
    sample_ratio = check_sample_ratio(experiment, people)

    def compared(moments: Mapping[str, Moments], name: str, better: Direction) -> Effect:
        effect = estimate_effect(
            moments[experiment.control.name],
            moments[name],
            better=better,
            alpha=ALPHA / (len(names) - 1),
        )
        is_mismatch = sample_ratio.verdict is RatioVerdict.MISMATCH
        return replace(effect, verdict=Verdict.UNDECIDED) if is_mismatch else effect

    comparisons = tuple(
        VariantComparison(
            variant=name,
            metric=compared(metric, name, Direction.HIGHER),
            guard=None if guard is None else compared(guard, name, Direction.LOWER),
        )
        for name in names[1:]
    )
    return ExperimentReport(sample_ratio=sample_ratio, comparisons=comparisons)
