"""What a private model serves from: the catalogue, and what the model itself says; nothing counted over people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from recllm.base.schema import Encoder
from recllm.base.settings import CollaborativeSettings
from recllm.learn.features.candidates import explicit
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.features.item_vectors import item_vectors
from recllm.learn.features.nobody import crowd_of_nobody, with_general_interest
from recllm.learn.models.scorer import Scorer
from recllm.recommend.recommender.ranking import ItemRanker, UserInputs
from recllm.shop.data.dataset import Dataset, Events
from recllm.shop.data.interactions import Floats, Pairs

BLOCK_ITEMS = 16_384
HIGHEST_LOGIT = 10.0
"""exp of the score is an expected number of purchases; no customer buys more of one item."""


def catalogue_vectors(encoder: Encoder, items: pl.DataFrame, as_of: int, locale: str = "en") -> Floats:
    """Unit vectors of the items by what the catalogue says, (n_items, dim): a price that was only paid is not known."""
    return item_vectors(encoder, Dataset.of_catalogue(items, as_of), locale)


def private_population(
    items: pl.DataFrame, vectors: Floats, as_of: int, scorer: Scorer, settings: CollaborativeSettings
) -> CollaborativeStatistics:
    """Statistics without customers; for sales stands what the private score expects an unknown user to buy."""
    empty = crowd_of_nobody(items, vectors, as_of, settings)
    return with_general_interest(empty, general_interest(scorer, empty))


def general_interest(scorer: Scorer, empty: CollaborativeStatistics) -> Floats:
    """Expected purchases of each item by a user of whom nothing is known, (n_items,)."""
    ranker, parts = ItemRanker(scorer, empty), []
    unknown = UserInputs(replace(Events.nothing(), indptr=np.zeros(2, np.int64)), empty.as_of)
    for start in range(0, empty.n_items, BLOCK_ITEMS):
        pairs: Pairs = explicit(1, np.arange(start, min(start + BLOCK_ITEMS, empty.n_items)))
        parts.append(np.exp(np.minimum(ranker.score(unknown, pairs).logit, HIGHEST_LOGIT)))
    return np.concatenate([*parts, np.zeros(0)]).astype(np.float32)
