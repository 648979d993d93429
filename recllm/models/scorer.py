"""f(User, Item) = a * cosine + MLP: the learned score, its file, and how it is computed without torch.

The MLP reads small learned projections of both vectors, their product, and the standardised pair features. Vectors are
projected once per user and once per item; only the small remainder is computed per pair. Training happens in
`recllm.models.scorer_network`, whose weights these are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recllm.errors import ModelError

PART = "scorer"
"""Name of its two files."""

PARTS = ("cosine", "vectors", "features")
"""What the score is made of; a part can be left out to see what it is worth."""

STANDARDISED_LIMIT = 6.0
"""Standardised features are clipped to this many standard deviations: further out nothing was learned."""

CHUNK_PAIRS = 8_192
"""Pairs scored at once: so few fit the cache, and their memory is used again, which halves the time."""

Floats = NDArray[np.float32]
Ints = NDArray[np.integer[Any]]


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
    """False where there were no new items to learn from: the cosine alone then speaks for items that never sold."""
    newcomer_features: tuple[str, ...] = ()
    """What a linear score reads of a user without any history. Needs `history`."""
    history: str | None = None
    """Name of the feature that is 0 for a user without any history. Needs `newcomer_features`."""
    heads: int = 2
    """MLPs, each with its own projection and start. Their mean is the score, so less of it is chance."""
    projection: int = 32
    """Length of the projected vectors that a head reads."""
    hidden: tuple[int, ...] = (96, 96)
    """Widths of a head's hidden layers."""
    dropout: float = 0.0
    """Share of hidden units left out in training, [0, 1)."""
    parts: tuple[str, ...] = PARTS
    """Some of `PARTS`; with the cosine alone there is no MLP."""
    seed: int = 0


class Score(NamedTuple):
    """Of each pair, all float32 (n_pairs,), arrays or tensors: logit = a * cosine + mlp."""

    cosine: Any
    mlp: Any
    logit: Any


@dataclass(frozen=True, eq=False)
class Scorer:
    """`logit = a * cosine + MLP([P u, P v, P u * P v, features])`, the MLP a mean over heads.

    Items that sold before, items that never sold, and users without a history have parts of their own, learned apart,
    so that none disturbs another. For the last the logit is a linear function of few features.
    """

    config: ScorerConfig
    weights: Mapping[str, NDArray[Any]]
    """By the names of `ScorerNetwork`'s state."""

    def project(self, vectors: Floats) -> Floats:
        """What the heads read of encoder vectors (n, dim): (n, width)."""
        w = self.weights
        projections = [w["projection.weight"]]
        if "arrival_projection.weight" in w:
            projections.append(w["arrival_projection.weight"])
        return np.concatenate([vectors @ projection.T for projection in projections], axis=1)

    def score(self, users: Floats, items: Floats, user: Ints, item: Ints, cosine: Floats, features: Floats) -> Score:
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
            x = _standardised(features[rows][:, sold], w["mean"][sold], w["scale"][sold])
            mlp[rows] = self._heads("mlps", 0, users[user[rows]], items[item[rows]], x)
        rows = np.flatnonzero(never_sold)
        if len(rows) and config.sales and config.learned_arrivals:
            x = _standardised(features[rows], w["arrival_mean"], w["arrival_scale"])
            mlp[rows] = self._heads("arrival_mlps", config.heads, users[user[rows]], items[item[rows]], x)
        elif len(rows):
            # no head has seen such an item: the cosine alone, at the level of what hardly sells
            mlp[rows] = w["newcomer"][-1] + cosine[rows] - cosine_part[rows]
        rows = np.flatnonzero(no_history)
        if len(rows):
            # the linear score is the whole logit, so what the cosine adds elsewhere is taken off here
            linear = features[rows][:, [columns[name] for name in config.newcomer_features]] @ w["newcomer"][:-1]
            mlp[rows] = linear + w["newcomer"][-1] - cosine_part[rows]
        return Score(cosine, mlp, np.asarray(cosine_part + mlp, np.float32))

    def probability(self, logit: Floats) -> Floats:
        """Calibrated probability in (0, 1) that the user buys the item within the training horizon."""
        slope, intercept = self.weights["platt"]
        return np.asarray(1 / (1 + np.exp(-(slope * logit + intercept))), np.float32)

    def _is_zero(self, features: Floats, name: str | None) -> NDArray[np.bool_]:
        if name is None:
            return np.zeros(len(features), bool)
        return np.asarray(features[:, self.config.features.index(name)] <= 0)

    def _heads(self, kind: str, first_slice: int, users: Floats, items: Floats, x: Floats) -> Floats:
        """Mean over the heads of one kind, (n_pairs,). first_slice: which part of the projections the first reads."""
        width, total = self.config.projection, np.zeros(len(x), np.float32)
        layers = range(0, 3 * len(self.config.hidden) + 1, 3)  # each hidden layer is Linear, GELU, Dropout
        for head in range(self.config.heads):
            part = slice((first_slice + head) * width, (first_slice + head + 1) * width)
            u, v = users[:, part], items[:, part]
            hidden = np.concatenate([u, v, u * v, x], axis=1)
            for layer in layers:
                name = f"{kind}.{head}.{layer}"
                hidden = hidden @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
                if layer != layers[-1]:
                    hidden = gelu(hidden)
            total += hidden[:, 0]
        return total / np.float32(self.config.heads)


