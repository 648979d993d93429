"""The sequence model as a torch module, and how it is learned by reading the log forward in time.

A snapshot is taken at each cut before anything after it is read, so that past windows can be scored by a model that
does not know their answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recllm.base.arrays import Floats, Ints
from recllm.base.schema import ACTION_CODE, Action, Progress
from recllm.learn.models.sequence import (
    GAPS,
    PaddedSequences,
    SequenceArguments,
    SequenceConfig,
    SequenceModel,
    Sequences,
)
from recllm.shop.data.dataset import Dataset
from recllm.text.encoder.hardware import one_core_each

EPOCHS_PER_EVALUATION = 2
VALIDATION_USERS = 3_000  # users whose last event is predicted in an evaluation, at most
WEIGHT_DECAY = 1e-2

logger = logging.getLogger(__name__)

SORTED_BATCHES = 20
"""Batches whose rows are sorted by length together: little padding, and yet the batches stay random."""


class SequenceNetwork(nn.Module):
    """score(user, item) = cosine / temperature + the item's bias.

    Item = W text + residual, where the residual of a share of the items is dropped in each step, so that the text alone
    must carry them, as it does for an item without purchases. User = the causal transformer's state (SASRec,
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
            for embedding in (self.residual, self.action, self.gap, self.place):
                nn.init.normal_(embedding.weight, std=0.02)
            nn.init.zeros_(self.bias.weight)
            nn.init.zeros_(self.text_bias.weight)
        self.log_scale = nn.Parameter(-torch.log(torch.tensor(float(c.temperature))))
        self.register_buffer("known", torch.zeros(c.n_items, dtype=torch.bool))
        self.known: Tensor

    def items(
        self, texts: Tensor, rows: Tensor, counts: Tensor | None = None, tables: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors (m, dim) and biases (m,) of item rows; texts (m, text_dim) are theirs.

        counts: for training, 0 where a residual is dropped, (m, 1); without it all count as much as expected. tables:
        rows of the residuals and their biases, (m, dim), (m, 1), where the caller looks after their gradient.
        """
        if counts is None:
            counts = torch.full((len(rows), 1), 1 - self.config.residual_dropout)
        if tables is None:
            tables = self.residual(rows), self.bias(rows)
        vector, bias = (counts * self.known[rows, None] * table for table in tables)
        if self.config.text:
            vector, bias = vector + self.text(texts), bias + self.text_bias(texts)
        return vector, bias.squeeze(1)

    def states(
        self,
        vectors: Tensor,
        padded: PaddedSequences,
        row: Ints,
        column: Ints,
        rng: np.random.Generator | None = None,
    ) -> Tensor:
        """The states of rows (n,), ascending, after their first `column` tokens (n,), (n, dim).

        `padded.item` indexes `vectors`; `padded.basics` (b, text_dim). rng: for training, draws what is dropped. The
        last block computes what is asked for alone: of the other tokens it needs keys and values, and nothing more.
        """
        b, length = padded.item.shape
        # basics, items and context come from tables by one look-up each. Plain indexing would sum its gradient in the
        # order in which threads finish; this does not
        stated = torch.zeros(1, self.config.text_dim) if padded.basics is None else torch.from_numpy(padded.basics)
        read = torch.cat([self.basics(stated), self.item_norm(vectors)])
        item = np.empty((b, 1 + length), np.int64)
        item[:, 0] = 0 if padded.basics is None else np.arange(b)
        item[:, 1:] = len(stated) + np.maximum(padded.item, 0)
        context = (self.action.weight[:, None] + self.gap.weight).flatten(0, 1)
        context = torch.cat([torch.zeros(1, self.config.dim), context])
        pair = np.zeros((b, 1 + length), np.int64)
        pair[:, 1:] = 1 + padded.action * GAPS + padded.gap
        positions = torch.cat([torch.zeros(1, self.config.dim), self.place.weight[:length]])
        x = functional.embedding(torch.from_numpy(item), read) + positions
        x = self._drop(x + functional.embedding(torch.from_numpy(pair), context), rng)
        every = np.divmod(np.arange(b * (1 + length)), 1 + length)
        for number, layer in enumerate(self.transformer.layers):
            if number + 1 < self.config.layers:
                x = self._block(layer, x, *every, rng).view(x.shape)
            else:
                x = self._block(layer, x, row, column, rng)
        states: Tensor = self.norm(x)
        return states

    def _block(self, layer: Any, x: Tensor, row: Ints, column: Ints, rng: np.random.Generator | None) -> Tensor:
        """A block of the transformer at these rows and columns, (n, dim), from all tokens x (b, width, dim).

        No token sees a later one, nor padding: with padding at the end, the first rule does for both.
        """
        b, width, dim = x.shape
        heads, size = self.config.attention_heads, dim // self.config.attention_heads
        flat = torch.from_numpy(row * width + column)
        weight, bias = layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
        before = layer.norm1(x)
        queried = functional.embedding(flat, x.view(-1, dim))
        query = functional.linear(functional.embedding(flat, before.view(-1, dim)), weight[:dim], bias[:dim])
        key, value = functional.linear(before, weight[dim:], bias[dim:]).view(b, width, 2, heads, size).unbind(2)
        # the queries of a row side by side, padded to the longest of them
        counts = np.bincount(row, minlength=b)
        number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        n_queries = int(counts.max(initial=1))
        slot = torch.from_numpy(row * n_queries + number)
        queries = query.new_zeros(b * n_queries, dim).index_copy(0, slot, query)
        queries = queries.view(b, n_queries, heads, size).transpose(1, 2)
        last = np.zeros((b, 1, n_queries, 1), np.int64)
        last[row, 0, number, 0] = column
        hidden = torch.from_numpy(np.arange(width) > last)
        scores = queries @ key.permute(0, 2, 3, 1) / size**0.5
        attention = self._drop(torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1), rng)
        mixed = (attention @ value.transpose(1, 2)).transpose(1, 2).reshape(b * n_queries, dim)
        x = queried + self._drop(layer.self_attn.out_proj(functional.embedding(slot, mixed)), rng)
        inner = self._drop(functional.gelu(layer.linear1(layer.norm2(x))), rng)
        return x + self._drop(layer.linear2(inner), rng)

    def _drop(self, x: Tensor, rng: np.random.Generator | None) -> Tensor:
        """Dropout, ten times as fast as torch's own on a processor; rng None drops nothing."""
        if rng is None or not self.config.dropout:
            return x
        limit = round(self.config.dropout * 2**16)
        mask = torch.from_numpy(rng.integers(0, 2**16, x.shape, dtype=np.uint16) >= limit)
        return x * mask.to(torch.float32).mul_(2**16 / (2**16 - limit))

    def logits(self, users: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        """(n, m) of people (n, dim), unit vectors, and items (m, dim), (m,)."""
        return torch.addmm(bias, users * self.log_scale.exp(), functional.normalize(vectors, dim=-1).T)

    def frozen(self, item_vectors: Floats, target: tuple[Action, ...]) -> SequenceModel:
        """The served form, with a copy of the weights; see `SequenceModel.of`."""
        weights = {name: value.numpy().copy() for name, value in self.state_dict().items()}
        return SequenceModel.of(self.config, weights, item_vectors, target)


@dataclass(frozen=True, eq=False)
class NextBaskets:
    """Baskets that hold something new to their user, and the state that they are predicted from."""

    user: Ints
    token: Ints
    """The last token before the basket; -1 where it is the user's first."""
    at: Ints
    """Time of the basket, epoch seconds."""
    low: Ints
    high: Ints
    """The items that are new to the user are new_tokens[low:high]."""
    new_tokens: Ints
    """Indices of tokens of the sequences."""

    @classmethod
    def of(cls, sequences: Sequences) -> NextBaskets:
        user, at, n = sequences.user, sequences.at, len(sequences.item)
        # an item is new where the user does something of the target with it for the first time
        key = user * (int(sequences.item.max(initial=0)) + 1) + sequences.item
        rows = np.flatnonzero(sequences.is_target)
        new_tokens = np.sort(rows[np.unique(key[rows], return_index=True)[1]])
        # a basket is what one user did at one time
        begins = np.ones(n, bool)
        begins[1:] = (np.diff(user) != 0) | (np.diff(at) != 0)
        starts = np.flatnonzero(begins)
        low, high = np.searchsorted(new_tokens, starts), np.searchsorted(new_tokens, np.append(starts, n)[1:])
        has_new = high > low
        starts = starts[has_new]
        token = np.where(starts > sequences.indptr[user[starts]], starts - 1, -1)
        return cls(user[starts], token, at[starts], low[has_new], high[has_new], new_tokens)

    def draw(self, rows: Ints, rng: np.random.Generator) -> Ints:
        """One token index of a new item for each of these baskets."""
        low, high = self.low[rows], self.high[rows]
        return self.new_tokens[low + (rng.random(len(rows)) * (high - low)).astype(np.int64)]


def learn_sequence_model(
    dataset: Dataset,
    item_vectors: Floats | Callable[[int], Floats],
    basics: Floats | None,
    target: tuple[Action, ...],
    cuts: Sequence[int],
    validation_start: int,
    args: SequenceArguments | None = None,
    progress: Progress | None = None,
) -> list[SequenceModel] | None:
    """One model per cut (epoch seconds, ascending), each trained on events before its cut alone.

    item_vectors: unit rows (n_items, dim), or a function that gives them as they were known before a time. basics:
    Emb(I), (n_users, dim), or None. validation_start: what happens from here to the first cut says when to stop
    learning what came before it, and is learned afterwards. None when there are fewer than `args.min_examples` events
    to learn from before that.
    """
    args, tell = args or SequenceArguments(), progress or logger.info

    def vectors_at(time: int) -> Floats:
        return np.asarray(item_vectors(time) if callable(item_vectors) else item_vectors, np.float32)

    learner = SequenceLearner(dataset, vectors_at(validation_start), basics, target, args)
    at = learner.baskets.at
    early = np.flatnonzero(at < validation_start)
    if len(early) < args.min_examples:
        return None
    learner.learn_first(early, np.flatnonzero((at >= validation_start) & (at < cuts[0])), tell)
    snapshots = []
    for learned_until, cut in pairwise([validation_start, *cuts]):
        new = np.flatnonzero((at >= learned_until) & (at < cut))
        learner.learn_later(new, np.flatnonzero(at < learned_until))
        learner.item_vectors = vectors_at(cut)
        snapshots.append(learner.network.frozen(learner.item_vectors, target))
        tell(f"sequence model: learned until {np.datetime64(cut, 's').astype('datetime64[D]')}")
    return snapshots


class SequenceLearner:
    """The network in training with what it is trained on; baskets are given by their rows."""

    def __init__(
        self,
        dataset: Dataset,
        item_vectors: Floats,
        basics: Floats | None,
        target: tuple[Action, ...],
        args: SequenceArguments,
    ) -> None:
        self.sequences = Sequences.of(dataset.events, target, dataset.as_of)
        self.baskets = NextBaskets.of(self.sequences)
        self.item_vectors = item_vectors
        """As of the time that has been learned, (n_items, dim)."""
        self.basics = basics
        self.args = args
        same = {"dim", "layers", "attention_heads", "max_length", "dropout", "text"}
        config = SequenceConfig(
            n_items=item_vectors.shape[0],
            text_dim=item_vectors.shape[1],
            temperature=0.1,  # at the start; it is learned
            residual_dropout=args.residual_dropout if args.text else 0.0,
            **args.model_dump(include=same),
        )
        self.network = SequenceNetwork(config, args.seed)
        matrices = [p for p in self.network.parameters() if p.ndim == 2]
        others = [p for p in self.network.parameters() if p.ndim != 2]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=args.learning_rate, fused=True)
        self.rng = np.random.default_rng(args.seed)
        self._tables = self.network.residual.weight, self.network.bias.weight
        """One row an item, few of which have a gradient in a step."""
        self._table_gradients = torch.zeros_like(self._tables[0]), torch.zeros_like(self._tables[1])
        for table, gradient in zip(self._tables, self._table_gradients, strict=True):
            table.grad = gradient

    def learn_first(self, early: Ints, validation: Ints, tell: Progress) -> None:
        """Learn until the validation users see no more gain; the network is left in the best state."""
        first = np.unique(self.baskets.user[validation], return_index=True)[1]  # the first basket of each user
        validation = validation[np.sort(self.rng.permutation(first)[:VALIDATION_USERS])]
        best, weights, n_worse = -1.0, deepcopy(self.network.state_dict()), 0
        for epoch in range(1, self.args.epochs + 1):
            loss = self.epoch(early)
            if not np.isfinite(loss):
                break
            if epoch % EPOCHS_PER_EVALUATION and epoch < self.args.epochs:
                continue
            value = self.evaluate(validation)
            tell(f"sequence model, epoch {epoch}: loss {loss:.4g}, ndcg@10 of what comes next {value:.4g}")
            n_worse = 0 if value > best else n_worse + 1
            if value > best:
                best, weights = value, deepcopy(self.network.state_dict())
            if n_worse >= self.args.patience:
                break
        self.network.load_state_dict(weights)

    def learn_later(self, new: Ints, past: Ints) -> None:
        """Learn a following part of the log, mixed with as many baskets of the past."""
        for _ in range(self.args.later_epochs if len(new) else 0):
            weights = deepcopy(self.network.state_dict())
            sample = past[self.rng.permutation(len(past))[: len(new)]]
            if not np.isfinite(self.epoch(np.concatenate([new, sample]))):
                self.network.load_state_dict(weights)
                return

    def epoch(self, baskets: Ints) -> float:
        """One pass; the mean loss, nan as soon as it is not finite."""
        # items that occur up to the last of these baskets, so that no later new item serves as a negative
        is_past = self.sequences.at <= int(self.baskets.at[baskets].max(initial=0))
        items = np.unique(self.sequences.item[is_past].astype(np.int64))
        self.network.known[torch.from_numpy(items)] = True
        occurred = np.flatnonzero(self.network.known.numpy())
        losses = []
        with one_core_each() as pool:
            for batch in self._batches(baskets, self.rng):
                loss = self._step(batch, occurred, pool)
                if not np.isfinite(loss):
                    return float("nan")
                losses.append(loss)
        return float(np.mean(losses)) if losses else 0.0

    def _step(self, batch: _SequenceBatch, occurred: Ints, pool: ThreadPoolExecutor) -> float:
        """Sampled softmax over the batch's next items and uniform negatives among the items that occurred; the loss.

        Two halves of the batch are computed at once. Their gradients sum to the same in either order, and with them
        come the random numbers of each, so that the number of cores changes nothing.
        """
        positives = self.sequences.item[self.baskets.draw(batch.baskets, self.rng)].astype(np.int64)
        negatives = self.rng.choice(occurred, min(self.args.negatives, len(occurred)), replace=False)
        offered, answer = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
        share = 1 - self.network.config.residual_dropout
        counts = (self.rng.random(len(self.item_vectors), np.float32) < share).astype(np.float32)
        parts, middle = [], len(batch.user) // 2
        for rows in (slice(0, middle), slice(middle, None)):
            inside = slice(
                *np.searchsorted(batch.row, [rows.start, len(batch.user) if rows.stop is None else rows.stop])
            )
            if inside.stop > inside.start:
                seed = int(self.rng.integers(2**63))
                parts.append((batch.piece(rows, inside), answer[: len(positives)][inside], seed))

        def add_gradient(piece: tuple[_SequenceBatch, Ints, int]) -> _Gradient:
            return self._add_gradient(*piece, offered, counts, len(positives))

        results = list(pool.map(add_gradient, parts))
        loss = sum(result.loss for result in results)
        if np.isfinite(loss):
            for result in results:
                for total, gradient in zip(self._table_gradients, result.gradients, strict=True):
                    total[result.rows] += gradient
            self.optimiser.step()
        for parameter in self.network.parameters():
            if not any(parameter is table for table in self._tables):
                parameter.grad = None
        for result in results:  # the rest is 0 already
            for total in self._table_gradients:
                total[result.rows] = 0
        return loss

    def _add_gradient(
        self, batch: _SequenceBatch, answer: Ints, seed: int, offered: Ints, counts: Floats, n_baskets: int
    ) -> _Gradient:
        """Adds the gradient of a part of a batch of `n_baskets` to all parameters but the items' own tables.

        offered: item rows, (m,); answer: where in them each basket's item is. counts: of each item, see `items`.
        """
        network, rng, padded = self.network, np.random.Generator(np.random.SFC64(seed)), self._padded(batch)
        real = padded.item >= 0
        rows, row = np.unique(np.concatenate([offered, padded.item[real]]), return_inverse=True)
        item = np.full(padded.item.shape, -1)
        item[real] = row[len(offered) :]
        item_rows, offered_rows = torch.from_numpy(rows), torch.from_numpy(row[: len(offered)])
        # a gradient as long as the catalogue costs more than all the rest of a step
        residual, bias_of = (table.detach()[item_rows].requires_grad_() for table in self._tables)
        texts = torch.from_numpy(self.item_vectors[rows])
        vectors, bias = network.items(texts, item_rows, torch.from_numpy(counts[rows, None]), (residual, bias_of))
        users = self._users(vectors, padded._replace(item=item), batch, rng)
        logits = network.logits(users, functional.embedding(offered_rows, vectors), bias[offered_rows])
        loss = functional.cross_entropy(logits.float(), torch.from_numpy(answer), reduction="sum") / n_baskets
        if torch.isfinite(loss):
            loss.backward()  # type: ignore[no-untyped-call]
        gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in (residual, bias_of)]
        return _Gradient(loss.item(), item_rows, gradients)

    def evaluate(self, validation: Ints) -> float:
        """NDCG@10 of one new item each, over the catalogue without what the user bought before."""
        if not len(validation):
            return 0.0
        rng, every_row = np.random.default_rng(0), torch.arange(len(self.item_vectors))
        batches = list(self._batches(validation, None))
        drawn = [self.sequences.item[self.baskets.draw(batch.baskets, rng)].astype(np.int64) for batch in batches]
        with torch.inference_mode():
            vectors, bias = self.network.items(torch.from_numpy(self.item_vectors), every_row)

            def gains(batch: _SequenceBatch, positives: Ints) -> Floats:
                with torch.inference_mode():
                    logits = self.network.logits(
                        self._users(vectors, self._padded(batch), batch), vectors, bias
                    ).numpy()
                scores = np.take_along_axis(logits, positives[:, None], 1)
                begin = self.sequences.indptr[self.baskets.user[batch.baskets]]
                end = np.maximum(self.baskets.token[batch.baskets] + 1, 0)
                for row, piece in enumerate(map(slice, begin, end)):
                    logits[row, self.sequences.item[piece]] = -np.inf
                rank = (logits > scores).sum(axis=1)
                return np.where(rank < 10, 1 / np.log2(rank + 2), 0).astype(np.float32)

            with one_core_each() as pool:
                return float(np.mean(np.concatenate(list(pool.map(gains, batches, drawn)))))

    def _users(
        self, vectors: Tensor, padded: PaddedSequences, batch: _SequenceBatch, rng: np.random.Generator | None = None
    ) -> Tensor:
        return functional.normalize(self.network.states(vectors, padded, batch.row, batch.column, rng), dim=-1)

    def _padded(self, batch: _SequenceBatch) -> PaddedSequences:
        basics = None if self.basics is None else np.asarray(self.basics[batch.user], np.float32)
        return self.sequences.padded(batch.start, batch.stop, basics)

    def _batches(self, baskets: Ints, rng: np.random.Generator | None) -> Iterator[_SequenceBatch]:
        """Batches of stretches of about equal length that cover all baskets.

        With `rng` long sequences are cut at random points and batches come in random order; without it each basket must
        be the only one of its user and is read with the latest `max_length` tokens before it.
        """
        args, sequences, basket_user = self.args, self.sequences, self.baskets.user[baskets]
        begin, token = sequences.indptr[basket_user], self.baskets.token[baskets]
        token = np.where(token < 0, begin - 1, token)
        if rng is None:
            token_start = np.maximum(begin, token + 1 - args.max_length)
        else:
            shift = rng.integers(args.max_length, size=sequences.n)[basket_user]
            stretch = (np.maximum(token - begin, 0) + shift) // args.max_length
            token_start = np.maximum(begin, begin + stretch * args.max_length - shift)
        (user, start), row = np.unique(np.stack([basket_user, token_start]), axis=1, return_inverse=True)
        stop = np.full(len(user), -1)
        np.maximum.at(stop, row, token + 1)
        column = token - token_start + 1

        order = np.arange(len(user)) if rng is None else rng.permutation(len(user))
        by_row = np.argsort(row, kind="stable")
        ends = np.searchsorted(row[by_row], np.arange(len(user) + 1))
        batches, sorted_rows = [], SORTED_BATCHES * args.batch_size
        for piece in np.split(order, range(sorted_rows, len(order), sorted_rows)):
            piece = piece[np.argsort((stop - start)[piece], kind="stable")]
            batches += np.split(piece, range(args.batch_size, len(piece), args.batch_size))
        for batch in batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]:
            inside = np.concatenate([by_row[ends[r] : ends[r + 1]] for r in batch])
            row_in_batch = np.repeat(np.arange(len(batch)), np.diff(ends)[batch])
            yield _SequenceBatch(user[batch], start[batch], stop[batch], baskets[inside], row_in_batch, column[inside])


class _Gradient(NamedTuple):
    """What a part of a batch adds to the loss and to the gradient of these items' residuals and biases."""

    loss: float
    rows: Tensor
    gradients: list[Tensor]


class _SequenceBatch(NamedTuple):
    """Tokens [start, stop) of each row, and the baskets that are predicted in them."""

    user: Ints
    start: Ints
    stop: Ints
    baskets: Ints
    row: Ints
    """Of each basket in the batch."""
    column: Ints
    """Position of the state that predicts it; 0 is before the first token."""

    def piece(self, rows: slice, inside: slice) -> _SequenceBatch:
        user, start, stop = self.user[rows], self.start[rows], self.stop[rows]
        row = self.row[inside] - rows.start
        return _SequenceBatch(user, start, stop, self.baskets[inside], row, self.column[inside])
