"""The sequence model as a torch module, and how it is learned by reading the log forward in time.

The first part of the log is learned with a later part for validation; then each following part is learned on top. A
snapshot is taken at each cut before anything after it is read, so that past windows can be scored by a model that does
not know their answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recllm.data.dataset import Dataset
from recllm.data.interactions import Floats, Ints
from recllm.models.sequence import GAPS, PaddedSequences, SequenceConfig, SequenceModel, Sequences
from recllm.schema import ACTION_CODE, Action
from recllm.settings import SequenceModelSettings

logger = logging.getLogger(__name__)

SORTED_BATCHES = 20
"""Rows of so many batches are sorted by length together: little padding, and yet the batches stay random."""


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
        if self.training and self.config.text:  # a residual is dropped or kept whole
            weight = (torch.rand(len(rows), 1) >= self.config.residual_dropout).float()
        else:
            weight = torch.full((len(rows), 1), 1 - self.config.residual_dropout)
        weight = weight * self.known[rows, None]
        vector, bias = weight * self.residual(rows), weight * self.bias(rows)
        if self.config.text:
            vector, bias = vector + self.text(texts), bias + self.text_bias(texts)
        return vector, bias.squeeze(1)

    def states(self, vectors: Tensor, padded: PaddedSequences) -> Tensor:
        """State after each token, (b, 1 + length, dim); position 0 is the one before the first token.

        `padded.item` indexes `vectors`; `padded.basics` (b, text_dim).
        """
        item, action, gap = (torch.from_numpy(column) for column in padded[:3])
        b, length = item.shape
        # plain indexing sums its gradient in the order in which threads finish; this does not
        read = functional.embedding(item.clamp(min=0), vectors)
        token = self.item_norm(read) + self.action(action) + self.gap(gap)
        token = token + self.place(torch.arange(length))
        basics = padded.basics
        stated = torch.zeros(b, self.config.text_dim) if basics is None else torch.from_numpy(basics)
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
    args: SequenceModelSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[SequenceModel] | None:
    """One model per cut (epoch seconds, ascending), each trained on events before its cut alone.

    item_vectors: unit rows (n_items, dim), or a function that gives them as somebody knew them before a time. basics:
    Emb(I), (n_users, dim), or None. validation_start: what happens from here to the first cut says when to stop
    learning what came before it, and is learned afterwards. progress: gets a line an evaluation; without it the lines
    are logged. None when there are fewer than `args.min_examples` events to learn from before `validation_start`.
    """
    args, tell = args or SequenceModelSettings(), progress or logger.info

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
        args: SequenceModelSettings,
    ) -> None:
        self.sequences = Sequences.of(dataset.events, target, dataset.as_of)
        self.baskets = NextBaskets.of(self.sequences)
        self.item_vectors = item_vectors
        """As of the time that has been learned, (n_items, dim)."""
        self.basics = basics
        self.args = args
        same = {"dim", "layers", "attention_heads", "interests", "max_length", "dropout", "text", "temperature"}
        config = SequenceConfig(
            n_items=item_vectors.shape[0],
            text_dim=item_vectors.shape[1],
            residual_dropout=args.residual_dropout if args.text else 0.0,
            **args.model_dump(include=same),
        )
        self.network = SequenceNetwork(config, args.seed)
        matrices = [p for p in self.network.parameters() if p.ndim == 2]
        others = [p for p in self.network.parameters() if p.ndim != 2]
        groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=args.learning_rate)
        self.rng = np.random.default_rng(args.seed)

    def learn_first(self, early: Ints, validation: Ints, tell: Callable[[str], None]) -> None:
        """Learn until the validation users see no more gain; the network is left in the best state."""
        first = np.unique(self.baskets.user[validation], return_index=True)[1]  # the first basket of each user
        validation = validation[np.sort(self.rng.permutation(first)[: self.args.validation_users])]
        best, weights, n_worse = -1.0, deepcopy(self.network.state_dict()), 0
        for epoch in range(1, self.args.epochs + 1):
            loss = self.epoch(early)
            if not np.isfinite(loss):
                break
            if epoch % self.args.epochs_per_evaluation and epoch < self.args.epochs:
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
        occurred = self.sequences.at <= int(self.baskets.at[baskets].max(initial=0))
        items = np.unique(self.sequences.item[occurred].astype(np.int64))
        self.network.train().known[torch.from_numpy(items)] = True
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.rng.integers(2**31)))
            for batch in self._batches(baskets, self.rng):
                loss = self._loss(batch)
                if not torch.isfinite(loss):
                    return float("nan")
                self.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimiser.step()
                losses.append(loss.item())
        return float(np.mean(losses)) if losses else 0.0

    def _loss(self, batch: _SequenceBatch) -> Tensor:
        """Sampled softmax over the batch's next items and uniform negatives."""
        positives = self.sequences.item[self.baskets.draw(batch.baskets, self.rng)].astype(np.int64)
        occurred = np.flatnonzero(self.network.known.numpy())
        negatives = self.rng.choice(occurred, min(self.args.negatives, len(occurred)), replace=False)
        offered, answer = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
        padded = self._padded(batch)
        rows, row = np.unique(np.concatenate([offered, padded.item[padded.item >= 0]]), return_inverse=True)
        item = np.full(padded.item.shape, -1)
        item[padded.item >= 0] = row[len(offered) :]
        # a fact of the processor; the gain that `encoder.precision` measures may differ from run to run, and with it
        # what is learned
        bfloat16 = self.args.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            vectors, bias = self.network.items(torch.from_numpy(self.item_vectors[rows]), torch.from_numpy(rows))
            users = self._users(vectors, padded._replace(item=item), batch)
            offered_rows = torch.from_numpy(row[: len(offered)])
            logits = self.network.logits(users, vectors[offered_rows], bias[offered_rows])
        return functional.cross_entropy(logits.float(), torch.from_numpy(answer[: len(positives)]))

    def evaluate(self, validation: Ints) -> float:
        """NDCG@10 of one new item each, over the catalogue without what the user bought before."""
        if not len(validation):
            return 0.0
        self.network.eval()
        rng = np.random.default_rng(0)
        texts, every_row = torch.from_numpy(self.item_vectors), torch.arange(len(self.item_vectors))
        gains = []
        with torch.no_grad():
            vectors, bias = self.network.items(texts, every_row)
            for batch in self._batches(validation, None):
                positives = self.sequences.item[self.baskets.draw(batch.baskets, rng)].astype(np.int64)
                users = self._users(vectors, self._padded(batch), batch)
                logits = self.network.logits(users, vectors, bias).numpy()
                scores = np.take_along_axis(logits, positives[:, None], 1)
                begin = self.sequences.indptr[self.baskets.user[batch.baskets]]
                end = np.maximum(self.baskets.token[batch.baskets] + 1, 0)
                for row, part in enumerate(map(slice, begin, end)):
                    logits[row, self.sequences.item[part]] = -np.inf
                rank = (logits > scores).sum(axis=1)
                gains.append(np.where(rank < 10, 1 / np.log2(rank + 2), 0).astype(np.float32))
        return float(np.mean(np.concatenate(gains)))

    def _users(self, vectors: Tensor, padded: PaddedSequences, batch: _SequenceBatch) -> Tensor:
        states = self.network.states(vectors, padded)
        return self.network.users(states[torch.from_numpy(batch.row), torch.from_numpy(batch.column)])

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
        for part in np.split(order, range(sorted_rows, len(order), sorted_rows)):
            part = part[np.argsort((stop - start)[part], kind="stable")]
            batches += np.split(part, range(args.batch_size, len(part), args.batch_size))
        for batch in batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]:
            inside = np.concatenate([by_row[ends[r] : ends[r + 1]] for r in batch])
            row_in_batch = np.repeat(np.arange(len(batch)), np.diff(ends)[batch])
            yield _SequenceBatch(user[batch], start[batch], stop[batch], baskets[inside], row_in_batch, column[inside])


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
