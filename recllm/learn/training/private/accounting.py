"""How much noise a private training needs, and how much it reveals of a user.

A step draws every user by a chance of its own (Poisson), shortens each drawn user's gradient to a length C, adds them
up and adds noise N(0, (sigma C)^2): the subsampled Gaussian mechanism of DP-SGD (Abadi et al. 2016), with a user and
not an example as the unit. Its cost over all steps is computed by Renyi divergences (Mironov et al. 2019) and by the
privacy loss distribution (Gopi et al. 2021); both hold for logs that differ by one user more or less.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, get_args

from recllm.base.documents import Count, FrozenModel, Positive, Text
from recllm.base.errors import MissingExtraError, UsageError
from recllm.base.settings import PrivateTrainingSettings

MAX_GRAD_NORM = 1.0  # a user's gradient is shortened to this length

EXTRA = "privacy"
Accountant = Literal["prv", "rdp"]

COVERED = (
    "the scorer's weights, probability included, and the adapter where one was trained",
    "the popularity that stands in for sales, which is what the scorer says of a user without a history",
)
NOT_COVERED = (
    "an answer for a user reads that user's own history, and is for that user alone",
    "which people and items there are: counts of people, items and events, the hash of the data and the day at which "
    "the log ends stand in the manifest as they are",
    "what is counted over people outside of the model, without noise: what goes together (offers to go with a "
    "purchase), audiences, predictions, occasions, experiments and reports",
    "the serving state keeps the histories of people, as personal data, outside of the model",
)


class PrivateMechanism(FrozenModel):
    """One private training: what it did, and what it reveals of any one user."""

    part: Text
    """What was trained: the scorer, in older models also an adapter of the encoder."""
    epsilon: Positive
    """By `accountant`, at `delta`; what the ledger counts."""
    delta: Positive
    accountant: Accountant
    epsilon_prv: Positive
    epsilon_rdp: Positive
    noise_multiplier: Positive
    """Standard deviation of the noise over the length that gradients are shortened to."""
    sampling_rate: Positive
    steps: Count
    max_grad_norm: Positive


class PrivacyGuarantee(FrozenModel):
    """What a private model promises, as its manifest says it."""

    unit: Text = "user"
    neighbours: Text = "logs that differ by all that one user did and said, added or removed"
    epsilon: Positive
    """Sum over the mechanisms, as is delta."""
    delta: Positive
    accountant: Accountant
    mechanisms: tuple[PrivateMechanism, ...]
    noise: Text = (
        "users and noise drawn from generators (Mersenne Twister) that the system's own source of chance seeded; the "
        "seed is not kept. Floating-point attacks on the noise (Mironov 2012) are not defended against"
    )
    covered: tuple[Text, ...] = COVERED
    not_covered: tuple[Text, ...] = NOT_COVERED

    @classmethod
    def of(cls, mechanisms: tuple[PrivateMechanism, ...]) -> PrivacyGuarantee:
        """Of one or several trainings on the same people (sequential composition: epsilons and deltas add up)."""
        return cls(
            epsilon=sum(m.epsilon for m in mechanisms),
            delta=sum(m.delta for m in mechanisms),
            accountant=mechanisms[0].accountant,
            mechanisms=mechanisms,
        )


def import_opacus() -> Any:
    """The package. Raises `MissingExtraError` without it."""
    try:
        import opacus
        import opacus.accountants
        import opacus.grad_sample
        import opacus.optimizers
    except ImportError as error:
        raise MissingExtraError("opacus", EXTRA) from error
    return opacus


def epsilon_of(accountant: Accountant, *, noise: float, sampling_rate: float, steps: int, delta: float) -> float:
    """Epsilon of `steps` steps with this noise multiplier, at `delta`."""
    accountants = import_opacus().accountants
    count = accountants.PRVAccountant() if accountant == "prv" else accountants.RDPAccountant()
    count.history = [(noise, sampling_rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the largest Renyi order may be the best one; the bound holds
        return float(count.get_epsilon(delta=delta))


def noise_for(accountant: Accountant, *, epsilon: float, sampling_rate: float, steps: int, delta: float) -> float:
    """The least noise multiplier, to a thousandth, by which the steps tell no more than `epsilon` at `delta`.

    Raises `UsageError` where no noise below 10,000 is enough.
    """

    def cost(noise: float) -> float:
        return epsilon_of(accountant, noise=noise, sampling_rate=sampling_rate, steps=steps, delta=delta)

    low, high = 0.0, 1.0
    while cost(high) > epsilon:
        low, high = high, 2 * high
        if high > 10_000:
            raise UsageError(f"no noise is enough for epsilon {epsilon:g}; give a larger one, or fewer steps")
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if middle > 0.3 and cost(middle) <= epsilon:  # below, the numbers of both accountants break down
            high = middle
        else:
            low = middle
    return high


def delta_for(n_users: int, settings: PrivateTrainingSettings) -> float:
    """The setting, or the largest power of ten at most 1 / (10 n_users). Raises `UsageError` for one that is so large
    that publishing a user outright would be allowed."""
    if settings.delta is None:
        return float(10.0 ** math.floor(math.log10(1 / (10 * n_users)) + 1e-9))
    if settings.delta >= 1 / n_users:
        raise UsageError(
            f"setting privacy.delta: {settings.delta:g} is not below 1 / users = {1 / n_users:.2g}; give a smaller one"
        )
    return settings.delta


def planned_mechanism(n_users: int, settings: PrivateTrainingSettings) -> PrivateMechanism:
    """What a training of the scorer is going to do, and its cost.

    Raises `UsageError` for a delta that is too large and an epsilon that no noise reaches; `MissingExtraError` without
    Opacus.
    """
    delta = delta_for(n_users, settings)
    loop: dict[str, Any] = {"sampling_rate": settings.sampling_rate, "steps": settings.steps, "delta": delta}
    noise = noise_for("prv", epsilon=settings.epsilon, **loop)
    by_prv, by_rdp = (epsilon_of(name, noise=noise, **loop) for name in get_args(Accountant))
    return PrivateMechanism(
        part="scorer",
        epsilon=by_prv,
        accountant="prv",  # tight; rdp claims more than is spent
        epsilon_prv=by_prv,
        epsilon_rdp=by_rdp,
        noise_multiplier=noise,
        max_grad_norm=MAX_GRAD_NORM,
        **loop,
    )
