"""Every kind of prediction: past windows are examples, a model gives the probability, and the latest window checks it.

buy      at least one purchase (of some items) with as_of <= time < as_of + horizon; asked of everybody with any event.
leave    no purchase at all in that time, asked of active people who would then have missed their usual time, see
         `missed_after`.
next-order, value   the probability of buy, with the date of the next order or the money spent.
redeem   at least one of a campaign's coupons, asked of who was mailed it; see `coupons`.

Why a person's probability is what it is: what the served score would be without each group of facts.

    delta(group) = score(person) - mean over some others of score(person, but with the other's values of the group)

which is the group's interventional worth (Janzing et al. 2020) with one group left out at a time. The others are drawn
once from the people learned from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Ints, Mask, Values
from recllm.base.errors import DataError, NothingToDo, PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.base.questions import PredictionKind
from recllm.base.schema import Purpose, Reason
from recllm.market.propensity.coupons import DECREASING, INCREASING, Coupons, coupon_features
from recllm.market.propensity.examples import (
    Cohort,
    Eligible,
    Examples,
    Outcome,
    cuts,
    missed_after,
    order_days,
    past_examples,
)
from recllm.market.propensity.features import FeatureTable, Floats
from recllm.market.propensity.model import (
    ALIKE_CASES,
    MIN_SPEND,
    Backtest,
    CountedModel,
    OrderDates,
    PropensitySettings,
    SpendModel,
    backtest,
    days_until,
    spent,
)
from recllm.market.propensity.prediction import Prediction, PredictionRequest, UserPrediction, quality
from recllm.shop.data.dataset import DAY, Dataset, utc
from recllm.shop.data.order import refuse_steps
from recllm.shop.workspace.workspace import Workspace, present
from recllm.text.templates import Prompts

Score = Callable[[Floats], Values]
"""Score, (n,), of rows of the table's values: a logit or a log."""
GENERAL = "general"
MAX_REASONS = 3
"""Of a person."""
MIN_EFFECT = 0.1
"""Smaller changes of the logit are nothing clear."""
BACKGROUND_PEOPLE = 8
"""People whose values are put in place of the person's own."""
_ROWS = 60_000
"""Rows scored at once."""
VALIDATION_SHARE = 0.25
"""Share of all mailings, the latest, on which the model is checked."""
logger = logging.getLogger(__name__)
EVERYDAY = ("buy", "leave", "next-order", "value")
"""Kinds of predictions that need nothing but the log."""


def predict(
    request: PredictionRequest,
    learn: Dataset,
    ask: Dataset,
    *,
    policy: Policy | None = None,
) -> Prediction:
    """learn: people whose past may be learned from. ask: people who are predicted, as of its own time.

    Raises `UsageError` for an unknown item, category or campaign; `DataError` for a log that is shorter than two
    horizons or without what is asked about, too few people, or an outcome that always or never happened; `NothingToDo`
    for no one to predict; `PolicyError` for a target of a sensitive category.
    """
    started, policy = time.perf_counter(), policy or Policy()
    cohorts = (Cohort.of(dataset, request, policy) for dataset in (learn, ask))
    predicted = predict_redeem if request.kind is PredictionKind.REDEEM else predict_outcome
    prediction = predicted(request, *cohorts)
    seconds = time.perf_counter() - started
    logger.info("%s: %d people predicted, %.1f s", request.kind, len(prediction.people), seconds)
    return prediction


def predict_workspace(
    workspace: Workspace, request: PredictionRequest, *, datasets: tuple[Dataset, Dataset] | None = None
) -> Prediction:
    """Predict everybody of a workspace. Coupon tables (under the shop's ids) and the target are read before the log.

    datasets: people to learn from and people to predict, where they were read already. Raises `PolicyError` without
    anyone to learn from, and what `predict` raises.
    """
    if isinstance(request.coupons, Path):
        coupons = Coupons.read(request.coupons, workspace.pseudonymiser().many)
        request = request.model_copy(update={"coupons": coupons})
    if request.targeted:
        catalogue = workspace.gate().catalogue(request.items or None)
        Cohort.of(Dataset.of_catalogue(catalogue, 0), request, workspace.policy)  # checks the target
    learn, ask = datasets or datasets_of(workspace)
    if not len(learn.events):
        raise PolicyError(
            "no customer of this workspace has agreed to model training; load a consent table, "
            "or make the workspace with --consent-default granted"
        )
    request = request.model_copy(update={"locale": workspace.locale(request.locale)})
    prediction = predict(request, learn, ask, policy=workspace.policy)
    with workspace.store().read() as reader:
        refused = reader.counts()["users"] - ask.n_users
    if refused <= 0 or request.kind is PredictionKind.REDEEM:
        return prediction
    return replace(prediction, left_out={"no_consent": refused, **prediction.left_out})


