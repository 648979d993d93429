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
from pathlib import Path
from typing import Any

import numpy as np
from run import HERE, window_of

from recllm import metrics
from recllm.encoder.loading import DEFAULT_ENCODER, load_encoder
from recllm.evaluation.baselines import personal_frequency, user_knn
from recllm.evaluation.benchmarks import PROTOCOLS
from recllm.evaluation.peers.arrivals import ArrivalSettings, arrival_examples, rank_arrivals
from recllm.evaluation.peers.boosting import boost
from recllm.evaluation.peers.ease import ease
from recllm.evaluation.peers.factors import als, bpr
from recllm.evaluation.peers.source_model import source_model
from recllm.evaluation.peers.tifu import tifu_knn
from recllm.evaluation.peers.trees import TreeSettings, answering, learn_from
from recllm.evaluation.protocols import Judged, System, Window
from recllm.features.item_vectors import item_vectors

Settings = dict[str, Any]
Maker = Callable[[Settings], System]

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


def simple_maker(make: Callable[..., System]) -> Maker:
    return lambda setting: make(**setting)


GROWTH = frozenset({"leaves", "rounds", "learning_rate", "least_rows", "share"})
"""Settings by which tries share their examples."""


def tree_maker(window: Window) -> Maker:
    vectors, shared = vectors_of(window), cache(lambda given: learn_from(window.fit_on, vectors, given))

    def made(setting: Settings) -> System:
        base = TreeSettings(**{key: value for key, value in setting.items() if key not in GROWTH})
        given = TreeSettings(**setting)
        forest = boost(shared(base), given)
        return answering(lambda _: forest, given)

    return made


def arrival_maker(window: Window) -> Maker:
    vectors, shared = vectors_of(window), cache(lambda given: arrival_examples(window.fit_on, vectors, given))

    def made(setting: Settings) -> System:
        base = ArrivalSettings(**{key: value for key, value in setting.items() if key not in GROWTH})
        forest = boost(shared(base), ArrivalSettings(**setting))
        return lambda question: rank_arrivals(forest, question)

    return made


def vectors_of(window: Window) -> np.ndarray:
    encoder = load_encoder(DEFAULT_ENCODER, cache_dir=Path.home() / ".cache" / "recllm", precision="auto")
    return item_vectors(encoder, window.fit_on)


SIMPLE: dict[str, Callable[..., System]] = {
    "personal-frequency": personal_frequency,
    "user-knn": user_knn,
    "tifu-knn": tifu_knn,
    "ease": ease,
    "als": als,
    "bpr": bpr,
    "source-model": source_model,
}


def maker(name: str, window: Window) -> Maker:
    if name in SIMPLE:
        return simple_maker(SIMPLE[name])
    return tree_maker(window) if name == "lightgbm" else arrival_maker(window)


def figures_of(window: Window, system: System, k: int) -> list[float]:
    """NDCG of each slice."""
    found = []
    for one in window.slices:
        answer = system(window.ask(one, k))
        lists = answer.items if isinstance(answer, Judged) else answer
        found.append(metrics.average(metrics.ndcg(lists, one.truth, k)))
    return found


def tuned(window: Window, name: str, grid: Mapping[str, list[Any]], start: Settings, k: int) -> Settings:
    """Coordinate by coordinate, from the first value of each."""
    make, best = maker(name, window), dict(start) | {key: values[0] for key, values in grid.items()}
    worth = tried(window, name, make, best, k)
    for key, values in grid.items():
        for value in values[1:]:
            setting = best | {key: value}
            found = tried(window, name, make, setting, k)
            if found > worth:
                worth, best = found, setting
    return best


def tried(window: Window, name: str, make: Maker, setting: Settings, k: int) -> float:
    began = time.perf_counter()
    system = make({key: value for key, value in setting.items() if value is not None})
    found = figures_of(window, system, k)
    told = " ".join(f"{s.name} {v:.4f}" for s, v in zip(window.slices, found, strict=True))
    print(f"{window.protocol} {name} {setting} {told} {time.perf_counter() - began:.0f} s", flush=True)
    return float(np.prod(found))


def slices_for(window: Window, name: str) -> list[str]:
    here = [s.name for s in window.slices]
    if name == "arrivals":
        return [s for s in here if s == "COLD"]
    return [s for s in here if s in ("ALL", "NEW")] or here[:1]


def write(protocol: str, name: str, setting: Settings) -> None:
    """Into eval/peers.toml, the other entries as they stand."""
    path = HERE / "peers.toml"
    known = tomllib.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in setting.items() if value is not None}
    peers = known.setdefault(protocol, {})
    if name == "arrivals":
        peers["lightgbm"] = peers.get("lightgbm", {}) | {"arrivals": kept}
    else:
        nested = {key: value for key, value in peers.get(name, {}).items() if isinstance(value, dict)}
        peers[name] = kept | nested
    lines = ["# Settings of the peers, chosen on each protocol's validation window by eval/tune_peers.py."]
    for place in PROTOCOLS:
        for peer, found in known.get(place, {}).items():
            lines += section(f"{place}.{peer}", found)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(title: str, setting: Settings) -> list[str]:
    plain = [f"{key} = {json.dumps(value)}" for key, value in setting.items() if not isinstance(value, dict)]
    nested = [section(f"{title}.{key}", value) for key, value in setting.items() if isinstance(value, dict)]
    return ["", f"[{title}]", *plain, *(line for lines in nested for line in lines)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocols", nargs="*", default=sorted(PROTOCOLS))
    parser.add_argument("--peers", default=",".join(GRIDS), help="names with commas")
    args = parser.parse_args(argv)
    for protocol in args.protocols:
        window = window_of(protocol, validation=True)
        for name in args.peers.split(","):
            here = slices_for(window, name)
            grid = NO_TIME.get(name, GRIDS[name]) if window.retained is None else GRIDS[name]
            start = FIXED.get(protocol, {}).get(name, {})
            if here:
                write(protocol, name, tuned(window.only(here), name, grid, start, PROTOCOLS[protocol].k))


if __name__ == "__main__":
    main()
