"""What a weight on popularity costs and brings:  python eval/coverage.py -o eval/results/coverage-cj-next28.json

One model, as `recllm advise` proposes it, is trained on the past of the validation window and asked once for each
weight w, by which slates are ordered: logit - w log(1 + people who ever took the item). "recllm" is w = 0; accuracy
stands beside coverage of the catalogue, the Gini index of how often items are shown, and how popular they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from run import DATA, say, window_of

from recllm.encoder.loading import DEFAULT_ENCODER, load_encoder
from recllm.evaluation.benchmarks import PROTOCOLS
from recllm.evaluation.recllm_system import advised, serving
from recllm.evaluation.report import OURS, evaluate
from recllm.recommender.recommender import Recommender

if TYPE_CHECKING:
    from recllm.evaluation.report import Report

COLUMNS = ("ndcg", "recall", "coverage", "gini", "mean_popularity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", nargs="?", default="cj-next28", choices=sorted(PROTOCOLS))
    parser.add_argument("--weights", default="0,0.05,0.1,0.2,0.4,0.8", help="with commas; 0 comes first")
    parser.add_argument("--slices", default="ALL,NEW", help="names with commas")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recllm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="also draw the curve as PNG")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    window = window_of(args.protocol, validation=True, data=args.data).only(args.slices.split(","))
    encoder, k = load_encoder(DEFAULT_ENCODER, cache_dir=args.cache, precision="auto"), PROTOCOLS[args.protocol].k
    recipe = advised(window.fit_on, encoder, tuned=False, seed=args.seed)
    untrained = Recommender(window.fit_on, encoder)
    trained = untrained.fit(recipe.training, interests=recipe.interests, progress=say).warm()
    systems = {
        f"{OURS}-less-popular-{w:g}" if w else OURS: serving(trained, popularity_weight=w)
        for w in map(float, args.weights.split(","))
    }
    report = evaluate(window, systems, k=k, seed=args.seed, progress=say)
    report.extra["training"] = recipe.settings()
    print(report.table([f"{name}@{k}" for name in COLUMNS]))
    if args.output:
        report.write(args.output)
    if args.plot:
        draw(report, k, args.plot)


def draw(report: Report, k: int, path: Path) -> None:
    """NDCG against coverage, one line per slice, each point with its weight."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    weights = [s["popularity_weight"] for s in report.extra["settings"].values()]
    for part in report.systems[OURS]:
        found = [scores[part] for scores in report.systems.values()]
        if f"coverage@{k}" in found[0]:
            points = [(f[f"coverage@{k}"], f[f"ndcg@{k}"]) for f in found]
            axes.plot(*zip(*points, strict=True), marker="o", label=part)
            for point, weight in zip(points, weights, strict=True):
                axes.annotate(f"{weight:g}", point, textcoords="offset points", xytext=(2, 5), fontsize=7)
    axes.set(xlabel=f"coverage@{k}", ylabel=f"NDCG@{k}", title=f"{report.protocol}, weight on popularity", ylim=0)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