def everyday_predictions(workspace: Workspace) -> Iterator[Prediction]:
    """Those of `EVERYDAY`, each learned as it is asked for; logs why a kind is left out."""
    if workspace.gate().step_seconds() is not None:
        logger.warning("no predictions: the log knows only an order, and no days")
        return
    datasets = datasets_of(workspace)
    for kind in map(PredictionKind, EVERYDAY):
        request = PredictionRequest(kind=kind, locale=workspace.settings.locale)
        try:
            yield predict_workspace(workspace, request, datasets=datasets)
        except (DataError, NothingToDo, PolicyError) as error:
            logger.warning("no prediction of %s: %s", kind, error)


def datasets_of(workspace: Workspace) -> tuple[Dataset, Dataset]:
    """People to learn from, and people to predict, as of the present."""
    ask = workspace.gate().dataset(Purpose.PERSONALISATION)
    return people_learned_from(workspace), ask.before(present(workspace))


def people_learned_from(workspace: Workspace) -> Dataset:
    """People who agreed to model training; of more than `scorer.learn_people` a sample (`data.people_sample`).
    Raises `UsageError` for a log of steps."""
    gate = workspace.gate()
    refuse_steps(gate.step_seconds(), "predictions of a person's next days")
    return gate.dataset(Purpose.MODEL_TRAINING, people_limit=workspace.settings.scorer.learn_people)


def reasons_of(
    request: PredictionRequest,
    dataset: Dataset,
    score: Score,
    table: FeatureTable,
    others: FeatureTable,
    names: FeatureTable,
    outcome: str = "chance",
) -> list[tuple[Reason, ...]]:
    """The reasons of each row of `table`, whose values `score` reads; none without `explain`.
    others: `background`. names: the people's features, for the words. outcome: chance or spend."""
    if not request.explain or not len(table):
        return [()] * len(table)
    groups, deltas = group_deltas(score, table, others.values)
    target = request.category  # in words; None for everything, or several items
    if target is None and len(request.items) == 1:
        row = int(dataset.item_rows(request.items)[0])
        target = str(dataset.items["title"][row] or request.items[0])

    def render(template: str, /, **facts: object) -> str:
        return Prompts.load().render(f"behaviour.{template}", request.locale, **facts)

    def of_one(deltas: Values, features: Mapping[str, float]) -> Iterator[Reason]:
        """The largest deltas of one person, largest first. features: the person's, by name."""
        order = np.argsort(-np.abs(deltas), kind="stable")
        for n in order[np.abs(deltas[order]) >= MIN_EFFECT]:
            group, delta = groups[n], float(deltas[n])
            has_any = any(features.get(name, 0) > 0 for name in _FACTS[group].values())
            raises = (delta > 0) != (request.kind is PredictionKind.LEAVE)
            if group in _DEEDS and raises and not has_any:
                continue  # a figure that the words do not name does
            fact = render(group, **group_facts(group, features, target))
            text = render("reason", fact=fact, up=delta > 0, what=outcome)
            yield Reason(evidence_id=group, delta=delta, text=text)

    general = (Reason(evidence_id=GENERAL, delta=0.0, text=render(GENERAL)),)
    return [
        tuple(islice(of_one(delta, dict(zip(names.names, row, strict=True))), MAX_REASONS)) or general
        for delta, row in zip(deltas, names.values.tolist(), strict=True)
    ]


