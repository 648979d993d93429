"""What a customer looks for, in an order that suits them.

Candidates are the best by words (BM25, `recllm.text.word_index`) and the nearest by the query's vector, of the items on
offer that pass the filters. Their places in three lists are joined by reciprocal rank fusion (Cormack, Clarke and
Büttcher 2009):

    score = sum over lists    weight / (c + rank)        items of equal value share a rank

Words are valued in tenths of the best, so that among items which they fit alike the other lists decide. The third list
is the person's score where they are known and agreed, and what is popular otherwise; weights and c are
constants below. An item whose id or title is the query itself comes first. What the person dismissed is not found.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.questions import RecommendRequest, SearchRequest
from recllm.base.schema import NoteKind, Recommendation, Slate, SlateStatus
from recllm.recommend.recommender.slate_writer import slate_note
from recllm.shop.data.catalogue import allowed_items, catalogue_rows
from recllm.text.items import item_names
from recllm.text.templates import Prompts

if TYPE_CHECKING:
    from recllm.base.arrays import Floats, Ints, Mask
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.shop.workspace.workspace import Workspace
    from recllm.text.word_index import WordIndex

EXACT, WORDS, VECTORS = "exact", "words", "vectors"
"""Where a result came from, in `Recommendation.served_by`."""

WORD_CANDIDATES, VECTOR_CANDIDATES = 300, 100
MIN_WORDS, MIN_COSINE = 0.5, 0.3
"""Least share of the best score by words, and least cosine, of a candidate of that list."""
RANK_CONSTANT = 20.0
"""c in 1 / (c + rank): the larger, the less the first places of one list count."""
WORDS_WEIGHT, VECTORS_WEIGHT, PERSON_WEIGHT, POPULARITY_WEIGHT = 1.0, 0.3, 1.0, 0.5
"""Of the lists; popularity stands in for the user's score where there is no user or no consent."""


def search_workspace(
    workspace: Workspace, request: SearchRequest, *, version: str | None = None, locale: str | None = None
) -> Slate:
    """The best items for a query, by words and by the workspace's encoder.

    A service keeps the index of words in memory; here it is made for the one query, which is not written to the cache.
    """
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.text.encoder.cache import CachedEncoder
    from recllm.text.word_index import WordIndex

    recommender = open_recommender(workspace, version=version, locale=locale)
    encoder = recommender.encoder
    bare = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    vector = bare.encode([request.query], kind="query")[0]
    index = WordIndex.of(recommender.dataset.items)
    return search(recommender, index, request, vector)


def search(
    recommender: Recommender,
    index: WordIndex,
    request: SearchRequest,
    query_vector: Floats | None,
    *,
    vectors_weight: float = VECTORS_WEIGHT,
) -> Slate:
    """The best items for a query; `Recommendation.score` is the fused score, and falls with the rank within the exact
    matches and within the others.

    index: of the recommender's items. query_vector: unit (dim,), or None to go by words alone. The slate's `status`
    says whether the order is personal. Raises `UsageError` for an unknown item or a condition that cannot be read.
    """
    data = recommender.dataset
    allowed = allowed_items(data, None, request.exclude, request.where)
    relevance = np.where(allowed, index.scores(request.query), 0.0)
    # in tenths of the best: words fit no finer, and among equals the third list decides
    relevance = np.round(relevance / max(float(relevance.max(initial=0.0)), 1e-9), 1)
    cosine = np.full(data.n_items, -np.inf, np.float32)
    if query_vector is not None:  # twice as many as are taken: of equal ones those that more people bought
        cosine = cosines(recommender, query_vector, 2 * VECTOR_CANDIDATES, allowed)
    query = unicodedata.normalize("NFC", request.query).strip()
    exact = (pl.col("item_id") == query) | (pl.col("title").str.to_lowercase() == query.lower())
    named = data.items.select(exact.fill_null(False)).to_series().to_numpy() & allowed
    by_words = _best(relevance, WORD_CANDIDATES, recommender, MIN_WORDS - 1e-9)
    by_vector = _best(cosine, VECTOR_CANDIDATES, recommender, MIN_COSINE)
    rows = np.unique(np.concatenate([np.flatnonzero(named), by_words, by_vector]))
    people = recommender if request.user is not None else recommender.for_nobody()
    item_ids = data.item_ids(rows)
    slate = _slate_of(people, request, item_ids, explain=False, popularity_weight=0.0)
    scored = data.item_rows(item.item_id for item in slate.items)
    is_personal = slate.status in (SlateStatus.PERSONAL, SlateStatus.TEXT_ONLY)
    weight = PERSON_WEIGHT if is_personal else POPULARITY_WEIGHT
    values = np.array([item.score for item in slate.items])
    fused = weight / (RANK_CONSTANT + _ranks(values))
    for members, value, list_weight in (
        (by_words, relevance, WORDS_WEIGHT),
        (by_vector, cosine, vectors_weight),
    ):
        member = np.isin(scored, members)
        fused[member] += list_weight / (RANK_CONSTANT + _ranks(value[scored[member]]))
    order = np.lexsort((scored, -fused, ~named[scored]))
    if not request.same_names:
        order = order[recommender.names.first(scored[order].tolist())]
    order = order[: request.k]
    sources = {EXACT: np.flatnonzero(named), WORDS: by_words, VECTORS: by_vector}
    reasons = {}
    if is_personal and request.explain and len(order):
        explained = _slate_of(people, request, [slate.items[n].item_id for n in order])
        reasons = {item.item_id: item.reasons for item in explained.items}
    items = tuple(
        replace(
            slate.items[n],
            rank=position + 1,
            score=float(fused[n]),
            served_by=tuple(name for name, members in sources.items() if scored[n] in members),
            reasons=reasons.get(slate.items[n].item_id, ()),
        )
        for position, n in enumerate(order)
    )
    return _answer(slate, request, items, recommender.locale, words_only=query_vector is None)


