"""From a workspace to what somebody looks for."""

from __future__ import annotations

from recllm.base.schema import SearchRequest, Slate
from recllm.market.jobs.recommenders import open_recommender
from recllm.recommend.recommender.search import search
from recllm.shop.workspace.workspace import Workspace
from recllm.text.word_index import WordIndex


def search_workspace(
    workspace: Workspace, request: SearchRequest, *, version: str | None = None, locale: str | None = None
) -> Slate:
    """The best items for a query, by words and by the workspace's encoder; see `recllm.recommend.recommender.search`.

    A service keeps the index of words in memory; here it is made for the one query, which is not written to the cache.
    """
    from recllm.text.encoder.cache import CachedEncoder

    recommender = open_recommender(workspace, version=version, locale=locale)
    encoder = recommender.encoder
    bare = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    vector = bare.encode([request.query], kind="query")[0]
    index = WordIndex.of(recommender.dataset.items)
    return search(recommender, index, request, vector)
