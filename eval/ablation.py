"""What each part of the model is worth:  python eval/ablation.py PROTOCOL -o eval/results/ablation-PROTOCOL.json

Trains the whole as `recllm advise` proposes it, and again without one part at a time, on the validation window; each
line of `differences` says with its interval whether the part earns its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from inputs import default_encoder, script_parser, window_of
from published import BENCHMARKS

from recllm.recommend.evaluation.protocols import OURS
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.systems import TrainingRecipe, advised_recipe, learned_system

Change = Callable[[TrainingRecipe], TrainingRecipe | None]


def without_part(part: str) -> Change:
    def change(recipe: TrainingRecipe) -> TrainingRecipe | None:
        parts = recipe.training.parts
        if part not in parts:
            return None
        return replace(
            recipe, training=recipe.training.model_copy(update={"parts": tuple(p for p in parts if p != part)})
        )

    return change


def without_mlp(recipe: TrainingRecipe) -> TrainingRecipe:
    return replace(recipe, training=recipe.training.model_copy(update={"parts": ("cosine",)}))


def without_interests(recipe: TrainingRecipe) -> TrainingRecipe | None:
    return replace(recipe, interests=None) if recipe.interests else None


def without_residual(recipe: TrainingRecipe) -> TrainingRecipe | None:
    if recipe.interests is None:
        return None
    return replace(recipe, interests=recipe.interests.model_copy(update={"residual_dropout": 1.0}))


def without_item_text(recipe: TrainingRecipe) -> TrainingRecipe | None:
    return replace(recipe, interests=recipe.interests.model_copy(update={"text": False})) if recipe.interests else None


CHANGES: dict[str, Change] = {
    "without-features": without_part("features"),
    "without-vectors": without_part("vectors"),
    "without-cosine": without_part("cosine"),
    "without-mlp": without_mlp,
    "without-interests": without_interests,
    "without-residual": without_residual,
    "without-item-text": without_item_text,
}


def main() -> None:
    parser = script_parser(__doc__, "slices", "data", "cache", "seed")
    parser.add_argument("protocol", choices=sorted(BENCHMARKS))
    parser.add_argument("--only", default=",".join(CHANGES), help="names with commas")
    args = parser.parse_args()
    window, encoder = window_of(args.protocol, args, validation=True), default_encoder(args)
    full = replace(advised_recipe(window.fit_on, encoder, seed=args.seed), lora=None)
    recipes = {OURS: full} | {name: CHANGES[name](full) for name in args.only.split(",")}
    systems = {name: learned_system(encoder, recipe) for name, recipe in recipes.items() if recipe}
    report = evaluate(window, systems, k=BENCHMARKS[args.protocol].k, seed=args.seed)
    print(report.table())
    if args.output:
        report.write(args.output)


if __name__ == "__main__":
    main()
