"""Learn the sequence model by reading the log forward in time.

The first part of the log is learned with a later part for validation; then each following part is learned on top. A
snapshot is taken at each cut before anything after it is read, so that past windows can be scored by a model that does
not know their answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recllm.data.dataset import Dataset
from recllm.data.interactions import Floats, Ints
from recllm.models.sequence.network import SequenceNetwork
from recllm.models.sequence.sequences import Batch, NextBaskets, Sequences, padded_rows
from recllm.models.sequence.serve import SequenceConfig, SequenceModel
from recllm.schema import Action
from recllm.settings import SequenceModelSettings

logger = logging.getLogger(__name__)

SORTED_BATCHES = 20
"""Rows of so many batches are sorted by length together: little padding, and yet the batches stay random."""


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
    baskets = learner.baskets
    early = baskets.select(baskets.at < validation_start)
    if len(early.user) < args.min_examples:
        return None
    learner.learn_first(early, baskets.between(validation_start, cuts[0]), tell)
    snapshots, learned_until = [], validation_start
    for cut in cuts:
        past = baskets.select(baskets.at < learned_until)
        learner.learn_later(baskets.between(learned_until, cut), past)
        learner.item_vectors = vectors_at(cut)
        snapshots.append(SequenceModel.of(learner.network, learner.item_vectors, target))
        tell(f"sequence model: learned until {np.datetime64(cut, 's').astype('datetime64[D]')}")
        learned_until = cut
    return snapshots


class SequenceLearner:
    """The network in training with what it is trained on."""

    def __init__(
        self,
        dataset: Dataset,
        item_vectors: Floats,
        basics: Floats | None,
        target: tuple[Action, ...],
        args: SequenceModelSettings,
    ) -> None:
        self.sequences = Sequences.of(dataset.events, target)
        self.gap = self.sequences.gap(dataset.as_of)
        self.baskets = NextBaskets.of(self.sequences)
        self.item_vectors = item_vectors
        """As of the time that has been learned, (n_items, dim)."""
        self.basics = basics
        self.args = args
        config = SequenceConfig(
            n_items=item_vectors.shape[0],
            text_dim=item_vectors.shape[1],
            dim=args.dim,
            layers=args.layers,
            attention_heads=args.attention_heads,
            interests=args.interests,
            max_length=args.max_length,
            dropout=args.dropout,
            residual_dropout=args.residual_dropout if args.text else 0.0,
            text=args.text,
            temperature=args.temperature,
        )
        self.network = SequenceNetwork(config, args.seed)
        matrices = [p for p in self.network.parameters() if p.ndim == 2]
        others = [p for p in self.network.parameters() if p.ndim != 2]
        groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=args.learning_rate)
        self.rng = np.random.default_rng(args.seed)

    def learn_first(self, early: NextBaskets, validation: NextBaskets, tell: Callable[[str], None]) -> None:
        """Learn until the validation users see no more gain; the network is left in the best state."""
        first = np.unique(validation.user, return_index=True)[1]  # the first basket of each user
        validation = validation.select(np.sort(self.rng.permutation(first)[: self.args.validation_users]))
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

    def learn_later(self, new: NextBaskets, past: NextBaskets) -> None:
        """Learn a following part of the log, mixed with as many baskets of the past."""
        for _ in range(self.args.later_epochs if len(new.user) else 0):
            weights = deepcopy(self.network.state_dict())
            sample = past.select(self.rng.permutation(len(past.user))[: len(new.user)])
            if not np.isfinite(self.epoch(new.joined(sample))):
                self.network.load_state_dict(weights)
                return

    def epoch(self, baskets: NextBaskets) -> float:
        """One pass; the mean loss, nan as soon as it is not finite."""
        # items that occur up to the last of these baskets, so that no later new item serves as a negative
        occurred = self.sequences.at <= int(baskets.at.max(initial=0))
        items = np.unique(self.sequences.item[occurred].astype(np.int64))
        self.network.train().known[torch.from_numpy(items)] = True
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.rng.integers(2**31)))
            for batch in _batches(self.sequences, baskets, self.args, self.rng):
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
        positives = self.sequences.item[batch.baskets.draw(self.rng)].astype(np.int64)
        occurred = np.flatnonzero(self.network.known.numpy())
        negatives = self.rng.choice(occurred, min(self.args.negatives, len(occurred)), replace=False)
        offered, answer = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
        padded = self._padded(batch)
        rows, row = np.unique(np.concatenate([offered, padded.item[padded.item >= 0]]), return_inverse=True)
        item = np.full(padded.item.shape, -1)
        item[padded.item >= 0] = row[len(offered) :]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bfloat16 and has_bfloat16()):
            vectors, bias = self.network.items(torch.from_numpy(self.item_vectors[rows]), torch.from_numpy(rows))
            tensors = Batch(item, padded.action, padded.gap, padded.basics).tensors()
            users = self._users(vectors, tensors, batch)
            offered_rows = torch.from_numpy(row[: len(offered)])
            logits = self.network.logits(users, vectors[offered_rows], bias[offered_rows])
        return functional.cross_entropy(logits.float(), torch.from_numpy(answer[: len(positives)]))

    def evaluate(self, validation: NextBaskets) -> float:
        """NDCG@10 of one new item each, over the catalogue without what the user bought before."""
        if not len(validation.user):
            return 0.0
        self.network.eval()
        rng = np.random.default_rng(0)
        texts, every_row = torch.from_numpy(self.item_vectors), torch.arange(len(self.item_vectors))
        gains = []
        with torch.no_grad():
            vectors, bias = self.network.items(texts, every_row)
            for batch in _batches(self.sequences, validation, self.args, None):
                positives = self.sequences.item[batch.baskets.draw(rng)].astype(np.int64)
                users = self._users(vectors, self._padded(batch).tensors(), batch)
                logits = self.network.logits(users, vectors, bias).numpy()
                scores = np.take_along_axis(logits, positives[:, None], 1)
                for row, (user, token) in enumerate(zip(batch.baskets.user, batch.baskets.token, strict=True)):
                    logits[row, self.sequences.item[self.sequences.indptr[user] : max(token + 1, 0)]] = -np.inf
                rank = (logits > scores).sum(axis=1)
                gains.append(np.where(rank < 10, 1 / np.log2(rank + 2), 0).astype(np.float32))
        return float(np.mean(np.concatenate(gains)))

    def _padded(self, batch: _SequenceBatch) -> Batch:
        basics = None if self.basics is None else np.asarray(self.basics[batch.user], np.float32)
        return padded_rows(self.sequences, self.gap, batch.start, batch.stop, basics)

    def _users(
        self, vectors: Tensor, tensors: tuple[Tensor, Tensor, Tensor, Tensor | None], batch: _SequenceBatch
    ) -> Tensor:
        """Users' vectors just before each basket of the batch."""
        states = self.network.states(vectors, *tensors)
        return self.network.users(states[torch.from_numpy(batch.row), torch.from_numpy(batch.column)])


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16. A fact, not the gain that `encoder.precision` measures: that may
    differ from run to run, and with it what is learned."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True, eq=False)
