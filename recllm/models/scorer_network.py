"""The scorer as a torch module, for training and for jobs of many pairs; `recllm.models.scorer` is its served form."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recllm.models.scorer import Scorer, ScorerConfig


class ScoreTensors(NamedTuple):
    """Of each pair, all (n_pairs,): logit = a * cosine + mlp."""

    cosine: Tensor
    mlp: Tensor
    logit: Tensor


class ScorerNetwork(nn.Module):
    """`logit = a * cosine + MLP([P u, P v, P u * P v, features])`, the MLP a mean over heads; see `ScoreTensors`.

    What sold before is told by its sales and the person's dealings with it; what never sold by what its kind means to
    the person. The two are learned by separate MLPs, so that neither disturbs the other. For a person who has done
    nothing yet the logit is a linear function of few features, see `recllm.training.cold_start`.
    """

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
            self._sold = [config.features.index(name) for name in config.sold_features or config.features]
            self.projection = nn.Linear(config.dim, width, bias=False)
            self.mlps = nn.ModuleList(_mlp(config, len(self._sold)) for _ in range(config.heads))
            self.arrival_projection = nn.Linear(config.dim, width, bias=False) if arrival_heads else None
            self.arrival_mlps = nn.ModuleList(_mlp(config, n) for _ in range(arrival_heads))
        _initialise(self, torch.Generator().manual_seed(config.seed))
        self._leave_out()

    def _leave_out(self) -> None:
        with torch.no_grad():
            if "cosine" not in self.config.parts:
                self.cosine_weight.zero_().requires_grad_(False)
            for name, weight in self.named_parameters():
                if "vectors" not in self.config.parts and "projection" in name:
                    weight.zero_().requires_grad_(False)

    def standardise(self, features: np.ndarray) -> None:
        """Remember mean and spread of training `features` (n_pairs, n_features), apart for items that sold and that
        did not; constant columns become 0."""
        if self.config.sales is None:
            return self._remember("", features)
        never_sold = features[:, self.config.features.index(self.config.sales)] <= 0
        self._remember("", features[~never_sold])
        return self._remember("arrival_", features[never_sold])

    def _remember(self, kind: str, features: np.ndarray) -> None:
        if not len(features):
            return
        spread = features.std(axis=0, dtype=np.float64) * ("features" in self.config.parts)
        getattr(self, f"{kind}mean").copy_(torch.from_numpy(features.mean(axis=0, dtype=np.float64)))
        scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
        getattr(self, f"{kind}scale").copy_(torch.from_numpy(scale))

    def project(self, vectors: Tensor) -> Tensor:
        """What the heads read of encoder vectors, (n, width)."""
        sold = self.projection(vectors)
        return sold if self.arrival_projection is None else torch.cat([sold, self.arrival_projection(vectors)], dim=1)

    def each_head(
        self, users: Tensor, items: Tensor, user: Tensor, item: Tensor, cosine: Tensor, features: Tensor
    ) -> Tensor:
        """What each head adds to the weighed cosine of each pair, (heads, n_pairs).

        users (n, width) and items (m, width) come from `project`; user and item (n_pairs,)
        index them; cosine (n_pairs,) in [-1, 1]; features (n_pairs, n_features) as `pair_features` gives them.
        """
        pairs = _PairTensors(users, items, user, item, cosine, features)
        never_sold = self._is_zero(features, self.config.sales)
        stranger = self._is_zero(features, self.config.history) & ~never_sold
        if not (never_sold.any() or stranger.any()):
            return self._of_sold(pairs)
        scores = torch.zeros(self.config.heads, len(features))
        kinds = (
            (~never_sold & ~stranger, self._of_sold),
            (never_sold, self._of_arrivals),
            (stranger, self._of_newcomers),
        )
        for kind, score in kinds:
            rows = torch.nonzero(kind).squeeze(1)
            if len(rows):
                scores = scores.index_copy(1, rows, score(pairs.rows(rows)))
        return scores

    def _is_zero(self, features: Tensor, name: str | None) -> Tensor:
        if name is None:
            return torch.zeros(len(features), dtype=torch.bool)
        return features[:, self.config.features.index(name)] <= 0

    def _of_sold(self, pairs: _PairTensors) -> Tensor:
        return self._run(self.mlps, 0, pairs.columns(self._sold).scaled(self.mean[self._sold], self.scale[self._sold]))

    def _of_arrivals(self, pairs: _PairTensors) -> Tensor:
        """Without heads that learned from arrivals: the cosine, at the level of what hardly sells. The other heads have
        seen no such item, and what they say of one is chance."""
        if not len(self.arrival_mlps):
            logit = self.newcomer[-1] + pairs.cosine
            return (logit - self.cosine_weight * pairs.cosine).expand(self.config.heads, -1)
        return self._run(self.arrival_mlps, self.config.heads, pairs.scaled(self.arrival_mean, self.arrival_scale))

    def _of_newcomers(self, pairs: _PairTensors) -> Tensor:
        """The linear score is the whole logit of such a pair, so what the cosine adds elsewhere is taken off here."""
        logit = pairs.x[:, self._newcomer] @ self.newcomer[:-1] + self.newcomer[-1]
        return (logit - self.cosine_weight * pairs.cosine).expand(self.config.heads, -1)

    def _run(self, mlps: nn.ModuleList, start: int, pairs: _PairTensors) -> Tensor:
        """(len(mlps), n_pairs); `start`: which slice of the projections the first of them reads."""
        width, scores = self.config.projection, []
        for head, mlp in enumerate(mlps):
            part = slice((start + head) * width, (start + head + 1) * width)
            first, *further = mlp.children()
            weight, bias = first.parameters()
            hidden = _first_layer(weight, bias, pairs, part)
            scores.append(nn.Sequential(*further)(hidden).squeeze(1))
        return torch.stack(scores)

    def forward(
        self, users: Tensor, items: Tensor, user: Tensor, item: Tensor, cosine: Tensor, features: Tensor
    ) -> ScoreTensors:
        """Score pairs; the arguments are those of `each_head`."""
        mlp = self.each_head(users, items, user, item, cosine, features).mean(dim=0)
        return ScoreTensors(cosine, mlp, self.cosine_weight * cosine + mlp)

    def frozen(self) -> Scorer:
        """The served form, with a copy of the weights."""
        return Scorer(self.config, {name: value.numpy().copy() for name, value in self.state_dict().items()})

    @classmethod
    def of(cls, scorer: Scorer) -> ScorerNetwork:
        """The module of a served scorer, ready to score."""
        network = cls(scorer.config)
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in scorer.weights.items()})
        return network.eval()

    def probability(self, logit: Tensor) -> Tensor:
        """Calibrated probability in (0, 1) that the person takes the item within the training horizon."""
        return torch.sigmoid(self.platt[0] * logit + self.platt[1])


class _PairTensors(NamedTuple):
    """Projected people and items, the pairs' indices into them, and their features."""

    users: Tensor
    items: Tensor
    user: Tensor
    item: Tensor
    cosine: Tensor
    x: Tensor

    def rows(self, index: Tensor) -> _PairTensors:
        return self._replace(user=self.user[index], item=self.item[index], cosine=self.cosine[index], x=self.x[index])

    def scaled(self, mean: Tensor, scale: Tensor) -> _PairTensors:
        return self._replace(x=((self.x - mean) * scale).clamp(-6, 6))

    def columns(self, numbers: list[int]) -> _PairTensors:
        return self if len(numbers) == self.x.shape[1] else self._replace(x=self.x[:, numbers])


