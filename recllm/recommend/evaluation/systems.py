"""Systems by name: `recllm` and its variants, and simple ones that it is compared with. A caller may add others.

recllm is trained on what the window lets it see, then asked through serving code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.base.arrays import Floats, Mask
from recllm.base.documents import plain
from recllm.base.errors import DataError, MissingExtraError, UsageError
from recllm.base.schema import ACTION_CODE, Action, Encoder, Progress
from recllm.learn.features.candidates import CandidateCounts
from recllm.recommend.evaluation import baselines
from recllm.recommend.evaluation.baselines import one_pass_for_both_masks, rank_by
from recllm.recommend.evaluation.protocols import (
    ALL,
    MASKED,
    NEW,
    NOHISTORY,
    OURS,
    UNMASKED,
    EvaluationQuery,
    EvaluationWindow,
    RankedLists,
    Ranker,
    System,
)
from recllm.shop.data.dataset import OPEN_CART, Dataset, Events

if TYPE_CHECKING:
    from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
    from recllm.learn.models.sequence import SequenceArguments
    from recllm.learn.training.lora.examples import LoraArguments
    from recllm.recommend.recommender.ranking import UserInputs
    from recllm.recommend.recommender.recommender import Recommender

logger = logging.getLogger("recllm.evaluation")

WARM = frozenset({ALL, NEW, MASKED, UNMASKED, NOHISTORY})
"""Slices of items that were sold before; on others a system that only counts sales has nothing to say."""


@dataclass(frozen=True, kw_only=True)
class SystemSpec:
    make: Callable[..., Ranker]
    slices: frozenset[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `make` that differ from its defaults."""
    seeded: bool = False
    """It draws or learns, and takes a `seed`."""
    reads_vectors: bool = False
    """`make` takes the vectors of the items first."""
    package: str = ""
    """What must be installed, by the extra bench, for one that a caller adds."""


SYSTEMS: Mapping[str, SystemSpec] = {
    "random": SystemSpec(make=baselines.random_order, seeded=True),
    "popular": SystemSpec(make=partial(rank_by, baselines.popular), slices=WARM),
    "popular-recent": SystemSpec(make=partial(rank_by, baselines.popular), slices=WARM, settings={"days": 28.0}),
    "personal-frequency": SystemSpec(make=partial(rank_by, baselines.personal_frequency), slices=WARM),
    "user-knn": SystemSpec(make=partial(rank_by, baselines.user_knn), slices=WARM),
    "zero-shot": SystemSpec(make=baselines.zero_shot, reads_vectors=True),
}

BASELINES = tuple(SYSTEMS)
Specs = Mapping[str, SystemSpec]


def check_systems(names: Iterable[str], further: Specs = MappingProxyType({})) -> None:
    """Before anything is read or learned: raises `UsageError` for an unknown name, `MissingExtraError` for a system
    whose library is not installed. further: systems besides, by name."""
    systems = {**SYSTEMS, **further}
    for name in names:
        if name == OURS:
            continue
        if name not in systems:
            raise UsageError(f"unknown system {name!r}; known: {', '.join((OURS, *systems))}")
        package = systems[name].package
        if package and find_spec(package) is None:
            raise MissingExtraError(package, "bench")


def make_systems(
    names: Iterable[str] = BASELINES,
    *,
    vectors: Floats | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    further: Specs = MappingProxyType({}),
) -> dict[str, System]:
    """Systems by name, with `settings[name]` as keywords. `seed` is for those that draw or learn.

    vectors: (n_items, dim), unit rows. further: other systems by name. Raises `UsageError` for a system that needs
    vectors without them, and as `check_systems`.
    """
    names = list(names)
    check_systems(names, further)
    systems = {}
    for name in names:
        spec = {**SYSTEMS, **further}[name]
        if spec.reads_vectors and vectors is None:
            raise UsageError(f"the system {name} needs item vectors")
        keywords = {"seed": seed} if spec.seeded else {}
        keywords |= dict(spec.settings) | dict((settings or {}).get(name, {}))
        rank = spec.make(*([vectors] if spec.reads_vectors else []), **keywords)
        systems[name] = System(rank=rank, slices=spec.slices, settings=keywords)
    return systems


def systems_for(
    window: EvaluationWindow,
    names: Iterable[str],
    encoder: Callable[[], Encoder],
    *,
    recipe: TrainingRecipe | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    further: Specs = MappingProxyType({}),
    progress: Progress | None = None,
) -> dict[str, System]:
    """Ours and others by name, ours first, each to learn from what the window lets it see.

    encoder: called once, and only when a system needs it. recipe: what to train instead of the advised.
    settings: keywords of the others by name. further: systems besides, by name.
    Raises as `make_systems`.
    """
    from recllm.learn.features.item_vectors import item_vectors

    names, load, locale = list(names), cache(encoder), recipe.locale if recipe else "en"
    check_systems(names, further)
    others = [name for name in names if name != OURS]
    needs_vectors = any({**SYSTEMS, **further}[n].reads_vectors for n in others)
    vectors = item_vectors(load(), window.fit_on, locale) if needs_vectors else None
    systems = {}
    if OURS in names:
        learned = recipe or advised_recipe(window.fit_on, load(), seed=seed)
        systems[OURS] = learned_system(load(), learned, progress=progress)
    return systems | make_systems(others, vectors=vectors, settings=settings, seed=seed, further=further)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingRecipe:
    training: ScorerTrainingSettings
    lora: LoraArguments | None = None
    """Fine-tune the encoder first; None leaves it frozen."""
    interests: SequenceArguments | None = None
    """The sequence model; None for none."""
    collaborative: CollaborativeSettings | None = None
    candidates: CandidateCounts | None = None
    locale: str = "en"
    """Language of the item texts."""

    def settings(self) -> dict[str, Any]:
        """As plain data, for the report."""
        parts = {"lora": self.lora, "interests": self.interests}
        tables = {name: None if section is None else section.model_dump(mode="json") for name, section in parts.items()}
        explicit = self.collaborative.explicit() if self.collaborative else {}
        tables |= {"collaborative": plain(explicit)} if explicit else {}
        tables |= {"candidates": plain(self.candidates)} if self.candidates else {}
        return self.training.model_dump(mode="json") | tables


