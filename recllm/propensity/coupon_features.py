"""What a person did with coupons, and with a campaign's products, before the campaign reached them.

coupons    campaigns mailed and redeemed before, in all and of the same kind; coupons used at the till.
affinity   purchases of the campaign's own items, and in their categories; how many of its coupons they could use.
campaign   its kind, where known. Counts of its items and of who got it are left out: with a dozen campaigns to learn
           from they tell the campaigns apart and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, Events
from recllm.propensity.coupons import Coupons
from recllm.propensity.features import money
from recllm.propensity.table import Features
from recllm.schema import Action

Column = NDArray[np.float64]
Columns = dict[str, Column]

RISING = (
    *("redeemed_campaigns", "redeemed", "redeem_rate", "redeemed_alike"),
    *("coupon_uses", "coupon_uses_91", "coupon_uses_28", "coupon_trips", "coupon_trips_91", "coupon_amount"),
    *("coupon_trip_share", "coupon_line_share"),
    *("own_lines", "own_lines_91", "own_spend", "own_spend_91", "own_share", "own_share_91", "own_items"),
    *("coupons_fitting", "coupons_fitting_share"),
)
"""With these a chance to redeem may only rise, other things equal."""
FALLING = ("days_since_redeemed", "days_since_coupon")

_PRIOR_RATE, _PRIOR_MAILINGS = 0.12, 1.0
"""A person's rate of redeeming starts from the rate of a typical campaign, worth one mailing."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """A coupon table's rows that belong to people of a dataset. user: int64; at: epoch seconds; frame: the rest."""

    user: NDArray[np.int64]
    at: NDArray[np.int64]
    frame: pl.DataFrame

    @classmethod
    def of(cls, frame: pl.DataFrame, dataset: Dataset) -> Mapped:
        user = dataset.user_rows(frame["user_id"])
        kept = frame.filter(pl.Series(user >= 0, dtype=pl.Boolean))
        return cls(user[user >= 0], kept["at"].to_numpy().astype(np.int64), kept)


def coupon_features(dataset: Dataset, coupons: Coupons, campaign: str, at: int) -> Features:
    """One row per person of `dataset.users`, from what happened before `at` (epoch seconds) alone."""
    past, known = dataset.before(at), coupons.before(at)
    kinds = dict(coupons.mailings.select("campaign_id", "kind").unique("campaign_id").iter_rows())
    groups = {
        "coupons": {**_campaigns(past, known, kinds, campaign, at), **_uses(past, known)},
        "affinity": _affinity(past, coupons, campaign),
        "campaign": _kind(past, kinds, campaign),
    }
    return Features.of(groups, dataset.n_users)


def _campaigns(past: Dataset, known: Coupons, kinds: dict[str, str | None], campaign: str, at: int) -> Columns:
    n = past.n_users
    mailed, got = Mapped.of(known.mailings, past), Mapped.of(known.redemptions, past)
    once = pl.DataFrame({"user": got.user, "campaign_id": got.frame["campaign_id"]}).unique()
    alike = [name for name, kind in kinds.items() if kind == kinds.get(campaign)]
    same, running = mailed.frame["campaign_id"].is_in(alike).to_numpy(), (mailed.frame["end"] > at).fill_null(False)
    redeemed = _count(once["user"].to_numpy(), n)
    mailings = _count(mailed.user, n)
    return {
        "mailed_before": mailings,
        "mailed_alike": _count(mailed.user[same], n),
        "running": _count(mailed.user[running.to_numpy()], n),
        "redeemed_campaigns": redeemed,
        "redeemed": _count(got.user, n),
        "redeemed_alike": _count(once.filter(pl.col("campaign_id").is_in(alike))["user"].to_numpy(), n),
        "redeem_rate": (redeemed + _PRIOR_RATE * _PRIOR_MAILINGS) / (mailings + _PRIOR_MAILINGS),
        "days_since_redeemed": _since(got.user, got.at, at, n),
    }


def _uses(past: Dataset, known: Coupons) -> Columns:
    """Empty where the shop has no table of coupons used."""
    if not known.uses.height:
        return {name: np.full(past.n_users, np.nan) for name in USE_COLUMNS}
    n, at, used = past.n_users, past.as_of, Mapped.of(known.uses, past)
    bought = past.events.of(Action.PURCHASE)
    trips = np.unique(np.stack([used.user, used.at]), axis=1)
    age = (at - used.at) / DAY
    lines, visits = _count(bought.user, n), _visits(bought)
    made = (
        _count(used.user, n),
        *(_count(used.user[age <= days], n) for days in (91, 28)),
        _count(trips[0], n),
        _count(trips[0][at - trips[1] <= 91 * DAY], n),
        _total(used.user, used.frame["amount"].to_numpy(), n),
        _count(trips[0], n) / np.maximum(visits, 1),
        _count(used.user, n) / np.maximum(lines, 1),
        _since(used.user, used.at, at, n),
    )
    return dict(zip(USE_COLUMNS, made, strict=True))


USE_COLUMNS = (
    *("coupon_uses", "coupon_uses_91", "coupon_uses_28", "coupon_trips", "coupon_trips_91", "coupon_amount"),
    *("coupon_trip_share", "coupon_line_share", "days_since_coupon"),
)


def _affinity(past: Dataset, coupons: Coupons, campaign: str) -> Columns:
    offered = coupons.products.filter(pl.col("campaign_id") == campaign)
    rows = past.item_rows(offered["item_id"])
    own = np.zeros(past.n_items, bool)
    own[rows[rows >= 0]] = True
    bought = past.events.of(Action.PURCHASE)
    late = bought.select(bought.at >= past.as_of - 91 * DAY)
    out: Columns = {}
    for tail, events in (("", bought), ("_91", late)):
        mine = events.select(own[events.item])
        out[f"own_lines{tail}"] = _count(mine.user, past.n_users)
        out[f"own_spend{tail}"] = _total(mine.user, money(mine), past.n_users)
        out[f"own_share{tail}"] = out[f"own_lines{tail}"] / np.maximum(_count(events.user, past.n_users), 1)
    pairs = np.unique(np.stack([bought.user, bought.item])[:, own[bought.item]], axis=1)
    out["own_items"] = _count(pairs[0], past.n_users)
    return {**out, **_categories(past, bought, own), **_fitting(past, pairs, offered)}


def _categories(past: Dataset, bought: Events, own: NDArray[np.bool_]) -> Columns:
    """Purchases in the categories of the campaign's items, at the second and third level of the path."""
    out: Columns = {}
    for level in (1, 2):
        name = past.items["category"].list.get(level, null_on_oob=True)
        code = name.rank("dense").cast(pl.Int64).fill_null(0).to_numpy()
        inside = np.zeros(int(code.max(initial=0)) + 1, bool)
        inside[code[own]] = True
        inside[0] = False
        lines = _count(bought.user[inside[code[bought.item]]], past.n_users)
        out[f"category_lines_{level}"] = lines
        out[f"category_share_{level}"] = lines / np.maximum(_count(bought.user, past.n_users), 1)
    return out


