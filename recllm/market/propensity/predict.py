"""One door to every kind of prediction; and who buys, leaves or redeems within a horizon.

buy      at least one purchase (of some items) with as_of <= time < as_of + horizon; asked of everybody with any event.
leave    no purchase at all in that time, asked of active people: those who bought within `active_days` before. A person
         who has already stayed away longer is not asked about.
redeem   at least one of a campaign's coupons, asked of who was mailed it. There is one example per (campaign, person
         mailed): features as of the midnight before the mailing, label 1 when a coupon is redeemed within the horizon,
         or until the campaign's end when that comes first. It is learned as of the predicted campaign's own mailing:
         only campaigns whose horizon was over by then, and not the campaign itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError, NothingToDo, UsageError
from recllm.base.policy import Policy
from recllm.market.propensity.coupons import DECREASING, INCREASING, Coupons, coupon_features
from recllm.market.propensity.examples import Cohort, Eligible, Examples, Outcome, active_within
from recllm.market.propensity.features import Basics, FeatureTable
from recllm.market.propensity.model import backtest, fit_propensity
from recllm.market.propensity.next_order import learn_next_order
from recllm.market.propensity.parameters import PropensitySettings
from recllm.market.propensity.prediction import Prediction, PredictionRequest
from recllm.market.propensity.question import PredictionKind
from recllm.market.propensity.task import Answer, PredictionTask
from recllm.market.propensity.value import learn_value
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
        task = PredictionTask(
            request=request,
            learn=cohort,
            ask=cohort,
            policy=policy,
            settings=PropensitySettings(seed=request.seed),
        )
        kinds = {
            PredictionKind.BUY: learn_outcome,
            PredictionKind.LEAVE: learn_outcome,
            PredictionKind.REDEEM: lambda _: predict_redeem,  # what it learns from hangs on who is asked about
            PredictionKind.NEXT_ORDER: learn_next_order,
            PredictionKind.VALUE: learn_value,
        }
        return cls(task, kinds[request.kind](task))

    def predict(self, ask: Dataset) -> Prediction:
        """ask: people, as of its own time. Raises `NothingToDo` where nothing of any of them counts."""
        cohort = Cohort.of(ask, self.task.request, self.task.policy, self.task.learn.basics)
        return self.answer(replace(self.task, ask=cohort))


def learn_outcome(task: PredictionTask) -> Answer:
    """Who buys, and who leaves."""

    def left(cohort: Cohort, start: int, end: int) -> NDArray[np.float64]:
        return 1 - cohort.bought(start, end)

    outcome: Outcome = Cohort.bought
    eligible: Eligible = Cohort.with_history
    days = 0
    if task.request.kind is PredictionKind.LEAVE:
        days = task.request.active_days or ACTIVE_DAYS
        outcome, eligible = left, active_within(days)
    examples, as_of = task.examples(outcome, eligible), task.learn.dataset.as_of
    past_probability, label, cut = backtest(examples, as_of, task.settings)
    model = fit_propensity(examples, as_of, task.settings)

    def answer(query: PredictionTask) -> Prediction:
        table, rows, left_out = query.with_past(eligible(query.ask, query.now))
        probability = model.probability(table)
        reasons = query.reasons(model.logit, model.inputs, examples.features, table)
        return query.prediction(
            query.people(rows, probability, reasons, probability=probability.tolist()),
            past_probability,
            label,
            cut,
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
    past_probability, label, cut = backtest(examples, as_of, settings)
    model = fit_propensity(examples, as_of, settings)
    rows = task.ask.user_rows(list(user_ids))
    if not len(rows):
        raise NothingToDo("no one to predict: none of the people mailed is known and has agreed to personalisation")
    table = campaign_features(task.ask, coupons, mailing).rows(rows)
    probability = model.probability(table)
    reasons = task.reasons(model.logit, model.inputs, examples.features, table)
    unknown = len(set(user_ids)) - len(rows)
    return task.prediction(
        task.people(rows, probability, reasons, probability=probability.tolist()),
        past_probability,
        label,
        cut,
        as_of=as_of,
        n_campaigns=0 if cut is None else len(np.unique(cut)),
        left_out={"not_known": unknown} if unknown else {},
        notes=(f"campaign {campaign}; learned from {len(past)} earlier mailings",),
    )


def usable(cohort: Cohort, past: Sequence[Mailing]) -> list[Mailing]:
    """The mailings with any event of the log before them: of the others nothing is known."""
    events = cohort.dataset.events
    first = int(events.at.min()) if len(events) else 0
    return [mailing for mailing in past if mailing.at > first]
