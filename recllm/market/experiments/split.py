"""Which customer sees which variant of an experiment, or none, by hashes of pseudonyms: nothing has to be stored.

A person keeps their variant as long as the experiment's name, variants and weights stay. Other weights move some
people, so an experiment that goes on with other weights needs another name.

Whether each variant got the people that its weight promised is a test that holds at every look:

    e = P(counts | shares drawn from a Dirichlet around the weights) / P(counts | shares are the weights)

(Lindon and Malek 2022, Anytime-valid inference for multinomial count data). While people are drawn by the weights the
ratio is a martingale of mean 1, so the chance that it ever exceeds 1 / alpha is at most alpha, however often one looks.
What usually breaks a ratio is not the draw but what is lost after it: a variant whose page fails is not logged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from recllm.base.errors import DataError, UsageError
from recllm.market.audiences.selection import draws, globally_held_out

WEIGHT_TOLERANCE = 1e-9
"""Weights such as three times 1/3 may miss 1 by this."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the ways in which people are treated."""

    name: str
    weight: float
    """Share of people who get it, in (0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Variants that are compared on people drawn at random. The first variant is the control.

    Raises `UsageError` for fewer than two variants, names that are empty, repeated or hold a NUL, weights that are not
    positive or do not add up to 1, times without a zone, or an end before the start.
    """

    name: str
    """Unique in the shop for good: it draws the variants."""
    variants: tuple[Variant, ...]
    metric: str
    """What a variant should raise, such as "clicks per showing"."""
    guard: str | None = None
    """What no variant may raise, such as "dismissals per showing"."""
    started_at: datetime | None = None
    """None before the start."""
    ended_at: datetime | None = None
    """None while it runs."""

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        for name in (self.name, self.metric, *names, *([] if self.guard is None else [self.guard])):
            if not name.strip() or "\0" in name:
                raise UsageError(f"experiment {self.name!r}: {name!r} is no name; give a text without NUL characters")
        if len(names) < 2 or len(set(names)) < len(names):
            raise UsageError(f"experiment {self.name!r}: variants {names}; give two or more of different names")
        weights = [variant.weight for variant in self.variants]
        # written so that NaN is refused as well
        if not all(0 < weight <= 1 for weight in weights) or not abs(math.fsum(weights) - 1) <= WEIGHT_TOLERANCE:
            raise UsageError(f"experiment {self.name!r}: weights {weights}; give positive shares that add up to 1")
        for field, at in (("started_at", self.started_at), ("ended_at", self.ended_at)):
            if at is not None and at.utcoffset() is None:
                raise UsageError(f"experiment {self.name!r}: {field} is {at}; give a time with its zone")
        if self.ended_at is not None and (self.started_at is None or self.ended_at < self.started_at):
            raise UsageError(
                f"experiment {self.name!r}: ended_at is {self.ended_at}, started_at is {self.started_at}; "
                "an experiment ends after it started"
            )

    @property
    def control(self) -> Variant:
        """The variant that the others are compared with."""
        return self.variants[0]

    def is_running(self, at: datetime) -> bool:
        """Whether people are assigned at this time."""
        started = self.started_at is not None and self.started_at <= at
        return started and (self.ended_at is None or at < self.ended_at)


def variant_of(experiment: Experiment, pseudonym: str) -> str:
    """The name of a person's variant, the same at every call and on every machine.

    SHA-256 over the experiment's name and the pseudonym gives a number in [0, 1); the variants take turns on that line,
    each as long as its weight. Other experiments draw other numbers, so they do not meet in the same people more often
    than by chance.
    """
    number = float(draws([pseudonym], experiment.name, "experiment")[0])
    end = 0.0
    for variant in experiment.variants:
        end += variant.weight
        if number < end:
            return variant.name
    return experiment.variants[-1].name  # the weights may add up to a little less than 1


def in_global_holdout(pseudonym: str, share: float, salt: str) -> bool:
    """Whether one person gets no experiment and nothing personal; see `globally_held_out`, which says the errors."""
    return bool(globally_held_out([pseudonym], share, salt)[0])


CONCENTRATION = 1_000.0
"""Of the Dirichlet: with two equal variants shares of .5 +- .016 are expected when something is wrong."""

ALPHA = 0.01
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
    """people: of each variant's name, how many different people were logged with it; a name left out has 0.

    Raises `DataError` for a variant that the experiment has not, or a negative count.
    """
    from scipy.special import gammaln

    weights = {variant.name: variant.weight for variant in experiment.variants}
    if not people.keys() <= weights.keys() or min(people.values(), default=0) < 0:
        raise DataError(
            f"experiment {experiment.name!r}: people by variant are {dict(people)}; "
            f"give counts of at least 0 of {', '.join(weights)}"
        )
    total = sum(people.values())
    log_e = float(gammaln(concentration) - gammaln(concentration + total))
    for name, weight in weights.items():
        count = people.get(name, 0)
        log_e += float(gammaln(concentration * weight + count) - gammaln(concentration * weight))
        log_e -= count * math.log(weight)
    p_value = math.exp(min(0.0, -log_e))
    verdict = RatioVerdict.MISMATCH if p_value <= ALPHA else RatioVerdict.AS_PLANNED
    return SampleRatio(log_e_value=log_e, p_value=p_value, verdict=verdict)
