"""f(User, Item) = a * cosine + MLP: the learned score, its file, and how it is computed without torch.

The MLP reads small learned projections of both vectors, their product, and the standardised pair features. Vectors are
projected once per user and once per item; only the small remainder is computed per pair.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from recllm.base.arrays import Array, Floats, Mask, Rows
from recllm.base.documents import json_value
from recllm.base.errors import ModelError
from recllm.base.stats.probabilities import sigmoid
from recllm.learn.models.trees import BoostedTrees, score_by_splits
from recllm.shop.data.interactions import distinct

PART = "scorer"
"""Name of its two files."""

TREES = (200, 8)
"""Number of trees that correct counting, and leaves of one."""

PARTS = ("cosine", "vectors", "features")
"""What the score is made of; a part can be left out to see what it is worth."""

STANDARDISED_LIMIT = 6.0
"""Standardised features are clipped to this many standard deviations: further out nothing was learned."""

CHUNK_PAIRS = 8_192
"""Pairs scored at once: so few fit the cache, which halves the time."""

HEADS_BLOCK = 256
"""Pairs that go through the heads at once, in the cache of a core."""

GELU_BLOCK = 16_384
"""Numbers that go through the steps of the GELU at once: in the cache it takes a fifth of the time."""

POPULAR_WEIGHT = 0.03
"""Of the best seller, and of a view, where a purchase of today counts 1 (`counting_score`)."""

KIND_PRIOR = 0.3
"""Purchases of a type that everybody is taken to have made, in `kind_score`."""

PURCHASES_DECAYED = 120 / math.log(2) / 56
"""Purchases decayed with a half-life of 120 days for each one in 56 days, of people who buy as ever."""

_ONE, _HALF = np.float32(1), np.float32(0.5)
_ERF = (4.30638e-05, 2.765672e-04, 1.520143e-04, 9.2705272e-03, 4.22820123e-02, 7.05230784e-02)
_GELU_POWERS = tuple(np.float32(c * 0.5 ** (power / 2)) for c, power in zip(_ERF, range(6, 0, -1), strict=True))
"""Of |x|, the sixth first; the error function is one of x / sqrt(2)."""


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """The shape of a scorer; enough to build it again from its weights."""

    dim: int
    """Length of the encoder's vectors."""
    features: tuple[str, ...]
    """Names of the pair features, in order."""
    sold_features: tuple[str, ...] = ()
    """What the heads of items that sold before read; all features when empty."""
    sales: str | None = None
    """Name of the feature that is 0 for an item that never sold. With it, such items have heads of their own, which
    read all features."""
    learned_arrivals: bool = True
    """False where there were no new items to learn from: the cosine alone then scores items that never sold."""
    newcomer_features: tuple[str, ...] = ()
    """What a linear score reads of a user without any history. Needs `history`."""
    history: str | None = None
    """Name of the feature that is 0 for a user without any history.
    Needs `newcomer_features`."""
    heads: int = 2
    """MLPs, each with its own projection and start.
    Their mean is the score, so less of it is chance."""
    projection: int = 32
    """Length of the projected vectors that a head reads."""
    hidden: tuple[int, ...] = (96, 96)
    """Widths of a head's hidden layers."""
    dropout: float = 0.0
    """Share of hidden units left out in training, [0, 1)."""
    parts: tuple[str, ...] = PARTS
    """Some of `PARTS`; with the cosine alone there is no MLP."""
    counts: bool = False
    """Whether counting is part of the score of items that sold."""
    trees: bool = False
    """Whether trees correct counting, as in a small shop; in older models counting is a share of the score."""
    seed: int = 0


class Score(NamedTuple):
    """Of each pair, float32 (n_pairs,) each: logit = a * cosine + mlp."""

    mlp: Floats
    logit: Floats


