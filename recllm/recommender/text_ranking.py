"""Before anything was trained: people and items in one space, ranked by cosine alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Events
from recllm.data.interactions import Floats, Ints, user_vectors
from recllm.features.candidates import candidates
from recllm.features.collaborative import Population, ask
from recllm.recommender.ranking import PairList, Ranked
from recllm.settings import CandidateSettings


def rank_by_text(
    population: Population,
    histories: Events,
    as_of: int,
    k: int,
    *,
    basics: Floats | None = None,
    allowed: NDArray[np.bool_] | None = None,
    banned: tuple[Ints, NDArray[np.integer]] | None = None,
    repeats: bool = True,
) -> Ranked:
    """Top `k` by cos(User, Item) among all sources' candidates; see `recllm.recommender.ranking.rank` for the
    arguments."""
    asked = ask(population, histories, as_of, basics=basics)
    wide = CandidateSettings(popular=max(k, CandidateSettings().popular), text_nearest=max(k, 100))
    pairs = candidates(population, asked, wide, allowed=allowed, banned=banned, repeats=repeats)
    cosine = _cosines(population.item_vectors, asked.vectors.user, pairs)
    order = np.lexsort((pairs.item, -cosine, pairs.user))
    place = np.arange(len(order)) - pairs.indptr[pairs.user]
    kept = place < k
    at = (pairs.user[kept], place[kept])
    item = np.full((asked.n, k), -1, np.int32)
    score = np.full((asked.n, k), np.nan, np.float32)
    sources = np.zeros((asked.n, k), np.uint16)
    item[at], score[at], sources[at] = pairs.item[order][kept], cosine[order][kept], pairs.sources[order][kept]
    nothing = np.full_like(score, np.nan)
    return Ranked(item, score, score, nothing, nothing, sources)


def score_by_text(
    population: Population, histories: Events, as_of: int, pairs: PairList, *, basics: Floats | None = None
) -> Floats:
    """cos(User, Item) of given pairs, float32 (n_pairs,)."""
    users = user_vectors(population.item_vectors, histories.select(histories.at < as_of), as_of, basics)
    return _cosines(population.item_vectors, users, pairs)


def _cosines(item_vectors: Floats, users: Floats, pairs: PairList) -> Floats:
    user = np.repeat(np.arange(len(users)), np.diff(pairs.indptr))
    out = np.einsum("pd,pd->p", users[user], item_vectors[pairs.item])
    return np.asarray(np.clip(out, -1, 1), dtype=np.float32)
