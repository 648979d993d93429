"""SASRec (Kang and McAuley 2018) with a sampled softmax: a causal transformer over item ids, without any text.

It is the sequence model of `recllm.models.sequence` with its text side switched off, trained on the whole past with
the last
horizon as judge of when to stop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset
from recllm.errors import DataError
from recllm.evaluation.baselines import Scores, offered, rank
from recllm.evaluation.peers.fitted import once_per_window
from recllm.evaluation.protocols import Question, System
from recllm.schema import Action


def sasrec(*, horizon_days: int = 28, seed: int = 0, **settings: Any) -> System:
    """`settings` are fields of `SequenceModelSettings`. A person asked about is read from the question's history."""
    from recllm.models.sequence.learn import learn_interests
    from recllm.models.sequence.serve import Interests
    from recllm.settings import SequenceModelSettings

    args = SequenceModelSettings(**settings | {"text": False, "seed": seed})

    def fit(past: Dataset) -> Interests:
        blind = np.zeros((past.n_items, 1), np.float32)
        judge_from = past.as_of - horizon_days * DAY
        found = learn_interests(past, blind, None, (Action.PURCHASE,), [past.as_of], judge_from, args)
        if found is None:
            raise DataError("the log is too small for a sequence model")
        return found[0]

    learned = once_per_window(fit)

    def answer(question: Question) -> NDArray[np.int32]:
        model, items = learned(question.fit_on), offered(question)
        histories = question.dataset.events.rows(question.users)

        def score(block: NDArray[np.int64]) -> Scores:
            users = model.users(histories.rows(block), question.as_of)
            return np.stack([line[items] for line in model.catalogue(users)]).astype(np.float32)

        return rank(question, items, score)

    return answer
