"""What another model would have earned, from logged slates that explored, before any customer sees its slates.

For each logged slate the model makes its own of the same length, from what was known of the customer at that moment and
of all customers at the start of the log that is used. With the weight w = 1 / propensity for an item of the model's
slate, and 0 for another item, the value is sum(w * reward) / sum(w), the self-normalised estimate (SNIPS; Swaminathan
and Joachims 2015): the reward per item shown. An item's reward is taken to depend on the customer alone, not on its
position and the other items of the slate. Items that the log could not show are left out and reported.

Requests before the end of the model's training are left out: the model learned from their answers. The filters of a
request were not logged, so a filtered request counts as if it had none.

Intervals are Student's over customers, by the delta method. As few heavy rows may have no reward yet, each end has a
further row of the mean weight, without reward below and with it above (Fay and Feuer 1997).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from recllm.base.arrays import Values
from recllm.base.errors import DataError, NothingToDo, UsageError
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Encoder, Purpose, Recommendation
from recllm.base.stats.intervals import LEVEL, Interval
from recllm.market.experiments.feedback import showings_with_answers
from recllm.market.experiments.slates import ANSWER_COLUMNS, Metric
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.saved_model import Model
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import JUST_BEFORE
from recllm.shop.workspace.workspace import Workspace

MAX_REQUESTS = 2_000
"""Logged slates that an estimate uses at most: more take minutes, and narrow its interval little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueEstimate:
    """The reward per shown item under the target."""

    value: float
    interval: Interval | None
    """At 95 %; None where all rewards are the same, or there is one person only."""
    rows: int
    people: int
    effective_sample_size: float
    """(sum of weights)^2 / sum of squared weights: rows of the target's own that are worth as much."""
    outside_support: float
    """Share of the target's choices that the log could not show."""


def estimate_value(
    rewards: ArrayLike,
    propensities: ArrayLike,
    target_probabilities: ArrayLike,
    people: ArrayLike,
    *,
    outside_support: float = 0.0,
) -> ValueEstimate:
    """From n shown items, (n,) each.

    rewards: such as 1 for a click. propensities: the probability with which the log's ranking showed this item at this
    position. target_probabilities: that of the other ranking, 0 or 1 where it does not draw. people: any numbering.

    Raises `DataError` for numbers that cannot be, and when the log holds nothing that the target would show.
    """
    try:
        reward, chance, target, person = np.stack([rewards, propensities, target_probabilities, people]).astype(float)
    except ValueError:
        raise DataError("logged choices: give one reward, propensity, probability and person for each row") from None
    if not (np.isfinite(reward) & (chance > 0) & (chance <= 1) & (target >= 0) & (target <= 1)).all():
        raise DataError(
            "logged choices: rewards are finite, propensities above 0 and at most 1, probabilities in [0, 1]; leave "
            "out slates without propensities"
        )
    weights = target / chance
    if not weights.any():
        raise DataError("logged choices: nothing of the log would be shown by the target; explore before asking")
    person = np.unique(person, return_inverse=True)[1]
    tops, bottoms = np.bincount(person, weights * reward), np.bincount(person, weights)
    interval, extremes = None, (float(reward.min()), float(reward.max()))
    if extremes[0] < extremes[1] and len(tops) > 1:
        # the next heavy row may earn what none did yet
        weight = float((weights**2).sum() / weights.sum())
        limits = [ratio_interval(np.append(tops, weight * r), np.append(bottoms, weight)) for r in extremes]
        interval = Interval(max(limits[0].low, extremes[0]), min(limits[1].high, extremes[1]))
    return ValueEstimate(
        value=float(tops.sum() / bottoms.sum()),
        interval=interval,
        rows=len(weights),
        people=len(tops),
        effective_sample_size=float(weights.sum() ** 2 / (weights**2).sum()),
        outside_support=outside_support,
    )


def ratio_interval(numerators: Values, denominators: Values, level: float = LEVEL) -> Interval:
    """Student's of sum(numerators) / sum(denominators), by the delta method over independent entries, (n,) each."""
    from scipy.special import stdtrit

    n, value = len(numerators), numerators.sum() / denominators.sum()
    error = np.std(numerators - value * denominators, ddof=1) / np.sqrt(n) / denominators.mean()
    reach = float(stdtrit(n - 1, (1 + level) / 2) * error)
    return Interval(float(value) - reach, float(value) + reach)