def prediction_of(
    request: PredictionRequest,
    ask: Cohort,
    rows: Ints,
    rank_by: NDArray[np.floating],
    columns: Mapping[str, Sequence[Any]],
    check: Backtest,
    *,
    as_of: int,
    n_campaigns: int = 0,
    **fields: Any,
) -> Prediction:
    """rows: of those who are asked about, highest `rank_by` first in the answer. columns: fields of `UserPrediction`.
    as_of: epoch seconds. n_campaigns: for the words. fields: further ones of `Prediction`."""
    horizon, prompts, ids = request.horizon_days, Prompts.load(), ask.user_ids(rows)
    day = None if check.cut is None else f"{utc(int(check.cut.min())):%Y-%m-%d}"
    people = (
        UserPrediction(user_id=ids[n], **{name: column[n] for name, column in columns.items()})
        for n in ask.descending(rows, rank_by)
    )
    return Prediction(
        kind=request.kind,
        horizon_days=horizon,
        as_of=utc(as_of),
        meaning=prompts.render("behaviour.meaning", request.locale, kind=str(request.kind), active=request.active_days),
        people=tuple(people),
        quality=quality(check.probability, check.label),
        checked=prompts.render("behaviour.checked", request.locale, days=horizon, day=day, campaigns=n_campaigns),
        **fields,
    )


def predict_outcome(request: PredictionRequest, learn: Cohort, ask: Cohort) -> Prediction:
    """Of every kind but redeem. Raises `DataError` also for the value of a log without prices."""
    data, horizon = learn.dataset, request.horizon_days
    settings = PropensitySettings(seed=request.seed)
    outcome: Outcome = Cohort.bought
    binary_of: Callable[[Values], Mask] | None = None
    eligible: Eligible = Cohort.with_history
    times = cuts(data, horizon)
    match request.kind:
        case PredictionKind.LEAVE:
            outcome = Cohort.left
            usual_gap = OrderDates.learn(order_days(learn, times[0])).usual_gap
            eligible = missed_after(horizon, request.active_days, usual_gap)
        case PredictionKind.NEXT_ORDER:
            outcome, binary_of = days_until, np.isfinite
        case PredictionKind.VALUE:
            if not np.isfinite(data.events.price).any():
                raise DataError("the log has no prices, so spend cannot be predicted; load events with a price column")
            outcome, binary_of = spent, partial(np.less, MIN_SPEND)
    examples = past_examples(learn, times, horizon, outcome, eligible)
    label = examples.label if binary_of is None else binary_of(examples.label).astype(np.float64)
    binary = replace(examples, label=label)
    check, model = backtest(binary, data.as_of, settings, may_count=True)
    now = ask.dataset.as_of
    has_past = eligible(ask, now)
    rows, missing = np.flatnonzero(has_past), int((~has_past).sum())
    if not len(rows):
        raise NothingToDo(f"no one to predict: of {missing:,} people none has a past that counts")
    table, others, figures = ask.features(now).rows(rows), background(examples), dict[str, float]()
    probability = model.probability(table)
    rank_by, columns = probability, {"probability": probability.tolist()}
    explained = partial(reasons_of, request, ask.dataset)
    if request.kind is PredictionKind.VALUE:
        figures = SpendModel.fit(examples.rows(~check.inside), request.seed).figures(examples.rows(check.inside))
        spend = SpendModel.fit(examples, request.seed)
        rank_by = spend.value(table)
        columns["value"] = rank_by.tolist()
        columns["reasons"] = explained(spend.log_value, table, others, table, "spend")
    else:
        columns["reasons"] = explained(model.logit, model.inputs(table), model.inputs(others), table)
    if request.kind is PredictionKind.NEXT_ORDER:
        is_latest = examples.window == 0
        latest, past = examples.rows(check.inside & is_latest), order_days(learn, times[0])
        expected = check.probability[is_latest[check.inside]]
        figures = OrderDates.learn(past).figures(past, latest, expected, horizon)
        dates = OrderDates.learn(order_days(learn, data.as_of))
        rank_by, by_field = dates.answers(order_days(ask, now), rows, probability, horizon, now)
        columns |= by_field
    reason = "not_away" if request.kind is PredictionKind.LEAVE else "no_past"
    about: dict[str, Any] = {"figures": figures, "left_out": {reason: missing} if missing else {}}
    if isinstance(model, CountedModel):
        about["notes"] = (Prompts.load().render("behaviour.counted", request.locale, n=ALIKE_CASES),)
    return prediction_of(request, ask, rows, rank_by, columns, check, as_of=now, **about)


