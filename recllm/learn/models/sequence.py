"""What a user turns to next, read from the sequence of what they bought: a causal transformer over item vectors.

Here it is at rest, in numpy: item vectors ready, users encoded on request, saved as safetensors. Training happens in
`recllm.learn.models.sequence_network`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Array, Floats, Ints, Ints32, Mask
from recllm.base.documents import Count, CountOrZero, Flag, FrozenModel, Share
from recllm.base.errors import ModelError
from recllm.base.schema import ACTION_CODE, BROWSING, Action
from recllm.base.settings import Dropout, LearningRate, Seed
from recllm.learn.models.scorer import gelu, open_part, write_part
from recllm.shop.data.dataset import DAY, Events, rows_of_ids
from recllm.shop.data.interactions import Pairs, merged_lines, of_actions, unit
from recllm.text.encoder.hardware import map_blocks

PART = "interests"
"""Name of its two files."""

GAPS = 12
"""Buckets of the days between two tokens: 0, under a day, 1, 2 to 3, 4 to 7, ... by powers of two."""

USERS_AT_ONCE = 256
"""Users whose sequences are encoded together, padded to the longest of them."""


class PaddedSequences(NamedTuple):
    """item (b, length), -1 is padding; action, gap the same shape. basics (b, dim) or None."""

    item: Ints
    action: Ints
    gap: Ints
    basics: Floats | None


class SequenceArguments(FrozenModel):
    """How the sequence of what users bought is learned. Cost is linear in events x epochs."""

    dim: Count = 128
    """Width of the model; a multiple of `attention_heads`."""
    epochs: Count = 30
    """Passes over the first stretch of the log at most."""
    layers: Count = 1
    """Blocks of the transformer."""
    attention_heads: Count = 2
    """Heads of each block."""
    max_length: Count = 50
    """Events of a user that are read, the latest ones; longer sequences are learned from in stretches."""
    dropout: Dropout = 0.3
    text: Flag = True
    """False learns from ids alone (the classic SASRec): such a model says nothing about items that never sold."""
    residual_dropout: Share = 0.5
    """Share of steps in which an item stands on its text alone; the residual counts 1 minus this when serving."""
    negatives: CountOrZero = 1024
    """Sampled per step, shared by the batch, besides the other users' next items."""
    min_examples: Count = 200
    """With fewer events to predict there is no sequence model."""
    later_epochs: CountOrZero = 3
    """Passes over each later stretch of the log, mixed with as many older events, once the first is learned."""
    patience: CountOrZero = 2
    """Evaluations in a row without a better one before learning stops."""
    batch_size: Count = 256
    """Sequences of a step."""
    learning_rate: LearningRate = 1e-3
    seed: Seed = 0

    def check(self) -> None:
        if self.dim % self.attention_heads:
            raise ValueError(f"dim is {self.dim}; give a multiple of attention_heads ({self.attention_heads})")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Tokens of n people in time order; those of person u are item[indptr[u]:indptr[u + 1]].

    item int32, action int16, at int64 (epoch seconds), is_target bool: an action that is predicted, not only read.
    gap int64: bucket of the days between each token and the person's next one, or the time of asking for the last.
    """

    indptr: Ints
    item: Ints32
    action: NDArray[np.int16]
    at: Ints
    is_target: Mask
    gap: Ints

    @classmethod
    def of(cls, events: Events, target: Iterable[Action], as_of: int) -> Sequences:
        """The target and browsing events; lines of one item at one time count once."""
        target = tuple(target)
        read = merged_lines(of_actions(events, {*target, *BROWSING}))
        is_target = np.isin(read.action, [ACTION_CODE[a] for a in target])
        following = np.append(read.at[1:], as_of)
        following[read.indptr[1:][np.diff(read.indptr) > 0] - 1] = as_of  # each person's last
        gap = gap_bucket(following[: len(read)] - read.at)
        return cls(read.indptr, read.item, read.action.astype(np.int16), read.at, is_target, gap)

    @property
    def n(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def user(self) -> Ints:
        return np.repeat(np.arange(self.n), np.diff(self.indptr))

    def padded(self, start: Ints, stop: Ints, basics: Floats | None) -> PaddedSequences:
        """Tokens [start, stop) of each row, left-aligned."""
        length = stop - start
        width = max(int(length.max(initial=0)), 1)
        inside = np.arange(width) < length[:, None]
        safe = np.where(inside, start[:, None] + np.arange(width), 0)
        if not len(self.item):
            blank = np.full(safe.shape, -1)
            return PaddedSequences(blank, np.zeros_like(blank), np.zeros_like(blank), basics)
        item = np.where(inside, self.item[safe], -1).astype(np.int64)
        action = np.where(inside, self.action[safe], 0).astype(np.int64)
        return PaddedSequences(item, action, np.where(inside, self.gap[safe], 0), basics)


def gap_bucket(seconds: Ints) -> Ints:
    """0 for the same moment, then 1 + log2 of the days, at most GAPS - 1."""
    days = np.maximum(seconds, 0) / DAY
    bucket = np.where(days > 0, 2 + np.floor(np.log2(np.maximum(days, 0.5))), 0)
    return np.clip(bucket, 0, GAPS - 1).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Shapes of the network; enough to build it again from its weights."""

    n_items: int
    text_dim: int
    dim: int
    layers: int
    attention_heads: int
    max_length: int
    dropout: float
    residual_dropout: float
    text: bool
    temperature: float


