"""What calibration of single items is worth:  python eval/item_calibration.py -o FILE

The model that `recllm advise` proposes is trained on the past of the validation window; its judges calibrate single
items there. What that is worth is measured on the window after, over the whole candidate lists of everybody known
before: calibration error, log loss, and the error of each item's ratio of takings, sum |O - E| / sum E. Of the last,
`chance` is what a perfect E would still show, as takings are counts.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from inputs import default_encoder, finish, script_parser, window_of
from published import BENCHMARKS

from recllm.base.stats import probabilities
from recllm.base.stats.intervals import paired_bootstraps
from recllm.learn.features.candidates import candidates
from recllm.learn.features.item_vectors import basics_of, basics_vectors
from recllm.learn.training.calibration import with_offsets
from recllm.learn.training.scorer import ITEM_CALIBRATION_PRIOR
from recllm.recommend.evaluation.protocols import EvaluationWindow
from recllm.recommend.evaluation.recllm_system import advised_recipe
from recllm.recommend.recommender.ranking import ItemRanker, UserInputs
from recllm.recommend.recommender.recommender import Recommender

LEAST = 5.0  # expected takings that an item needs to be among the often expected ones


def main() -> None:
    parser = script_parser(__doc__, "data", "cache", "seed")
    parser.add_argument("protocol", nargs="?", default="cj-next28", choices=sorted(BENCHMARKS))
    args = parser.parse_args()
    window = window_of(args.protocol, args, validation=True)
    encoder = default_encoder(args)
    recipe = advised_recipe(window.fit_on, encoder, tuned=False, seed=args.seed)
    trained = Recommender(window.fit_on, encoder).fit(recipe.training, interests=recipe.interests)
    record = {
        "protocol": f"item-calibration-{window.protocol}",
        "data_hash": window.data_hash,
        "seed": args.seed,
        "strength": ITEM_CALIBRATION_PRIOR,
        "figures": figures(*pairs(window, trained), trained.item_offsets, args.seed),
        "training": recipe.training.model_dump(mode="json"),
    }
    finish(record, args.output)


def pairs(window: EvaluationWindow, trained: Recommender) -> tuple[np.ndarray, ...]:
    """Person, item, logit, probability by the line alone, and whether it was taken, of every candidate."""
    past, crowd, part = window.fit_on, trained.population, window.slice("ALL")
    basics = basics_vectors(trained.encoder, basics_of(past.users))
    people = np.flatnonzero(np.diff(past.events.of("purchase").indptr))
    bought = part.users[part.truth.user] * past.n_items + part.truth.item
    sold, parts = np.isin(np.arange(past.n_items), part.items), []
    for block in np.split(people, range(128, len(people), 128)):
        users = UserInputs(past.events.rows(block), past.as_of, block, basics[block])
        proposed = candidates(users.batch(crowd), trained.model.candidates, allowed=sold)
        scored = ItemRanker(trained.model.scorer, crowd).score(users, proposed)
        label = np.isin(block[proposed.user] * past.n_items + proposed.item, bought)
        parts.append((block[proposed.user], proposed.item, scored.logit, scored.probability, label))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def figures(user: Any, item: Any, logit: Any, plain: Any, label: Any, offsets: Any, seed: int) -> dict[str, Any]:
    order = np.lexsort((item, -logit, user))
    top = order[np.arange(len(order)) - np.searchsorted(user, user) < 20]
    often = np.bincount(item, plain)[item] >= LEAST
    table: dict[str, Any] = {"people": len(np.unique(user)), "pairs": len(item), "takings": int(label.sum())}
    losses = []
    for name, p in (("one line", plain), ("and items", with_offsets(plain, offsets[item]))):
        losses.append(np.bincount(user, -np.log(np.where(label, p, 1 - p)))[np.unique(user)])
        table[name] = {
            "takings_over_expected": label.sum() / p.sum(),
            "ece": probabilities.calibration_error(p, label),
            "ece@20": probabilities.calibration_error(p[top], label[top]),
            "log_loss_per_person": losses[-1].mean(),
            "item_error": item_error(item, p, label, seed),
            f"item_error, {LEAST:g} or more expected": item_error(item[often], p[often], label[often], seed),
        }
    gain = paired_bootstraps((losses[0] - losses[1])[:, None], seed=seed)[0]
    table["log loss gained per person"] = asdict(gain)
    return table


def item_error(item: np.ndarray, p: np.ndarray, label: np.ndarray, seed: int) -> dict[str, float]:
    expected = np.bincount(item, p)
    counts = {"error": np.bincount(item, label), "chance": np.random.default_rng(seed).poisson(expected)}
    return {name: np.abs(observed - expected).sum() / expected.sum() for name, observed in counts.items()}


if __name__ == "__main__":
    main()
