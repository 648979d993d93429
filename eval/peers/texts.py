"""A peer that reads what the items are: BM25 (Robertson and Zaragoza 2009) by the library bm25s."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.recommend.evaluation.baselines import Items, Score, Scores, purchase_matrix, rank_by
from recllm.recommend.evaluation.protocols import EvaluationQuery, Ranker
from recllm.shop.data.dataset import Dataset
from recllm.text.items import item_texts

if TYPE_CHECKING:
    from scipy.sparse import csc_array


def bm25(*, half_life_days: float = 120.0) -> Ranker:
    """The query is the text of everything a person bought, each item's weighted by its decayed count."""
    fitted = lru_cache(maxsize=1)(index_texts)

    def scores(query: EvaluationQuery, items: Items) -> Score:
        weights = fitted(query.fit_on)
        counts = purchase_matrix(query.dataset, query.users, half_life_days)
        words, documents = weights.sign().tocsr(), weights.tocsr()[items].T.tocsr()

        def score(block: NDArray[np.int64]) -> Scores:
            return np.asarray(((counts[block] @ words) @ documents).toarray(), np.float32)

        return score

    return rank_by(scores)


def index_texts(past: Dataset) -> csc_array:
    """BM25 weight of each word in each item's text, float32 sparse (n_items, n_words)."""
    from bm25s import BM25, tokenize
    from scipy.sparse import csc_array

    index = BM25()
    index.index(tokenize(item_texts(past.items), show_progress=False), show_progress=False)
    columns = (index.scores[name] for name in ("data", "indices", "indptr"))
    return csc_array(tuple(columns), shape=(past.n_items, len(index.scores["indptr"]) - 1))
