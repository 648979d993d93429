"""A weight on popularity:  python eval/catalogue_coverage.py -o eval/results/coverage-cj-next28.json

One model, as `recllm advise` proposes it, is trained on the past of the validation window and asked once for each
weight w, by which slates are ordered: logit - w log(1 + people who ever took the item). "recllm" is w = 0; accuracy
stands beside coverage of the catalogue, the Gini index of how often items are shown, and how popular they are.
"""

from __future__ import annotations

from inputs import advised, finish_report, script_parser, window_of
from published import BENCHMARKS

from recllm.recommend.evaluation.protocols import OURS
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.systems import served_system

COLUMNS = ("ndcg", "recall", "coverage", "gini")


def main() -> None:
    parser = script_parser(__doc__, "slices", "data", "cache", "seed")
    parser.set_defaults(slices="ALL,NEW")
    parser.add_argument("protocol", nargs="?", default="cj-next28", choices=sorted(BENCHMARKS))
    parser.add_argument("--weights", default="0,0.05,0.1,0.2,0.4,0.8", help="with commas; 0 comes first")
    args = parser.parse_args()
    window, k = window_of(args.protocol, args, validation=True), BENCHMARKS[args.protocol].k
    trained, recipe = advised(window.fit_on, args)
    systems = {
        f"{OURS}-less-popular-{w:g}" if w else OURS: served_system(trained, popularity_weight=w)
        for w in map(float, args.weights.split(","))
    }
    report = evaluate(window, systems, k=k, seed=args.seed)
    report.extra["training"] = recipe.settings()
    finish_report(report, args.output, [f"{name}@{k}" for name in COLUMNS])


if __name__ == "__main__":
    main()
