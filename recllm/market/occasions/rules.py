"""When a day is an occasion, and how replenishment is learned: what a caller may set besides a shop's settings."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, Strict

from recllm.base.documents import Count, FrozenModel, Positive, Share
from recllm.base.settings import Days, LearningRate, OccasionSettings, Seed
from recllm.market.propensity.parameters import LeafRows, Leaves, TreePenalty


class OccasionRules(OccasionSettings):
    """When a day is an occasion for a user: see `recllm.market.occasions.detect`."""

    section: ClassVar[str] = ""

    due_probability: Share = 0.2
    """An item is due again where the chance that it is bought within a week is at least so high."""
    due_share: Share = 0.75
    """And where so much of the user's usual interval has passed."""
    due_interval_days: Days = 5.0
    """And where that interval is no shorter: who buys a thing every other day needs no reminder."""
    abandoned_days: Days = 3.0
    """What was put into the cart or viewed within so many days, and not bought, is left behind."""
    abandoned_hours: Days = 1.0
    """But not before so many hours."""
    abandoned_views: Count = 2
    """So often was it viewed, where it was never in the cart."""
    interest_days: Days = 91.0
    """Who bought, viewed or carted an item within so many days hears of its price and its return."""
    change_days: Days = 7.0
    """Of a price, a return to stock or a new arrival that is no older."""
    arrival_purchases: Count = 3
    """So many purchases in an item's type within `interest_days` make it one that the user likes."""
    lapsed_gaps: Positive = 3.0
    """Who has stayed away for so many of their usual gaps between shopping days is to be won back."""
    lapsed_days: Days = 14.0
    """But not before so many days."""
    lost_days: Days = 182.0
    """And no more after so many."""
    lapsed_trips: Count = 3
    """Shopping days of a user from which on a usual gap is known."""
    welcome_days: Days = 7.0
    """Who bought for the first time within so many days, and never since, is welcomed."""


class ReplenishmentSettings(FrozenModel):
    """How it is learned who buys which item again within a week: see `recllm.market.occasions.replenishment`."""

    weeks: Count = 8
    """Past weeks learned from."""
    max_rows: Count = 600_000
    """Pairs of a user and an item in all these weeks at most, drawn at random."""
    rounds: Count = 150
    """Trees."""
    learning_rate: LearningRate = 0.06
    leaves: Leaves = 40
    min_leaf_rows: LeafRows = 200
    l2: TreePenalty = 10.0
    column_share: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.35
    """Share of the columns that a split may choose from."""
    seed: Seed = 0
