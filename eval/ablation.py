"""What each part of the model is worth:  python eval/ablation.py PROTOCOL -o eval/results/ablation-PROTOCOL.json

Trains the whole as `recllm advise` proposes it, and again without one part at a time, on the validation window; each
line of `differences` says with its interval whether the part earns its place.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from run import DATA, say, window_of

from recllm.encoder.loading import DEFAULT_ENCODER, load_encoder
from recllm.evaluation.benchmarks import PROTOCOLS
from recllm.evaluation.recllm_system import Recipe, advised, learned
from recllm.evaluation.report import OURS, evaluate
from recllm.features.item_vectors import item_vectors

Change = Callable[[Recipe], Recipe | None]


def without_part(part: str) -> Change:
    def change(recipe: Recipe) -> Recipe | None:
        parts = recipe.training.parts
        if part not in parts:
            return None
        return replace(
            recipe, training=recipe.training.model_copy(update={"parts": tuple(p for p in parts if p != part)})
        )

    return change


def without_mlp(recipe: Recipe) -> Recipe:
    return replace(recipe, training=recipe.training.model_copy(update={"parts": ("cosine",)}))


def without_interests(recipe: Recipe) -> Recipe | None:
    return replace(recipe, interests=None) if recipe.interests else None


def without_residual(recipe: Recipe) -> Recipe | None:
    if recipe.interests is None:
        return None
    return replace(recipe, interests=recipe.interests.model_copy(update={"residual_dropout": 1.0}))


def without_item_text(recipe: Recipe) -> Recipe | None:
    return replace(recipe, interests=recipe.interests.model_copy(update={"text": False})) if recipe.interests else None


def without_arrivals(recipe: Recipe) -> Recipe | None:
    if not recipe.training.timed:
        return None
    return replace(recipe, training=recipe.training.model_copy(update={"new_item_weight": 0.0}))


CHANGES: dict[str, Change] = {
    "without-features": without_part("features"),
    "without-vectors": without_part("vectors"),
    "without-cosine": without_part("cosine"),
    "without-mlp": without_mlp,
    "without-arrivals": without_arrivals,
    "without-interests": without_interests,
    "without-residual": without_residual,
    "without-item-text": without_item_text,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=sorted(PROTOCOLS))
    parser.add_argument("--only", default=",".join(CHANGES), help="names with commas")
    parser.add_argument("--slices", help="only these, names with commas")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recllm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    window = window_of(args.protocol, validation=True, data=args.data)
    window = window.only(args.slices.split(",")) if args.slices else window
    encoder = load_encoder(DEFAULT_ENCODER, cache_dir=args.cache, precision="auto")
    whole = advised(window.fit_on, encoder, tuned=False, seed=args.seed)
    recipes = {OURS: whole} | {name: CHANGES[name](whole) for name in args.only.split(",")}
    vectors = item_vectors(encoder, window.fit_on)
    systems = {
        name: learned(encoder, recipe, item_vectors=vectors, progress=say) for name, recipe in recipes.items() if recipe
    }
    report = evaluate(window, systems, k=PROTOCOLS[args.protocol].k, seed=args.seed, progress=say)
    print(report.table())
    if args.output:
        report.write(args.output)


if __name__ == "__main__":
    main()
