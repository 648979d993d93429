"""From names to figures: makes the systems that a comparison names, each from what the window lets it see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recllm.data.dataset import Dataset
from recllm.evaluation.baselines import Contender
from recllm.evaluation.protocols import Window
from recllm.evaluation.recllm_system import Recipe, advised, learned
from recllm.evaluation.report import OURS, Report, evaluate
from recllm.evaluation.splits import split_tables
from recllm.evaluation.systems import BASELINES, NEEDS_TEXTS, NEEDS_VECTORS, contenders
from recllm.evaluation.tables import Tables
from recllm.schema import Encoder

if TYPE_CHECKING:
    from recllm.settings import ScorerTrainingSettings

Progress = Callable[[str], None]

TUNED, FROZEN = f"{OURS}-lora", f"{OURS}-frozen"
OUR_SYSTEMS = (OURS, TUNED, FROZEN)


def systems_for(
    window: Window,
    names: Iterable[str],
    encoder: Callable[[], Encoder],
    *,
    arguments: ScorerTrainingSettings | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    runs: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Contender]:
    """`recllm`, `recllm-lora`, `recllm-frozen` and peers by name. `encoder` is called, once, only when one needs it.

    recllm is what `recllm advise` proposes for the window's own past; recllm-lora fine-tunes the encoder and
    recllm-frozen does not, whatever the advice. arguments: these for the scorer instead of the advised ones. runs:
    where fine-tuning keeps its runs. category-affinity is left out where no item has a category. Raises `UsageError`
    for an unknown name.
    """
    from recllm.features.item_vectors import item_vectors
    from recllm.text.items import item_texts

    names, load = list(names), cache(encoder)
    has_categories = bool(window.dataset.items["category"].is_not_null().any())
    peers = [n for n in names if n not in OUR_SYSTEMS and (has_categories or n != "category-affinity")]
    vectors = item_vectors(load(), window.fit_on) if (NEEDS_VECTORS | set(OUR_SYSTEMS)) & set(names) else None
    texts = item_texts(window.dataset.items) if NEEDS_TEXTS & set(peers) else None
    systems = {}
    for name in OUR_SYSTEMS:
        if name in names:
            recipe = our_recipe(name, window.fit_on, load(), arguments, seed, runs)
            systems[name] = learned(load(), recipe, item_vectors=vectors, progress=progress)
    return systems | contenders(peers, texts=texts, vectors=vectors, settings=settings, seed=seed)


def our_recipe(
    name: str,
    past: Dataset,
    encoder: Encoder,
    arguments: ScorerTrainingSettings | None = None,
    seed: int = 0,
    runs: Path | None = None,
) -> Recipe:
    """What one of `OUR_SYSTEMS` trains on this log."""
    from recllm.settings import LoraSettings

    recipe = advised(past, encoder, tuned=name != FROZEN, seed=seed, runs=runs)
    if arguments is not None:
        recipe = replace(recipe, training=arguments)
    if name == TUNED and recipe.lora is None:
        recipe = replace(recipe, lora=LoraSettings(seed=seed, horizon_days=recipe.training.horizon_days))
    return recipe


def evaluate_tables(
    tables: Tables,
    encoder: Callable[[], Encoder],
    *,
    split: str = "time",
    test_days: int = 28,
    slices: Sequence[str] | None = None,
    systems: Iterable[str] = (OURS, *BASELINES),
    k: int = 20,
    arguments: ScorerTrainingSettings | None = None,
    seed: int = 0,
    progress: Progress = lambda line: None,
) -> Report:
    """Splits the log of a folder (see `split_tables`), makes the systems and compares them."""
    window = split_tables(tables, split=split, test_days=test_days, slices=slices)
    made = systems_for(window, systems, encoder, arguments=arguments, seed=seed, progress=progress)
    return evaluate(window, made, k=k, seed=seed, progress=progress)
