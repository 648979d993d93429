"""Every kind of prediction: past windows are examples, a model gives the probability, and the latest window checks it.

buy      at least one purchase (of some items) with as_of <= time < as_of + horizon; asked of everybody with any event.
leave    no purchase at all in that time, asked of active people: those who bought within `active_days` before. A person
         who has already stayed away longer is not asked about.
next-order, value   the probability of buy, with the date of the next order or the money spent.
redeem   at least one of a campaign's coupons, asked of who was mailed it. There is one example per (campaign, person
         mailed): features as of the midnight before the mailing, label 1 when a coupon is redeemed within the horizon,
         or until the campaign's end when that comes first. It is learned as of the predicted campaign's own mailing:
         only campaigns whose horizon was over by then, and not the campaign itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError, NothingToDo, UsageError
from recllm.base.policy import Policy
from recllm.market.propensity.coupons import DECREASING, INCREASING, Coupons, coupon_features
from recllm.market.propensity.examples import Cohort, Eligible, Examples, Outcome, active_within, cuts, past_examples
from recllm.market.propensity.features import Basics, FeatureTable
from recllm.market.propensity.model import backtest, fit_propensity
from recllm.market.propensity.next_order import OrderDates, days_until
from recllm.market.propensity.parameters import PropensitySettings
from recllm.market.propensity.prediction import Prediction, PredictionRequest
from recllm.market.propensity.question import PredictionKind
from recllm.market.propensity.task import PredictionTask
from recllm.market.propensity.value import MIN_SPEND, SpendModel, spent
from recllm.shop.data.dataset import DAY, Dataset, utc

VALIDATION_SHARE = 0.25
"""The latest campaigns that hold this share of all mailings are the window on which the model is checked."""

logger = logging.getLogger(__name__)

ACTIVE_DAYS = 91


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
    started = time.perf_counter()
    prediction = Predictor.learn(request, learn, policy=policy).predict(ask)
    seconds = time.perf_counter() - started
    logger.info("%s: %d people predicted, %.1f s", request.kind, len(prediction.people), seconds)
    return prediction


Answer = Callable[[PredictionTask], Prediction]
"""Of what was learned for a task, about the people that another one asks about."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """What was learned for one request; it can be asked about many people, some at a time."""

    task: PredictionTask
    answer: Answer

    @classmethod
    def learn(cls, request: PredictionRequest, learn: Dataset, *, policy: Policy | None = None) -> Predictor:
        """Arguments and errors as of `predict`."""
        policy = policy or Policy()
        cohort = Cohort.of(learn, request, policy, Basics.of(learn.users) if request.basics else None)
        settings = PropensitySettings(seed=request.seed)
        task = PredictionTask(request=request, learn=cohort, ask=cohort, policy=policy, settings=settings)
        # what redeeming is learned from hangs on who is asked about
        return cls(task, predict_redeem if request.kind is PredictionKind.REDEEM else learn_outcome(task))

    def predict(self, ask: Dataset) -> Prediction:
        """ask: people, as of its own time. Raises `NothingToDo` where nothing of any of them counts."""
        cohort = Cohort.of(ask, self.task.request, self.task.policy, self.task.learn.basics)
        return self.answer(replace(self.task, ask=cohort))


def learn_outcome(task: PredictionTask) -> Answer:
    """Of every kind but redeem. Raises `DataError` also for the value of a log without prices."""

    def left(cohort: Cohort, start: int, end: int) -> NDArray[np.float64]:
        return 1 - cohort.bought(start, end)

    request, data = task.request, task.learn.dataset
    if request.kind is PredictionKind.VALUE and not np.isfinite(data.events.price).any():
        raise DataError("the log has no prices, so spend cannot be predicted; load events with a price column")
    outcomes: dict[PredictionKind, Outcome] = {
        PredictionKind.LEAVE: left,
        PredictionKind.NEXT_ORDER: days_until,
        PredictionKind.VALUE: spent,
    }
    days = (request.active_days or ACTIVE_DAYS) if request.kind is PredictionKind.LEAVE else 0
    eligible: Eligible = active_within(days) if days else Cohort.with_history
    outcome, horizon = outcomes.get(request.kind, Cohort.bought), request.horizon_days
    examples = past_examples(task.learn, cuts(data, horizon), horizon, outcome, eligible)
    happened = {PredictionKind.NEXT_ORDER: np.isfinite, PredictionKind.VALUE: lambda label: label > MIN_SPEND}
    binary = examples.with_label(happened[request.kind](examples.label)) if request.kind in happened else examples
    check = backtest(binary, data.as_of, task.settings)
    model = fit_propensity(binary, data.as_of, task.settings)
    earlier, validation = examples.rows(~check.inside), examples.rows(check.inside)
    figures, dates, spend = dict[str, float](), None, None
    if request.kind is PredictionKind.NEXT_ORDER:
        earlier_dates = OrderDates.fit(earlier, horizon, data.as_of, task.settings)
        survival = earlier_dates.survival(validation.features)
        figures, reach = (
            earlier_dates.figures(survival, validation),
            earlier_dates.calibrated(survival, validation).reach,
        )
        dates = replace(OrderDates.fit(examples, horizon, data.as_of, task.settings), reach=reach)
    elif request.kind is PredictionKind.VALUE:
        figures = SpendModel.fit(earlier, request.seed).figures(validation)
        spend = SpendModel.fit(examples, request.seed)

    def answer(query: PredictionTask) -> Prediction:
        table, rows, left_out = query.with_past(eligible(query.ask, query.now))
        probability = model.probability(table)
        rank_by, columns = probability, {"probability": probability.tolist()}
        if dates is not None:
            rank_by, by_field = dates.answers(table, query.now)
            columns |= by_field
        if spend is not None:
            rank_by = spend.value(table)
            columns["value"] = rank_by.tolist()
            reasons = query.reasons(spend.log_value, spend.inputs, examples.features, table, "spend")
        else:
            reasons = query.reasons(model.logit, model.inputs, examples.features, table)
        return query.prediction(
            query.people(rows, rank_by, reasons, **columns),
            check,
            figures=figures,
            left_out=left_out,
            active_days=days,
        )

    return answer


# --- redeem ----------------------------------------------------------------------------------------------------------


def redeem_settings(settings: PropensitySettings) -> PropensitySettings:
    """Small trees and a stronger hold on what is known beforehand: a shop has few campaigns, and few redeem."""
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


def mailings(coupons: Coupons, horizon_days: int | None) -> list[Mailing]:
    """Every campaign and day on which it was mailed, earliest first. horizon_days: None looks to the campaign's end.

    Raises `DataError` for a campaign without an end when there is no horizon.
    """
    frame = coupons.mailings.with_columns((pl.col("at") // DAY * DAY).alias("day"))
    grouped = frame.group_by("day", "campaign_id").agg(pl.col("user_id").unique().sort(), pl.col("end").max())
    result = []
    for at, campaign, user_ids, end in grouped.sort("day", "campaign_id").iter_rows():
        ends = [] if end is None else [end + 1]
        ends += [] if horizon_days is None else [at + horizon_days * DAY]
        if not ends:
            raise DataError(f"the campaign {campaign} has no end in the mailings; give a horizon in days")
        result.append(Mailing(campaign=campaign, at=at, end=int(min(ends)), user_ids=tuple(user_ids)))
    return result


def redeem_examples(cohort: Cohort, coupons: Coupons, past: Sequence[Mailing]) -> Examples:
    """The examples of these mailings, of people of the cohort; the latest have window 0."""
    sizes = np.array([len(mailing.user_ids) for mailing in past])
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
    """The features of everybody of the cohort for one mailing, as of its `at`."""
    table = coupon_features(cohort.dataset, coupons, mailing.campaign, mailing.at)
    return cohort.features(mailing.at).with_columns(table)


def predict_redeem(task: PredictionTask) -> Prediction:
    """The people who were mailed the request's campaign, the latest when None.

    Raises `UsageError` for an unknown campaign, `DataError` when too few campaigns were over before its mailing.
    """
    tables, horizon = task.request.coupons, task.request.horizon_days
    coupons = tables if isinstance(tables, Coupons) else Coupons.read(Path(tables or ""))
    starts, every = list(coupons.starts()), mailings(coupons, horizon)
    campaign = task.request.campaign or starts[-1]
    of_campaign = [mailing for mailing in every if mailing.campaign == campaign]
    if not of_campaign:
        raise UsageError(f"no mailing of a campaign {campaign!r}; the latest are: {', '.join(starts[-10:])}")
    as_of = min(of_campaign[0].at, task.now // DAY * DAY)
    user_ids = tuple(user_id for mailing in of_campaign for user_id in mailing.user_ids)
    mailing = replace(of_campaign[0], at=as_of, user_ids=user_ids)
    past = usable(task.learn, [m for m in every if m.campaign != campaign and m.end <= as_of])
    if not past:
        raise DataError(f"no campaign was over before {utc(as_of):%Y-%m-%d}, so there is nothing to learn from")
    settings, examples = redeem_settings(task.settings), redeem_examples(task.learn, coupons, past)
    check, model = backtest(examples, as_of, settings), fit_propensity(examples, as_of, settings)
    rows = task.ask.user_rows(list(user_ids))
    if not len(rows):
        raise NothingToDo("no one to predict: none of the people mailed is known and has agreed to personalisation")
    table = campaign_features(task.ask, coupons, mailing).rows(rows)
    probability = model.probability(table)
    reasons = task.reasons(model.logit, model.inputs, examples.features, table)
    unknown = len(set(user_ids)) - len(rows)
    return task.prediction(
        task.people(rows, probability, reasons, probability=probability.tolist()),
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
    return [mailing for mailing in past if mailing.at > first]