def _first_layer(weight: Tensor, bias: Tensor, pairs: _PairTensors, part: slice) -> Tensor:
    """linear([u, v, u * v, x]) without putting the four beside each other, (n_pairs, hidden).

    What it makes of a person or an item is computed once for each, and no gradient is taken for the features.
    """
    users, items = pairs.users[:, part], pairs.items[:, part]
    width = users.shape[1]
    of_user, of_item, of_both, of_x = torch.split(weight, [width, width, width, pairs.x.shape[1]], dim=1)
    both = functional.embedding(pairs.user, users) * functional.embedding(pairs.item, items)
    hidden = _of_each(pairs.user, users, of_user, bias)
    return hidden.add_(_of_each(pairs.item, items, of_item, None)).addmm_(pairs.x, of_x.T).addmm_(both, of_both.T)


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


def _initialise(scorer: ScorerNetwork, generator: torch.Generator) -> None:
    """Seeded weights, whatever the global random state; the projection keeps lengths."""
    with torch.no_grad():
        for name, value in scorer.named_parameters():
            if value.ndim == 2:
                bound = 1.0 if "projection" in name else (3 / value.shape[1]) ** 0.5
                value.uniform_(-bound, bound, generator=generator)
            elif name.endswith("bias"):
                value.zero_()
