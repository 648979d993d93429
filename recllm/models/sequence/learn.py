"""Learn the interest model by reading the log forward in time.

The first stretch of the log is learned with a later one as judge; then each following stretch is learned on top. A
snapshot is taken at each cut before anything after it is seen, so that past windows can be scored by a model that does
not know their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recllm.data.dataset import Dataset
from recllm.data.interactions import Floats, Ints
from recllm.models.sequence.network import InterestNetwork
from recllm.models.sequence.sequences import Batch, Places, Sequences, padded_rows
from recllm.models.sequence.serve import InterestConfig, Interests
from recllm.schema import Action
from recllm.settings import SequenceModelSettings

LEAST_PLACES = 200
"""Fewer places to learn from than this say nothing about anybody."""


def learn_interests(
    dataset: Dataset,
    item_vectors: Floats,
    basics: Floats | None,
    target: tuple[Action, ...],
    cuts: Sequence[int],
    judge_from: int,
    args: SequenceModelSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Interests] | None:
    """One model per cut (epoch seconds, ascending), each trained on events before its cut alone.

    item_vectors: unit rows (n_items, dim). basics: Emb(I), (n_users, dim), or None. judge_from: the stretch from here
    to the first cut says when to stop learning what came before it, and is learned afterwards. None when there are
    too few events before the first cut to learn from.
    """
    args, tell = args or SequenceModelSettings(), progress or (lambda _: None)
    learner = _Learner.of(dataset, item_vectors, basics, target, args)
    places = learner.places
    early, judged = places.select(places.at < judge_from), _between(places, judge_from, cuts[0])
    if len(early.user) < LEAST_PLACES:
        return None
    learner.first(early, judged, tell)
    snapshots, done = [], judge_from
    for cut in cuts:
        learner.later(_between(places, done, cut), places.select(places.at < done))
        snapshots.append(Interests.of(learner.network, learner.item_vectors, target))
        done = cut
    return snapshots


def _between(places: Places, start: int, stop: int) -> Places:
    return places.select((places.at >= start) & (places.at < stop))


@dataclass(frozen=True, eq=False)
class _Learner:
    """The network in training with what it is trained on."""

    sequences: Sequences
    gap: Ints
    places: Places
    item_vectors: Floats
    basics: Floats | None
    args: SequenceModelSettings
    network: InterestNetwork
    optimiser: torch.optim.Optimizer
    rng: np.random.Generator

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        item_vectors: Floats,
        basics: Floats | None,
        target: tuple[Action, ...],
        args: SequenceModelSettings,
    ) -> _Learner:
        sequences = Sequences.of(dataset.events, target)
        network = InterestNetwork(_config(item_vectors, args), args.seed)
        return cls(
            sequences,
            sequences.gap(dataset.as_of),
            Places.of(sequences),
            np.asarray(item_vectors, np.float32),
            basics,
            args,
            network,
            _optimiser(network, args),
            np.random.default_rng(args.seed),
        )

    def first(self, early: Places, judged: Places, tell: Callable[[str], None]) -> None:
        """Learn until the judges see no more gain; the network is left in the best state."""
        judged = _one_each(judged, self.args.validation_users, self.rng)
        best, kept, worse = -1.0, deepcopy(self.network.state_dict()), 0
        for epoch in range(1, self.args.epochs + 1):
            loss = self.epoch(early)
            if not np.isfinite(loss):
                break
            if epoch % self.args.epochs_per_evaluation and epoch < self.args.epochs:
                continue
            verdict = self.verdict(judged)
            tell(f"interests, epoch {epoch}: loss {loss:.4g}, ndcg@10 of what comes next {verdict:.4g}")
            worse = 0 if verdict > best else worse + 1
            if verdict > best:
                best, kept = verdict, deepcopy(self.network.state_dict())
            if worse >= self.args.patience:
                break
        self.network.load_state_dict(kept)

    def later(self, fresh: Places, past: Places) -> None:
        """Learn a following stretch, mixed with as many places of the past."""
        for _ in range(self.args.later_epochs if len(fresh.user) else 0):
            kept = deepcopy(self.network.state_dict())
            again = self.rng.permutation(len(past.user))[: len(fresh.user)]
            if not np.isfinite(self.epoch(_joined(fresh, past.select(again)))):
                self.network.load_state_dict(kept)
                return

    def epoch(self, places: Places) -> float:
        """One pass; the mean loss, nan as soon as it is not finite."""
        self.network.train().known[torch.from_numpy(np.unique(self._items_before(places)))] = True
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.rng.integers(2**31)))
            for stretch in _stretches(self.sequences, places, self.args, self.rng):
                loss = self._loss(stretch)
                if not torch.isfinite(loss):
                    return float("nan")
                self.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimiser.step()
                losses.append(loss.item())
        return float(np.mean(losses)) if losses else 0.0

    def _items_before(self, places: Places) -> Ints:
        """Items that occur up to the last of these places, so that no later arrival serves as a negative."""
        seen = self.sequences.at <= int(places.at.max(initial=0))
        return self.sequences.item[seen].astype(np.int64)

    def _loss(self, stretch: _Stretch) -> Tensor:
        """Sampled softmax over the batch's next items and uniform negatives."""
        wanted = self.sequences.item[stretch.places.draw(self.rng)].astype(np.int64)
        known = np.flatnonzero(self.network.known.numpy())
        drawn = self.rng.choice(known, min(self.args.negatives, len(known)), replace=False)
        offered, answer = np.unique(np.concatenate([wanted, drawn]), return_inverse=True)
        batch = padded_rows(self.sequences, self.gap, stretch.start, stretch.stop, self._told(stretch.user))
        rows, place = np.unique(np.concatenate([offered, batch.item[batch.item >= 0]]), return_inverse=True)
        local = np.full(batch.item.shape, -1)
        local[batch.item >= 0] = place[len(offered) :]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bfloat16 and _has_bfloat16()):
            vectors, bias = self.network.items(torch.from_numpy(self.item_vectors[rows]), torch.from_numpy(rows))
            item, action, gap, basics = Batch(local, batch.action, batch.gap, batch.basics).tensors()
            states = self.network.states(vectors, item, action, gap, basics)
            users = self.network.users(states[torch.from_numpy(stretch.row), torch.from_numpy(stretch.column)])
            chosen = torch.from_numpy(place[: len(offered)])
            logits = self.network.logits(users, vectors[chosen], bias[chosen])
        return functional.cross_entropy(logits.float(), torch.from_numpy(answer[: len(wanted)]))

    def _told(self, users: Ints) -> Floats | None:
        return None if self.basics is None else np.asarray(self.basics[users], np.float32)

    def verdict(self, judged: Places) -> float:
        """NDCG@10 of one new item each, over the catalogue without what the person took before."""
        if not len(judged.user):
            return 0.0
        self.network.eval()
        rng = np.random.default_rng(0)
        texts, everything = torch.from_numpy(self.item_vectors), torch.arange(len(self.item_vectors))
        gains = []
        with torch.no_grad():
            vectors, bias = self.network.items(texts, everything)
            for stretch in _stretches(self.sequences, judged, self.args, None):
                wanted = self.sequences.item[stretch.places.draw(rng)].astype(np.int64)
                batch = padded_rows(self.sequences, self.gap, stretch.start, stretch.stop, self._told(stretch.user))
                states = self.network.states(vectors, *batch.tensors())
                users = self.network.users(states[torch.from_numpy(stretch.row), torch.from_numpy(stretch.column)])
                gains.append(self._gains(self.network.logits(users, vectors, bias).numpy(), wanted, stretch.places))
        return float(np.mean(np.concatenate(gains)))

    def _gains(self, logits: Floats, wanted: Ints, places: Places) -> Floats:
        scores = np.take_along_axis(logits, wanted[:, None], 1)
        for row, (user, token) in enumerate(zip(places.user, places.token, strict=True)):
            logits[row, self.sequences.item[self.sequences.indptr[user] : max(token + 1, 0)]] = -np.inf
        rank = (logits > scores).sum(axis=1)
        return np.where(rank < 10, 1 / np.log2(rank + 2), 0).astype(np.float32)