@dataclass(frozen=True, eq=False)
class Scorer:
    """`logit = a * cosine + MLP([P u, P v, P u * P v, features])`, the MLP a mean over heads.

    Items that sold before, items that never sold, and users without a history have parts of their own, learned apart,
    so that none disturbs another. For the last the logit is a linear function of few features.
    """

    config: ScorerConfig
    weights: Mapping[str, Array]
    """By the names of `ScorerNetwork`'s state."""

    def with_counting(self, trees: BoostedTrees, level: float, best_seller: float) -> Scorer:
        """The scorer whose logit of an item that sold is `counting_score` + level + the trees' score."""
        counting = {"counting": np.array([1, level, best_seller], np.float32)}
        config = replace(self.config, counts=True, trees=True)
        return Scorer(config, {**self.weights, **counting, **trees.splits(*TREES)})

    @property
    def width(self) -> int:
        """Length of what `project` makes of a vector."""
        return sum(len(self.weights[name]) for name in self.weights if name.endswith("projection.weight"))

    def project(self, vectors: Floats) -> Floats:
        """What the heads read of encoder vectors (n, dim): (n, width)."""
        names = [name for name in ("projection.weight", "arrival_projection.weight") if name in self.weights]
        return np.concatenate([vectors @ self.weights[name].T for name in names], axis=1)

    def score(self, users: Floats, items: Floats, user: Rows, item: Rows, cosine: Floats, features: Floats) -> Score:
        """Score pairs.

        users (n, width) and items (m, width) come from `project`; user and item (n_pairs,) index them. cosine
        (n_pairs,) lies in [-1, 1]; features (n_pairs, n_features) are as `pair_features` gives them.
        """
        config, w = self.config, self.weights
        columns = {name: column for column, name in enumerate(config.features)}
        never_sold = self._is_zero(features, config.sales)
        no_history = self._is_zero(features, config.history) & ~never_sold
        cosine_part = w["cosine_weight"] * cosine
        mlp = np.zeros(len(item), np.float32)
        rows = np.flatnonzero(~never_sold & ~no_history)
        if len(rows):
            sold = [columns[name] for name in config.sold_features or config.features]
            x = features[rows][:, sold]
            if not config.trees:
                standardised = _standardised(x, w["mean"][sold], w["scale"][sold])
                mlp[rows] = self._heads("mlps", 0, users, items, user[rows], item[rows], standardised)
            if config.counts:
                share, level, best_seller = w["counting"].tolist()
                counting = counting_score(features[rows], config.features, best_seller) + level
                mlp[rows] += share * (counting - mlp[rows] - cosine_part[rows])
            if config.trees:
                mlp[rows] += score_by_splits(w, x)
        rows = np.flatnonzero(never_sold)
        if len(rows) and config.sales and config.learned_arrivals:
            x = _standardised(features[rows], w["arrival_mean"], w["arrival_scale"])
            mlp[rows] = self._heads("arrival_mlps", config.heads, users, items, user[rows], item[rows], x)
        elif len(rows):
            # no head has seen such an item: its text and kind, at the level of what hardly sells
            fitting = cosine[rows] + kind_score(features[rows], config.features)
            mlp[rows] = w["newcomer"][-1] + fitting - cosine_part[rows]
        rows = np.flatnonzero(no_history)
        if len(rows):
            # the linear score is the whole logit, so what the cosine adds elsewhere is taken off here
            linear = features[rows][:, [columns[name] for name in config.newcomer_features]] @ w["newcomer"][:-1]
            mlp[rows] = linear + w["newcomer"][-1] - cosine_part[rows]
        return Score(mlp, np.asarray(cosine_part + mlp, np.float32))

    def probability(self, logit: Floats) -> Floats:
        """Calibrated probability in (0, 1) that the user buys the item within the training horizon."""
        slope, intercept = self.weights["platt"]
        return np.asarray(sigmoid(slope * logit + intercept), np.float32)

    def _is_zero(self, features: Floats, name: str | None) -> Mask:
        if name is None:
            return np.zeros(len(features), bool)
        return np.asarray(features[:, self.config.features.index(name)] <= 0)

    def _heads(
        self, kind: str, first_slice: int, users: Floats, items: Floats, user: Rows, item: Rows, x: Floats
    ) -> Floats:
        """Mean over the heads of one kind, (n_pairs,). first_slice: which part of the projections the first reads.

        A block of pairs goes through all layers of all heads at once, in memory that the next block uses again.
        """
        config, layers, n_pairs = self.config, self._layers[kind], len(x)
        heads, width = config.heads, config.projection
        chunk = slice(first_slice * width, (first_slice + heads) * width)
        u = users[:, chunk].reshape(len(users), heads, width)
        of_user, of_item, of_both, of_features = np.split(layers[0].weight, [width, 2 * width, 3 * width], axis=2)
        base = np.einsum("uhw,how->huo", u, of_user) + layers[0].bias
        is_single = len(users) == 1
        if is_single:  # W v + W' (u v) = (W + W' u) v
            first = np.concatenate([of_item + of_both * u[0][:, None], of_features], axis=2)
        else:
            first = np.concatenate([of_item, of_both, of_features], axis=2)
        weights = [first.swapaxes(1, 2), *(layer.weight.swapaxes(1, 2) for layer in layers[1:])]
        block = min(HEADS_BLOCK, n_pairs)
        widths = [first.shape[2], *(weight.shape[2] for weight in weights)]
        memory = [np.empty(heads * block * width_of_layer, np.float32) for width_of_layer in widths]
        scores = np.empty(n_pairs, np.float32)
        for start in range(0, n_pairs, block):
            rows = slice(start, min(start + block, n_pairs))
            n = rows.stop - start
            inputs, *values = (
                layer_memory[: heads * n * width_of_layer].reshape(heads, n, width_of_layer)
                for layer_memory, width_of_layer in zip(memory, widths, strict=True)
            )
            v = items[item[rows], chunk].reshape(n, heads, width)
            inputs[:, :, :width] = v.swapaxes(0, 1)
            if not is_single:
                np.multiply(v, u[user[rows]], out=inputs[:, :, width : 2 * width].swapaxes(0, 1))
            inputs[:, :, widths[0] - x.shape[1] :] = x[rows]
            hidden = np.matmul(inputs, weights[0], out=values[0])
            hidden += base if is_single else base[:, user[rows]]
            for layer, weight, values_above in zip(layers[1:], weights[1:], values[1:], strict=True):
                hidden = np.matmul(gelu(hidden, out=hidden), weight, out=values_above)
                hidden += layer.bias
            hidden.mean(axis=(0, 2), out=scores[rows])
        return scores

    @cached_property
    def _layers(self) -> dict[str, list[_Layer]]:
        """Kind of head -> its layers."""
        config, kinds = self.config, {}
        for kind in {name.split(".")[0] for name in self.weights if "mlps." in name}:
            layers = []
            for number in range(len(config.hidden) + 1):  # each hidden layer is Linear, GELU, Dropout
                names = [f"{kind}.{head}.{3 * number}" for head in range(config.heads)]
                weight = np.stack([np.asarray(self.weights[f"{name}.weight"], np.float32) for name in names])
                bias = np.stack([np.asarray(self.weights[f"{name}.bias"], np.float32) for name in names])
                layers.append(_Layer(weight, bias[:, None]))
            kinds[kind] = layers
        return kinds


