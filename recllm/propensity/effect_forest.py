"""Effects of a treatment for each person, with intervals: an honest forest on doubly robust scores.

score of an arm   mu + 1[arm] / e · (outcome - mu): its mean over people is the arm's mean outcome if everybody had it,
                  whatever mu is, as long as e, the probability of the arm, is right (Robins et al. 1994); mu is a model
                  of the arm's outcome, learned on other people, and takes out what is known beforehand.
effect            the arm's score minus the control's. Single ones are noise; a forest finds what they have in common
                  (doubly robust learner, Kennedy 2023).

A tree is honest: one half of its people draws the borders, the other half fills the leaves (Athey and Imbens 2016).
Trees come in groups, each on a random half of all people. How much the groups' answers differ is the standard error of
their mean (halves vary as much around the whole as the whole around the truth; Athey et al. 2019). With two trees in a
group it is too large, because few trees differ much themselves: `error_scale` brings it down to how much two forests of
different people differ, and `shrinkage_bias` is what a forest draws effects towards their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.propensity.features import Floats
from recllm.propensity.parameters import UpliftSettings

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeRegressor

Values = NDArray[np.float64]


def arm_scores(
    means: Values, arm: NDArray[np.integer], outcome: Values, probability: Values | NDArray[np.float64]
) -> Values:
    """Doubly robust scores, (n, arms). means: of each arm's outcome, by models of other people; probability: of each
    arm, (n, arms) or (arms,); arm: which one each person had."""
    drawn = arm[:, None] == np.arange(means.shape[1])
    return np.asarray(means + np.where(drawn, (outcome[:, None] - means) / probability, 0.0))


@dataclass(frozen=True, eq=False)
class EffectForest:
    """Trees with the effects of their leaves, by group."""

    groups: tuple[tuple[tuple[DecisionTreeRegressor, Values], ...], ...]

    def predict(self, values: Floats) -> tuple[Values, Values]:
        """Effect and standard error, (n,) each."""
        answers = np.stack([np.mean([leaves[tree.apply(values)] for tree, leaves in g], axis=0) for g in self.groups])
        return answers.mean(axis=0), answers.std(axis=0, ddof=1)


def fit_effect_forest(
    values: Floats, effect: Values, settings: UpliftSettings, rng: np.random.Generator
) -> EffectForest:
    """values: (n, features), NaN where unknown. effect: (n,), single people's scores."""
    groups = []
    for _ in range(settings.forest_groups):
        half = rng.permutation(len(effect))[: (len(effect) + 1) // 2]
        groups.append(
            tuple(
                _honest_tree(values, effect, rng.permutation(half), settings, rng) for _ in range(settings.group_trees)
            )
        )
    return EffectForest(tuple(groups))


HALVED_FOLDS = 2
"""Folds whose people are told about by forests of two halves of the others, too: that is what errors are scaled by."""

MIN_KEPT = 0.3
"""Of the effects' differences a forest is taken to keep at least this share: estimates below it are noise."""


def error_scale(first: tuple[Values, Values], second: tuple[Values, Values]) -> float:
    """What standard errors are to be multiplied by: two forests of different people differ by their errors alone.

    first, second: effects and errors of the same m people, (m,) each, by forests of different people. The mean square
    of the difference over the sum of the mean squared errors, as a root.
    """
    squared = float(np.mean(first[1] ** 2 + second[1] ** 2))
    return float(np.sqrt(np.mean((first[0] - second[0]) ** 2) / squared)) if squared > 0 else 1.0


def shrinkage_bias(expected: Values, error: Values, effect: Values) -> float:
    """Root mean square of what forests draw effects towards their mean.

    expected: (n,), effects by forests of other people, with mean 0 within each fold, with their errors. effect: (n,),
    the people's own scores, with mean 0 alike. A forest that keeps a share k of the true differences tells apart
    t^2 = var(expected) - error^2 = k^2 var(true), and shares c = cov(effect, expected) = k var(true) with the scores:
    k is t^2 / c, and (1 - k)^2 c / k is the mean square of what it takes away. 0 where it tells nobody apart.
    """
    apart, shared = float(np.mean(expected**2) - np.mean(error**2)), float(np.mean(expected * effect))
    if apart <= 0 or shared <= 0:
        return 0.0
    kept_share = min(1.0, max(MIN_KEPT, apart / shared))
    return float((1 - kept_share) * np.sqrt(shared / kept_share))


@dataclass(frozen=True, eq=False)
class HeldOutEffects:
    """Effects of n people by forests of other people, and how far they may be off."""

    expected: Values
    """(n,)"""
    error: Values
    """(n,), standard errors: the forest's own, scaled, and the bias."""
    scale: float
    """Of a forest's own standard error; see `error_scale`."""
    bias: float
    """See `shrinkage_bias`."""


def held_out_effects(
    values: Floats, effect: Values, folds: list[NDArray[np.bool_]], settings: UpliftSettings, rng: np.random.Generator
) -> HeldOutEffects:
    """values: (n, features); effect: (n,), people's scores; folds: masks of people who are told about together."""
    expected, error = np.empty(len(effect)), np.empty(len(effect))
    halves: list[list[tuple[Values, Values]]] = [[], []]
    for number, inside in enumerate(folds):
        others = np.flatnonzero(~inside)
        forest = fit_effect_forest(values[others], effect[others], settings, rng)
        expected[inside], error[inside] = forest.predict(values[inside])
        for half, people in enumerate(np.array_split(rng.permutation(others), 2) if number < HALVED_FOLDS else ()):
            of_half = fit_effect_forest(values[people], effect[people], settings, rng)
            halves[half].append(of_half.predict(values[inside]))
    first, second = ((np.concatenate([e for e, _ in half]), np.concatenate([s for _, s in half])) for half in halves)
    scale = error_scale(first, second)
    bias = shrinkage_bias(within_folds(expected, folds), scale * error, within_folds(effect, folds))
    return HeldOutEffects(expected, np.hypot(scale * error, bias), scale, bias)


def within_folds(values: Values, folds: list[NDArray[np.bool_]]) -> Values:
    """The values less the mean of their fold."""
    centred = values.copy()
    for inside in folds:
        centred[inside] -= values[inside].mean()
    return centred


def _honest_tree(
    values: Floats, effect: Values, people: NDArray[np.int64], settings: UpliftSettings, rng: np.random.Generator
) -> tuple[DecisionTreeRegressor, Values]:
    from sklearn.tree import DecisionTreeRegressor

    borders, fill = np.array_split(people, 2)
    tree = DecisionTreeRegressor(
        max_leaf_nodes=settings.forest_leaves,
        min_samples_leaf=settings.forest_leaf_rows,
        max_features=settings.forest_column_share,
        random_state=int(rng.integers(2**31)),
    ).fit(values[borders], effect[borders])
    leaf = tree.apply(values[fill])
    n = np.bincount(leaf, minlength=tree.tree_.node_count)
    sums = np.bincount(leaf, effect[fill], minlength=tree.tree_.node_count)
    return tree, np.where(n > 0, sums / np.maximum(n, 1), effect[fill].mean())
