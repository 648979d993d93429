"""Who buys at all in the next 28 days, Complete Journey at 2017-12-01:  python eval/cj_active28.py -o FILE

The rows of cj-next28; asked of every household with a purchase before the cut. Trained on the windows of 28 days before
it. `--validation` moves the cut to 2017-11-03. The other systems: days since the last purchase, number of baskets, the
decayed number of trips, and boosted trees (LightGBM) on days since the last purchase, trips in several
windows and spend, on the same training windows.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from cj_redeem import Values, peers
from inputs import finish, say, script_parser, window_of
from numpy.typing import NDArray

from recllm.base.stats.intervals import bootstrap
from recllm.base.stats.probabilities import auc
from recllm.market.propensity.examples import Cohort, Examples, past_examples
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.model import PropensitySettings, fit_propensity
from recllm.market.propensity.prediction import lift, quality
from recllm.recommend.evaluation.benchmarks import CJ_NOTE
from recllm.recommend.evaluation.protocols import EvaluationWindow
from recllm.shop.data.dataset import DAY

PLAIN = ("days_since", "tenure", "trips", "trips_28", "trips_56", "trips_91", "spend", "spend_28", "spend_91")
SINGLE = {"days since last purchase": "days_since", "number of baskets": "trips", "decayed baskets": "trips_decayed"}


def main() -> None:
    parser = script_parser(__doc__, "validation", "data", "seed")
    args = parser.parse_args()
    window = window_of("cj-next28", args, validation=args.validation)
    past = window.fit_on
    train, test, rows = tables(Cohort(past))
    label = bought(window, rows)
    say("%d rows to learn from, %d people, %.3f buy", len(train), len(rows), label.mean())
    ours = fit_propensity(train, past.as_of, PropensitySettings(seed=args.seed)).probability(test)
    scores = {"recllm": ours, **peers(train, test, SINGLE, PLAIN, args.seed)}
    scores["days since last purchase"] *= -1
    systems = {
        name: {"ALL": {"auc": auc(score, label), "lift@10%": lift(score, label, 0.1)}} for name, score in scores.items()
    }
    for name in ("recllm", "lightgbm"):
        systems[name]["ALL"]["ece"] = quality(scores[name], label).ece
    best = max((name for name in systems if name != "recllm"), key=lambda name: systems[name]["ALL"]["auc"])
    gap = bootstrap(lambda r: auc(ours[r], label[r]) - auc(scores[best][r], label[r]), len(label), seed=args.seed)
    record = {
        "protocol": "cj-active28-validation" if args.validation else "cj-active28",
        "note": CJ_NOTE,
        "data_hash": window.data_hash,
        "seed": args.seed,
        "rows": {"train": len(train), "test": len(rows)},
        "base_rate": float(label.mean()),
        "systems": systems,
        f"recllm minus {best}": {"auc": asdict(gap)},
    }
    finish(record, args.output)


def tables(cohort: Cohort) -> tuple[Examples, FeatureTable, NDArray[np.int64]]:
    """What is learned from, who is predicted, and their rows. The windows end at the cut, not at the last event."""
    first, as_of = int(cohort.dataset.events.at.min()), cohort.dataset.as_of
    times = [as_of - n * 28 * DAY for n in range(1, 14) if as_of - (n + 1) * 28 * DAY >= first]
    rows = np.flatnonzero(Cohort.with_history(cohort, as_of))
    return past_examples(cohort, times, 28, Cohort.bought, Cohort.with_history), cohort.features(as_of).rows(rows), rows


def bought(window: EvaluationWindow, rows: NDArray[np.int64]) -> Values:
    """1 for who buys anything of the catalogue sold before the cut, or of the arrivals."""
    buys = np.zeros(window.dataset.n_users)
    for name in ("ALL", "COLD"):
        buys[window.slice(name).users] = 1
    return buys[rows]


if __name__ == "__main__":
    main()
