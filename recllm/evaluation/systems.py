"""Systems by name. Simple ones are `BASELINES`, those that learn or are published methods are `PEERS`.

A further peer is one maker in `recllm.evaluation.peers`, one entry of `PEERS` and one line of `MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.errors import UsageError
from recllm.evaluation import baselines as simple
from recllm.evaluation.baselines import WARM, Contender
from recllm.evaluation.peers.ease import ease
from recllm.evaluation.peers.factors import als, bpr
from recllm.evaluation.peers.sasrec import sasrec
from recllm.evaluation.peers.source_model import ACCURACY_NOTE, source_model
from recllm.evaluation.peers.tifu import tifu_knn
from recllm.evaluation.peers.trees import lightgbm
from recllm.evaluation.protocols import COLD, System

BASELINES = (
    "random",
    "popular",
    "popular-recent",
    "personal-frequency",
    "user-knn",
    "category-affinity",
    "bm25",
    "zero-shot",
    "zero-shot-set",
)

PEERS = ("tifu-knn", "ease", "als", "bpr", "lightgbm", "sasrec", "source-model")

NEEDS_TEXTS = frozenset({"bm25"})
NEEDS_VECTORS = frozenset({"zero-shot", "zero-shot-set", "lightgbm"})


@dataclass(frozen=True, eq=False, kw_only=True)
class Given:
    """What makers may use. texts: one per item row. vectors: (n_items, dim), unit rows. settings: the maker's own."""

    texts: Sequence[str] | None
    vectors: NDArray[np.float32] | None
    seed: int
    settings: Mapping[str, Any]


Maker = Callable[[Given], Contender]


def contenders(
    names: Iterable[str] = BASELINES,
    *,
    texts: Sequence[str] | None = None,
    vectors: NDArray[np.float32] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> dict[str, Contender]:
    """Systems by name, with `settings[name]` as keywords of the maker. `seed` is for those that draw or learn.

    texts (one per item row) are needed by bm25, vectors (n_items, dim; unit rows) by zero-shot, zero-shot-set and
    lightgbm. Raises `UsageError` for an unknown name or a missing input, `MissingExtraError` where a peer's library is
    not installed.
    """
    settings = settings or {}
    return {n: _made(n, Given(texts=texts, vectors=vectors, seed=seed, settings=settings.get(n, {}))) for n in names}


def _made(name: str, given: Given) -> Contender:
    if name not in MAKERS:
        raise UsageError(f"unknown system {name!r}; known: {', '.join(MAKERS)}")
    if name in NEEDS_TEXTS and given.texts is None:
        raise UsageError(f"the system {name} needs item texts")
    if name in NEEDS_VECTORS and given.vectors is None:
        raise UsageError(f"the system {name} needs item vectors")
    return MAKERS[name](given)


def _counting(make: Callable[..., System]) -> Maker:
    """Systems that only count sales: they have nothing to say where nothing was sold yet."""
    return lambda given: Contender(answer=make(**given.settings), slices=WARM, settings=given.settings)


def _learning(make: Callable[..., System], note: str = "") -> Maker:
    def made(given: Given) -> Contender:
        settings = {"seed": given.seed} | dict(given.settings)
        return Contender(answer=make(**settings), slices=WARM, settings=settings, note=note)

    return made


def _random(given: Given) -> Contender:
    settings = {"seed": given.seed} | dict(given.settings)
    return Contender(answer=simple.random_system(**settings), settings=settings)


def _category_affinity(given: Given) -> Contender:
    return Contender(answer=simple.category_affinity(**given.settings), settings=given.settings)


def _bm25(given: Given) -> Contender:
    return Contender(answer=simple.bm25(given.texts or (), **given.settings), settings=given.settings)


def _zero_shot(given: Given) -> Contender:
    return Contender(answer=simple.zero_shot(_vectors(given), **given.settings), settings=given.settings)


def _zero_shot_set(given: Given) -> Contender:
    """It plays in COLD only, since it costs one product per bought item."""
    settings = {"power": 8} | dict(given.settings)
    return Contender(answer=simple.zero_shot(_vectors(given), **settings), slices=frozenset({COLD}), settings=settings)


def _lightgbm(given: Given) -> Contender:
    settings = {"seed": given.seed} | dict(given.settings)
    return Contender(answer=lightgbm(_vectors(given), **settings), slices=WARM | {COLD}, settings=settings)


def _vectors(given: Given) -> NDArray[np.float32]:
    if given.vectors is None:
        raise UsageError("item vectors are missing")
    return given.vectors


MAKERS: Mapping[str, Maker] = {
    "random": _random,
    "popular": _counting(simple.popular),
    "popular-recent": _counting(partial(simple.popular, days=28.0)),
    "personal-frequency": _counting(simple.personal_frequency),
    "user-knn": _counting(simple.user_knn),
    "category-affinity": _category_affinity,
    "bm25": _bm25,
    "zero-shot": _zero_shot,
    "zero-shot-set": _zero_shot_set,
    "tifu-knn": _counting(tifu_knn),
    "ease": _counting(ease),
    "als": _learning(als),
    "bpr": _learning(bpr),
    "lightgbm": _lightgbm,
    "sasrec": _learning(sasrec),
    "source-model": _learning(source_model, ACCURACY_NOTE),
}