PROJECTED_TOGETHER = 64


class ItemProjections:
    """`Scorer.project` of a catalogue's items, each computed when it is first scored, and kept.

    It grows by 4 bytes times the width for each item that was ever a candidate. Threads may share it.
    """

    def __init__(self, scorer: Scorer, vectors: Floats) -> None:
        self.scorer = scorer
        self.vectors = vectors
        """Of the encoder, (n_items, dim)."""
        # in the order of their coming: a table of all items takes all of its memory as soon as a few, which lie all
        # over it, are written
        self._projected = np.empty((0, scorer.width), np.float32)
        self._n_projected = 0
        self._row = np.full(len(vectors), -1, np.int32)
        self._lock = Lock()

    def fit(self, scorer: Scorer, vectors: Floats) -> bool:
        """Whether they are of this very scorer and of these very vectors."""
        return self.scorer is scorer and self.vectors is vectors

    def of(self, item: Rows) -> tuple[Floats, Rows]:
        """Projections, (at least as many as there are distinct items, width), and the row of each item in them."""
        with self._lock:
            missing = distinct(item[self._row[item] < 0])
            n_projected = self._n_projected + len(missing)
            if n_projected > len(self._projected):
                larger = np.empty((max(n_projected, 2 * len(self._projected)), self.scorer.width), np.float32)
                larger[: self._n_projected] = self._projected[: self._n_projected]
                self._projected = larger
            # always the same number of rows: the last digits of a product depend on its shape, and an item's projection
            # must not depend on which items were asked for with it
            for start in range(0, len(missing), PROJECTED_TOGETHER):
                items = missing[start : start + PROJECTED_TOGETHER]
                block = np.zeros((PROJECTED_TOGETHER, self.vectors.shape[1]), np.float32)
                block[: len(items)] = self.vectors[items]
                rows = slice(self._n_projected + start, self._n_projected + start + len(items))
                self._projected[rows] = self.scorer.project(block)[: len(items)]
            self._row[missing] = np.arange(self._n_projected, n_projected)
            self._n_projected = n_projected
            return self._projected, self._row[item]


