"""Who buys at all in the next 28 days, Complete Journey at 2017-12-01:  python eval/cj_active28.py -o FILE

The rows of cj-next28; asked of every household with a purchase before the cut. Trained on the windows of 28 days before
it. `--validation` moves the cut to 2017-11-03. The other systems: days since the last purchase, number of baskets, the
decayed number of trips, and boosted trees (LightGBM, scikit-learn) on days since the last purchase, trips in several
windows and spend, on the same training windows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from cj_redeem import DRAWS, Values, boosted
from numpy.typing import NDArray
from run import DATA, say, window_of

from recllm.data.dataset import DAY, Dataset
from recllm.evaluation.protocols import CJ_NOTE
from recllm.evaluation.report import commit, hardware, versions
from recllm.propensity.curves import auc, lift, quality
from recllm.propensity.examples import Examples, past_examples
from recllm.propensity.model import fit_chances
from recllm.propensity.question import Question, active
from recllm.propensity.table import Features
from recllm.settings import PropensitySettings

PLAIN = ("days_since", "tenure", "trips", "trips_28", "trips_56", "trips_91", "spend", "spend_28", "spend_91")
SINGLE = {"days since last purchase": "days_since", "number of baskets": "trips", "decayed baskets": "trips_decayed"}
EVER = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--basics", action="store_true", help="also what households told of themselves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    began, window = time.perf_counter(), window_of("cj-next28", validation=args.validation, data=args.data)
    past = window.fit_on
    question = Question(learn=past, ask=past, basics=args.basics, seed=args.seed)
    train, asked, rows = tables(past, question)
    label = bought(window, rows)
    say(f"{len(train)} rows to learn from, {len(rows)} people, {label.mean():.3f} buy")
    ours = fit_chances(train, past.as_of, PropensitySettings(seed=args.seed)).probability(asked)
    scores = {"recllm": ours, **peers(train, asked, args.seed)}
    systems = {name: {"ALL": figures(score, label)} for name, score in scores.items()}
    for name in ("recllm", "lightgbm", "scikit-learn boosting"):
        systems[name]["ALL"]["ece"] = quality(scores[name], label).ece
    best = max((name for name in systems if name != "recllm"), key=lambda name: systems[name]["ALL"]["auc"])
    record = {
        "protocol": "cj-active28-validation" if args.validation else "cj-active28",
        "note": CJ_NOTE,
        "commit": commit(),
        "data_hash": window.data_hash,
        "seed": args.seed,
        "rows": {"train": len(train), "test": len(rows)},
        "base_rate": float(label.mean()),
        "systems": systems,
        f"recllm minus {best}": gap(ours, scores[best], label, args.seed),
        "seconds": round(time.perf_counter() - began, 1),
        "hardware": hardware(),
        "versions": versions(),
    }
    record = json.loads(json.dumps(record, default=float), parse_float=lambda text: round(float(text), 6))
    print(text := json.dumps(record, indent=1))
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


def tables(past: Dataset, question: Question) -> tuple[Examples, Features, NDArray[np.int64]]:
    """What is learned from, who is asked, and their rows. The windows end at the cut, not at the last event."""
    first = int(past.events.at.min())
    times = [past.as_of - n * 28 * DAY for n in range(1, 14) if past.as_of - (n + 1) * 28 * DAY >= first]
    who, table = active(EVER), question.table()
    rows = np.flatnonzero(who(past, past.as_of))
    train = past_examples(past, times, 28, table, question.bought, who)
    return train, table(past, past.as_of).rows(rows), rows


def bought(window: Any, rows: NDArray[np.int64]) -> Values:
    """1 for who buys anything of the catalogue sold before the cut, or of the arrivals."""
    found = np.zeros(window.dataset.n_users)
    for name in ("ALL", "COLD"):
        found[window.slice(name).users] = 1
    return found[rows]


def figures(score: Values, label: Values) -> dict[str, float]:
    return {"auc": auc(score, label), "lift@10%": lift(score, label, 0.1)}


def gap(ours: Values, peer: Values, label: Values, seed: int) -> dict[str, dict[str, float]]:
    """Paired bootstrap over households, 95 %."""
    rng, drawn = np.random.default_rng(seed), np.empty(DRAWS)
    for draw in range(DRAWS):
        rows = rng.integers(0, len(label), len(label))
        drawn[draw] = auc(ours[rows], label[rows]) - auc(peer[rows], label[rows])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"auc": {"mean": auc(ours, label) - auc(peer, label), "low": float(low), "high": float(high)}}


def peers(train: Examples, asked: Features, seed: int) -> dict[str, Values]:
    found = {name: np.nan_to_num(asked.column(c).astype(np.float64)) for name, c in SINGLE.items()}
    found["days since last purchase"] *= -1
    columns = [train.features.names.index(name) for name in PLAIN]
    return found | boosted(train.features.values[:, columns], train.label, asked.values[:, columns], seed)


if __name__ == "__main__":
    main()
