"""Whether each variant got the people that its weight promised: a test that holds at every look.

    e = P(counts | shares drawn from a Dirichlet around the weights) / P(counts | shares are the weights)

(Lindon and Malek 2022, Anytime-valid inference for multinomial count data). While people are drawn by the weights the
ratio is a martingale of mean 1, so the chance that it ever exceeds 1 / alpha is at most alpha, however often one looks.
What usually breaks a ratio is not the draw but what is lost after it: a variant whose page fails is not logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import exp, log

from recllm.base.errors import DataError
from recllm.market.experiments.split import Experiment

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
        log_e -= count * log(weight)
    p_value = exp(min(0.0, -log_e))
    verdict = RatioVerdict.MISMATCH if p_value <= ALPHA else RatioVerdict.AS_PLANNED
    return SampleRatio(log_e_value=log_e, p_value=p_value, verdict=verdict)