def advised_recipe(past: Dataset, encoder: Encoder, *, seed: int = 0) -> TrainingRecipe:
    """What `recllm advise` proposes for this log.
    Raises `DataError` for one that is too small to learn from."""
    from recllm.learn.training.advise import advise
    from recllm.text.items import item_texts

    advice = advise(past, item_texts(past.items), encoder=encoder.name, seed=seed)
    if advice.training is None:
        raise DataError("; ".join(advice.missing))
    return TrainingRecipe(training=advice.training, lora=advice.lora, interests=advice.interests)


def learned_system(encoder: Encoder, recipe: TrainingRecipe, *, progress: Progress | None = None) -> System:
    """Trains at the first query of a window on `query.fit_on`, and keeps what it learned for the next ones."""

    @lru_cache(maxsize=1)
    def served(past: Dataset) -> Ranker:
        from tempfile import TemporaryDirectory

        from recllm.learn.training.lora.tune import tune_encoder

        tell = progress or logger.info
        with TemporaryDirectory() as run:  # an encoder reads its adapter when it is first asked
            tuned = encoder if recipe.lora is None else tune_encoder(past, encoder, recipe.lora, run, tell).encoder
            return _ranker(fit_recipe(past, tuned, recipe, tell))

    settings = {"encoder": encoder.name, **recipe.settings()}
    return System(rank=lambda query: served(query.fit_on)(query), settings=settings)


def served_system(recommender: Recommender, *, popularity_weight: float = 0.0) -> System:
    """A recommender as it is served, trained on the window's own past or on nothing.

    The caller makes the window from the recommender's dataset, so that both have the same rows.
    """
    version = recommender.model.version if recommender.model else None
    settings = {"encoder": recommender.encoder.name, "model_version": version, "popularity_weight": popularity_weight}
    return System(rank=_ranker(recommender, popularity_weight), settings=settings)


def fit_recipe(past: Dataset, encoder: Encoder, recipe: TrainingRecipe, progress: Progress | None) -> Recommender:
    from recllm.recommend.recommender.recommender import Recommender

    return Recommender(past, encoder, locale=recipe.locale).fit(
        recipe.training,
        interests=recipe.interests,
        collaborative=recipe.collaborative,
        candidates=recipe.candidates,
        progress=progress,
    )


def _histories(query: EvaluationQuery) -> Events:
    """What the users did, or have in the cart now."""
    events = query.dataset.events.rows(query.users)
    if not query.open_carts:
        return events
    in_cart = np.full_like(events.action, ACTION_CODE[Action.CART])
    return replace(events, action=in_cart, basket=np.full_like(events.basket, OPEN_CART))


def _ranker(recommender: Recommender, popularity_weight: float = 0.0) -> Ranker:
    from recllm.learn.features.item_vectors import basics_of, basics_vectors
    from recllm.recommend.recommender.ranking import UserInputs

    ranker = recommender.count_carts().ranker

    def inputs(query: EvaluationQuery) -> UserInputs:
        rows = query.fit_users if query.hidden_users is None else np.maximum(query.fit_users, query.hidden_users)
        people = basics_of(query.dataset.users[query.users])
        basics = basics_vectors(recommender.encoder, people, recommender.text_locale)
        return UserInputs(_histories(query), query.as_of, rows, basics)

    def allowed(query: EvaluationQuery) -> Mask:
        return np.isin(np.arange(query.dataset.n_items), query.items)

    @one_pass_for_both_masks
    def with_and_without_repeats(query: EvaluationQuery) -> list[RankedLists]:
        both = ranker.rank_with_and_without_repeats(
            inputs(query), query.k, allowed=allowed(query), popularity_weight=popularity_weight
        )
        return [RankedLists(ranked.item, ranked.probability) for ranked in both]

    def answer(query: EvaluationQuery) -> RankedLists:
        carts = _histories(query) if query.open_carts else None
        sold = ranker.population.stats.buyers_ever[query.items].any()
        if sold and query.hidden_users is None and carts is None:
            return with_and_without_repeats(query)
        # no source of candidates can propose what never sold
        ranked = ranker.rank(
            inputs(query),
            query.k,
            items=None if sold else query.items,
            allowed=allowed(query),
            banned=None if carts is None else (carts.indptr, carts.item),  # the page shows the cart itself
            repeats=not query.mask_seen,
            popularity_weight=popularity_weight,
        )
        return RankedLists(ranked.item, ranked.probability)

    return answer
