"""What another model would have brought, from slates that explored, before anybody sees it.

For each logged slate the model makes its own of the same length, from what was known of the person at that moment and
of the crowd at the start of the log that is used. An item of it that was shown counts with 1 / (its probability of
being shown); an item that the log could never show is outside of the support, and reported. Positions differ in how
often they are looked at: an answer is counted as it would have been at the model's position, by the examination 1 /
position^decay. The decay is estimated from explored items, whose place is drawn and not earned, between the places of
one item (as Agarwal et al. 2019 compare them), and is 0 where too few of them were answered.

Requests before the model's own training ended are left out: it has seen what came of them. What a request filtered by
(a condition, a cart, items not to show) was not logged, so a filtered request counts as if it had none; its items that
the model would not have chosen only widen the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import NothingToDo, UsageError
from recllm.base.schema import Purpose, Recommendation, RecommendRequest
from recllm.base.stats.intervals import Interval
from recllm.market.experiments.off_policy import LoggedChoices, ValueEstimate, estimate_value, likelihood_interval
from recllm.market.jobs.experiments import ANSWER_COLUMNS, Metric
from recllm.market.jobs.feedback import JUST_BEFORE, showings_with_answers
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.shop_recommender import model_encoder
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import Workspace

MIN_EXPLORED_ANSWERS = 50
"""Explored items that were answered; with fewer the decay of examination is taken as 0."""
DECAYS = np.linspace(0.0, 2.0, 201)

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class OffPolicyReport:
    """What a model's slates would have brought per item shown, beside the slates that were shown without exploring."""

    model_version: str
    metric: Metric
    requests: int
    """Logged slates that were used."""
    too_early: int
    """Explored slates from before the end of the model's training, which were left out."""
    decay: float
    """Of the examination by position: 1 / position^decay."""
    candidate: ValueEstimate
    serving: ValueEstimate
    """The ranking that served, had it not explored."""
    difference: float
    """Candidate - serving, both by inverse propensities over the same people."""
    difference_interval: Interval | None
    """None where nobody answered, or nothing varies."""


def estimate_model(
    workspace: Workspace,
    version: str,
    *,
    metric: Metric = Metric.CLICKS,
    max_requests: int = 2_000,
    window_days: float = 7.0,
    rng: np.random.Generator | None = None,
    progress: Callable[[int], None] | None = None,
) -> OffPolicyReport:
    """max_requests: logged slates, drawn by rng where there are more. window_days: as in `recllm.market.jobs.feedback`.
    progress is told how many slates are done. Over people who agreed to analytics and personalisation.

    Raises `NothingToDo` where no slate explored since the model's training, `UsageError` for a metric that is not of
    showings, `ModelError` for an unknown version.
    """
    from recllm.recommend.recommender.saved_model import load_model

    if metric not in ANSWER_COLUMNS:
        raise UsageError(f"{metric} is not of showings; ask for {', '.join(ANSWER_COLUMNS)}")
    rng = rng or np.random.default_rng()
    model = load_model(workspace.models_dir, version)
    learned_until = datetime.fromisoformat(model.training["until"])
    gate = workspace.gate()
    showings = showings_with_answers(gate.events(Purpose.ANALYTICS), window_days=window_days)
    showings = showings.with_columns(pl.col("timestamp") + JUST_BEFORE)  # the present that each slate was made for
    showings = showings.filter(pl.col("propensity").is_not_null(), pl.col("position").is_not_null())
    rankings = workspace.store().explored_slates(utc(0))
    explored = showings.filter(pl.col("request_id").is_in(list(rankings)))
    usable = explored.filter(pl.col("timestamp") >= learned_until)
    too_early = explored["request_id"].n_unique() - usable["request_id"].n_unique()
    if usable.is_empty():
        raise NothingToDo(
            f"no slate explored since {version} was trained ({too_early} before); set experiments.explore_share, and "
            "serve with record for some days"
        )
    request_ids = usable["request_id"].unique().sort()
    if len(request_ids) > max_requests:
        drawn = rng.choice(len(request_ids), max_requests, replace=False)
        request_ids = request_ids.gather(np.sort(drawn))
        usable = usable.filter(pl.col("request_id").is_in(request_ids.implode()))
    usable = usable.sort("timestamp", "request_id", "position")

    everybody = gate.dataset(Purpose.PERSONALISATION)
    start = int(usable["timestamp"].min().timestamp())  # type: ignore[union-attr]
    encoder = model_encoder(workspace, model)
    then = Recommender(everybody.before(start), encoder, model=model, locale=workspace.settings.locale).warm()
    recommender = Recommender(
        everybody,
        encoder,
        model=model,
        locale=workspace.settings.locale,
        population=then.population,
        item_offsets=then.item_offsets,
    )
    decay = examination_decay(usable, rankings, ANSWER_COLUMNS[metric])

    columns: dict[str, list[float]] = {name: [] for name in ("position", "target", "outside")}
    for n, rows in enumerate(usable.partition_by("request_id", maintain_order=True)):
        slate = _own_slate(recommender, rows)
        ranked = rankings[rows["request_id"][0]]
        items = {item.item_id: item for item in slate}
        for item_id, position in zip(rows["item_id"], rows["position"], strict=True):
            own_item = items.get(item_id)
            at_position = slate[position - 1] if position <= len(slate) else None
            columns["position"].append(float(own_item.rank) if own_item else float(position))
            columns["target"].append(float(own_item is not None))
            columns["outside"].append(float(at_position is None or at_position.item_id not in ranked))
        if progress:
            progress(n + 1)
    arrays = {name: np.array(values) for name, values in columns.items()}
    shown_at = usable["position"].to_numpy().astype(np.float64)
    answered = usable[ANSWER_COLUMNS[metric]].to_numpy().astype(np.float64)
    propensities = usable["propensity"].to_numpy()
    people = usable["user_id"].rank("dense").to_numpy().astype(np.int64)

    rewards = answered * (shown_at / arrays["position"]) ** decay
    candidate = LoggedChoices(
        rewards=rewards,
        propensities=propensities,
        target_probabilities=arrays["target"],
        people=people,
        outside_support=arrays["outside"],
    )
    is_greedy = np.array(
        [
            rankings[request_id][position - 1] == item_id
            for request_id, position, item_id in usable.select("request_id", "position", "item_id").iter_rows()
        ],
        np.float64,
    )
    greedy = replace(
        candidate,
        rewards=answered,
        target_probabilities=is_greedy,
        outside_support=np.zeros(len(answered)),
    )
    gaps = (arrays["target"] * rewards - is_greedy * answered) / propensities
    _, person = np.unique(people, return_inverse=True)
    sums = np.bincount(person, gaps).astype(np.float64)
    sizes = np.bincount(person).astype(np.float64)
    return OffPolicyReport(
        model_version=version,
        metric=metric,
        requests=len(request_ids),
        too_early=too_early,
        decay=decay,
        candidate=estimate_value(candidate),
        serving=estimate_value(greedy),
        difference=float(sums.sum() / sizes.sum()),
        difference_interval=likelihood_interval(sums, sizes),
    )


