"""How the trees and linear models of predictions are fitted; small and strongly held, as outcomes are noisy."""

from __future__ import annotations

from dataclasses import dataclass

from recllm.learn.models.trees import BoostingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PropensitySettings(BoostingSettings):
    """How the trees and the logistic regression behind a probability of an action are fitted."""

    column_share: float = 0.5
    """Share of the columns that a split may choose from."""
    ridge: float = 0.005
    """Inverse strength of the logistic regression's penalty."""
    increasing: tuple[str, ...] = ()
    """Features with which the trees' probability may only rise: what is known beforehand, where examples are few."""
    decreasing: tuple[str, ...] = ()
    """Features with which it may only fall."""
    folds: int = 3
    """Parts that users are dealt into for the calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftSettings(BoostingSettings):
    """Effects are small compared with the noise of single outcomes."""

    rounds: int = 60
    learning_rate: float = 0.05
    leaves: int = 4
    min_leaf_rows: int = 100
    l2: float = 20.0
    folds: int = 3
    """Parts of users for the outcome models."""
    forest_groups: int = 20
    """Groups of an effect's trees, each on half of the users: they give the interval of an effect."""