def _best(value: NDArray[np.floating[Any]], n: int, recommender: Recommender, minimum: float) -> Ints:
    """Rows of the n highest values above `minimum`; of equal ones those that more people bought."""
    rows = np.flatnonzero(value > minimum)
    buyers = recommender.population.stats.buyers_ever[rows]
    return rows[np.lexsort((rows, -buyers, -value[rows]))[:n]]


def _ranks(values: NDArray[np.floating[Any]]) -> Ints:
    ascending = np.sort(-values)
    return np.searchsorted(ascending, -values, side="left") + 1


def _slate_of(recommender: Recommender, request: SearchRequest, item_ids: list[str], **options: Any) -> Slate:
    """All of these items, by the person's score or by popularity."""
    users, allow = (request.user or "",), tuple(item_ids)
    item_request = RecommendRequest(
        users=users, k=max(1, len(allow)), allow=allow, basket=request.basket, same_names=True, **options
    )
    return recommender.recommend(item_request)[0]


def _answer(
    slate: Slate, request: SearchRequest, items: tuple[Recommendation, ...], locale: str, *, words_only: bool
) -> Slate:
    prompts, notes = Prompts.load(), []
    if len(items) < request.k:
        notes.append(slate_note(NoteKind.FEW_FIT, locale, shown=len(items), k=request.k))
    if words_only:
        notes.append(slate_note(NoteKind.WORDS_ONLY, locale))
    words = [note.text for note in notes]
    if slate.status is SlateStatus.TEXT_ONLY:
        words.insert(0, prompts.render("slate.text_only", locale))
    elif slate.status is not SlateStatus.PERSONAL:
        words.insert(0, prompts.render(f"slate.search_{slate.status}", locale))
    return replace(slate, items=items, notes=tuple(notes), degraded_reason="; ".join(words) or None)


def similar_items(recommender: Recommender, item_id: str, k: int) -> list[tuple[str, str, float]]:
    """Id, title and cosine of the items on offer whose texts are nearest to an item's, nearest first.

    Raises `UnknownIdError` for an unknown item.
    """
    dataset = recommender.dataset
    row = int(catalogue_rows(dataset, [item_id])[0])
    cosine = cosines(recommender, recommender.item_vectors[row], k + 1, allowed_items(dataset))
    cosine[row] = -np.inf
    best = np.argsort(-cosine, kind="stable")[:k]
    best = best[np.isfinite(cosine[best])]
    items = dataset.items[best.tolist()]
    return list(zip(items["item_id"], item_names(items, recommender.locale), cosine[best].tolist(), strict=True))


def cosines(recommender: Recommender, vector: Floats, k: int, allowed: Mask) -> Floats:
    """Cosine of each item with a unit vector, (n_items,), -inf of one that is not allowed; with an item index, also of
    those that are hardly among the `k` nearest."""
    vectors, index = recommender.item_vectors, recommender.index
    rows = None if index is None else index.nearest(vector[None], k, allowed)
    if rows is None:
        return np.where(allowed, vectors @ vector, np.float32(-np.inf))
    cosine = np.full(len(vectors), -np.inf, np.float32)
    cosine[rows[0]] = vectors[rows[0]] @ vector
    return cosine