class _Layer(NamedTuple):
    """One layer of all heads of a kind."""

    weight: Floats
    """(heads, n_outputs, n_inputs)."""
    bias: Floats
    """(heads, 1, n_outputs)."""


def _standardised(x: Floats, mean: Floats, scale: Floats) -> Floats:
    return np.asarray(np.clip((x - mean) * scale, -STANDARDISED_LIMIT, STANDARDISED_LIMIT), np.float32)


def counting_score(features: Floats, names: Sequence[str], best_seller: float) -> Floats:
    """What a list by counting alone orders by, float32 (n_pairs,): log of what the person bought, decayed with a
    half-life of 120 days, plus a little of what the person viewed and what sells; of items that the person never
    bought the text that is nearest to theirs counts too. features: (n_pairs, n_features), their names.

    best_seller: the largest `sales` of an item, which a purchase is compared with.
    """
    columns = {name: features[:, number] for number, name in enumerate(names)}
    sold = sales(np.expm1(columns["buyers_28"]), np.expm1(columns["buyers_91"])) / max(best_seller, 1)
    counts = np.expm1(columns["count_120"]) + POPULAR_WEIGHT * (np.expm1(columns["views"]) + sold)
    return np.asarray(np.log(counts) + columns["text_nearest"] * (columns["times"] == 0), np.float32)


def kind_score(features: Floats, names: Sequence[str]) -> Floats:
    """Of items that never sold, (n_pairs,): log of what the person bought of the item's type over what people buy of
    it, both with `KIND_PRIOR` purchases more; 0 of a type that never sold."""
    if not {"type_times", "type_buyers"} <= set(names):
        return np.zeros(len(features), np.float32)
    purchases, people = (np.expm1(features[:, names.index(name)]) for name in ("type_times", "type_buyers"))
    people = people / 100 * PURCHASES_DECAYED
    score = np.log((purchases + KIND_PRIOR) / (people + KIND_PRIOR))
    return np.where(people > 0, score, 0).astype(np.float32)


def sales(buyers_28: Any, buyers_91: Any) -> Any:
    """How an item sells now: its buyers of four weeks and of 13 weeks, and 3 more, as one buyer says little."""
    return buyers_28 + 0.1 * buyers_91 + 3


def gelu(x: Floats, out: Floats | None = None) -> Floats:
    """x * Phi(x), Phi the normal distribution function; element by element. out: where to write it, may be `x`.

    Phi is by the error function of Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.28, at most 1e-6
    off, without an exponential or a branch; importing `scipy.special` would take a tenth of a new process's time. As
    Phi(x) is 1 - Phi(-x), the product is max(x, 0) - |x| * Phi(-|x|), and max(x, 0) is half of x + |x|.
    """
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty_like(x) if out is None else out
    source, target = x.reshape(-1), out.reshape(-1)
    scratch = np.empty((2, min(GELU_BLOCK, len(source))), np.float32)
    with np.errstate(over="ignore"):  # far out the power is infinite, and Phi(-|x|) is 0
        for start in range(0, len(source), GELU_BLOCK):
            chunk = source[start : start + GELU_BLOCK]
            size, tail = scratch[:, : len(chunk)]
            np.abs(chunk, out=size)
            np.multiply(size, _GELU_POWERS[0], out=tail)
            for coefficient in _GELU_POWERS[1:]:
                tail += coefficient
                tail *= size
            tail += _ONE
            for _ in range(4):
                tail *= tail
            np.divide(size, tail, out=tail)  # 2 * |x| * Phi(-|x|)
            twice = np.add(chunk, size, out=target[start : start + GELU_BLOCK])
            twice -= tail
            twice *= _HALF
    return out


