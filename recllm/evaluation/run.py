"""From names to figures: makes the systems that a comparison names, each from what the window lets it see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from recllm.evaluation.baselines import Contender
from recllm.evaluation.contenders import BASELINES, NEEDS_TEXTS, NEEDS_VECTORS, contenders
from recllm.evaluation.ours import learned
from recllm.evaluation.protocols import Window
from recllm.evaluation.report import OURS, Report, evaluate
from recllm.evaluation.splits import split_tables
from recllm.evaluation.tables import Tables
from recllm.schema import Encoder

if TYPE_CHECKING:
    from recllm.training import TrainingArguments

Progress = Callable[[str], None]


def systems_for(
    window: Window,
    names: Iterable[str],
    encoder: Callable[[], Encoder],
    *,
    arguments: TrainingArguments | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Contender]:
    """`recllm` and baselines by name. `encoder` is called, once, only when a system needs vectors.

    category-affinity is left out where no item has a category. Raises `UsageError` for an unknown name.
    """
    from recllm.text import item_texts
    from recllm.vectors import item_vectors

    names, load = list(names), cache(encoder)
    has_categories = bool(window.dataset.items["category"].is_not_null().any())
    peers = [n for n in names if n != OURS and (has_categories or n != "category-affinity")]
    vectors = item_vectors(load(), window.fit_on) if (NEEDS_VECTORS | {OURS}) & set(names) else None
    texts = item_texts(window.dataset.items) if NEEDS_TEXTS & set(peers) else None
    systems = {}
    if OURS in names:
        systems[OURS] = learned(load(), arguments, item_vectors=vectors, progress=progress)
    return systems | contenders(peers, texts=texts, vectors=vectors, settings=settings, seed=seed)


def evaluate_tables(
    tables: Tables,
    encoder: Callable[[], Encoder],
    *,
    split: str = "time",
    test_days: int = 28,
    slices: Sequence[str] | None = None,
    systems: Iterable[str] = (OURS, *BASELINES),
    k: int = 20,
    arguments: TrainingArguments | None = None,
    seed: int = 0,
    progress: Progress = lambda line: None,
) -> Report:
    """Splits the log of a folder (see `split_tables`), makes the systems and compares them."""
    window = split_tables(tables, split=split, test_days=test_days, slices=slices)
    made = systems_for(window, systems, encoder, arguments=arguments, seed=seed, progress=progress)
    return evaluate(window, made, k=k, seed=seed, progress=progress)