@dataclass(frozen=True, kw_only=True)
class OffPolicyReport:
    """Expected reward per shown item under another model, next to the logged one."""

    model_version: str
    metric: Metric
    requests: int
    """Logged slates that were used."""
    too_early: int
    """Explored slates from before the end of the model's training, which were left out."""
    candidate: ValueEstimate
    serving: ValueEstimate
    """The ranking that served, had it not explored."""
    difference: float
    """Candidate - serving, both by inverse propensities over the same customers."""
    difference_interval: Interval | None
    """None without answers, or where nothing varies."""


def estimate_model(
    workspace: Workspace,
    model: Model,
    encoder: Encoder,
    *,
    metric: Metric = Metric.CLICKS,
    progress: Callable[[int], None] = lambda done: None,
) -> OffPolicyReport:
    """Over customers who agreed to analytics and personalisation. encoder: the model's. progress: gets the number of
    slates done.

    Raises `NothingToDo` without a slate that explored since the model's training, `UsageError` for a metric that is not
    of showings.
    """
    if metric not in ANSWER_COLUMNS:
        raise UsageError(f"{metric} is not of showings; ask for {', '.join(ANSWER_COLUMNS)}")
    rankings = workspace.store().explored_slates(utc(0))
    showings = showings_with_answers(workspace.gate().events(Purpose.ANALYTICS))
    explored = showings.with_columns(pl.col("timestamp") + JUST_BEFORE).filter(  # the present that the slate was for
        pl.col("propensity").is_not_null(),
        pl.col("position").is_not_null(),
        pl.col("request_id").is_in(list(rankings)),
    )
    usable = explored.filter(pl.col("timestamp") >= datetime.fromisoformat(model.training["until"]))
    too_early = explored["request_id"].n_unique() - usable["request_id"].n_unique()
    if usable.is_empty():
        raise NothingToDo(
            f"no slate explored since {model.version} was trained ({too_early} before); set experiments.explore_share, "
            "and serve with record for some days"
        )
    request_ids = usable["request_id"].unique().sort()
    request_ids = request_ids.sample(min(MAX_REQUESTS, len(request_ids)), seed=0)
    usable = usable.filter(pl.col("request_id").is_in(request_ids.implode()))
    usable = usable.sort("timestamp", "request_id", "position")

    # all customers, with the statistics of the time of the first showing
    everybody, locale = workspace.gate().dataset(Purpose.PERSONALISATION), workspace.settings.locale
    start = int(usable["timestamp"][0].timestamp())
    then = Recommender(everybody.before(start), encoder, model=model, locale=locale).warm()
    recommender = Recommender(everybody, encoder, model=model, locale=locale, population=then.population)
    rows = []
    for n, showings in enumerate(usable.partition_by("request_id", maintain_order=True), start=1):
        slate, ranked = _own_slate(recommender, showings), rankings[showings["request_id"][0]]
        items = [item.item_id for item in slate]
        for item_id, position in showings.select("item_id", "position").iter_rows():
            is_outside = position > len(items) or items[position - 1] not in ranked
            rows.append((item_id in items, ranked[position - 1] == item_id, is_outside))
        progress(n)
    is_target, is_greedy, is_outside = np.array(rows, np.float64).T
    rewards = usable[ANSWER_COLUMNS[metric]].to_numpy().astype(np.float64)
    propensities, people = usable["propensity"].to_numpy(), usable["user_id"].rank("dense").to_numpy()
    gaps = (is_target - is_greedy) * rewards / propensities
    _, person, sizes = np.unique(people, return_inverse=True, return_counts=True)
    totals = np.bincount(person, gaps).astype(np.float64)
    varies = len(sizes) > 1 and bool(gaps.any())
    return OffPolicyReport(
        model_version=model.version or "",
        metric=metric,
        requests=len(request_ids),
        too_early=too_early,
        candidate=estimate_value(rewards, propensities, is_target, people, outside_support=float(is_outside.mean())),
        serving=estimate_value(rewards, propensities, is_greedy, people),
        difference=float(gaps.mean()),
        difference_interval=ratio_interval(totals, sizes.astype(np.float64)) if varies else None,
    )


def _own_slate(recommender: Recommender, showings: pl.DataFrame) -> tuple[Recommendation, ...]:
    """What the model would have shown instead of one logged slate, as long as that one."""
    moment = int(showings["timestamp"][0].timestamp())
    users, k = (showings["user_id"][0],), int(showings["position"].max())  # type: ignore[arg-type]
    (slate,) = recommender.at(moment).recommend(RecommendRequest(users=users, k=k, explain=False))
    return slate.items