def score_in_chunks(
    score: Callable[..., Score], users: Floats, items: Floats, user: Rows, item: Rows, cosine: Floats, features: Floats
) -> Score:
    """What `Scorer.score` gives for these pairs, `CHUNK_PAIRS` of them at a time."""
    mlp, logit = np.zeros(len(item), np.float32), np.zeros(len(item), np.float32)
    for start in range(0, len(item), CHUNK_PAIRS):
        chunk = slice(start, start + CHUNK_PAIRS)
        mlp[chunk], logit[chunk] = score(users, items, user[chunk], item[chunk], cosine[chunk], features[chunk])
    return Score(mlp, logit)


def save_scorer(scorer: Scorer, folder: Path) -> None:
    """Write `scorer.safetensors` and `scorer.json` into an existing folder."""
    write_part(folder, PART, scorer.weights, asdict(scorer.config))


def load_scorer(folder: Path) -> Scorer:
    """Read what `save_scorer` wrote. Raises `ModelError` when a file is missing or does not fit its config."""
    with open_part(folder, PART, "a scorer") as (record, weights):
        listed = ("features", "sold_features", "newcomer_features", "hidden", "parts")
        config = ScorerConfig(**(record | {name: tuple(record[name]) for name in listed}))
        expected = weight_shapes(config)
        if {name: value.shape for name, value in weights.items()} != expected:
            odd = sorted({*expected} ^ {*weights}) or [n for n in expected if weights[n].shape != expected[n]]
            raise ValueError(f"{PART}.safetensors and {PART}.json disagree about {odd[0]}")
        columns = np.arange(len(config.sold_features or config.features))
        if config.trees and not np.isin(weights["tree_splits"][1], columns).all():
            raise ValueError("a tree asks what is not there")
    return Scorer(config, weights)


def write_part(folder: Path, name: str, weights: Mapping[str, Array], record: Mapping[str, Any]) -> None:
    """A part of a model as `name`.safetensors and `name`.json."""
    from safetensors.numpy import save

    # written here: what the library writes by itself fails with an error of its own on a full disk
    content = save({key: np.array(value, order="C") for key, value in weights.items()})
    (folder / f"{name}.safetensors").write_bytes(content)
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


@contextmanager
def open_part(folder: Path, name: str, what: str) -> Iterator[tuple[dict[str, Any], dict[str, Array]]]:
    """Record and weights that `write_part` wrote. Raises `ModelError` when a file is missing or damaged, and when the
    block finds that they do not fit each other."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        record = json_value((folder / f"{name}.json").read_text(encoding="utf-8"))
        yield record, load_file(folder / f"{name}.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: not {what} of this version ({error}); train again") from error


def weight_shapes(config: ScorerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a scorer of this shape has."""
    n, width = len(config.features), config.heads * config.projection
    shapes: dict[str, tuple[int, ...]] = {"cosine_weight": (), "platt": (2,), "mean": (n,), "scale": (n,)}
    shapes |= {"arrival_mean": (n,), "arrival_scale": (n,), "newcomer": (len(config.newcomer_features) + 1,)}
    shapes |= {"counting": (3,)} if config.counts else {}
    shapes |= {"tree_splits": (3, TREES[1] - 1, TREES[0]), "tree_values": TREES} if config.trees else {}
    kinds = [("projection", "mlps", len(config.sold_features or config.features))]
    if config.sales and config.learned_arrivals:
        kinds.append(("arrival_projection", "arrival_mlps", n))
    for projection, mlps, n_features in kinds:
        shapes[f"{projection}.weight"] = (width, config.dim)
        widths = (3 * config.projection + n_features, *config.hidden, 1)
        for head in range(config.heads):
            for layer in range(len(widths) - 1):
                shapes[f"{mlps}.{head}.{3 * layer}.weight"] = (widths[layer + 1], widths[layer])
                shapes[f"{mlps}.{head}.{3 * layer}.bias"] = (widths[layer + 1],)
    return shapes
