"""A learned interest model at rest: item vectors ready, people encoded on request, saved as safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from recllm.data.dataset import Events
from recllm.data.interactions import Floats, Ints, unit
from recllm.errors import ModelError
from recllm.models.sequence.network import InterestConfig, InterestNetwork
from recllm.models.sequence.sequences import Sequences, Tensors, padded_rows
from recllm.schema import Action

WEIGHTS, CONFIG = "interests.safetensors", "interests.json"


class Pairs(Protocol):
    """Compressed rows of item rows, one run per person."""

    @property
    def indptr(self) -> Ints: ...
    @property
    def item(self) -> NDArray[np.int32]: ...


@dataclass(frozen=True, eq=False)
class Interests:
    """read (n_items, dim): items as the transformer reads them. vectors: the same, unit rows. bias (n_items,)."""

    network: InterestNetwork
    target: tuple[Action, ...]
    read: torch.Tensor
    vectors: Floats
    bias: Floats
    scale: float
    """1 / temperature."""

    @classmethod
    def of(cls, network: InterestNetwork, item_vectors: Floats, target: tuple[Action, ...]) -> Interests:
        """`item_vectors`: the encoder's, (n_items, text_dim). The network is taken as it is, not copied.

        Raises `ModelError` when the items are not those that it was trained with.
        """
        config = network.config
        if item_vectors.shape != (config.n_items, config.text_dim):
            raise ModelError(
                f"the interest model knows {config.n_items} items with vectors of {config.text_dim}, and was given "
                f"{item_vectors.shape[0]} with {item_vectors.shape[1]}; train again"
            )
        with torch.no_grad():
            read, bias = network.eval().items(torch.from_numpy(item_vectors), torch.arange(config.n_items))
        return cls(network, target, read, unit(read.numpy()), bias.numpy(), float(network.log_scale.detach().exp()))

    def weights(self, item_ids: Sequence[str]) -> InterestWeights:
        """What to store; `item_ids` of the catalogue that it was trained on, in row order."""
        return InterestWeights(self.network, self.target, tuple(item_ids))

    def users(self, histories: Events, as_of: int, basics: Floats | None = None) -> Floats:
        """Unit vectors (n, interests, dim) of people asked at `as_of` (epoch seconds), from their latest events."""
        sequences = Sequences.of(histories, self.target)
        gap, config = sequences.gap(as_of), self.network.config
        stop = sequences.indptr[1:]
        start = np.maximum(sequences.indptr[:-1], stop - config.max_length)
        out = np.zeros((sequences.n, config.interests, config.dim), np.float32)
        by_length = np.argsort(stop - start, kind="stable")  # rows of one block are padded to its longest
        for block in np.split(by_length, range(256, len(by_length), 256)):
            told = None if basics is None else np.asarray(basics[block], np.float32)
            batch = padded_rows(sequences, gap, start[block], stop[block], told)
            out[block] = self._encode(batch.tensors(), torch.from_numpy(stop[block] - start[block]))
        return out

    def _encode(self, batch: Tensors, last: torch.Tensor) -> Floats:
        with torch.no_grad():
            states = self.network.states(self.read, *batch)
            return np.asarray(self.network.users(states[torch.arange(len(last)), last]).numpy())

    def score(self, users: Floats, pairs: Pairs) -> Floats:
        """Logits (n_pairs,) of people's vectors (n, interests, dim) with the items of `pairs`."""
        out = np.zeros(len(pairs.item), np.float32)
        for user, interests in enumerate(users):
            part = slice(pairs.indptr[user], pairs.indptr[user + 1])
            items = pairs.item[part]
            out[part] = _soft_maximum(interests @ self.vectors[items].T * self.scale, 0) + self.bias[items]
        return out

    def catalogue(self, users: Floats, block: int = 16) -> Iterator[Floats]:
        """Logits of each person with every item, (n_items,), computed for a few people at a time."""
        for start in range(0, len(users), block):
            part = users[start : start + block]
            near = (part.reshape(-1, part.shape[2]) @ self.vectors.T) * self.scale
            yield from _soft_maximum(near.reshape(*part.shape[:2], -1), 1) + self.bias


def _soft_maximum(near: Floats, axis: int) -> Floats:
    """Log of the summed exponentials."""
    if near.shape[axis] == 1:
        return np.squeeze(near, axis)
    top = near.max(axis=axis, keepdims=True)
    return np.asarray(np.log(np.exp(near - top).sum(axis=axis)) + np.squeeze(top, axis))


@dataclass(frozen=True, eq=False)
class InterestWeights:
    """What is stored: the network and the ids that its item rows stand for."""

    network: InterestNetwork
    target: tuple[Action, ...]
    item_ids: tuple[str, ...]

    def bind(self, item_ids: Sequence[str], item_vectors: Floats) -> Interests:
        """The model for the catalogue of today: an item that it has not seen stands on its text alone."""
        ids = tuple(item_ids)
        network = self.network if ids == self.item_ids else _moved(self.network, self.item_ids, ids)
        return Interests.of(network, item_vectors, self.target)


def _moved(network: InterestNetwork, old: tuple[str, ...], new: tuple[str, ...]) -> InterestNetwork:
    """The same weights with the items' own ones in the rows of another catalogue."""
    place = {item: row for row, item in enumerate(old)}
    rows = torch.tensor([place.get(item, -1) for item in new], dtype=torch.int64)
    kept = rows >= 0
    out = InterestNetwork(replace(network.config, n_items=len(new)), seed=0)
    state = network.state_dict()
    for name in ("residual.weight", "bias.weight", "known"):
        moved = state[name][rows.clamp(min=0)]
        moved[~kept] = 0
        state[name] = moved
    out.load_state_dict(state)
    return out


def save_interests(weights: InterestWeights, folder: Path) -> None:
    """Write `interests.safetensors` and `interests.json` into an existing folder."""
    from safetensors.torch import save_file

    save_file({n: v.contiguous() for n, v in weights.network.state_dict().items()}, folder / WEIGHTS)
    told = {
        "target": [a.value for a in weights.target],
        "item_ids": list(weights.item_ids),
        "config": asdict(weights.network.config),
    }
    (folder / CONFIG).write_text(json.dumps(told, ensure_ascii=False) + "\n", encoding="utf-8")


def load_interests(folder: Path) -> InterestWeights | None:
    """What `save_interests` wrote; None where the model has no such part.

    Raises `ModelError` when the files do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / CONFIG).exists():
        return None
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        target, ids = tuple(Action(a) for a in told["target"]), tuple(told["item_ids"])
        network = InterestNetwork(InterestConfig(**told["config"]), seed=0)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: not an interest model of this version ({error}); train again") from error
    return InterestWeights(network.eval(), target, ids)
