"""Who buys an item again within a week:  python eval/occasions.py -o eval/results/occasions.json

Pairs of a person and an item bought on at least two days, as of two days a week apart; the label is whether the person
buys the item in the seven days after. Models learn on the eight weeks before the first of the two days alone. On
Complete Journey all rows with a quantity above 0 count, the days are 2017-12-01 and 12-08; on UCI Online Retail
2011-11-18 and 11-25.

item interval     how near the days since the last purchase are to the mean interval of the item, of everybody
median interval   the same with the person's own median interval
own frequency     the person's purchase days of the item a day, since the first one
Poisson-Gamma     a repeat rate with a gamma prior of the item (after Bhagat et al. 2018)
scorer            f(User, Item) of `recllm train` as of the first day, asked about four weeks
LightGBM          boosted trees on 22 plain features, untuned
recllm            `recllm.market.occasions.replenishment`

Intervals: 200 bootstraps over people. Days: error of the predicted day among pairs bought within 28 days. Next order:
how often the 80 % interval of `recllm predict next-order` held the day of the next order, as of the first day.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from inputs import advised, finish, say, script_parser
from numpy.typing import NDArray
from published import BENCHMARKS

from recllm.base.schema import Action
from recllm.base.stats.probabilities import calibration_error
from recllm.market.occasions.replenishment import (
    HORIZON_DAYS,
    TREES,
    bought_again,
    learn_replenishment,
    repurchase_pairs,
)
from recllm.market.propensity.predict import predict
from recllm.market.propensity.prediction import PredictionKind, PredictionRequest
from recllm.recommend.evaluation.benchmarks import with_quantity
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import Pairs

LOGS = {"cj": ("cj-next28", datetime(2017, 12, 1, tzinfo=UTC)), "or": ("or-next28", datetime(2011, 11, 18, tzinfo=UTC))}
FIRST = {"cj": 10_000, "or": 1_000}
"""Length of the due list whose precision and recall are told."""
BOOTSTRAPS = 200
PLAIN = (
    *("days", "since", "tenure", "gap_mean", "gap_median", "gap_std", "gap_last", "since_over_mean"),
    *("days_7", "days_14", "days_28", "days_56", "days_91", "days_182"),
    *("trips_7", "trips_28", "trips_91", "days_since_trip", "lines_per_trip", "sold_28", "item_gap", "repeat_share"),
)
"""What any shop would count first."""

Values = NDArray[np.float64]


def main() -> None:
    parser = script_parser(__doc__, "data", "cache", "seed")
    parser.add_argument("--logs", default=",".join(LOGS), help="with commas")
    args = parser.parse_args()
    record: dict[str, Any] = {"protocol": "occasions", "seed": args.seed, "horizon_days": HORIZON_DAYS, "logs": {}}
    for name in args.logs.split(","):
        began = time.perf_counter()
        record["logs"][name] = measure(name, args) | {"seconds": round(time.perf_counter() - began, 1)}
        say("%s: %s", name, record["logs"][name])
    finish(record, args.output)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    protocol, day = LOGS[name]
    dataset = with_quantity(BENCHMARKS[protocol].log(args.data))
    starts = [int(day.timestamp()) + week * HORIZON_DAYS * DAY for week in range(2)]
    past = dataset.before(starts[0])
    weeks = [repurchase_pairs(dataset, start) for start in starts]
    label = np.concatenate([bought_again(dataset, pairs, start) for pairs, start in zip(weeks, starts, strict=True)])
    table = pl.concat(weeks)
    person = table["user"].to_numpy()
    say("%s: %d pairs, %.4f bought again", name, len(label), label.mean())
    systems: dict[str, Values] = {
        "item interval": -np.abs(np.log((column(table, "since") + 1) / (column(table, "item_gap") + 1))),
        "median interval": -np.abs(np.log((column(table, "since") + 1) / (column(table, "gap_median") + 1))),
        "own frequency": column(table, "days") / column(table, "tenure"),
        "Poisson-Gamma": column(table, "poisson_gamma"),
    }
    began = time.perf_counter()
    model = learn_replenishment(past, replace(TREES, seed=args.seed), progress=say)
    seconds = {"learn": round(time.perf_counter() - began, 1)}
    systems["recllm"] = model.probability(table)
    systems["LightGBM"] = lightgbm(past, starts[0], table, args.seed)
    systems["scorer"] = scorer(dataset, past, weeks, starts, args)
    figures = {system: rank_figures(score, label, person, FIRST[name], args.seed) for system, score in systems.items()}
    for system in ("recllm", "LightGBM", "Poisson-Gamma"):
        figures[system]["ece"] = calibration_error(systems[system], label > 0)
    peers = [system for system in systems if system != "recllm"]
    return {
        "data_hash": dataset.data_hash(),
        "days": [f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d}" for start in starts],
        "pairs": len(label),
        "bought_again": float(label.mean()),
        "first": FIRST[name],
        "systems": {system: {"ALL": values} for system, values in figures.items()},
        "ahead": {peer: differences(systems["recllm"], systems[peer], label, person, args.seed) for peer in peers},
        "model": dict(model.record),
        "days_off": days_off(dataset, weeks[0], starts[0], systems["recllm"][: len(weeks[0])]),
        "next_order": next_order(dataset, past, args.seed),
        "run_seconds": seconds,
    }


def column(table: pl.DataFrame, name: str) -> Values:
    return np.nan_to_num(table[name].cast(pl.Float64).to_numpy())


def lightgbm(past: Dataset, start: int, table: pl.DataFrame, seed: int) -> Values:
    """Boosted trees on `PLAIN`, of the same eight weeks."""
    import lightgbm as library

    tables, labels = [], []
    for week in range(1, 9):
        pairs = repurchase_pairs(past, start - week * HORIZON_DAYS * DAY)
        tables.append(pairs.select(PLAIN).to_numpy())
        labels.append(bought_again(past, pairs, start - week * HORIZON_DAYS * DAY))
    parameters = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 200}
    data = library.Dataset(np.concatenate(tables), np.concatenate(labels))
    trees = library.train(parameters | {"verbose": -1, "seed": seed, "bagging_freq": 0}, data, 200)
    return np.asarray(trees.predict(table.select(PLAIN).to_numpy()), np.float64)


def scorer(
    dataset: Dataset, past: Dataset, weeks: list[pl.DataFrame], starts: list[int], args: argparse.Namespace
) -> Values:
    """The trained score of each pair. Of the second week the histories are new, the statistics of all are not."""
    recommender, _ = advised(past, args)
    scores = []
    for pairs, start in zip(weeks, starts, strict=True):
        people, row = np.unique(pairs["user"].to_numpy(), return_inverse=True)
        now, score = recommender.with_people(dataset.before(start), recommender.population.pool), np.empty(len(pairs))
        for block in range(0, len(people), 256):
            chosen = people[block : block + 256]
            inside = np.flatnonzero((row >= block) & (row < block + 256))
            indptr = np.searchsorted(row[inside] - block, np.arange(len(chosen) + 1)).astype(np.int64)
            asked = Pairs(indptr, pairs["item"].to_numpy()[inside].astype(np.int32))
            score[inside] = recommender.ranker.score(now.inputs_of(chosen), asked).logit
        scores.append(score)
    return np.concatenate(scores)


def rank_figures(score: Values, label: Values, person: NDArray[np.int64], first: int, seed: int) -> dict[str, Any]:
    """auc, average_precision, precision and recall of the first pairs, each with its 95 % interval over people."""
    order = np.argsort(-score, kind="stable")
    label, person = label[order], person[order]
    exact = _weighted(label, np.ones(len(label)), first)
    drawn = [_weighted(label, weight, first) for weight in drawn_weights(person, seed)]
    return {name: round(float(exact[name]), 5) for name in exact} | {
        f"{name}_{end}": round(float(np.quantile([figures[name] for figures in drawn], share)), 5)
        for name in exact
        for end, share in (("low", 0.025), ("high", 0.975))
    }


def drawn_weights(person: NDArray[np.int64], seed: int) -> Iterator[Values]:
    """How often each pair counts in a bootstrap over people, (n,) each."""
    people, row = np.unique(person, return_inverse=True)
    rng, shares = np.random.default_rng(seed), np.full(len(people), 1 / len(people))
    return (rng.multinomial(len(people), shares)[row].astype(float) for _ in range(BOOTSTRAPS))


def _weighted(label: Values, weight: Values, first: int) -> dict[str, float]:
    """Of pairs in the order of their scores; ties count as they stand."""
    hits, all_ = np.cumsum(label * weight), np.cumsum(weight)
    n_hits, n_misses = hits[-1], all_[-1] - hits[-1]
    last = min(int(np.searchsorted(all_, first)), len(label) - 1)
    return {
        "auc": float((hits * weight * (1 - label)).sum() / (n_hits * n_misses)),
        "average_precision": float((label * weight * hits / np.maximum(all_, 1e-12)).sum() / n_hits),
        "precision": float(hits[last] / all_[last]),
        "recall": float(hits[last] / n_hits),
    }


def differences(ours: Values, theirs: Values, label: Values, person: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """recllm less a peer, in average precision, with the paired 95 % interval over people."""
    orders = [np.argsort(-score, kind="stable") for score in (ours, theirs)]

    def difference(weight: Values) -> float:
        precision = [_weighted(label[order], weight[order], 1)["average_precision"] for order in orders]
        return precision[0] - precision[1]

    low, high = np.quantile([difference(weight) for weight in drawn_weights(person, seed)], (0.025, 0.975))
    value = difference(np.ones(len(label)))
    return {"average_precision": round(value, 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def days_off(dataset: Dataset, pairs: pl.DataFrame, start: int, probability: Values) -> dict[str, float]:
    """Mean days by which the foretold day is off, of pairs bought within 28 days. Intervals: less the days since."""
    bought = dataset.between(start, start + 28 * DAY)
    keys = bought.user.astype(np.int64) * dataset.n_items + bought.item
    order = np.lexsort((bought.at, keys))
    distinct, first = np.unique(keys[order], return_index=True)
    key = (pairs["user"] * dataset.n_items + pairs["item"]).to_numpy()
    at = np.searchsorted(distinct, key)
    at = np.minimum(at, len(distinct) - 1)
    came = distinct[at] == key
    days = (bought.at[order][first][at] - start) / DAY
    since = column(pairs, "since")
    foretold = {
        "recllm": median_day(probability),
        "item interval": column(pairs, "item_gap") - since,
        "median interval": column(pairs, "gap_median") - since,
        "Poisson-Gamma": median_day(column(pairs, "poisson_gamma")),
    }
    off = {name: float(np.abs(np.clip(day, 0, 28) - days)[came].mean()) for name, day in foretold.items()}
    return {"pairs": int(came.sum()), **{name: round(value, 3) for name, value in off.items()}}


def median_day(probability: Values) -> Values:
    """Of a purchase within 28 days, at the constant rate that gives the week's probability."""
    rate = -np.log1p(-np.clip(probability, 1e-9, 1 - 1e-9)) / HORIZON_DAYS
    return np.asarray(-np.log1p(np.expm1(-28 * rate) / 2) / rate)


def next_order(dataset: Dataset, past: Dataset, seed: int) -> dict[str, float]:
    """How often the interval held the next order of a person, and how wide it was in days."""
    request = PredictionRequest(kind=PredictionKind.NEXT_ORDER, explain=False, seed=seed)
    prediction = predict(request, past, past)
    bought = dataset.between(past.as_of, past.as_of + request.horizon_days * DAY, Action.PURCHASE)
    first = np.full(dataset.n_users, np.iinfo(np.int64).max)
    np.minimum.at(first, bought.user, bought.at)
    rows = dataset.user_rows([person.user_id for person in prediction.people])
    covered, widths = [], []
    for person, row in zip(prediction.people, rows, strict=True):
        came = first[row] < np.iinfo(np.int64).max
        day = datetime.fromtimestamp(int(first[row]), UTC).date() if came else None
        covered.append(
            (person.earliest is None or day >= person.earliest) and (person.latest is None or day <= person.latest)
            if day is not None
            else person.latest is None
        )
        if person.earliest and person.latest:
            widths.append((person.latest - person.earliest).days)
    return {
        "people": len(rows),
        "within_80": round(float(np.mean(covered)), 4),
        "median_days": float(np.median(widths)),
    }


if __name__ == "__main__":
    main()
