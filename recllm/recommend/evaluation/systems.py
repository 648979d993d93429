"""Systems by name: `recllm` and its variants, and simple ones that it is compared with. A caller may add others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import MissingExtraError, UsageError
from recllm.base.schema import Encoder
from recllm.recommend.evaluation import baselines
from recllm.recommend.evaluation.baselines import rank_by
from recllm.recommend.evaluation.protocols import (
    ALL,
    COLD,
    MASKED,
    NEW,
    NOHISTORY,
    UNMASKED,
    EvaluationWindow,
    Ranker,
    System,
)
from recllm.recommend.evaluation.recllm_system import (
    FROZEN,
    OUR_SYSTEMS,
    TUNED,
    TrainingRecipe,
    advised_recipe,
    learned_system,
)

WARM = frozenset({ALL, NEW, MASKED, UNMASKED, NOHISTORY})
"""Slices of items that were sold before; on others a system that only counts sales has nothing to say."""


@dataclass(frozen=True, kw_only=True)
class SystemSpec:
    """How a system is made."""

    make: Callable[..., Ranker]
    slices: frozenset[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `make` that differ from its defaults."""
    seeded: bool = False
    """It draws or learns, and takes a `seed`."""
    reads: str = ""
    """What `make` takes first: "texts" or "vectors" of the items, or nothing."""
    package: str = ""
    """What must be installed, by the extra bench, for one that a caller adds."""
    note: str = ""


SYSTEMS: Mapping[str, SystemSpec] = {
    "random": SystemSpec(make=baselines.random_order, seeded=True),
    "popular": SystemSpec(make=partial(rank_by, baselines.popular), slices=WARM),
    "popular-recent": SystemSpec(make=partial(rank_by, baselines.popular), slices=WARM, settings={"days": 28.0}),
    "personal-frequency": SystemSpec(make=partial(rank_by, baselines.personal_frequency), slices=WARM),
    "user-knn": SystemSpec(make=partial(rank_by, baselines.user_knn), slices=WARM),
    "category-affinity": SystemSpec(make=partial(rank_by, baselines.category_affinity)),
    "bm25": SystemSpec(make=baselines.bm25, reads="texts"),
    "zero-shot": SystemSpec(make=baselines.zero_shot, reads="vectors"),
    # one product per bought item is too dear on the slices of all items
    "zero-shot-set": SystemSpec(
        make=baselines.zero_shot, slices=frozenset({COLD}), settings={"power": 8}, reads="vectors"
    ),
}

BASELINES = tuple(SYSTEMS)
Specs = Mapping[str, SystemSpec]


def check_systems(names: Iterable[str], further: Specs = MappingProxyType({})) -> None:
    """Before anything is read or learned: raises `UsageError` for an unknown name, `MissingExtraError` for a system
    whose library is not installed. further: systems besides, by name."""
    systems = {**SYSTEMS, **further}
    for name in names:
        if name in OUR_SYSTEMS:
            continue
        if name not in systems:
            raise UsageError(f"unknown system {name!r}; known: {', '.join((*OUR_SYSTEMS, *systems))}")
        package = systems[name].package
        if package and find_spec(package) is None:
            raise MissingExtraError(package, "bench")


def make_systems(
    names: Iterable[str] = BASELINES,
    *,
    texts: Sequence[str] | None = None,
    vectors: NDArray[np.float32] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    further: Specs = MappingProxyType({}),
) -> dict[str, System]:
    """Systems by name, with `settings[name]` as keywords. `seed` is for those that draw or learn.

    texts: one per item row. vectors: (n_items, dim), unit rows. further: other systems by name. Raises `UsageError` for
    an unknown name or a missing input, and as `check_systems`.
    """
    names, inputs = list(names), {"texts": texts, "vectors": vectors}
    check_systems(names, further)
    systems = {}
    for name in names:
        spec = {**SYSTEMS, **further}[name]
        if spec.reads and inputs[spec.reads] is None:
            raise UsageError(f"the system {name} needs item {spec.reads}")
        keywords = {"seed": seed} if spec.seeded else {}
        keywords |= dict(spec.settings) | dict((settings or {}).get(name, {}))
        rank = spec.make(*([inputs[spec.reads]] if spec.reads else []), **keywords)
        systems[name] = System(rank=rank, slices=spec.slices, settings=keywords, note=spec.note)
    return systems


def systems_for(
    window: EvaluationWindow,
    names: Iterable[str],
    encoder: Callable[[], Encoder],
    *,
    recipe: TrainingRecipe | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    runs: Path | None = None,
    further: Specs = MappingProxyType({}),
    progress: Callable[[str], None] | None = None,
) -> dict[str, System]:
    """Ours and others by name, ours first, each to learn from what the window lets it see.

    recllm is what `recllm advise` proposes for the window's own past; recllm-lora fine-tunes the encoder and
    recllm-frozen does not, whatever the advice. category-affinity is left out where no item has a category.

    encoder: called once, and only when a system needs it. recipe: what to train instead of the advised.
    settings: keywords of the others by name. runs: where fine-tuning keeps its runs. further: systems besides, by name.
    Raises as `make_systems`.
    """
    from recllm.learn.features.item_vectors import item_vectors
    from recllm.learn.training.arguments import LoraArguments
    from recllm.text.items import item_texts

    names, load, locale = list(names), cache(encoder), recipe.locale if recipe else "en"
    check_systems(names, further)
    has_categories = bool(window.dataset.items["category"].is_not_null().any())
    others = [n for n in names if n not in OUR_SYSTEMS and (has_categories or n != "category-affinity")]
    ours, reads = [n for n in OUR_SYSTEMS if n in names], {{**SYSTEMS, **further}[n].reads for n in others}
    vectors = item_vectors(load(), window.fit_on, locale) if "vectors" in reads else None
    texts = item_texts(window.dataset.items, locale) if "texts" in reads else None
    systems = {}
    for name in ours:
        learned = recipe or advised_recipe(window.fit_on, load(), tuned=name != FROZEN, seed=seed, runs=runs)
        if name == TUNED and learned.lora is None:
            learned = replace(learned, lora=LoraArguments(seed=seed, horizon_days=learned.training.horizon_days))
        systems[name] = learned_system(load(), learned, progress=progress)
    return systems | make_systems(others, texts=texts, vectors=vectors, settings=settings, seed=seed, further=further)
