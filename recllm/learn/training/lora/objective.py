"""The score that the encoder is trained through, its losses, and how good a state of training is.

    score(u, i) = g log sum_h w_h exp(tau (cos(e_h, e_i) - 1)) + v . e_i + b

A user is the set of their items h, so an item has to be near to one of them, not to their mean; tau is learned, v
tells what sells, and g how much to trust the text at all: without it the loss is lowered most easily by drawing all
texts together. Sampled candidates carry the log of how many items they stand for (logQ correction, Bengio and
Senecal 2008; Yi et al. 2019).

A state is judged by NDCG@20 of the latest window's questions, by text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recllm.base.stats.ranking import Rankings, Truth, Values, average, ndcg
from recllm.learn.training.lora.examples import ExampleGroup, ExampleSource, flat, list_rows, weighted_texts
from recllm.shop.data.interactions import Ints

K = 20


class SetScore(nn.Module):
    """tau, g, v and b. Everything else is the encoder's."""

    def __init__(self, dim: int, scale: float = 20.0, gain: float = 0.25, *, prior: bool = True) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.log_gain = nn.Parameter(torch.tensor(float(gain)).log())
        self.prior = nn.Parameter(torch.zeros(dim), requires_grad=prior)
        self.bias = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> float:
        return float(self.log_scale.detach().exp())

    def forward(self, weights: Tensor, history: Tensor, candidates: Tensor) -> Tensor:
        """weights (B, H) of each user's items among `history` (H, dim), `candidates` (T, dim) -> scores (B, T)."""
        return self.nearness(weights, history, candidates) + candidates @ self.prior + self.bias

    def nearness(self, weights: Tensor, history: Tensor, candidates: Tensor) -> Tensor:
        """The score without what sells: how near each candidate is to the user's set."""
        kernel = torch.exp(self.log_scale.exp() * (history @ candidates.T - 1))  # (H, T), in (0, 1]
        return self.log_gain.exp() * torch.log(weights @ kernel + 1e-30)


@dataclass(frozen=True, eq=False)
class Targets:
    """What is right in a step. log_weight: (B, T), log of how many items a candidate stands for as a negative of each
    user, -inf for none. user, column: (n_positives,), the positives' places in the scores."""

    log_weight: Tensor
    user: Tensor
    column: Tensor


def softmax_loss(score: Tensor, targets: Targets) -> Tensor:
    """Mean over users of the mean of -log p(positive | it and the user's negatives); other positives are no
    negatives. Listwise over a whole window's arrivals, sampled or in-batch softmax: the candidates decide."""
    against = torch.logsumexp(score + targets.log_weight, dim=1).index_select(0, targets.user)
    right = score[targets.user, targets.column]
    return _by_user(torch.logaddexp(against, right) - right, targets)


def bce_loss(score: Tensor, targets: Targets) -> Tensor:
    """Binary cross-entropy: each positive against the weighted mean of the user's negatives."""
    share = torch.softmax(targets.log_weight, dim=1)  # a user without negatives is left out by the caller
    against = (share * nn.functional.softplus(score)).sum(dim=1).index_select(0, targets.user)
    right = score[targets.user, targets.column]
    return _by_user(nn.functional.softplus(-right) + against, targets)


def _by_user(loss: Tensor, targets: Targets) -> Tensor:
    n = len(targets.log_weight)
    count = torch.bincount(targets.user, minlength=n).clamp(min=1)
    each = torch.zeros(n, device=loss.device).index_add(0, targets.user, loss) / count
    mean: Tensor = each.sum() / torch.count_nonzero(torch.bincount(targets.user)).clamp(min=1)
    return mean


