"""How the trees and linear models of predictions are fitted; small and strongly held, as outcomes are noisy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from recllm.base.documents import Count, CountOrZero, FrozenModel, Positive, Text, Weight
from recllm.base.settings import Folds, LearningRate, Seed

Leaves = Annotated[int, Strict(), Field(ge=2, description="Leaves of a tree at most.")]
LeafRows = Annotated[int, Strict(), Field(ge=1, description="Rows in a leaf at least.")]
TreePenalty = Annotated[float, Strict(), Field(ge=0, description="L2 penalty on the values of the leaves.")]


class PropensitySettings(FrozenModel):
    """How the trees and the logistic regression behind a probability of an action are fitted."""

    rounds: Count = 150
    """Trees."""
    learning_rate: LearningRate = 0.04
    leaves: Leaves = 8
    min_leaf_rows: LeafRows = 60
    l2: TreePenalty = 5.0
    column_share: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.5
    """Share of the columns that a split may choose from."""
    ridge: Positive = 0.005
    """Inverse strength of the logistic regression's penalty."""
    increasing: tuple[Text, ...] = ()
    """Features with which the trees' probability may only rise: what is known beforehand, where examples are few."""
    decreasing: tuple[Text, ...] = ()
    """Features with which it may only fall."""
    folds: Folds = 3
    """Parts that users are dealt into for the calibration."""
    seed: Seed = 0


class PredictionReasonSettings(FrozenModel):
    """How the reasons of a prediction are found: by putting other users' values in place of a group of features."""

    max_reasons: CountOrZero = 3
    """Reasons per user at most."""
    min_effect: Weight = 0.1
    """Smaller changes of the logit are nothing clear."""
    background_users: Count = 8
    """Users whose values are put in place of the user's own."""
    seed: Seed = 0


class UpliftSettings(FrozenModel):
    """Small, strongly held trees: effects are small compared with the noise of single outcomes."""

    rounds: Count = 60
    """Trees."""
    learning_rate: LearningRate = 0.05
    leaves: Leaves = 4
    min_leaf_rows: LeafRows = 100
    l2: TreePenalty = 20.0
    folds: Folds = 3
    """Parts of users for the outcome models."""
    forest_groups: Annotated[int, Strict(), Field(ge=2)] = 20
    """Groups of an effect's trees, each on half of the users: they give the interval of an effect."""
    seed: Seed = 0
