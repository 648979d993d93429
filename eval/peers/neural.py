"""A peer that is a neural network: SASRec (Kang and McAuley 2018), trained by a full softmax.

The original's loss, one drawn negative for each position, is what makes it weak in older tables (Klenitskiy and
Vasilev 2023, "Turning Dross Into Gold Loss").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recllm.base.schema import Action
from recllm.recommend.evaluation.baselines import Items, Score, Scores, rank_by
from recllm.recommend.evaluation.protocols import EvaluationQuery, Ranker
from recllm.shop.data.dataset import Dataset, Events
from recllm.shop.data.interactions import Ints, merged_lines


@dataclass(frozen=True, kw_only=True)
class SasrecSettings:
    dim: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    max_length: int = 50
    """Purchases that are read; longer histories are learned from in stretches."""
    epochs: int = 30
    batch: int = 128
    """Stretches of a step."""
    learning_rate: float = 1e-3
    items: int = 15_000
    """Of the softmax; of a larger catalogue so many are drawn for each step, besides what was bought in it."""
    seed: int = 0


class Sasrec(nn.Module):
    """A causal transformer over item rows, the row `n_items` being none; items share their vectors with the input."""

    def __init__(self, n_items: int, args: SasrecSettings) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, args.dim, padding_idx=n_items)
        self.places = nn.Embedding(args.max_length, args.dim)
        block = nn.TransformerEncoderLayer(
            args.dim, args.heads, 4 * args.dim, args.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, args.layers, nn.LayerNorm(args.dim), enable_nested_tensor=False)
        self.dropout = nn.Dropout(args.dropout)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """(n, length, dim) for stretches (n, length), which end in padding: later places are not seen."""
        length = items.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        read = self.dropout(self.items(items) + self.places.weight[:length])
        hidden: Tensor = self.blocks(read, mask=mask, is_causal=True)
        return hidden


def sasrec(**settings: Any) -> Ranker:
    """Next purchase after a person's last ones, by inner product; settings: the fields of `SasrecSettings`."""
    args = SasrecSettings(**settings)
    fitted = lru_cache(maxsize=1)(lambda past: train(past, args))

    def scores(query: EvaluationQuery, items: Items) -> Score:
        network = fitted(query.fit_on)
        histories = merged_lines(query.dataset.events.of(Action.PURCHASE).rows(query.users))
        counts = np.minimum(np.diff(histories.indptr), args.max_length)
        last = stretches(histories, histories.indptr[1:] - counts, counts, query.dataset.n_items)
        vectors = network.items.weight.detach()[torch.from_numpy(items.astype(np.int64))]

        def score(block: NDArray[np.int64]) -> Scores:
            with torch.inference_mode():
                hidden = network(last[block])[torch.arange(len(block)), torch.from_numpy(counts[block] - 1)]
                known = torch.from_numpy(counts[block] > 0)[:, None]
                return np.asarray((hidden * known @ vectors.T).numpy())

        return score

    return rank_by(scores)


def stretches(events: Events, starts: Ints, counts: Ints, n_items: int) -> Tensor:
    """Item rows of `counts` events from each of `starts`, (n, longest), filled up with `n_items`."""
    place = np.arange(max(int(counts.max(initial=0)), 1))
    there = place < counts[:, None]
    rows = np.where(there, starts[:, None] + place, 0)
    items = np.append(events.item.astype(np.int64), n_items)
    return torch.from_numpy(np.where(there, items[rows], n_items))


def train(past: Dataset, args: SasrecSettings) -> Sasrec:
    """Each purchase but a person's first is predicted from those before it in its stretch."""
    bought = merged_lines(past.events.of(Action.PURCHASE))
    first, count = bought.indptr[:-1], np.diff(bought.indptr)
    pieces = -(-np.maximum(count - 1, 0) // args.max_length)
    person = np.repeat(np.arange(len(count)), pieces)
    number = np.arange(len(person)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = first[person] + number * args.max_length
    lengths = np.minimum(args.max_length + 1, first[person] + count[person] - starts)
    read = stretches(bought, starts, lengths, past.n_items)
    rng = np.random.default_rng(args.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        network = Sasrec(past.n_items, args)
        optimiser = torch.optim.AdamW(network.parameters(), args.learning_rate, weight_decay=0.0)
        for _ in range(args.epochs):
            for rows in torch.from_numpy(rng.permutation(len(read))).split(args.batch):
                inputs, following = read[rows, :-1], read[rows, 1:]
                known = following < past.n_items
                offered = torch.from_numpy(rng.permutation(past.n_items)[: args.items])
                offered, target = torch.cat([following[known], offered]).unique(return_inverse=True)
                logits = network(inputs)[known] @ network.items.weight[offered].T
                loss = nn.functional.cross_entropy(logits, target[: int(known.sum())])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return network.eval()