@dataclass(frozen=True, eq=False)
class SequenceWeights:
    """What is stored: the network's weights and the ids that its item rows stand for."""

    config: SequenceConfig
    weights: Mapping[str, Array]
    """By the names of `SequenceNetwork`'s state."""
    target: tuple[Action, ...]
    item_ids: tuple[str, ...]

    def bind(self, item_ids: Sequence[str], item_vectors: Floats) -> SequenceModel:
        """The model for the catalogue of today: an item that it has not seen stands on its text alone."""
        rows = rows_of_ids(pl.Series(self.item_ids, dtype=pl.String), item_ids)
        weights = dict(self.weights)
        for name in ("residual.weight", "bias.weight", "known"):
            moved = weights[name][np.maximum(rows, 0)]
            moved[rows < 0] = 0
            weights[name] = moved
        return SequenceModel.of(replace(self.config, n_items=len(rows)), weights, item_vectors, self.target)


@dataclass(frozen=True, eq=False)
class SequenceModel:
    config: SequenceConfig
    weights: Mapping[str, Array]
    target: tuple[Action, ...]
    read: Floats
    """Items as the transformer reads them, (n_items, dim)."""
    vectors: Floats
    """The same as unit rows."""
    bias: Floats
    """Of each item, (n_items,)."""
    scale: float
    """1 / temperature."""

    @classmethod
    def of(
        cls,
        config: SequenceConfig,
        weights: Mapping[str, Array],
        item_vectors: Floats,
        target: tuple[Action, ...],
    ) -> SequenceModel:
        """weights: by the names of the network's state. item_vectors: the encoder's, (n_items, text_dim).

        Raises `ModelError` when the items are not those that the network was trained with.
        """
        if item_vectors.shape != (config.n_items, config.text_dim):
            raise ModelError(
                f"the interest model knows {config.n_items} items with vectors of {config.text_dim}, and was given "
                f"{item_vectors.shape[0]} with {item_vectors.shape[1]}; train again"
            )
        # an item's residual was left out in a share of the steps: what counts here is its expectation
        share = np.float32(1 - config.residual_dropout)
        seen_in_training = weights["known"].astype(np.float32)[:, None] * share
        read, bias = seen_in_training * weights["residual.weight"], seen_in_training * weights["bias.weight"]
        if config.text:
            read = read + _linear(item_vectors, weights, "text")
            bias = bias + _linear(item_vectors, weights, "text_bias")
        read = np.asarray(read, np.float32)
        scale = float(np.exp(weights["log_scale"]))
        return cls(config, weights, target, read, unit(read), np.asarray(bias[:, 0], np.float32), scale)

    def stored(self, item_ids: Sequence[str]) -> SequenceWeights:
        """What to store; `item_ids` of the catalogue that it was trained on, in row order."""
        return SequenceWeights(self.config, self.weights, self.target, tuple(item_ids))

    def with_new_items(self, item_vectors: Floats) -> SequenceModel:
        """The model of a catalogue with further items behind its own, which stand on their texts alone.

        item_vectors: the encoder's, of the further items, (n_new, text_dim).
        """
        further = self.stored(()).bind([""] * len(item_vectors), item_vectors)
        return replace(
            self,
            read=np.concatenate([self.read, further.read]),
            vectors=np.concatenate([self.vectors, further.vectors]),
            bias=np.concatenate([self.bias, further.bias]),
        )

    def users(self, histories: Events, as_of: int, basics: Floats | None = None) -> Floats:
        """Unit vectors (n, dim) of users asked at `as_of` (epoch seconds), from their latest events."""
        sequences, config = Sequences.of(histories, self.target, as_of), self.config
        stop = sequences.indptr[1:]
        start = np.maximum(sequences.indptr[:-1], stop - config.max_length)
        users = np.zeros((sequences.n, config.dim), np.float32)
        by_length = np.argsort(stop - start, kind="stable")  # rows of one block are padded to its longest

        def encode(span: slice) -> None:
            block = by_length[span]
            block_basics = None if basics is None else np.asarray(basics[block], np.float32)
            batch = sequences.padded(start[block], stop[block], block_basics)
            users[block] = self._encode(batch, stop[block] - start[block])

        map_blocks(encode, len(by_length), USERS_AT_ONCE)
        return users

    def _encode(self, batch: PaddedSequences, last: Ints) -> Floats:
        """`SequenceNetwork.users` of its `states` after the token `last` (n,), 0 being the one before the first."""
        config, w = self.config, self.weights
        n, length = batch.item.shape
        basics = np.zeros((n, config.text_dim), np.float32) if batch.basics is None else batch.basics
        x = np.empty((n, 1 + length, config.dim), np.float32)
        x[:, 0] = _linear(basics, w, "basics")
        # most items occur more than once in a block
        items, item = np.unique(np.maximum(batch.item, 0), return_inverse=True)
        np.take(_layer_norm(self.read[items], w, "item_norm"), item.reshape(n, length), axis=0, out=x[:, 1:])
        context = w["action.weight"][:, None] + w["gap.weight"]
        x[:, 1:] += context[batch.action, batch.gap]
        x[:, 1:] += w["place.weight"][:length]
        # no token sees a later one, nor padding: with padding at the end, the first rule does for both up to `last`
        every = np.broadcast_to(np.arange(1 + length), (n, 1 + length))
        for layer in range(config.layers - 1):
            x = self._block(x, every, layer)
        # the last block's output at other tokens is not read
        return unit(_layer_norm(self._block(x, last[:, None], config.layers - 1)[:, 0], w, "norm"))

    def _block(self, x: Floats, column: Ints, layer: int) -> Floats:
        """A block of the transformer at these columns of each row (n, m), (n, m, dim), from all tokens x."""
        w, name, dim = self.weights, f"transformer.layers.{layer}", self.config.dim
        (n, width, _), m = x.shape, column.shape[1]
        heads, size = self.config.attention_heads, dim // self.config.attention_heads
        weight, bias = w[f"{name}.self_attn.in_proj_weight"], w[f"{name}.self_attn.in_proj_bias"]
        before, row = _layer_norm(x, w, f"{name}.norm1"), np.arange(n)[:, None]
        query = before[row, column] @ weight[:dim].T + bias[:dim]
        key, value = np.split(before @ weight[dim:].T + bias[dim:], 2, axis=-1)
        query = query.reshape(n, m, heads, size).transpose(0, 2, 1, 3)
        key, value = (side.reshape(n, width, heads, size).transpose(0, 2, 1, 3) for side in (key, value))
        attention = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(size))
        attention = np.where(np.arange(width) > column[:, None, :, None], np.float32(-np.inf), attention)
        attention = np.exp(attention - attention.max(axis=-1, keepdims=True))
        attention /= attention.sum(axis=-1, keepdims=True)
        mixed = (attention @ value).transpose(0, 2, 1, 3).reshape(n, m, dim)
        state = x[row, column] + _linear(mixed, w, f"{name}.self_attn.out_proj")
        inner = gelu(_linear(_layer_norm(state, w, f"{name}.norm2"), w, f"{name}.linear1"))
        return state + _linear(inner, w, f"{name}.linear2")

    def score(self, users: Floats, pairs: Pairs) -> Floats:
        """Logits (n_pairs,) of users' vectors (n, dim) with the items of `pairs`."""
        logits = np.zeros(len(pairs.item), np.float32)
        for number, user in enumerate(users):
            span = slice(pairs.indptr[number], pairs.indptr[number + 1])
            items = pairs.item[span]
            logits[span] = (user[None] @ self.vectors[items].T * self.scale)[0] + self.bias[items]
        return logits

    def catalogue(self, users: Floats, block: int = 16) -> Iterator[Floats]:
        """Logits of each user with every item, (n_items,), computed for a few users at a time."""
        for start in range(0, len(users), block):
            yield from (users[start : start + block] @ self.vectors.T) * self.scale + self.bias


