"""The best items for users: candidates, features, score, top k, in blocks of users so that memory stays bounded.

Without a scorer, pairs are scored by the cosine of the two texts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Events
from recllm.data.interactions import Floats, Ints, Pairs
from recllm.errors import ModelError
from recllm.features.candidates import Candidates, candidates, explicit
from recllm.features.collaborative import CollaborativeStatistics, UserBatch, ask
from recllm.features.pair_features import FEATURE_NAMES, SOLD_FEATURES, pair_cosine, pair_features
from recllm.models.scorer import Score, Scorer
from recllm.settings import CandidateSettings
from recllm.training.item_calibration import with_offsets

NAMESAKES = 100
"""So many more items are ranked than are asked for, because several may share a name."""

BLOCK_PAIRS = 2**18
"""Pairs of a block of people."""

CHUNK_PAIRS = 2**13
"""Pairs that the MLP gets at once: so few fit the cache, and their memory is used again, which halves the time."""


TEXT_CANDIDATES = 100
"""Nearest texts that are candidates where texts are all there is to rank by."""

TORCH_PAIRS = 2**15
"""More pairs than this are scored by torch, whose GELU is 30 times as fast as scipy's: that pays for its import. Fewer
are scored by numpy, so that an answer for a few users does not load torch at all."""


class ScoredPairs(NamedTuple):
    """Float32 (n_pairs,) each; logit = a * cosine + mlp, and a calibrated probability in (0, 1)."""

    cosine: Floats
    mlp: Floats
    logit: Floats
    probability: Floats


@dataclass(frozen=True, eq=False)
class Ranked:
    """Best items of n people, best first. item: int32 (n, k), padded with -1. The others: (n, k), NaN or 0 there.

    sources: uint16 bits of `recllm.features.candidates.SOURCES`; 0 where an explicit list was ranked.
    """

    item: NDArray[np.int32]
    logit: Floats
    cosine: Floats
    mlp: Floats
    probability: Floats
    sources: NDArray[np.uint16]

    def row(self, n: int) -> Ranked:
        """The list of user n alone, every field (k,)."""
        return Ranked(*(getattr(self, f.name)[n] for f in fields(self)))


def score_pairs(
    scorer: Scorer | None,
    population: CollaborativeStatistics,
    histories: Events,
    as_of: int,
    pairs: Pairs,
    *,
    user_rows: NDArray[np.integer] | None = None,
    basics: Floats | None = None,
    item_offsets: Floats | None = None,
) -> ScoredPairs:
    """Score given pairs, e.g. of virtual histories.

    user_rows: each user's row in the dataset behind the statistics, -1 for none. basics: Emb(I), (n, dim).
    item_offsets: (n_items,), calibrates the probability item by item, see `recllm.training.item_calibration`.
    """
    users = ask(population, histories, as_of, user_rows=user_rows, basics=basics)
    return _score(scorer, population, users, pairs, item_offsets)


def rank(
    scorer: Scorer | None,
    population: CollaborativeStatistics,
    histories: Events,
    as_of: int,
    k: int,
    *,
    user_rows: NDArray[np.integer] | None = None,
    basics: Floats | None = None,
    allowed: NDArray[np.bool_] | None = None,
    banned: tuple[Ints, NDArray[np.integer]] | None = None,
    repeats: bool = True,
    settings: CandidateSettings | None = None,
    popularity_weight: float = 0.0,
    item_offsets: Floats | None = None,
    block: int = 256,
) -> Ranked:
    """Top `k` of the catalogue for each person of `histories`, see `candidates` for the filters.

    When the sources propose fewer than `k` items, popular ones fill the list, so it is short only when fewer than `k`
    items pass the filters. popularity_weight: items are ordered by logit - weight * log(1 + people who ever took the
    item), so that more of the catalogue is shown, at a price in accuracy; the scores in the answer stay what they were.
    As exp(logit) is about an expected number of takings, 1 ranks by how much more the person takes an item than the
    crowd does. `eval/coverage.py` draws the curve. item_offsets: see `score_pairs`.
    """
    wide, less, parts = _wide(settings, k, scorer), _popularity(population, popularity_weight), []
    for start, users in _asked(population, histories, as_of, user_rows, basics, block):
        hidden = None if banned is None else _runs(banned, start, start + users.n)
        pairs = candidates(population, users, wide, allowed=allowed, banned=hidden, repeats=repeats)
        parts.append(_top(_score(scorer, population, users, pairs, item_offsets), pairs, k, less))
    return _stack(parts, k)


def rank_with_and_without_repeats(
    scorer: Scorer | None,
    population: CollaborativeStatistics,
    histories: Events,
    as_of: int,
    k: int,
    *,
    user_rows: NDArray[np.integer] | None = None,
    basics: Floats | None = None,
    allowed: NDArray[np.bool_] | None = None,
    settings: CandidateSettings | None = None,
    popularity_weight: float = 0.0,
    item_offsets: Floats | None = None,
    block: int = 256,
) -> tuple[Ranked, Ranked]:
    """What `rank` gives with `repeats` and without, for one scoring: the sources propose the same new items in both."""
    wide, less = _wide(settings, k, scorer), _popularity(population, popularity_weight)
    with_repeats, new = [], []
    for _, users in _asked(population, histories, as_of, user_rows, basics, block):
        pairs = candidates(population, users, wide, allowed=allowed)
        scores = _score(scorer, population, users, pairs, item_offsets)
        is_new = _open(pairs, users, None, repeats=False)
        with_repeats.append(_top(scores, pairs, k, less))
        new.append(_top(ScoredPairs(*(column[is_new] for column in scores)), pairs.select(is_new), k, less))
    return _stack(with_repeats, k), _stack(new, k)


def _wide(settings: CandidateSettings | None, k: int, scorer: Scorer | None) -> CandidateSettings:
    """A list is short only when the catalogue is: new items fill it through `popular`, others by `own_history`."""
    settings = settings or CandidateSettings()
    longer = {"popular": max(settings.popular, k), "own_history": max(settings.own_history, k)}
    longer |= {} if scorer else {"text_nearest": max(k, TEXT_CANDIDATES)}
    return settings.model_copy(update=longer)


def rank_items(
    scorer: Scorer | None,
    population: CollaborativeStatistics,
    histories: Events,
    as_of: int,
    items: NDArray[np.integer],
    k: int | None = None,
    *,
    user_rows: NDArray[np.integer] | None = None,
    basics: Floats | None = None,
    banned: tuple[Ints, NDArray[np.integer]] | None = None,
    repeats: bool = True,
    popularity_weight: float = 0.0,
    item_offsets: Floats | None = None,
) -> Ranked:
    """Rank an explicit list of item rows for everyone: new arrivals that never sold, or the caller's own list.

    k: at most this many per person, all of them when None. popularity_weight, item_offsets: see `rank`.
    """
    rows = np.unique(items).astype(np.int32)
    k = len(rows) if k is None else k
    block = int(np.clip(BLOCK_PAIRS // max(len(rows), 1), 1, 256))
    less, parts = _popularity(population, popularity_weight), []
    for start, users in _asked(population, histories, as_of, user_rows, basics, block):
        pairs = explicit(users.n, rows)
        hidden = None if banned is None else _runs(banned, start, start + users.n)
        pairs = pairs.select(_open(pairs, users, hidden, repeats))
        parts.append(_top(_score(scorer, population, users, pairs, item_offsets), pairs, k, less))
    return _stack(parts, k)


def _asked(
    population: CollaborativeStatistics,
    histories: Events,
    as_of: int,
    user_rows: NDArray[np.integer] | None,
    basics: Floats | None,
    block: int,
) -> Iterator[tuple[int, UserBatch]]:
    """Blocks of people, with the place of the first."""
    n = len(histories.indptr) - 1
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        part = None if user_rows is None else np.asarray(user_rows)[rows]
        block_basics = None if basics is None else basics[rows]
        yield start, ask(population, histories.rows(rows), as_of, user_rows=part, basics=block_basics)


def _runs(lists: tuple[Ints, NDArray[np.integer]], start: int, end: int) -> tuple[Ints, NDArray[np.integer]]:
    indptr, item = lists
    return indptr[start : end + 1] - indptr[start], item[indptr[start] : indptr[end]]


def _open(
    pairs: Candidates, users: UserBatch, hidden: tuple[Ints, NDArray[np.integer]] | None, repeats: bool
) -> NDArray[np.bool_]:
    fit = np.ones(len(pairs.item), bool)
    if not repeats:
        fit &= users.owned.find(pairs.user, pairs.item) == len(users.owned.keys)
    if hidden is not None:
        n_items = users.owned.n_keys
        banned = np.repeat(np.arange(users.n), np.diff(hidden[0])) * n_items + hidden[1]
        fit &= ~np.isin(pairs.user * n_items + pairs.item, banned)
    return fit


def _score(
    scorer: Scorer | None,
    population: CollaborativeStatistics,
    batch: UserBatch,
    pairs: Pairs,
    item_offsets: Floats | None,
) -> ScoredPairs:
    cosine = pair_cosine(population.item_vectors, batch.vectors.user, pairs)
    if scorer is None:
        unknown = np.full_like(cosine, np.nan)
        cosine = np.clip(cosine, -1, 1)
        return ScoredPairs(cosine, unknown, cosine, unknown)
    if scorer.config.features != FEATURE_NAMES:
        raise ModelError("the model was trained on other pair features than this version computes; train again")
    narrow = bool(scorer.config.sold_features) and set(scorer.config.sold_features) <= set(SOLD_FEATURES)
    features = pair_features(population, batch, pairs, narrow=narrow)
    items, item = np.unique(pairs.item, return_inverse=True)
    user, users = pairs.user, scorer.project(batch.vectors.user)
    projected = scorer.project(population.item_vectors[items])
    score_chunk = _torch_score(scorer) if len(item) > TORCH_PAIRS else scorer.score
    mlp, logit = np.zeros(len(item), np.float32), np.zeros(len(item), np.float32)
    for start in range(0, len(item), CHUNK_PAIRS):
        part = slice(start, start + CHUNK_PAIRS)
        _, mlp[part], logit[part] = score_chunk(users, projected, user[part], item[part], cosine[part], features[part])
    probability = scorer.probability(logit)
    if item_offsets is not None:
        probability = with_offsets(probability, item_offsets[pairs.item])
    return ScoredPairs(cosine, mlp, logit, probability)


def _torch_score(scorer: Scorer) -> Callable[..., Score]:
    """`Scorer.score` in torch."""
    import torch

    from recllm.models.scorer_network import ScorerNetwork

    network = ScorerNetwork.of(scorer)

    def score(*arrays: NDArray[Any]) -> Score:
        with torch.inference_mode():
            return Score(*(tensor.numpy() for tensor in network(*(torch.from_numpy(array) for array in arrays))))

    return score


def _popularity(population: CollaborativeStatistics, weight: float) -> Floats | None:
    """What each item's score is lowered by for the order, (n_items,); None for nothing."""
    return weight * np.log1p(population.stats.buyers_ever).astype(np.float32) if weight else None


def _top(scores: ScoredPairs, pairs: Candidates, k: int, less: Floats | None = None) -> Ranked:
    """Best k of each run by logit - less[item]; ties go to the lower item row, whose order is that of a hash."""
    user, n = pairs.user, len(pairs.indptr) - 1
    score = scores.logit if less is None else scores.logit - less[pairs.item]
    order = np.lexsort((pairs.item, -score, user))
    position = np.arange(len(order)) - pairs.indptr[user]
    in_list, at = order[position < k], (user[position < k], position[position < k])

    def table(column: NDArray[Any], empty: float) -> NDArray[Any]:
        padded = np.full((n, k), empty, column.dtype)
        padded[at] = column[in_list]
        return padded

    return Ranked(
        table(pairs.item, -1),
        table(scores.logit, np.nan),
        table(scores.cosine, np.nan),
        table(scores.mlp, np.nan),
        table(scores.probability, np.nan),
        table(pairs.sources, 0),
    )


def _stack(parts: list[Ranked], k: int) -> Ranked:
    if not parts:
        empty = np.zeros((0, k), np.float32)
        return Ranked(empty.astype(np.int32), empty, empty, empty, empty, empty.astype(np.uint16))
    return Ranked(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Ranked)))
