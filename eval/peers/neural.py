"""A peer that is a neural network: SASRec."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.schema import Action
from recllm.recommend.evaluation.baselines import Items, Score, Scores, rank_by
from recllm.recommend.evaluation.protocols import EvaluationQuery, Ranker
from recllm.shop.data.dataset import DAY, Dataset


def sasrec(*, horizon_days: int = 28, full_softmax: bool = False, seed: int = 0, **settings: Any) -> Ranker:
    """SASRec (Kang and McAuley 2018) with a sampled softmax, or one over all items: a causal transformer over item ids.

    It is the sequence model of `models.sequence` with its text side switched off, trained on the whole past;
    the last `horizon_days` say when to stop. settings: fields of `SequenceArguments`. A user's history is read from
    the query.
    """
    from recllm.learn.models.sequence import SequenceArguments, SequenceModel
    from recllm.learn.models.sequence_network import learn_sequence_model

    args = SequenceArguments(**settings | {"text": False, "seed": seed})

    @lru_cache(maxsize=1)
    def fitted(past: Dataset) -> SequenceModel:
        no_text = np.zeros((past.n_items, 1), np.float32)
        judge_from = past.as_of - horizon_days * DAY
        how = args.model_copy(update={"negatives": past.n_items}) if full_softmax else args
        learned = learn_sequence_model(past, no_text, None, (Action.PURCHASE,), [past.as_of], judge_from, how)
        if learned is None:
            raise DataError("the log is too small for a sequence model")
        return learned[0]

    def scores(query: EvaluationQuery, items: Items) -> Score:
        model, histories = fitted(query.fit_on), query.dataset.events.rows(query.users)

        def score(block: NDArray[np.int64]) -> Scores:
            users = model.users(histories.rows(block), query.as_of)
            return np.stack([line[items] for line in model.catalogue(users)]).astype(np.float32)

        return score

    return rank_by(scores)