def _config(item_vectors: Floats, args: SequenceModelSettings) -> InterestConfig:
    return InterestConfig(
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


def _optimiser(network: InterestNetwork, args: SequenceModelSettings) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.ndim == 2]
    others = [p for p in network.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=args.learning_rate)


def _has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _one_each(places: Places, people: int, rng: np.random.Generator) -> Places:
    """The first place of each person, of at most `people` people."""
    first = np.unique(places.user, return_index=True)[1]
    return places.select(np.sort(rng.permutation(first)[:people]))


def _joined(one: Places, other: Places) -> Places:
    def both(column: str) -> Ints:
        return np.concatenate([getattr(one, column), getattr(other, column)])

    return Places(both("user"), both("token"), both("at"), both("low"), both("high"), one.fresh)


@dataclass(frozen=True, eq=False)
class _Stretch:
    """A batch: tokens [start, stop) of each row, and the places in them; `column` 0 is before the first token."""

    user: Ints
    start: Ints
    stop: Ints
    places: Places
    row: Ints
    column: Ints


def _stretches(
    sequences: Sequences, places: Places, args: SequenceModelSettings, rng: np.random.Generator | None
) -> Iterator[_Stretch]:
    """Batches of stretches of about equal length that cover all places.

    With `rng` long sequences are cut at random points and batches come in random order; without it each place must be
    the only one of its person and is read with the latest `max_length` tokens before it.
    """
    begin = sequences.indptr[places.user]
    token = np.where(places.token < 0, begin - 1, places.token)
    if rng is None:
        start = np.maximum(begin, token + 1 - args.max_length)
    else:
        shift = rng.integers(args.max_length, size=sequences.n)[places.user]
        start = np.maximum(
            begin, begin + (np.maximum(token - begin, 0) + shift) // args.max_length * args.max_length - shift
        )
    keys, row = np.unique(np.stack([places.user, start]), axis=1, return_inverse=True)
    stop = np.full(keys.shape[1], -1)
    np.maximum.at(stop, row, token + 1)
    yield from _batches(keys[0], keys[1], stop, places, row, token - start + 1, args, rng)


def _batches(
    user: Ints,
    start: Ints,
    stop: Ints,
    places: Places,
    row: Ints,
    column: Ints,
    args: SequenceModelSettings,
    rng: np.random.Generator | None,
) -> Iterator[_Stretch]:
    order = np.arange(len(user)) if rng is None else rng.permutation(len(user))
    of_row = np.argsort(row, kind="stable")
    ends = np.searchsorted(row[of_row], np.arange(len(user) + 1))
    batches = []
    for part in np.split(order, range(20 * args.batch_size, len(order), 20 * args.batch_size)):
        part = part[np.argsort((stop - start)[part], kind="stable")]
        batches += np.split(part, range(args.batch_size, len(part), args.batch_size))
    for batch in batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]:
        inside = np.concatenate([of_row[ends[r] : ends[r + 1]] for r in batch]) if len(batch) else of_row[:0]
        local = np.repeat(np.arange(len(batch)), (ends[1:] - ends[:-1])[batch])
        if len(inside):
            yield _Stretch(user[batch], start[batch], stop[batch], places.select(inside), local, column[inside])
