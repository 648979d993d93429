"""Which customer sees which variant of an experiment, and the difference of two variants, at every look.

A hash of the pseudonym draws the variant: nothing has to be stored. A person keeps it as long as the experiment's name,
variants and weights stay. Other weights move some people, so an experiment that goes on with them needs another name.

Whether each variant got the people that its weight promised is a test that holds at every look:

    e = P(counts | shares drawn from a Dirichlet around the weights) / P(counts | shares are the weights)

(Lindon and Malek 2022, Anytime-valid inference for multinomial count data). While people are drawn by the weights the
ratio is a martingale of mean 1, so the chance that it ever exceeds 1 / alpha is at most alpha, however often one looks.

Of a difference the unit is the person, since people are what was drawn: each gives one numerator (clicks, orders,
revenue) and one denominator (showings; 1 for a mean per person). A variant's value is sum of numerators / sum of
denominators, and its variance that of the linearised (numerator - value * denominator) / mean denominator (delta
method; Deng et al. 2018).

fixed          Welch's t. Right at one look that was chosen in advance; a daily look finds what is not there.
always valid   the normal mixture as an asymptotic confidence sequence (Robbins 1970; Johari et al. 2022; Waudby-Smith
               et al. 2024, theorem 2.2). Holds the truth at all looks together, so a test may be ended at any of them.

The sequence counts time in people. A person's numerator also grows after they joined; the multiplier never falls below
3.03 standard errors at 95 %, which is enough while the information in the log grows up to sixtyfold
(`eval/experiments.py`).

A covariate from before the experiment, such as what each person spent in the month before, takes out what it explains
(CUPED; Deng et al. 2013) and narrows both intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from math import inf, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recllm.base.arrays import Values
from recllm.base.documents import FrozenModel, Share, Text, plain
from recllm.base.errors import DataError, UsageError
from recllm.base.stats.intervals import Interval
from recllm.market.audiences.selection import draws

WEIGHT_TOLERANCE = 1e-9
"""Weights such as three times 1/3 may miss 1 by this."""


class Treatment(FrozenModel):
    """How slates are made for the people of a variant."""

    section = "treatment"

    model: Text | None = None
    """Version of the model; the serving one when None."""
    personal: bool = True
    """False shows what is popular now."""
    popularity_weight: Share | None = None
    """As in a request; the policy's when None."""
    explore_share: Share | None = None
    """As in a request; `experiments.explore_share` when None."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the ways in which people are treated."""

    name: str
    weight: float
    """Share of people who get it, in (0, 1]."""
    treatment: Treatment = field(default_factory=Treatment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Variants that are compared on people drawn at random, as the store keeps it. The first variant is the control.

    Raises `UsageError` for fewer than two variants, names that are empty, repeated or hold a NUL, and weights that are
    not positive or do not add up to 1.
    """

    name: str
    """Unique in the shop for good: it draws the variants."""
    variants: tuple[Variant, ...]
    metric: str
    """What a variant should raise, a `slates.Metric`."""
    guard: str | None = None
    """What no variant may raise."""
    started_at: datetime | None = None
    """None before the start; aware, as the next one."""
    ended_at: datetime | None = None
    """None while it runs."""
    revision: int = 0
    """Grows with each change."""

    def __post_init__(self) -> None:
        names = [v.name for v in self.variants]
        for name in (self.name, *names):
            if not name.strip() or "\0" in name:
                raise UsageError(f"experiment {self.name!r}: {name!r} is no name; give a text without NUL characters")
        if len(names) < 2 or len(set(names)) < len(names):
            raise UsageError(f"experiment {self.name!r}: variants {names}; give two or more of different names")
        weights = [v.weight for v in self.variants]
        # written so that NaN is refused as well
        if not all(0 < weight <= 1 for weight in weights) or not abs(math.fsum(weights) - 1) <= WEIGHT_TOLERANCE:
            raise UsageError(f"experiment {self.name!r}: weights {weights}; give positive shares that add up to 1")

    @property
    def control(self) -> Variant:
        """The variant that the others are compared with."""
        return self.variants[0]

    def is_running(self, at: datetime) -> bool:
        """Whether people are assigned at this time."""
        started = self.started_at is not None and self.started_at <= at
        return started and (self.ended_at is None or at < self.ended_at)

    def document(self) -> dict[str, Any]:
        """As the store and JSON have it."""
        variants = [
            {"name": variant.name, "weight": variant.weight, "treatment": variant.treatment.explicit()}
            for variant in self.variants
        ]
        document: dict[str, Any] = plain(self)
        return document | {"variants": variants}


def variant_of(experiment: Experiment, pseudonym: str) -> Variant:
    """A person's variant, the same at every call and on every machine."""
    number = float(draws([pseudonym], experiment.name, "experiment")[0])
    end = 0.0
    for variant in experiment.variants:
        end += variant.weight
        if number < end:
            return variant
    return experiment.variants[-1]  # the weights may add up to a little less than 1


CONCENTRATION = 1_000.0
"""Of the Dirichlet: with two equal variants shares of .5 +- .016 are expected when something is wrong."""
RATIO_ALPHA = 0.01
"""Chance of a false alarm over the whole life of an experiment."""


class RatioVerdict(StrEnum):
    """Whether an experiment's results may be read."""

    AS_PLANNED = "as planned"
    MISMATCH = "mismatch"
    """People of a variant are missing: its results say nothing until the cause is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """The test of the counts so far."""

    log_e_value: float
    """Natural logarithm of the evidence against the weights; 0 without people."""
    p_value: float
    """1 / e, at most 1; the smallest of all looks is valid too."""
    verdict: RatioVerdict


def check_sample_ratio(
    experiment: Experiment, people: Mapping[str, int], *, concentration: float = CONCENTRATION
) -> SampleRatio:
    """people: of each variant's name, how many different people were logged with it; a name left out has 0."""
    from scipy.special import gammaln

    weights = {v.name: v.weight for v in experiment.variants}
    total = sum(people.values())
    log_e = float(gammaln(concentration) - gammaln(concentration + total))
    for name, weight in weights.items():
        count = people.get(name, 0)
        log_e += float(gammaln(concentration * weight + count) - gammaln(concentration * weight))
        log_e -= count * math.log(weight)
    p_value = math.exp(min(0.0, -log_e))
    verdict = RatioVerdict.MISMATCH if p_value <= RATIO_ALPHA else RatioVerdict.AS_PLANNED
    return SampleRatio(log_e_value=log_e, p_value=p_value, verdict=verdict)


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


def people_values(numerators: ArrayLike, denominators: ArrayLike = 1.0, covariates: ArrayLike = 0.0) -> Values:
    """(people, 3), one row per person; people who did nothing count with 0. A single number stands for everybody.
    Raises `DataError` for numbers that are not finite, a negative denominator, or arrays of different lengths."""
    columns = [np.asarray(values, np.float64) for values in (numerators, denominators, covariates)]
    shape = columns[0].shape
    if len(shape) != 1 or any(column.shape not in ((), shape) for column in columns):
        raise DataError("people: give one numerator, denominator and covariate for each person")
    values = np.stack(np.broadcast_arrays(*columns), axis=1)
    if not np.isfinite(values).all() or (values[:, 1] < 0).any():
        raise DataError("people: numerators and covariates are finite, denominators are 0 or more")
    return values


def estimate_effect(
    control: Values, treatment: Values, *, higher_is_better: bool = True, alpha: float = ALPHA
) -> Effect:
    """treatment - control with both intervals; of each as `people_values` gives them."""
    if min(len(control), len(treatment)) < 2 or not (control[:, 1].any() and treatment[:, 1].any()):
        nothing = Interval(-inf, inf)
        return _effect(ratio_of(control), ratio_of(treatment), nothing, nothing, higher_is_better)

    from scipy.special import stdtrit

    # how much of a person's linearised metric a unit of the covariate explains
    pooled = np.concatenate([control, treatment])
    covariance = np.cov(linearised(pooled), pooled[:, 2])
    theta = covariance[0, 1] / covariance[1, 1] if covariance[1, 1] > 0 else 0.0
    center, people = pooled[:, 2].mean(), len(pooled)
    values, variances = [], []
    for values_of_people in (control, treatment):
        adjusted = linearised(values_of_people) - theta * (values_of_people[:, 2] - center)
        values.append(ratio_of(values_of_people) + float(adjusted.mean()))
        variances.append(float(adjusted.var(ddof=1)) / len(adjusted))
    error = sqrt(sum(variances))
    # Welch and Satterthwaite's degrees of freedom
    spread = sum(v**2 / (len(group) - 1) for v, group in zip(variances, (control, treatment), strict=True))
    degrees = error**4 / spread if spread > 0 else people - 2
    fixed = float(stdtrit(degrees, 1 - alpha / 2)) * error
    always = always_valid_multiplier(people, alpha=alpha) * error
    if min(len(control), len(treatment)) < MIN_PEOPLE:
        always = inf
    gap = values[1] - values[0]
    fixed_interval, always_valid = (Interval(gap - half, gap + half) for half in (fixed, always))
    return _effect(values[0], values[1], fixed_interval, always_valid, higher_is_better)


def _effect(control: float, treatment: float, fixed: Interval, always: Interval, higher_is_better: bool) -> Effect:
    difference = treatment - control
    verdict = Verdict.UNDECIDED
    if not always.holds(0.0):
        verdict = Verdict.BETTER if (difference > 0) == higher_is_better else Verdict.WORSE
    return Effect(
        control=control,
        treatment=treatment,
        difference=difference,
        relative_difference=difference / control if control else float("nan"),
        interval=fixed,
        always_valid_interval=always,
        verdict=verdict,
    )


def ratio_of(values: Values) -> float:
    return float(values[:, 0].sum() / values[:, 1].sum()) if values[:, 1].any() else float("nan")


def linearised(values: Values) -> Values:
    """What each person adds to the error of the ratio, (people,)."""
    return np.asarray((values[:, 0] - ratio_of(values) * values[:, 1]) / values[:, 1].mean())


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
    experiment: Experiment, metric: Mapping[str, Values], guard: Mapping[str, Values] | None = None
) -> ExperimentReport:
    """metric, guard: `people_values` by variant, of all people who were logged with it, people who did nothing
    included; guard is None where the experiment has none.

    `ALPHA` is divided by the number of comparisons (Bonferroni). While the sample ratio is a mismatch every verdict is
    `Verdict.UNDECIDED`.
    """
    control, *names = (v.name for v in experiment.variants)
    sample_ratio = check_sample_ratio(experiment, {name: len(values) for name, values in metric.items()})

    def compared(values: Mapping[str, Values], name: str, *, higher_is_better: bool) -> Effect:
        alpha = ALPHA / len(names)
        effect = estimate_effect(values[control], values[name], higher_is_better=higher_is_better, alpha=alpha)
        is_mismatch = sample_ratio.verdict is RatioVerdict.MISMATCH
        return replace(effect, verdict=Verdict.UNDECIDED) if is_mismatch else effect

    comparisons = tuple(
        VariantComparison(
            variant=name,
            metric=compared(metric, name, higher_is_better=True),
            guard=None if guard is None else compared(guard, name, higher_is_better=False),
        )
        for name in names
    )
    return ExperimentReport(sample_ratio=sample_ratio, comparisons=comparisons)
