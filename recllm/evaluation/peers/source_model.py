"""The plain deep recommender of tutorials: an embedding per person and per item, an MLP, binary cross-entropy.

Accuracy alone misleads: most pairs of a person and an item are not bought, so that "nobody buys anything" is nearly
always right, and accuracy on sampled pairs says nothing about which of thousands of items stand on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.evaluation.baselines import Scores, buyers, offered, rank
from recllm.evaluation.peers.fitted import once_per_window
from recllm.evaluation.protocols import Judged, Question, System
from recllm.metrics import accuracy
from recllm.schema import Action

if TYPE_CHECKING:
    from torch import Tensor, nn

ACCURACY_NOTE = (
    "source-model: accuracy alone misleads, since most (person, item) pairs are not bought and saying so of every pair "
    "is nearly always right; heldout_accuracy@0.5 is counted on pairs with sampled negatives and says nothing about "
    "which items come first"
)


@dataclass(frozen=True, eq=False)
class Trained:
    """users, items: what the first layer makes of each person and item, float32 (n, hidden), to be added and rectified.
    `rest`: the further layers. typical: the mean of the people who bought. accuracy: on the pairs held out."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    typical: NDArray[np.float32]
    rest: nn.Sequential
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    dim: int = 32
    hidden: int = 32
    epochs: int = 5
    negatives: int = 4
    """Items drawn per pair, uniformly of those sold, that the person did not buy."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    steps: int = 500
    """Per epoch, whatever the number of pairs: batches are as large as that makes them, from 32 to 16,384."""
    seed: int = 0


def source_model(**settings: Any) -> System:
    """MLP([user embedding, item embedding]) with two hidden ReLU layers, trained by Adam on binary cross-entropy.

    settings: the fields of `SourceSettings`. The pairs are every distinct (person, bought item) and the drawn
    negatives; a fifth of all pairs is held out, and serves only for the accuracy at threshold .5. A stranger, or
    somebody who bought nothing, is the mean person. Probabilities are those of such pairs, not of a purchase in the
    window. Time to rank grows with people * items * hidden^2.
    """
    given = SourceSettings(**settings)
    learned = once_per_window(lambda past: _train(past, given))

    def answer(question: Question) -> Judged:
        model, listed = learned(question.fit_on), offered(question)
        items = model.items[listed]
        people = np.where(question.own[:, None] >= 0, model.users[np.maximum(question.own, 0)], model.typical)

        def score(block: NDArray[np.int64]) -> Scores:
            return _logits(model, people[block], items)

        lists = rank(question, listed, score, block=max(1, min(256, 2**24 // max(1, len(listed)))))
        probability = _probabilities(model, people, lists)
        return Judged(lists, probability, {"heldout_accuracy@0.5": model.accuracy})

    return answer


def _train(past: Dataset, given: SourceSettings) -> Trained:
    import torch

    rng = np.random.default_rng(given.seed)
    user, item, label = _pairs(past, given.negatives, rng)
    order = rng.permutation(len(user))
    held, kept = np.split(order, [len(order) // 5])
    columns = [torch.from_numpy(c) for c in (user, item, label)]
    layers = _layers(past.n_users, past.n_items, given)
    weights = [p for layer in layers for p in layer.parameters()]
    optimiser = torch.optim.Adam(weights, lr=given.learning_rate, weight_decay=given.weight_decay)
    batch = int(np.clip(len(kept) // given.steps, 32, 16_384))
    for _ in range(given.epochs):
        for rows in torch.split(torch.from_numpy(rng.permutation(kept)), batch):
            u, i, y = (c[rows] for c in columns)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(_forward(layers, u, i), y)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return _trained(layers, past, [c[torch.from_numpy(held)] for c in columns])


def _pairs(
    past: Dataset, negatives: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Person, item and label of each pair; a drawn item that the person did buy is left out."""
    e = past.events.of(Action.PURCHASE)
    bought = np.unique(e.user.astype(np.int64) * past.n_items + e.item)
    sold = np.flatnonzero(buyers(past, None))
    drawn = np.repeat(bought // past.n_items, negatives) * past.n_items
    drawn = drawn + sold[rng.integers(0, max(1, len(sold)), len(drawn))] if len(sold) else drawn
    drawn = drawn[~np.isin(drawn, bought)]
    pairs = np.concatenate([bought, drawn])
    label = (np.arange(len(pairs)) < len(bought)).astype(np.float32)
    return pairs // past.n_items, pairs % past.n_items, label


def _layers(n_users: int, n_items: int, given: SourceSettings) -> list[nn.Module]:
    """Embeddings of people and items, the two halves of the first layer, the further layers."""
    import torch
    from torch import nn

    dim, hidden = given.dim, given.hidden
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given.seed)
        return [
            nn.Embedding(n_users, dim),
            nn.Embedding(n_items, dim),
            nn.Linear(dim, hidden),
            nn.Linear(dim, hidden, bias=False),
            nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)),
        ]


def _forward(layers: list[nn.Module], user: Tensor, item: Tensor) -> Tensor:
    people, items, of_people, of_items, rest = layers
    logit: Tensor = rest(of_people(people(user)) + of_items(items(item))).squeeze(-1)
    return logit


def _trained(layers: list[nn.Module], past: Dataset, held: list[Tensor]) -> Trained:
    import torch

    people, items, of_people, of_items, rest = layers
    with torch.inference_mode():
        user, item, label = held
        starts = range(0, len(user), 65_536)
        parts = [_forward(layers, user[s : s + 65_536], item[s : s + 65_536]) for s in starts]
        p = torch.sigmoid(torch.cat([*parts, torch.zeros(0)]))
        active = np.diff(past.events.of(Action.PURCHASE).indptr) > 0
        users = of_people(people.weight).numpy()
        typical = users[active].mean(axis=0) if active.any() else users.mean(axis=0)
        users = np.where(active[:, None], users, typical)
        made = of_items(items.weight).numpy()
    return Trained(users, made, typical, rest, accuracy(p.numpy(), label.numpy() > 0.5))  # type: ignore[arg-type]


def _logits(model: Trained, people: NDArray[np.float32], items: NDArray[np.float32]) -> Scores:
    """(len(people), len(items)), a few people at a time: all their hidden layers stand in memory at once."""
    import torch

    out = np.empty((len(people), len(items)), np.float32)
    turned = torch.from_numpy(items)
    step = max(1, 2**19 // max(1, len(items)))
    with torch.inference_mode():
        for start in range(0, len(people), step):
            some = torch.from_numpy(people[start : start + step])
            out[start : start + step] = model.rest(some[:, None, :] + turned[None, :, :]).squeeze(-1).numpy()
    return out


def _probabilities(model: Trained, people: NDArray[np.float32], lists: NDArray[np.int32]) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        pairs = torch.from_numpy(people[:, None, :] + model.items[np.maximum(lists, 0)])
        p = torch.sigmoid(model.rest(pairs).squeeze(-1)).numpy()
    return np.where(lists >= 0, p, np.nan).astype(np.float32)