def _linear(x: Floats, weights: Mapping[str, Array], name: str) -> Floats:
    return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], np.float32)


def _layer_norm(x: Floats, weights: Mapping[str, Array], name: str) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def save_sequence_model(stored: SequenceWeights, folder: Path) -> None:
    """Write `interests.safetensors` and `interests.json` into an existing folder."""
    record = {
        "target": [action.value for action in stored.target],
        "item_ids": list(stored.item_ids),
        "config": asdict(stored.config),
    }
    write_part(folder, PART, stored.weights, record)


def load_sequence_model(folder: Path) -> SequenceWeights | None:
    """What `save_sequence_model` wrote; None where the model has no such part.

    Raises `ModelError` when the files do not fit each other.
    """
    if not (folder / f"{PART}.json").exists():
        return None
    with open_part(folder, PART, "an interest model") as (record, weights):
        target, ids = tuple(Action(a) for a in record["target"]), tuple(record["item_ids"])
        if record["config"].pop("interests", 1) != 1:  # older models could have several vectors of a user
            raise ValueError("it has several vectors of a user")
        config = SequenceConfig(**record["config"])
        shapes = {"residual.weight": (len(ids), config.dim), "bias.weight": (len(ids), 1), "known": (len(ids),)}
        shapes |= {"text.weight": (config.dim, config.text_dim), "place.weight": (config.max_length, config.dim)}
        for name, shape in shapes.items():
            if weights[name].shape != shape:
                raise ValueError(f"{name} has the shape {weights[name].shape}, not {shape}")
    return SequenceWeights(config, weights, target, ids)