def redeem_settings(settings: PropensitySettings) -> PropensitySettings:
    """Small trees and a stronger prior: a shop has few campaigns, and few redeem."""
    return replace(
        settings,
        rounds=250,
        leaves=4,
        min_leaf_rows=20,
        column_share=0.3,
        ridge=0.003,
        increasing=INCREASING,
        decreasing=DECREASING,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailing:
    """A campaign on one day."""

    campaign: str
    at: int
    """Midnight before it, epoch seconds."""
    end: int
    """When the label is known, epoch seconds."""
    user_ids: tuple[str, ...]


def mailings(coupons: Coupons, horizon_days: int) -> list[Mailing]:
    """Every campaign and day of mailing, earliest first; it ends with the horizon at the latest."""
    day, horizon = pl.col("at") // DAY * DAY, horizon_days * DAY
    grouped = coupons.mailings.group_by("campaign_id", at=day).agg(
        pl.col("user_id").unique().sort(), pl.col("end").max()
    )
    end = pl.min_horizontal(pl.col("end") + 1, pl.col("at") + horizon)
    rows = grouped.select("campaign_id", "at", end, "user_id").sort("at", "campaign_id").iter_rows()
    return [Mailing(campaign=name, at=at, end=end, user_ids=tuple(ids)) for name, at, end, ids in rows]


def redeem_examples(cohort: Cohort, coupons: Coupons, past: Sequence[Mailing]) -> Examples:
    """The examples of these mailings, of people of the cohort; the latest have window 0."""
    sizes = np.array([len(m.user_ids) for m in past])
    mailed_later = np.cumsum(sizes[::-1])[::-1] - sizes
    windows = (mailed_later >= VALIDATION_SHARE * sizes.sum()).astype(np.int64)
    parts = []
    for mailing, window in zip(past, windows, strict=True):
        rows = cohort.user_rows(list(mailing.user_ids))
        if not len(rows):
            continue
        features = campaign_features(cohort, coupons, mailing).rows(rows)
        # 1 for who redeems a coupon of the campaign with at <= time < end
        inside = pl.col("at").is_between(mailing.at, mailing.end, closed="left")
        redeemed = coupons.redemptions.filter((pl.col("campaign_id") == mailing.campaign) & inside)
        redeemers = cohort.user_rows(redeemed["user_id"].unique().to_list())
        label = np.isin(rows, redeemers).astype(np.float64)
        columns = (np.full(len(rows), value, np.int64) for value in (window, mailing.at, mailing.end))
        parts.append(Examples(features, label, rows, *columns))
    return Examples.joined(parts)


def campaign_features(cohort: Cohort, coupons: Coupons, mailing: Mailing) -> FeatureTable:
    """The features of all people of the cohort for one mailing, as of its `at`."""
    table = coupon_features(cohort.dataset, coupons, mailing.campaign, mailing.at)
    return cohort.features(mailing.at).with_columns(table)


def predict_redeem(request: PredictionRequest, learn: Cohort, ask: Cohort) -> Prediction:
    """The people who were mailed the request's campaign, the latest when None.
    Raises `UsageError` for an unknown campaign, `DataError` when too few campaigns were over before its mailing."""
    tables = request.coupons
    coupons = tables if isinstance(tables, Coupons) else Coupons.read(Path(tables or ""))
    starts, every = list(coupons.starts()), mailings(coupons, request.horizon_days)
    campaign = request.campaign or starts[-1]
    of_campaign = [m for m in every if m.campaign == campaign]
    if not of_campaign:
        raise UsageError(f"no mailing of a campaign {campaign!r}; the latest are: {', '.join(starts[-10:])}")
    as_of = min(of_campaign[0].at, ask.dataset.as_of // DAY * DAY)
    user_ids = tuple(user_id for mailing in of_campaign for user_id in mailing.user_ids)
    mailing = replace(of_campaign[0], at=as_of, user_ids=user_ids)
    past = usable(learn, [m for m in every if m.campaign != campaign and m.end <= as_of])
    if not past:
        raise DataError(f"no campaign was over before {utc(as_of):%Y-%m-%d}, so there is nothing to learn from")
    settings = redeem_settings(PropensitySettings(seed=request.seed))
    examples = redeem_examples(learn, coupons, past)
    check, model = backtest(examples, as_of, settings)
    rows = ask.user_rows(list(user_ids))
    if not len(rows):
        raise NothingToDo("no one to predict: none of the people mailed is known and has agreed to personalisation")
    table = campaign_features(ask, coupons, mailing).rows(rows)
    probability, unknown = model.probability(table), len(set(user_ids)) - len(rows)
    others = model.inputs(background(examples))
    reasons = reasons_of(request, ask.dataset, model.logit, model.inputs(table), others, table)
    return prediction_of(
        request,
        ask,
        rows,
        probability,
        {"probability": probability.tolist(), "reasons": reasons},
        check,
        as_of=as_of,
        n_campaigns=0 if check.cut is None else len(np.unique(check.cut)),
        left_out={"not_known": unknown} if unknown else {},
        notes=(f"campaign {campaign}; learned from {len(past)} earlier mailings",),
    )


def usable(cohort: Cohort, past: Sequence[Mailing]) -> list[Mailing]:
    """The mailings with any event of the log before them: of the others nothing is known."""
    events = cohort.dataset.events
    first = int(events.at.min()) if len(events) else 0
    return [m for m in past if m.at > first]


def background(learned: Examples) -> FeatureTable:
    """The others, drawn among the people learned from."""
    rows = np.random.default_rng(0).choice(len(learned), min(BACKGROUND_PEOPLE, len(learned)), replace=False)
    return learned.features.rows(np.sort(rows))


def group_deltas(score: Score, features: FeatureTable, others: Floats) -> tuple[tuple[str, ...], Values]:
    """The groups that a reason can name, and what each is worth to each person: (n, n_groups)."""
    groups = tuple(group for group in dict.fromkeys(features.groups) if group in _FACTS)
    scores, deltas = score(features.values), np.empty((len(features), len(groups)))
    size = max(1, _ROWS // max(len(others), 1))
    for number, group in enumerate(groups):
        columns = np.array([g == group for g in features.groups])
        for start in range(0, len(features), size):
            values = features.values[start : start + size]
            # each row once per other person, with that person's values of the group
            replaced = np.repeat(values, len(others), axis=0)
            replaced[:, columns] = np.tile(others[:, columns], (len(values), 1))
            mean = score(replaced).reshape(len(values), len(others)).mean(axis=1)
            deltas[start : start + size, number] = scores[start : start + size] - mean
    return groups, deltas


def group_facts(group: str, features: Mapping[str, float], target: str | None) -> dict[str, object]:
    """The variables of a group's template, from one person's features by name; NaN becomes None."""
    values = {name: features.get(feature, np.nan) for name, feature in _FACTS[group].items()}
    facts: dict[str, object] = {name: None if np.isnan(value) else float(value) for name, value in values.items()}
    return facts | ({"target": target} if group == "target" else {})


_FACTS: Mapping[str, Mapping[str, str]] = {
    "recency": {"days": "days_since"},
    "frequency": {"month": "trips_28", "quarter": "trips_91", "half": "trips_182"},
    "spend": {"spent": "spend_91", "per_trip": "spend_per_trip"},
    "tenure": {"days": "tenure"},
    "rhythm": {"gap": "gap_median", "days": "days_since"},
    "calendar": {"weekend": "weekend_share"},
    "trend": {"change": "trend_trips", "trips": "trips_28"},
    "breadth": {"categories": "categories_91", "items": "items_91"},
    "discount": {"saved": "saved_91"},
    "returns": {"returned": "returned_91"},
    "browsing": {"seen": "browsed_28", "carts": "carts_28"},
    "target": {"trips": "target_trips", "days": "target_days_since"},
    "coupons": {"redeemed": "redeemed_campaigns", "mailed": "mailed_before", "used": "coupon_trips_91"},
    "affinity": {"lines": "own_lines"},
    "campaign": {},
}
"""Variables of each group's template, and the feature that each is read from."""
_DEEDS = ("frequency", "breadth", "browsing", "target", "affinity")
"""Groups that count what a person did."""
