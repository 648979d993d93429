"""Who redeems a campaign's coupons.

One example per (campaign, person mailed): features as of the midnight before the mailing, label 1 when at least one
coupon of the campaign is redeemed within the horizon, or until the campaign's end when that comes first. It is learned
as of the asked campaign's own mailing: only campaigns whose horizon was over by then, and not the campaign itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, utc
from recllm.errors import DataError, NothingToDo, UsageError
from recllm.propensity.coupon_features import FALLING, RISING, coupon_features
from recllm.propensity.coupons import Coupons, day
from recllm.propensity.curves import quality
from recllm.propensity.examples import Examples, joined_examples
from recllm.propensity.model import backtest, fit_chances
from recllm.propensity.prediction import Kind, Predicted, Prediction
from recllm.propensity.question import Question, ids_of, ordered
from recllm.propensity.table import Features
from recllm.settings import PropensitySettings

CHECK_SHARE = 0.25
"""The latest campaigns that hold this share of all mailings are the window on which the model is checked."""


def settings_for(seed: int = 0) -> PropensitySettings:
    """Small trees and a stronger hold on what is known beforehand: a shop has few campaigns, and few redeem."""
    return PropensitySettings(
        rounds=250,
        leaves=4,
        min_leaf_rows=20,
        column_share=0.3,
        ridge=0.003,
        increasing=RISING,
        decreasing=FALLING,
        seed=seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailing:
    """A campaign on one day: at, midnight before it; end: when the label is known; both epoch seconds."""

    campaign: str
    at: int
    end: int
    users: tuple[str, ...]


def mailings(coupons: Coupons, horizon_days: int | None) -> list[Mailing]:
    """Every campaign and day on which it was mailed, earliest first. horizon_days: None looks to the campaign's end.

    Raises `DataError` for a campaign without an end when there is no horizon.
    """
    frame = coupons.mailings.with_columns((pl.col("at") // DAY * DAY).alias("day"))
    grouped = frame.group_by("day", "campaign_id").agg(pl.col("user_id").unique().sort(), pl.col("end").max())
    return [
        Mailing(campaign=name, at=at, end=_end(name, at, end, horizon_days), users=tuple(users))
        for at, name, users, end in grouped.sort("day", "campaign_id").iter_rows()
    ]


def _end(name: str, at: int, end: int | None, horizon_days: int | None) -> int:
    if horizon_days is None and end is None:
        raise DataError(f"the campaign {name} has no end in the mailings; give a horizon in days")
    bounds = [end + 1] if end is not None else []
    return int(min(bounds + ([at + horizon_days * DAY] if horizon_days is not None else [])))


def redeem_examples(question: Question, coupons: Coupons, past: Sequence[Mailing]) -> Examples:
    """The examples of these mailings, of people of `question.learn`; the latest have window 0."""
    sizes = np.array([len(one.users) for one in past])
    later = np.cumsum(sizes[::-1])[::-1] - sizes  # people mailed after each
    window = (later >= CHECK_SHARE * sizes.sum()).astype(np.int64)
    parts = [_part(question, coupons, one, int(number)) for one, number in zip(past, window, strict=True)]
    return joined_examples([part for part in parts if len(part)])


def _part(question: Question, coupons: Coupons, one: Mailing, window: int) -> Examples:
    data = question.learn
    rows = _rows(data, one.users)
    same = np.ones(len(rows), np.int64)
    label = redeemed(coupons, one, data)[rows]
    features = campaign_table(question, data, coupons, one).rows(rows)
    return Examples(features, label, rows, window * same, one.at * same, one.end * same)


def redeemed(coupons: Coupons, one: Mailing, data: Dataset) -> NDArray[np.float64]:
    """1 for who redeems a coupon of the campaign with at <= time < end, (n_users,)."""
    inside = (pl.col("campaign_id") == one.campaign) & (pl.col("at") >= one.at) & (pl.col("at") < one.end)
    rows = _rows(data, coupons.redemptions.filter(inside)["user_id"].unique().to_list())
    out = np.zeros(data.n_users)
    out[rows] = 1
    return out


def campaign_table(question: Question, data: Dataset, coupons: Coupons, one: Mailing) -> Features:
    """The features of everybody of `data` for one mailing, as of its `at`."""
    return question.table()(data, one.at).beside(coupon_features(data, coupons, one.campaign, one.at))


def predict_redeem(question: Question, coupons: Coupons | None = None, campaign: str | None = None) -> Prediction:
    """The people who were mailed `campaign`, the latest when None.

    Raises `UsageError` without coupon tables, for an unknown campaign, or for a horizon below a day; `DataError` when
    too few campaigns were over before its mailing.
    """
    if coupons is None:
        raise UsageError("redeem needs coupon tables: give --coupons FOLDER with mailings, products and redemptions")
    if question.horizon_days < 1:
        raise UsageError(f"a horizon of {question.horizon_days} days: give at least 1")
    if question.aimed:
        raise UsageError("redeem is about a campaign's own products; leave out --item and --category")
    name = campaign or list(coupons.starts())[-1]
    coupons.mailed(name)
    every = mailings(coupons, question.horizon_days)
    asked = next(one for one in every if one.campaign == name)
    as_of = min(asked.at, day(question.ask.as_of))
    past = usable(question.learn, [one for one in every if one.campaign != name and one.end <= as_of])
    if not past:
        raise DataError(f"no campaign was over before {utc(as_of):%Y-%m-%d}, so there is nothing to learn from")
    users = tuple(u for one in every if one.campaign == name for u in one.users)
    return _answer(question, coupons, replace(asked, at=as_of, users=users), past)


def usable(data: Dataset, past: Sequence[Mailing]) -> list[Mailing]:
    """The mailings with any event of the log before them: of the others nothing is known."""
    first = int(data.events.at.min()) if len(data.events) else 0
    return [one for one in past if one.at > first]


def _answer(question: Question, coupons: Coupons, asked: Mailing, past: Sequence[Mailing]) -> Prediction:
    settings = settings_for(question.seed)
    examples = redeem_examples(question, coupons, past)
    held = backtest(examples, asked.at, settings)
    model = fit_chances(examples, asked.at, settings)
    rows = _rows(question.ask, asked.users)
    if not len(rows):
        raise NothingToDo("nobody to predict: of the people mailed none is known and has agreed to personalisation")
    table = campaign_table(question, question.ask, coupons, asked).rows(rows)
    chance = model.probability(table)
    why = question.answers(model.logit, model.read, examples.features, table)
    names, cut = ids_of(question.ask, rows), examples.cut[held.rows] if held.whole_window else None
    return Prediction(
        kind=Kind.REDEEM,
        horizon_days=question.horizon_days,
        as_of=utc(asked.at),
        meaning=question.meaning(Kind.REDEEM),
        people=tuple(
            Predicted(user_id=names[n], probability=float(chance[n]), reasons=why[n])
            for n in ordered(question.ask, rows, chance)
        ),
        quality=quality(held.probability, held.label),
        checked=question.checked(cut, 0 if cut is None else len(np.unique(cut))),
        left_out=_left_out(len(set(asked.users)) - len(rows)),
        notes=(f"campaign {asked.campaign}; learned from {len(past)} earlier mailings",),
    )


def _left_out(missing: int) -> dict[str, int]:
    return {"not_known": missing} if missing > 0 else {}


def _rows(data: Dataset, users: Sequence[str]) -> NDArray[np.int64]:
    rows = data.user_rows(users)
    return np.unique(rows[rows >= 0])