class _SequenceBatch:
    """Tokens [start, stop) of each row, and the baskets that are predicted in them."""

    user: Ints
    start: Ints
    stop: Ints
    baskets: NextBaskets
    row: Ints
    """Of each basket in the batch."""
    column: Ints
    """Position of the state that predicts it; 0 is before the first token."""


def _batches(
    sequences: Sequences, baskets: NextBaskets, args: SequenceModelSettings, rng: np.random.Generator | None
) -> Iterator[_SequenceBatch]:
    """Batches of stretches of about equal length that cover all baskets.

    With `rng` long sequences are cut at random points and batches come in random order; without it each basket must be
    the only one of its user and is read with the latest `max_length` tokens before it.
    """
    begin = sequences.indptr[baskets.user]
    token = np.where(baskets.token < 0, begin - 1, baskets.token)
    if rng is None:
        token_start = np.maximum(begin, token + 1 - args.max_length)
    else:
        shift = rng.integers(args.max_length, size=sequences.n)[baskets.user]
        token_start = np.maximum(
            begin, begin + (np.maximum(token - begin, 0) + shift) // args.max_length * args.max_length - shift
        )
    (user, start), row = np.unique(np.stack([baskets.user, token_start]), axis=1, return_inverse=True)
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
        inside = np.concatenate([by_row[ends[r] : ends[r + 1]] for r in batch]) if len(batch) else by_row[:0]
        row_in_batch = np.repeat(np.arange(len(batch)), (ends[1:] - ends[:-1])[batch])
        if len(inside):
            yield _SequenceBatch(
                user[batch], start[batch], stop[batch], baskets.select(inside), row_in_batch, column[inside]
            )
