"""Who buys an item in the next four weeks, asked for 300 items:  python eval/audience.py -o eval/results/audience.json

For each item every person known before the window is ordered, and the first 50 are compared with who really bought it:
precision@50, and its paired bootstrap over items. The items are drawn with a seed among those with 30 buyers or more in
the 28 days before the window, or as many times 28 as it takes to find 300. Peers: the item's past buyers by recency and
by frequency, filled up with the most active others; LightGBM on the same pair features and past windows.
`--validation` moves to the tuning window.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from inputs import advised, finish, say, script_parser, window_of
from numpy.typing import NDArray
from peers.trees import BoostSettings, TreeExamples, boost

from recllm.base.stats.intervals import paired_bootstraps
from recllm.learn.features.candidates import explicit
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.pair_features import FEATURE_NAMES, pair_cosine, pair_features
from recllm.learn.training.windows import PastWindows, window_starts
from recllm.market.audiences.probabilities import USERS_PER_BLOCK, restricted_to
from recllm.recommend.evaluation.protocols import EvaluationWindow
from recllm.recommend.evaluation.systems import TrainingRecipe
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.shop.data.interactions import merged_lines, visits
from recllm.text.encoder.hardware import map_blocks

K, LEAST_BUYERS = 50, 30
Table = NDArray[Any]


def main() -> None:
    parser = script_parser(__doc__, "validation", "data", "cache", "seed")
    parser.add_argument("--items", type=int, default=300)
    args = parser.parse_args()
    window = window_of("cj-next28", args, validation=args.validation)
    trained, recipe = advised(window.fit_on, args, say)
    people = np.flatnonzero(np.diff(window.fit_on.events.of("purchase").indptr))
    items, source = drawn(window.fit_on, args.items, args.seed)
    record = {
        "protocol": f"audience-{window.protocol}",
        "data_hash": window.data_hash,
        "seed": args.seed,
        "people": len(people),
        "items": len(items),
        "drawn_from": source,
        **figures(window, trained, recipe, items, people, args.seed),
        "training": recipe.training.model_dump(mode="json"),
    }
    finish(record, args.output)


def drawn(past: Dataset, n: int, seed: int) -> tuple[Table, dict[str, int]]:
    """Item rows, and what they were drawn from."""
    days = 0
    fit = np.zeros(0, np.int64)
    while len(fit) < n and days < 364:
        days += 28
        recent = past.between(past.as_of - days * DAY, past.as_of)
        pairs = np.unique(np.stack([recent.user.astype(np.int64), recent.item.astype(np.int64)]), axis=1)
        fit = np.flatnonzero(np.bincount(pairs[1], minlength=past.n_items) >= LEAST_BUYERS)
    return np.sort(np.random.default_rng(seed).permutation(fit)[:n]), {"days": days, "items": len(fit)}


def figures(
    window: EvaluationWindow, trained: Recommender, recipe: TrainingRecipe, items: Table, people: Table, seed: int
) -> dict[str, Any]:
    past, sold = window.fit_on, merged_lines(window.fit_on.events.of("purchase"))
    label = truth(window, items, people)
    say("%d items, %d people, %d purchases to find", len(items), len(people), label.sum())
    ours = item_probabilities(trained, items, people)
    say("scored")
    scores: dict[str, Table] = {"recllm": ours.astype(np.float64)}
    last, times, active = past_buyers(sold, items, people, past.as_of)
    scores |= {"recency of past buyers": last + 1e-6 * active, "frequency of past buyers": times + 1e-3 * last}
    scores["lightgbm, same features"] = boosted(trained, recipe, items, people, seed)
    tie = np.random.default_rng(seed).random(len(people))
    right = {name: precision(score, label, tie) for name, score in scores.items()}
    names = [name for name in right if name != "recllm"]
    gaps = paired_bootstraps(np.stack([right["recllm"] - right[name] for name in names], axis=1), seed=seed)
    systems: dict[str, dict[str, dict[str, Any]]] = {
        name: {"ALL": {f"precision@{K}": value.mean()}} for name, value in right.items()
    }
    return {
        "base_rate": label.mean(),
        "systems": systems,
        f"recllm minus, precision@{K}": {name: asdict(g) for name, g in zip(names, gaps, strict=True)},
    }


def item_probabilities(trained: Recommender, items: Table, people: Table) -> Table:
    """Probability that each of `people` buys each of `items`, float32 (n, n_items)."""
    ranker = replace(trained.ranker, population=restricted_to(trained.population, items))

    def score(block: slice) -> Table:
        rows = people[block]
        return ranker.score(trained.inputs_of(rows), explicit(len(rows), items)).probability.reshape(len(rows), -1)

    return np.concatenate(map_blocks(score, len(people), USERS_PER_BLOCK))


def truth(window: EvaluationWindow, items: Table, people: Table) -> Table:
    """Who of `people` bought which of `items` in the window, bool (n, n_items)."""
    part = window.slice("ALL")
    bought = np.zeros((window.fit_on.n_users, len(items)), bool)
    user, item = part.users[part.truth.user], part.truth.item
    drawn = np.isin(item, items)
    bought[user[drawn], np.searchsorted(items, item[drawn])] = True
    return bought[people]


def precision(score: Table, label: Table, tie: Table) -> Table:
    """Share of buyers among the first K of each item, (n_items,)."""
    return np.array([label[first(score[:, n], tie), n].mean() for n in range(score.shape[1])])


def first(score: Table, tie: Table) -> Table:
    return np.lexsort((tie, -score))[:K]


def past_buyers(sold: Events, items: Table, people: Table, as_of: int) -> tuple[Table, Table, Table]:
    """Of each person and item 1 / (1 + days since the last time), and how many times, (n, n_items); trips (n, 1)."""
    drawn = np.isin(sold.item, items)
    at = (sold.user[drawn], np.searchsorted(items, sold.item[drawn]))
    last, times = (np.zeros((len(sold.indptr) - 1, len(items))) for _ in range(2))
    np.maximum.at(last, at, 1 / (1 + (as_of - sold.at[drawn]) / DAY))
    np.add.at(times, at, 1)
    return last[people], times[people], visits(sold)[1][people, None].astype(np.float64)


def boosted(trained: Recommender, recipe: TrainingRecipe, items: Table, people: Table, seed: int) -> Table:
    """LightGBM grown on the windows that ours learned from, by the same features (without the sequence model's)."""
    past, model = trained.dataset, trained.model
    log = PastWindows(past, trained.item_vectors, None, recipe.training, model.population, model.candidates)
    parts = []
    for start in window_starts(past, model.population.target, recipe.training):
        part, _ = log.window(log.population(start))
        columns = np.column_stack([part.features, part.cosine])
        parts.append((columns, part.label.astype(np.float32), np.exp(part.correction)))
        say("lightgbm: %d pairs of a window", len(part.label))
    crowd = CollaborativeStatistics.fit(past, trained.item_vectors, model.population)
    joined = (np.concatenate(column) for column in zip(*parts, strict=True))
    forest = boost(TreeExamples(*joined, (*FEATURE_NAMES, "pair_cosine"), crowd), BoostSettings(seed=seed))

    def score(block: slice) -> Table:
        rows = people[block]
        users, pairs = ask(crowd, past.events.rows(rows), past.as_of, user_rows=rows), explicit(len(rows), items)
        features = np.column_stack([pair_features(users, pairs, narrow=True), pair_cosine(users, pairs)])
        return forest.predict(features).reshape(len(rows), -1)

    return np.concatenate(map_blocks(score, len(people), 64))


if __name__ == "__main__":
    main()