def _own_slate(recommender: Recommender, rows: pl.DataFrame) -> tuple[Recommendation, ...]:
    """What the model would have shown instead of one logged slate, as long as that one."""
    moment = int(rows["timestamp"][0].timestamp())
    request = RecommendRequest(users=(rows["user_id"][0],), k=int(rows["position"].max()), explain=False)  # type: ignore[arg-type]
    (slate,) = recommender.at(moment).recommend(request)
    return slate.items


def examination_decay(showings: pl.DataFrame, rankings: Mapping[str, Sequence[str]], answer: str) -> float:
    """How fast answers fall with the position, in [0, 2], by maximum likelihood over explored items.

    showings: request_id, position, item_id and the answer (a boolean column); rankings: what each request drew from. An
    answer to item i at position j is Poisson with mean rate_i / j^decay; only the places of one and the same item are
    compared, since items of lower positions come of lower ranks and may be worse. 0 with fewer than
    `MIN_EXPLORED_ANSWERS` answers to items that were explored at several positions.
    """
    is_explored = [
        rankings[request_id][position - 1] != item_id
        for request_id, position, item_id in showings.select("request_id", "position", "item_id").iter_rows()
    ]
    counts = (
        showings.filter(pl.Series(is_explored, dtype=pl.Boolean))
        .group_by("item_id", "position")
        .agg(pl.len(), pl.sum(answer))
        .filter(pl.len().over("item_id") > 1)
    )
    position, n, answers = (counts[name].to_numpy().astype(np.float64) for name in ("position", "len", answer))
    if answers.sum() < MIN_EXPLORED_ANSWERS:
        return 0.0
    _, item = np.unique(counts["item_id"].to_numpy(), return_inverse=True)
    of_item = np.bincount(item, answers)
    likelihood = []
    for decay in DECAYS:
        looked_at = np.bincount(item, n * position**-decay)  # by item, showings as if all at the first position
        likelihood.append(-of_item @ np.log(looked_at) - decay * (answers @ np.log(position)))
    return float(DECAYS[np.argmax(likelihood)])
