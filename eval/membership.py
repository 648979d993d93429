"""Attacks on a trained model: who was learned from, and how much that tells.

`likelihood_ratio_attack` is LiRA (Carlini et al. 2022, arXiv 2112.03570), online: models with and without a user say
how confident either is about that user, and a ratio of two Gaussians decides. `audited_epsilon` is the audit in one run
(Steinke, Nasr and Jagielski 2023, arXiv 2305.08846): how well one can guess which of many canaries were in bounds
epsilon from below. Both work on arrays and know nothing of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import UsageError
from recllm.base.stats.probabilities import auc

Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipReport:
    """How well an attack tells members from others: mean over the models that were attacked."""

    auc: float
    """0.5 is chance."""
    tpr: float
    """Share of the members that are named where 1 % of the others are."""
    models: int
    users: int


def logit_confidence(loss: Values) -> Values:
    """log(p / (1 - p)) of p = exp(-loss), any shape; a loss of 0 counts as 1e-6."""
    loss = np.maximum(loss, 1e-6)
    return np.asarray(-loss - np.log(-np.expm1(-loss)))


def likelihood_ratio_attack(confidence: Values, member: NDArray[np.bool_], *, fpr: float = 0.01) -> MembershipReport:
    """Each model in turn is attacked with all others as shadows. Both (n_models, n_users); member: learned from.

    The Gaussians have a mean for each user, and one variance for all users, as is better with few shadows. Raises
    `UsageError` where a user is a member of fewer than two of the others, or of all but one.
    """
    n_models, n_users = member.shape
    n_in = member.sum(axis=0)
    if n_in.min(initial=n_models) < 3 or (n_models - n_in).min(initial=n_models) < 3:
        raise UsageError("each user must be in three models at least, and out of three; train more shadow models")
    aucs, rates = [], []
    for target in range(n_models):
        others = np.arange(n_models) != target
        likelihood = []
        for who in (member, ~member):
            weight = (who & others[:, None]).astype(np.float64)
            n = weight.sum(axis=0)
            mean = (confidence * weight).sum(axis=0) / n
            squares = (weight * (confidence - mean) ** 2).sum()
            variance = max(squares / max(n.sum() - n_users, 1), 1e-12)
            likelihood.append(-((confidence[target] - mean) ** 2) / (2 * variance) - 0.5 * np.log(variance))
        score = likelihood[0] - likelihood[1]
        aucs.append(auc(score, member[target].astype(np.float64)))
        limit = np.quantile(score[~member[target]], 1 - fpr, method="higher")
        rates.append(float((score[member[target]] > limit).mean()))
    return MembershipReport(auc=float(np.mean(aucs)), tpr=float(np.mean(rates)), models=n_models, users=n_users)


def audited_epsilon(
    score: Values,
    included: NDArray[np.bool_],
    delta: float,
    *,
    level: float = 0.95,
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0),
) -> float:
    """Lower bound of epsilon, at least 0, that holds with probability `level`.

    score: of each canary, (m,), higher where it seems to have been in. included: each was in by a fair coin of its own.
    shares: of the canaries about which something is guessed, half of them the highest and half the lowest scores; the
    best bound counts, at a level that is corrected for their number (Bonferroni).
    """
    m, order, best = len(score), np.argsort(-score, kind="stable"), 0.0
    for share in shares:
        half = int(share * m / 2)
        if half:
            right = int(included[order[:half]].sum() + (~included[order[-half:]]).sum())
            best = max(best, _epsilon_bound(m, 2 * half, right, delta, (1 - level) / len(shares)))
    return best


def _epsilon_bound(m: int, guesses: int, right: int, delta: float, p: float) -> float:
    """The largest epsilon under which so many right guesses are less likely than `p`."""
    low, high = 0.0, 1.0
    if _p_value(m, guesses, right, 0.0, delta) >= p:
        return 0.0
    while _p_value(m, guesses, right, high, delta) < p and high < 64:
        high += 1
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _p_value(m, guesses, right, middle, delta) < p else (low, middle)
    return low


def _p_value(m: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Chance of so many right guesses under (epsilon, delta), at most: their theorem 5.2 as in their appendix D."""
    from scipy.stats import binom

    chance = 1 / (1 + np.exp(-epsilon))
    tail = np.cumsum(binom.pmf(right - np.arange(1, right + 1), guesses, chance))
    alpha = float((tail / np.arange(1, right + 1)).max(initial=0.0))
    return min(1.0, float(binom.sf(right - 1, guesses, chance)) + 2 * m * delta * alpha)
