"""Choose the peers' settings on the validation windows:  python eval/tune_peers.py

Prints every try and rewrites eval/peers.toml. A setting's worth is NDCG@20 on ALL times NDCG@20 on NEW, so that the
scale of neither decides.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import next28

from recllm import metrics
from recllm.evaluation import PROTOCOLS, Window
from recllm.evaluation.baselines import personal_frequency, user_knn
from recllm.evaluation.protocols import System

GRIDS: dict[str, dict[str, list[Any]]] = {
    "personal-frequency": {"half_life_days": [30.0, 60.0, 90.0, 120.0, 180.0, 365.0]},
    "user-knn": {"days": [28.0, 56.0], "neighbours": [50, 100, 200], "half_life_days": [30.0, 60.0, 120.0]},
}
MAKERS = {"personal-frequency": personal_frequency, "user-knn": user_knn}


def figures_of(window: Window, system: System) -> list[float]:
    """NDCG@20 of each slice."""
    lists = [(system(window.ask(one, 20)), one.truth) for one in window.slices]
    return [metrics.average(metrics.ndcg(found, truth, 20)) for found, truth in lists]


def best_setting(window: Window, name: str) -> dict[str, Any]:
    tried = []
    for values in product(*GRIDS[name].values()):
        setting = dict(zip(GRIDS[name], values, strict=True))
        everything, fresh = figures_of(window, MAKERS[name](**setting))
        tried.append((everything * fresh, setting))
        print(f"{window.protocol} {name} {setting} ALL {everything:.4f} NEW {fresh:.4f}", flush=True)
    return max(tried, key=lambda t: t[0])[1]


def main() -> None:
    lines = ["# Settings of the peers, chosen on each protocol's validation window by eval/tune_peers.py."]
    for protocol, maker in PROTOCOLS.items():
        window = maker(next28.load(protocol), validation=True).only(["ALL", "NEW"])
        for name in GRIDS:
            lines += ["", f"[{protocol}.{name}]"]
            lines += [f"{key} = {value}" for key, value in best_setting(window, name).items()]
    (Path(__file__).parent / "peers.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
