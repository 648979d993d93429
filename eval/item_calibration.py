"""What calibration of single items is worth:  python eval/item_calibration.py -o FILE

The model that `recllm advise` proposes is trained on the past of the validation window; its judges calibrate single
items there. What that is worth is measured on the window after, over the whole candidate lists of everybody known
before: calibration error, log loss, and the error of each item's ratio of takings, sum |O - E| / sum E. Of the last,
`chance` is what a perfect E would still show, as takings are counts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from run import DATA, say, window_of

from recllm import metrics
from recllm.encoder.loading import DEFAULT_ENCODER, load_encoder
from recllm.evaluation.benchmarks import PROTOCOLS
from recllm.evaluation.bootstrap import paired_bootstraps
from recllm.evaluation.protocols import Window
from recllm.evaluation.recllm_system import advised
from recllm.evaluation.report import commit, hardware, versions
from recllm.features.candidates import candidates
from recllm.features.collaborative import ask
from recllm.features.item_vectors import basics_of, basics_vectors
from recllm.recommender.ranking import score_pairs
from recllm.recommender.recommender import Recommender
from recllm.training.item_calibration import STRENGTH, with_offsets

LEAST = 5.0  # expected takings that an item needs to be among the often expected ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", nargs="?", default="cj-next28", choices=sorted(PROTOCOLS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recllm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    began, window = time.perf_counter(), window_of(args.protocol, validation=True, data=args.data)
    encoder = load_encoder(DEFAULT_ENCODER, cache_dir=args.cache, precision="auto")
    recipe = advised(window.fit_on, encoder, tuned=False, seed=args.seed)
    trained = Recommender(window.fit_on, encoder).fit(recipe.training, interests=recipe.interests, progress=say)
    record = {
        "protocol": f"item-calibration-{window.protocol}",
        "commit": commit(),
        "data_hash": window.data_hash,
        "seed": args.seed,
        "strength": STRENGTH,
        "figures": figures(*pairs(window, trained), trained.item_offsets, args.seed),
        "seconds": round(time.perf_counter() - began, 1),
        "training": recipe.training.model_dump(mode="json"),
        "hardware": hardware(),
        "versions": versions(),
    }
    print(text := json.dumps(record, indent=1))
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


def pairs(window: Window, trained: Recommender) -> tuple[np.ndarray, ...]:
    """Person, item, logit, probability by the line alone, and whether it was taken, of every candidate."""
    past, crowd, one = window.fit_on, trained.population, window.slice("ALL")
    told = basics_vectors(trained.encoder, basics_of(past.users))
    people = np.flatnonzero(np.diff(past.events.of("purchase").indptr))
    taken = one.users[one.truth.user] * past.n_items + one.truth.item
    sold, parts = np.isin(np.arange(past.n_items), one.items), []
    for block in np.split(people, range(128, len(people), 128)):
        common: dict[str, Any] = {"own": block, "basics": told[block]}
        histories = past.events.rows(block)
        found = candidates(crowd, ask(crowd, histories, past.as_of, **common), trained.model.candidates, allowed=sold)
        scored = score_pairs(trained.model.scorer, crowd, histories, past.as_of, found, **common)
        label = np.isin(block[found.user] * past.n_items + found.item, taken)
        parts.append((block[found.user], found.item, scored.logit, scored.probability, label))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def figures(user: Any, item: Any, logit: Any, plain: Any, label: Any, offsets: Any, seed: int) -> dict[str, Any]:
    order = np.lexsort((item, -logit, user))
    top = order[np.arange(len(order)) - np.searchsorted(user, user) < 20]
    often = np.bincount(item, plain)[item] >= LEAST
    out: dict[str, Any] = {"people": len(np.unique(user)), "pairs": len(item), "takings": int(label.sum())}
    losses = []
    for name, p in (("one line", plain), ("and items", with_offsets(plain, offsets[item]))):
        losses.append(np.bincount(user, -np.log(np.where(label, p, 1 - p)))[np.unique(user)])
        out[name] = {
            "takings_over_expected": label.sum() / p.sum(),
            "ece": metrics.calibration_error(p, label),
            "ece@20": metrics.calibration_error(p[top], label[top]),
            "log_loss_per_person": losses[-1].mean(),
            "item_error": item_error(item, p, label, seed),
            f"item_error, {LEAST:g} or more expected": item_error(item[often], p[often], label[often], seed),
        }
    gain = paired_bootstraps((losses[0] - losses[1])[:, None], seed=seed)[0]
    out["log loss gained per person"] = {"mean": gain.mean, "low": gain.low, "high": gain.high}
    return json.loads(json.dumps(out, default=float), parse_float=lambda text: round(float(text), 6))


def item_error(item: np.ndarray, p: np.ndarray, label: np.ndarray, seed: int) -> dict[str, float]:
    expected = np.bincount(item, p)
    taken = {"error": np.bincount(item, label), "chance": np.random.default_rng(seed).poisson(expected)}
    return {name: np.abs(observed - expected).sum() / expected.sum() for name, observed in taken.items()}


if __name__ == "__main__":
    main()
