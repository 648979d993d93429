"""The network: items from text and a residual of their own, people from a causal transformer over their items."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recllm.models.sequence.sequences import GAPS
from recllm.models.sequence.serve import SequenceConfig
from recllm.schema import ACTION_CODE


class SequenceNetwork(nn.Module):
    """score(user, item) = soft maximum over the person's vectors of cosine / temperature, + the item's bias.

    Item = W text + residual, where the residual of a share of the items is dropped in each step, so that the text alone
    must carry them, as it does for an item that nobody has taken yet. User = the causal transformer's state (SASRec,
    Kang and McAuley 2018) after the last token; each token is the item, its action, its place and the days to the
    next token. The token before the first is the person's basics.
    """

    def __init__(self, config: SequenceConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        c, dim = config, config.dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.text = nn.Linear(c.text_dim, dim)
            self.text_bias = nn.Linear(c.text_dim, 1)
            self.residual = nn.Embedding(c.n_items, dim)
            self.bias = nn.Embedding(c.n_items, 1)
            self.basics = nn.Linear(c.text_dim, dim)
            self.action = nn.Embedding(len(ACTION_CODE), dim)
            self.gap = nn.Embedding(GAPS, dim)
            self.place = nn.Embedding(c.max_length, dim)
            layer = nn.TransformerEncoderLayer(
                dim, c.attention_heads, 4 * dim, c.dropout, "gelu", batch_first=True, norm_first=True
            )
            self.transformer = nn.TransformerEncoder(layer, c.layers, enable_nested_tensor=False)
            self.item_norm, self.norm, self.drop = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.Dropout(c.dropout)
            self.split = nn.Linear(dim, dim * c.interests) if c.interests > 1 else nn.Identity()
            for embedding in (self.residual, self.action, self.gap, self.place):
                nn.init.normal_(embedding.weight, std=0.02)
            nn.init.zeros_(self.bias.weight)
            nn.init.zeros_(self.text_bias.weight)
        self.log_scale = nn.Parameter(-torch.log(torch.tensor(float(c.temperature))))
        self.register_buffer("known", torch.zeros(c.n_items, dtype=torch.bool))
        self.known: Tensor

    def items(self, texts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (m, dim) and biases (m,) of item rows; texts (m, text_dim) are theirs."""
        weight = self._residual_weight(len(rows)) * self.known[rows, None]
        vector, bias = weight * self.residual(rows), weight * self.bias(rows)
        if self.config.text:
            vector, bias = vector + self.text(texts), bias + self.text_bias(texts)
        return vector, bias.squeeze(1)

    def _residual_weight(self, n: int) -> Tensor:
        """Dropped or kept whole in training, its expectation afterwards."""
        if not self.config.text:
            return torch.ones(n, 1)
        if not self.training:
            return torch.full((n, 1), 1 - self.config.residual_dropout)
        return (torch.rand(n, 1) >= self.config.residual_dropout).float()

    def states(self, vectors: Tensor, item: Tensor, action: Tensor, gap: Tensor, basics: Tensor | None) -> Tensor:
        """State after each token, (b, 1 + length, dim); position 0 is the one before the first token.

        item (b, length) indexes `vectors`, -1 is padding at the end; basics (b, text_dim).
        """
        b, length = item.shape
        # plain indexing sums its gradient in the order in which threads finish; this does not
        read = functional.embedding(item.clamp(min=0), vectors)
        token = self.item_norm(read) + self.action(action) + self.gap(gap)
        token = token + self.place(torch.arange(length))
        stated = torch.zeros(b, self.config.text_dim) if basics is None else basics
        tokens = self.drop(torch.cat([self.basics(stated)[:, None], token], dim=1))
        future = torch.triu(torch.ones(1 + length, 1 + length, dtype=torch.bool), 1)
        padding = torch.cat([torch.zeros(b, 1, dtype=torch.bool), item < 0], dim=1)
        states: Tensor = self.norm(self.transformer(tokens, mask=future, src_key_padding_mask=padding))
        return states

    def users(self, states: Tensor) -> Tensor:
        """Unit vectors of people, (n, interests, dim), from states (n, dim)."""
        return functional.normalize(
            self.split(states).view(len(states), self.config.interests, self.config.dim), dim=-1
        )

    def logits(self, users: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        """(n, m) of people (n, interests, dim) and items (m, dim), (m,)."""
        scaled = users @ functional.normalize(vectors, dim=-1).T * self.log_scale.exp()
        return torch.logsumexp(scaled, dim=1) + bias
