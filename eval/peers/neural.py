"""Peers that are neural networks: SASRec, and the plain deep recommender of tutorials."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.schema import Action
from recllm.base.stats.probabilities import accuracy, sigmoid
from recllm.recommend.evaluation.baselines import Items, Score, Scores, buyers, offered_items, rank_by, rank_in_blocks
from recllm.recommend.evaluation.protocols import EvaluationQuery, RankedLists, Ranker
from recllm.shop.data.dataset import DAY, Dataset

if TYPE_CHECKING:
    from torch import Tensor, nn

ACCURACY_NOTE = (
    "source-model: accuracy alone misleads, since most (person, item) pairs are not bought and saying so of every pair "
    "is nearly always right; heldout_accuracy@0.5 is counted on pairs with sampled negatives and says nothing about "
    "which items come first"
)


# --- SASRec --------------------------------------------------------------------------------------------------------


def sasrec(*, horizon_days: int = 28, seed: int = 0, **settings: Any) -> Ranker:
    """SASRec (Kang and McAuley 2018) with a sampled softmax: a causal transformer over item ids, without any text.

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
        learned = learn_sequence_model(past, no_text, None, (Action.PURCHASE,), [past.as_of], judge_from, args)
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


# --- an embedding per user and item, and an MLP --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    dim: int = 32
    """Of the embeddings."""
    hidden: int = 32
    """Width of the two hidden layers."""
    epochs: int = 5
    negatives: int = 4
    """Items drawn per pair, uniformly of those sold, that the person did not buy."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    steps: int = 500
    """Per epoch, whatever the number of pairs: batches are as large as that makes them, from 32 to 16,384."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TrainedMlp:
    """The first layer is linear in user and item, so that each side is computed once."""

    users: NDArray[np.float32]
    """What the first layer makes of each user, (n_users, hidden), to be added to the item's and rectified."""
    items: NDArray[np.float32]
    """The same of each item, (n_items, hidden)."""
    mean_user: NDArray[np.float32]
    """Of the users who bought anything, (hidden,)."""
    upper_layers: nn.Sequential
    accuracy: float
    """On the pairs held out."""

    def logits(self, users: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of rows of `self.users` and `self.items`, broadcast against each other."""
        import torch

        with torch.inference_mode():
            pairs = torch.from_numpy(users + items)
            return np.asarray(self.upper_layers(pairs).squeeze(-1).numpy(), dtype=np.float32)


def source_model(**settings: Any) -> Ranker:
    """MLP([user embedding, item embedding]) with two hidden ReLU layers, trained by Adam on binary cross-entropy.

    settings: the fields of `SourceSettings`. The pairs are every distinct (user, bought item) and the drawn negatives;
    a fifth of all pairs is held out, and serves only for the accuracy at threshold .5. An unknown user, or somebody who
    bought nothing, is the mean user. Probabilities are those of such pairs, not of a purchase in the window. Time to
    rank grows with users * items * hidden^2.
    """
    args = SourceSettings(**settings)
    fitted = lru_cache(maxsize=1)(lambda past: _train(past, args))

    def rank(query: EvaluationQuery) -> RankedLists:
        model, listed = fitted(query.fit_on), offered_items(query)
        items, step = model.items[listed], max(1, 2**19 // max(1, len(listed)))
        has_row = query.fit_users[:, None] >= 0
        users = np.where(has_row, model.users[np.maximum(query.fit_users, 0)], model.mean_user)

        def score(block: NDArray[np.int64]) -> Scores:
            # a few users at a time: all their hidden layers are in memory at once
            parts = [block[start : start + step] for start in range(0, len(block), step)]
            return np.concatenate([model.logits(users[part, None], items[None]) for part in parts])

        lists = rank_in_blocks(query, listed, score, block=max(1, min(256, 2**24 // max(1, len(listed))))).items
        probability = sigmoid(model.logits(users[:, None], model.items[np.maximum(lists, 0)]))
        probabilities = np.where(lists >= 0, probability, np.nan).astype(np.float32)
        return RankedLists(lists, probabilities, {"heldout_accuracy@0.5": model.accuracy})

    return rank


def _train(past: Dataset, args: SourceSettings) -> TrainedMlp:
    import torch
    from torch import nn

    rng = np.random.default_rng(args.seed)
    columns = [torch.from_numpy(column) for column in _pairs(past, args.negatives, rng)]
    order = rng.permutation(len(columns[0]))
    held_out, train = np.split(order, [len(order) // 5])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        users, items = nn.Embedding(past.n_users, args.dim), nn.Embedding(past.n_items, args.dim)
        of_users, of_items = nn.Linear(args.dim, args.hidden), nn.Linear(args.dim, args.hidden, bias=False)
        upper = nn.Sequential(nn.ReLU(), nn.Linear(args.hidden, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 1))

    def forward(user: Tensor, item: Tensor) -> Tensor:
        logit: Tensor = upper(of_users(users(user)) + of_items(items(item))).squeeze(-1)
        return logit

    weights = [p for layer in (users, items, of_users, of_items, upper) for p in layer.parameters()]
    optimiser = torch.optim.Adam(weights, lr=args.learning_rate, weight_decay=args.weight_decay)
    batch = int(np.clip(len(train) // args.steps, 32, 16_384))
    for _ in range(args.epochs):
        for rows in torch.split(torch.from_numpy(rng.permutation(train)), batch):
            user, item, label = (c[rows] for c in columns)
            loss = nn.functional.binary_cross_entropy_with_logits(forward(user, item), label)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.inference_mode():
        user, item, label = (c[torch.from_numpy(held_out)] for c in columns)
        starts = range(0, len(user), 65_536)
        logits = [forward(user[s : s + 65_536], item[s : s + 65_536]) for s in starts]
        probability = torch.sigmoid(torch.cat([*logits, torch.zeros(0)])).numpy()
        first_layer = of_users(users.weight).numpy()
        active = np.diff(past.events.of(Action.PURCHASE).indptr) > 0
        mean_user = first_layer[active].mean(axis=0) if active.any() else first_layer.mean(axis=0)
        return TrainedMlp(
            users=np.where(active[:, None], first_layer, mean_user),
            items=of_items(items.weight).numpy(),
            mean_user=mean_user,
            upper_layers=upper,
            accuracy=accuracy(probability, label.numpy() > 0.5),
        )


def _pairs(
    past: Dataset, negatives: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """User, item and label of each pair; a drawn item that the user did buy is left out."""
    e = past.events.of(Action.PURCHASE)
    bought = np.unique(e.user.astype(np.int64) * past.n_items + e.item)
    sold = np.flatnonzero(buyers(past, None))
    drawn = np.repeat(bought // past.n_items, negatives) * past.n_items
    drawn = drawn + sold[rng.integers(0, max(1, len(sold)), len(drawn))] if len(sold) else drawn
    drawn = drawn[~np.isin(drawn, bought)]
    pairs = np.concatenate([bought, drawn])
    label = (np.arange(len(pairs)) < len(bought)).astype(np.float32)
    return pairs // past.n_items, pairs % past.n_items, label
