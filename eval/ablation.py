"""What each part of the model is worth:  python eval/ablation.py PROTOCOL -o eval/results/ablation-PROTOCOL.json

Trains the whole as `recllm advise` proposes it, and again without one part at a time, on the validation window; each
line of `differences` says with its interval whether the part earns its place.
"""

from __future__ import annotations

from dataclasses import replace

from inputs import default_encoder, finish_report, script_parser, window_of
from published import BENCHMARKS

from recllm.recommend.evaluation.protocols import OURS
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.systems import TrainingRecipe, advised_recipe, learned_system


def without(part: str, recipe: TrainingRecipe) -> TrainingRecipe | None:
    """The recipe without a part; None where it has none."""
    parts, interests = recipe.training.parts, recipe.interests
    left = {"mlp": ("cosine",)}.get(part, tuple(p for p in parts if p != part))
    if left != parts:
        return replace(recipe, training=recipe.training.model_copy(update={"parts": left}))
    change = {"residual": {"residual_dropout": 1.0}, "item-text": {"text": False}}.get(part)
    if interests is None or (part != "interests" and change is None):
        return None
    return replace(recipe, interests=interests.model_copy(update=change) if change else None)


PARTS = ("features", "vectors", "cosine", "mlp", "interests", "residual", "item-text")


def main() -> None:
    parser = script_parser(__doc__, "slices", "data", "cache", "seed")
    parser.add_argument("protocol", choices=sorted(BENCHMARKS))
    parser.add_argument("--only", default=",".join(f"without-{part}" for part in PARTS), help="names with commas")
    args = parser.parse_args()
    window, encoder = window_of(args.protocol, args, validation=True), default_encoder(args)
    full = replace(advised_recipe(window.fit_on, encoder, seed=args.seed), lora=None)
    recipes = {OURS: full} | {name: without(name.removeprefix("without-"), full) for name in args.only.split(",")}
    systems = {name: learned_system(encoder, recipe) for name, recipe in recipes.items() if recipe}
    report = evaluate(window, systems, k=BENCHMARKS[args.protocol].k, seed=args.seed)
    finish_report(report, args.output)


if __name__ == "__main__":
    main()