def draw_by_norm(gradient: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of `gradient` (n, dim) to keep, about `size`, and 1 / (probability of being kept) for each.

    Large rows are always kept, the others with a probability in proportion to their length (systematic sampling), so
    the kept rows times their weights are an unbiased estimate of all.
    """
    length = gradient.norm(dim=1).double().cpu() + 1e-12
    if len(length) <= size:
        return torch.arange(len(length)), torch.ones(len(length))
    certain = torch.zeros(len(length), dtype=torch.bool)
    for _ in range(20):  # each pass makes certain whatever would get a probability above 1
        uncertain = length.masked_fill(certain, 0.0)
        chance = torch.where(certain, 1.0, uncertain * (size - certain.sum()) / uncertain.sum().clamp(min=1e-12))
        over = (chance > 1) & ~certain
        if not over.any():
            break
        certain |= over
    chance = chance.clamp(max=1.0)
    steps = chance.cumsum(0) + torch.rand((), generator=generator, dtype=torch.float64)
    rows = torch.nonzero(steps.floor() > torch.cat([steps[:1] - chance[:1], steps[:-1]]).floor()).flatten()
    return rows, (1 / chance[rows]).float()


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """Examples that nothing is learned from. batches: per group the group, its sampled examples as columns."""

    source: ExampleSource
    batches: tuple[tuple[ExampleGroup, Mapping[str, Any]], ...]

    @classmethod
    def of(
        cls, source: ExampleSource, groups: list[ExampleGroup], n_users: int, rng: np.random.Generator
    ) -> ValidationSet:
        batches = []
        for kind in sorted({g.kind for g in groups}):
            fit = [g for g in groups if g.kind == kind]
            share = n_users / sum(len(g.rows) for g in fit)
            for group in fit:
                size = min(len(group.rows), max(1, round(share * len(group.rows))))
                batches.append((group, source.sample(group, size, rng)))
        return cls(source, tuple(batches))

    def texts(self) -> Ints:
        text_of = self.source.text_of
        parts = [text_of[self.source.offered(g)] for g, _ in self.batches]
        parts += [text_of[flat(b["items"])] for _, b in self.batches]
        return np.unique(np.concatenate(parts))

    def evaluate(self, score: SetScore, bank: Tensor) -> dict[str, float]:
        """ndcg@20 by kind of question, of nearness alone, which is what the vectors are worth, and "with_prior".

        goal: the sum of the former.
        """
        values: dict[str, list[Values]] = {}
        for group, batch in self.batches:
            offered, positives = self.source.offered(group), batch["positives"]
            truth = Truth.from_pairs(list_rows(positives), flat(positives), len(positives))
            for name, how in ((group.kind, score.nearness), (f"{group.kind}_with_prior", score.forward)):
                lists = ranked(how, bank, self.source, batch, offered)
                values.setdefault(name, []).append(ndcg(lists, truth, K))
        named = {f"ndcg@{K}_{kind}": float(average(np.concatenate(v))) for kind, v in values.items()}
        return {**named, "goal": sum(v for name, v in named.items() if not name.endswith("prior"))}


@torch.no_grad()
def ranked(
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    bank: Tensor,
    source: ExampleSource,
    batch: Mapping[str, Any],
    items: Ints,
) -> Rankings:
    """Top 20 of `items` for each example, (n, 20), without what the user bought before."""
    k = min(K, len(items))
    columns, column = np.unique(source.text_of[items], return_inverse=True)
    candidates = bank[torch.from_numpy(columns)]
    tally, at = source.purchased.tally, source.purchased.at
    position = np.full(tally.n_keys, -1)
    position[items] = np.arange(len(items))
    lists = []
    for block in range(0, len(batch["person"]), 64):
        part = {name: values[block : block + 64] for name, values in batch.items()}
        texts, weights = weighted_texts(part, source.text_of)
        by_text = score(torch.from_numpy(weights).to(bank.device), bank[torch.from_numpy(texts)], candidates)
        by_item = by_text.cpu().numpy()[:, column]
        for row, (user, start) in enumerate(zip(part["person"], part["start"], strict=True)):
            of_user = slice(*np.searchsorted(tally.keys, [user * tally.n_keys, (user + 1) * tally.n_keys]))
            bought = position[tally.key[of_user][at[of_user] < start]]
            by_item[row, bought[bought >= 0]] = -np.inf
        some = np.argpartition(-by_item, k - 1, axis=1)[:, :k]
        order = np.lexsort((some, -np.take_along_axis(by_item, some, axis=1)), axis=1)
        best = np.take_along_axis(some, order, axis=1)
        is_open = np.isfinite(np.take_along_axis(by_item, best, axis=1))
        lists.append(np.where(is_open, items[best], -1).astype(np.int32))
    return np.concatenate(lists)