def _standardised(x: Floats, mean: Floats, scale: Floats) -> Floats:
    return np.asarray(np.clip((x - mean) * scale, -STANDARDISED_LIMIT, STANDARDISED_LIMIT), np.float32)


def gelu(x: Floats) -> Floats:
    """x * Phi(x), Phi the normal distribution function; element by element.

    Phi is that of Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26: at most 1e-7 off. scipy has it,
    too, but importing `scipy.special` takes a tenth of the time in which a new process answers.
    """
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    tail: Any = np.zeros_like(x)
    for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail = (tail + np.float32(coefficient)) * t
    tail *= np.exp(-z * z) * np.float32(0.5)  # Phi(-|x|)
    return np.asarray(x * np.where(x > 0, 1 - tail, tail), np.float32)


def score_in_chunks(
    score: Callable[..., Score], users: Floats, items: Floats, user: Ints, item: Ints, cosine: Floats, features: Floats
) -> Score:
    """What `Scorer.score` or `ScorerNetwork.score` gives for these pairs, `CHUNK_PAIRS` of them at a time."""
    mlp, logit = np.zeros(len(item), np.float32), np.zeros(len(item), np.float32)
    for start in range(0, len(item), CHUNK_PAIRS):
        part = slice(start, start + CHUNK_PAIRS)
        _, mlp[part], logit[part] = score(users, items, user[part], item[part], cosine[part], features[part])
    return Score(cosine, mlp, logit)


def save_scorer(scorer: Scorer, folder: Path) -> None:
    """Write `scorer.safetensors` and `scorer.json` into an existing folder."""
    write_part(folder, PART, scorer.weights, asdict(scorer.config), indent=2)


def load_scorer(folder: Path) -> Scorer:
    """Read what `save_scorer` wrote. Raises `ModelError` when a file is missing or does not fit its config."""
    with open_part(folder, PART, "a scorer") as (record, weights):
        listed = ("features", "sold_features", "newcomer_features", "hidden", "parts")
        config = ScorerConfig(**(record | {name: tuple(record[name]) for name in listed}))
        expected = weight_shapes(config)
        if {name: value.shape for name, value in weights.items()} != expected:
            odd = sorted({*expected} ^ {*weights}) or [n for n in expected if weights[n].shape != expected[n]]
            raise ValueError(f"{PART}.safetensors and {PART}.json disagree about {odd[0]}")
    return Scorer(config, weights)


def write_part(
    folder: Path,
    name: str,
    weights: Mapping[str, NDArray[Any]],
    record: Mapping[str, Any],
    *,
    indent: int | None = None,
) -> None:
    """A part of a model as `name`.safetensors and `name`.json."""
    from safetensors.numpy import save_file

    save_file({key: np.array(value, order="C") for key, value in weights.items()}, folder / f"{name}.safetensors")
    text = json.dumps(record, indent=indent, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


@contextmanager
def open_part(folder: Path, name: str, what: str) -> Iterator[tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
    """Record and weights that `write_part` wrote. Raises `ModelError` when a file is missing or damaged, and when the
    block finds that they do not fit each other."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        yield record, load_file(folder / f"{name}.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: not {what} of this version ({error}); train again") from error


def weight_shapes(config: ScorerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a scorer of this shape has."""
    n, width = len(config.features), config.heads * config.projection
    shapes: dict[str, tuple[int, ...]] = {"cosine_weight": (), "platt": (2,), "mean": (n,), "scale": (n,)}
    shapes |= {"arrival_mean": (n,), "arrival_scale": (n,), "newcomer": (len(config.newcomer_features) + 1,)}
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
