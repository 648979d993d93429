"""Items whose texts are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recllm.shop.data.catalogue import allowed_items, catalogue_rows
from recllm.text.items import item_names

if TYPE_CHECKING:
    from recllm.recommend.recommender.recommender import Recommender


def similar_items(recommender: Recommender, item_id: str, k: int) -> list[tuple[str, str, float]]:
    """Id, title and cosine of the items on offer whose texts are nearest to an item's, nearest first.

    Raises `UnknownIdError` for an unknown item.
    """
    dataset, vectors = recommender.dataset, recommender.item_vectors
    row = int(catalogue_rows(dataset, [item_id])[0])
    allowed, nearest_rows = allowed_items(dataset), None
    if recommender.index is not None:
        nearest_rows = recommender.index.nearest(vectors[row][None], k + 1, allowed)
    if nearest_rows is None:
        cosine = np.where(allowed, vectors @ vectors[row], -np.inf)
    else:
        cosine = np.full(len(vectors), -np.inf)
        cosine[nearest_rows[0]] = vectors[nearest_rows[0]] @ vectors[row]
    cosine[row] = -np.inf
    best = np.argsort(-cosine, kind="stable")[:k]
    best = best[np.isfinite(cosine[best])]
    items = dataset.items[best.tolist()]
    return list(zip(items["item_id"], item_names(items, recommender.locale), cosine[best].tolist(), strict=True))
