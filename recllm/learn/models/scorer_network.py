"""The scorer as a torch module, for training; `recllm.learn.models.scorer` is its served form."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recllm.learn.models.scorer import STANDARDISED_LIMIT, Scorer, ScorerConfig, kind_score


class ScorerNetwork(nn.Module):
    """The formula of `Scorer`. An item that sold is scored by its sales and the person's dealings with it, one that
    never sold by what its kind means to the person."""

    mean: Tensor
    scale: Tensor
    arrival_mean: Tensor
    arrival_scale: Tensor
    platt: Tensor
    newcomer: Tensor
    """Weights of `newcomer_features` and, last, the constant, (n + 1,)."""

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        n = len(config.features)
        self.config = config
        self.cosine_weight = nn.Parameter(torch.ones(()))
        for kind in ("", "arrival_"):
            self.register_buffer(f"{kind}mean", torch.zeros(n))
            self.register_buffer(f"{kind}scale", torch.ones(n))
        self.register_buffer("platt", torch.tensor([1.0, 0.0]))
        self._newcomer = [config.features.index(name) for name in config.newcomer_features]
        self.register_buffer("newcomer", torch.zeros(len(self._newcomer) + 1))
        with torch.random.fork_rng(devices=[]):  # layers draw weights from the caller's random state; ours are seeded
            width = config.heads * config.projection
            arrival_heads = config.heads if config.sales and config.learned_arrivals else 0
            self._sold = torch.tensor([config.features.index(n) for n in config.sold_features or config.features])
            self.projection = nn.Linear(config.dim, width, bias=False)
            self.mlps = nn.ModuleList(_mlp(config, len(self._sold)) for _ in range(config.heads))
            self.arrival_projection = nn.Linear(config.dim, width, bias=False) if arrival_heads else None
            self.arrival_mlps = nn.ModuleList(_mlp(config, n) for _ in range(arrival_heads))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Seeded weights, whatever the global random state; the projection keeps lengths. Parts left out are 0."""
        generator = torch.Generator().manual_seed(self.config.seed)
        for name, value in self.named_parameters():
            if value.ndim == 2:
                bound = 1.0 if "projection" in name else (3 / value.shape[1]) ** 0.5
                value.uniform_(-bound, bound, generator=generator)
            elif name.endswith("bias"):
                value.zero_()
            component = "vectors" if "projection" in name else "cosine" if name == "cosine_weight" else "features"
            if component != "features" and component not in self.config.parts:
                value.zero_().requires_grad_(False)

    def standardise(self, features: np.ndarray) -> None:
        """Remember mean and spread of training `features` (n_pairs, n_features), apart for items that sold and that
        did not; constant columns become 0."""
        never_sold = self._is_zero(torch.from_numpy(features), self.config.sales).numpy()
        for kind, rows in (("", features[~never_sold]), ("arrival_", features[never_sold])):
            if len(rows):
                spread = rows.std(axis=0, dtype=np.float64) * ("features" in self.config.parts)
                scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
                getattr(self, f"{kind}mean").copy_(torch.from_numpy(rows.mean(axis=0, dtype=np.float64)))
                getattr(self, f"{kind}scale").copy_(torch.from_numpy(scale))

    def project(self, vectors: Tensor) -> Tensor:
        sold = self.projection(vectors)
        return sold if self.arrival_projection is None else torch.cat([sold, self.arrival_projection(vectors)], dim=1)

    def each_head(
        self,
        users: Tensor,
        items: Tensor,
        user: Tensor,
        item: Tensor,
        cosine: Tensor,
        features: Tensor,
    ) -> Tensor:
        """What each head adds to the weighed cosine of each pair, (heads, n_pairs); arguments as for `Scorer.score`."""
        n_heads = self.config.heads
        never_sold = self._is_zero(features, self.config.sales)
        no_history = self._is_zero(features, self.config.history) & ~never_sold
        if not (never_sold.any() or no_history.any()):
            return self._of_sold(users, items, user, item, features)
        scores = torch.zeros(n_heads, len(features))
        rows = torch.nonzero(~never_sold & ~no_history).squeeze(1)
        if len(rows):
            x = features.index_select(1, self._sold).index_select(0, rows)
            sold = self._of_sold(users, items, user[rows], item[rows], x)
            scores = scores.index_copy(1, rows, sold)
        rows = torch.nonzero(never_sold).squeeze(1)
        if len(rows) and len(self.arrival_mlps):
            x = _standardised(features[rows], self.arrival_mean, self.arrival_scale)
            arrivals = self._heads(self.arrival_mlps, n_heads, users, items, user[rows], item[rows], x)
            scores = scores.index_copy(1, rows, arrivals)
        elif len(rows):
            # no head has seen such an item: its text and kind, at the level of what hardly sells
            kind = torch.from_numpy(kind_score(features[rows].numpy(), self.config.features))
            logit = self.newcomer[-1] + cosine[rows] + kind
            scores = scores.index_copy(1, rows, (logit - self.cosine_weight * cosine[rows]).expand(n_heads, -1))
        rows = torch.nonzero(no_history).squeeze(1)
        if len(rows):
            # the linear score is the whole logit, so what the cosine adds elsewhere is taken off here
            logit = features[rows][:, self._newcomer] @ self.newcomer[:-1] + self.newcomer[-1]
            scores = scores.index_copy(1, rows, (logit - self.cosine_weight * cosine[rows]).expand(n_heads, -1))
        return scores

    def _is_zero(self, features: Tensor, name: str | None) -> Tensor:
        if name is None:
            return torch.zeros(len(features), dtype=torch.bool)
        return features[:, self.config.features.index(name)] <= 0

    def _of_sold(self, users: Tensor, items: Tensor, user: Tensor, item: Tensor, features: Tensor) -> Tensor:
        """features: all of them, or those of `sold_features` alone."""
        x = features if len(self._sold) == features.shape[1] else features.index_select(1, self._sold)
        x = _standardised(x, self.mean[self._sold], self.scale[self._sold])
        return self._heads(self.mlps, 0, users, items, user, item, x)

    def _heads(
        self,
        mlps: nn.ModuleList,
        first_slice: int,
        users: Tensor,
        items: Tensor,
        user: Tensor,
        item: Tensor,
        x: Tensor,
    ) -> Tensor:
        """(len(mlps), n_pairs). first_slice: which part of the projections the first of them reads.

        The first layer is linear([u, v, u * v, x]) without joining the four: what it makes of a user
        or an item is computed once for each, and no gradient is taken for the features.
        """
        width, scores = self.config.projection, []
        for head, mlp in enumerate(mlps, first_slice):
            chunk = slice(head * width, (head + 1) * width)
            first, *further = mlp.children()
            weight, bias = first.parameters()
            of_user, of_item, of_both, of_x = torch.split(weight, [width, width, width, x.shape[1]], dim=1)
            u, v = users[:, chunk], items[:, chunk]
            hidden = _of_each(user, u, of_user, bias)
            hidden.add_(_of_each(item, v, of_item, None))
            both = functional.embedding(user, u) * functional.embedding(item, v)
            hidden.addmm_(x, of_x.T).addmm_(both, of_both.T)
            scores.append(nn.Sequential(*further)(hidden).squeeze(1))
        return torch.stack(scores)

    def frozen(self) -> Scorer:
        return Scorer(self.config, {name: value.numpy().copy() for name, value in self.state_dict().items()})


def _standardised(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return ((x - mean) * scale).clamp(-STANDARDISED_LIMIT, STANDARDISED_LIMIT)


def _of_each(index: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows `index` of linear(table). Plain indexing would sum its gradient in the order in which threads finish."""
    if len(table) < len(index):
        return functional.embedding(index, functional.linear(table, weight, bias))
    return functional.linear(functional.embedding(index, table), weight, bias)


def _mlp(config: ScorerConfig, n_features: int) -> nn.Sequential:
    widths = (3 * config.projection + n_features, *config.hidden)
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.GELU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))