def _fitting(past: Dataset, pairs: NDArray[np.integer], offered: pl.DataFrame) -> Columns:
    """The campaign's coupons for something that the person has bought; where coupons are told apart."""
    if "coupon_id" not in offered.columns or not offered.height:
        return {name: np.full(past.n_users, np.nan) for name in ("coupons_fitting", "coupons_fitting_share")}
    items = pl.DataFrame({"item": past.item_rows(offered["item_id"]), "coupon": offered["coupon_id"]})
    mine = pl.DataFrame({"user": pairs[0].astype(np.int64), "item": pairs[1].astype(np.int64)})
    found = mine.join(items, on="item").select("user", "coupon").unique()
    fitting = _count(found["user"].to_numpy(), past.n_users)
    return {"coupons_fitting": fitting, "coupons_fitting_share": fitting / offered["coupon_id"].n_unique()}


def _kind(past: Dataset, kinds: dict[str, str | None], campaign: str) -> Columns:
    known = sorted({kind for kind in kinds.values() if kind})
    return {f"kind={kind}": np.full(past.n_users, float(kinds.get(campaign) == kind)) for kind in known}


def _count(user: NDArray[np.integer], n: int) -> Column:
    return np.bincount(user, minlength=n).astype(np.float64)


def _total(user: NDArray[np.integer], weight: NDArray[np.generic], n: int) -> Column:
    return np.bincount(user, weight, minlength=n).astype(np.float64)


def _visits(bought: Events) -> Column:
    pairs = np.unique(np.stack([bought.user.astype(np.int64), bought.at]), axis=1)
    return _count(pairs[0], len(bought.indptr) - 1)


def _since(user: NDArray[np.integer], at: NDArray[np.int64], now: int, n: int) -> Column:
    """Days since the last time, NaN without one."""
    last = np.full(n, -np.inf)
    np.maximum.at(last, user, at.astype(np.float64))
    return np.asarray(np.where(np.isfinite(last), (now - last) / DAY, np.nan))
