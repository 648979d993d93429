"""Choose the peers' settings on the validation windows:  python eval/tune_peers.py PROTOCOL --peers tifu-knn,ease

Prints every try and rewrites the tuned entries of eval/peers.toml. One setting is varied after the other, each at the
best of those before it. A setting's worth is the product of NDCG on ALL and NEW, so that the scale of neither decides;
on logs without times it is NDCG on the slice that the literature reports.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from fixed_protocols import BENCHMARKS
from inputs import PEERS as SETTINGS_FILE
from inputs import default_encoder, script_parser, window_of
from peers import PEERS
from peers.trees import (
    ArrivalSettings,
    TreeSettings,
    arrival_examples,
    boost,
    rank_arrivals,
    tree_examples,
    tree_ranker,
)

from recllm.base.stats import ranking
from recllm.learn.features.item_vectors import item_vectors
from recllm.recommend.evaluation.protocols import EvaluationWindow, Ranker
from recllm.recommend.evaluation.systems import SYSTEMS

Settings = dict[str, Any]
Maker = Callable[[Settings], Ranker]

GRIDS: dict[str, dict[str, list[Any]]] = {
    "personal-frequency": {"half_life_days": [30.0, 60.0, 90.0, 120.0, 180.0, 365.0]},
    "user-knn": {"half_life_days": [30.0, 60.0, 120.0], "neighbours": [50, 100, 200], "days": [28.0, 56.0]},
    "tifu-knn": {
        "own_share": [0.5, 0.7],
        "neighbours": [50, 100],
        "group_decay": [0.6, 0.8, 0.9],
        "groups": [7, 14],
        "within_decay": [0.9, 1.0],
    },
    "ease": {"l2": [30.0, 100.0, 300.0, 1000.0], "half_life_days": [None, 60.0]},
    "als": {"half_life_days": [None, 90.0], "alpha": [1.0, 5.0], "regularization": [0.01, 1.0], "factors": [64, 128]},
    "bpr": {"learning_rate": [0.05, 0.15], "regularization": [0.01, 0.001], "iterations": [100, 300]},
    "lightgbm": {"leaves": [15, 31], "least_rows": [50, 500], "rounds": [200, 350]},
    "arrivals": {"leaves": [15, 7], "rounds": [150, 60], "least_rows": [50, 200]},
    "source-model": {"epochs": [4, 12], "weight_decay": [0.0, 1e-5]},
}
"""`arrivals`: the trees of lightgbm that answer COLD."""

FIXED: dict[str, dict[str, Settings]] = {
    "beauty-loo": {
        "ease": {"items": 12_101},
        "als": {"factors": 128},
        "lightgbm": {"neighbours": 100, "item_item": 100, "popular": 50},
    },
}
"""Set by what the data allow, not tuned: Beauty's whole catalogue fits EASE, and its 22,363 people have short lists."""

NO_TIME = {
    "user-knn": {"days": [28.0, 56.0, 112.0, 10_000.0], "half_life_days": [60.0, 240.0], "neighbours": [50, 200]}
}
"""Where a step of the order stands for 28 days, neighbours must speak for longer."""


GROWTH = frozenset({"leaves", "rounds", "learning_rate", "least_rows", "share"})
"""Settings by which tries share their examples."""


def tree_maker(window: EvaluationWindow) -> Maker:
    vectors, shared = vectors_of(window), cache(lambda args: tree_examples(window.fit_on, vectors, args))

    def make(setting: Settings) -> Ranker:
        base = TreeSettings(**{key: value for key, value in setting.items() if key not in GROWTH})
        args = TreeSettings(**setting)
        forest = boost(shared(base), args)
        return tree_ranker(lambda _: forest, args)

    return make


def arrival_maker(window: EvaluationWindow) -> Maker:
    vectors, shared = vectors_of(window), cache(lambda args: arrival_examples(window.fit_on, vectors, args))

    def make(setting: Settings) -> Ranker:
        base = ArrivalSettings(**{key: value for key, value in setting.items() if key not in GROWTH})
        forest = boost(shared(base), ArrivalSettings(**setting))
        return lambda query: rank_arrivals(forest, query)

    return make


def vectors_of(window: EvaluationWindow) -> np.ndarray:
    return item_vectors(default_encoder(script_parser(None, "cache").parse_args([])), window.fit_on)


def maker(name: str, window: EvaluationWindow) -> Maker:
    if name == "lightgbm":
        return tree_maker(window)
    if name == "arrivals":
        return arrival_maker(window)
    return lambda setting: {**SYSTEMS, **PEERS}[name].make(**setting)


def figures_of(window: EvaluationWindow, rank: Ranker, k: int) -> list[float]:
    """NDCG of each slice."""
    return [ranking.average(ranking.ndcg(rank(window.query(part, k)).items, part.truth, k)) for part in window.slices]


def tuned(window: EvaluationWindow, name: str, grid: Mapping[str, list[Any]], start: Settings, k: int) -> Settings:
    """Coordinate by coordinate, from the first value of each."""
    make, best = maker(name, window), dict(start) | {key: values[0] for key, values in grid.items()}
    best_score = tried(window, name, make, best, k)
    for key, values in grid.items():
        for value in values[1:]:
            setting = best | {key: value}
            score = tried(window, name, make, setting, k)
            if score > best_score:
                best_score, best = score, setting
    return best


def tried(window: EvaluationWindow, name: str, make: Maker, setting: Settings, k: int) -> float:
    began = time.perf_counter()
    rank = make({key: value for key, value in setting.items() if value is not None})
    ndcg = figures_of(window, rank, k)
    figures = " ".join(f"{s.name} {v:.4f}" for s, v in zip(window.slices, ndcg, strict=True))
    print(f"{window.protocol} {name} {setting} {figures} {time.perf_counter() - began:.0f} s", flush=True)
    return float(np.prod(ndcg))


def slices_for(window: EvaluationWindow, name: str) -> list[str]:
    names = [s.name for s in window.slices]
    if name == "arrivals":
        return [s for s in names if s == "COLD"]
    return [s for s in names if s in ("ALL", "NEW")] or names[:1]


def write(protocol: str, name: str, setting: Settings) -> None:
    """Into eval/peers.toml, the other entries as they stand."""
    settings = tomllib.loads(SETTINGS_FILE.read_text(encoding="utf-8"))
    tuned_values = {key: value for key, value in setting.items() if value is not None}
    peers = settings.setdefault(protocol, {})
    if name == "arrivals":
        peers["lightgbm"] = peers.get("lightgbm", {}) | {"arrivals": tuned_values}
    else:
        nested = {key: value for key, value in peers.get(name, {}).items() if isinstance(value, dict)}
        peers[name] = tuned_values | nested
    lines = ["# Settings of the peers, chosen on each protocol's validation window by eval/tune_peers.py."]
    for name in BENCHMARKS:
        for peer, values in settings.get(name, {}).items():
            lines += section(f"{name}.{peer}", values)
    SETTINGS_FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(title: str, setting: Settings) -> list[str]:
    plain = [f"{key} = {json.dumps(value)}" for key, value in setting.items() if not isinstance(value, dict)]
    nested = [section(f"{title}.{key}", value) for key, value in setting.items() if isinstance(value, dict)]
    return ["", f"[{title}]", *plain, *(line for lines in nested for line in lines)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocols", nargs="*", default=sorted(BENCHMARKS))
    parser.add_argument("--peers", default=",".join(GRIDS), help="names with commas")
    args = parser.parse_args(argv)
    for protocol in args.protocols:
        window = window_of(protocol, args, validation=True)
        for name in args.peers.split(","):
            slices = slices_for(window, name)
            grid = NO_TIME.get(name, GRIDS[name]) if window.retained is None else GRIDS[name]
            start = FIXED.get(protocol, {}).get(name, {})
            if slices:
                write(protocol, name, tuned(window.only(slices), name, grid, start, BENCHMARKS[protocol].k))


if __name__ == "__main__":
    main()
