"""f(User, Item) = a * cosine + MLP: the learned score, and its file.

The MLP reads small learned projections of both vectors, their product, and the standardised pair features. Vectors are
projected once per person and once per item; only the small remainder is computed per pair.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recllm.errors import ModelError

WEIGHTS, CONFIG = "scorer.safetensors", "scorer.json"


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """dim: length of the encoder's vectors. features: names of the pair features, in order.

    heads: MLPs, each with its own projection and start, whose mean is the score: less of it is then chance.
    """

    dim: int
    features: tuple[str, ...]
    heads: int = 2
    projection: int = 32
    hidden: tuple[int, ...] = (96, 96)
    dropout: float = 0.0
    seed: int = 0


class Score(NamedTuple):
    """Of each pair, all (n_pairs,): logit = a * cosine + mlp."""

    cosine: Tensor
    mlp: Tensor
    logit: Tensor


class Scorer(nn.Module):
    """`logit = a * cosine + MLP([P u, P v, P u * P v, features])`, the MLP a mean over heads; see `Score`."""

    mean: Tensor
    scale: Tensor
    platt: Tensor

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        n = len(config.features)
        self.config = config
        self.cosine_weight = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        self.register_buffer("platt", torch.tensor([1.0, 0.0]))
        with torch.random.fork_rng(devices=[]):  # layers draw weights from the caller's random state; ours are seeded
            self.project = nn.Linear(config.dim, config.heads * config.projection, bias=False)
            self.mlps = nn.ModuleList(_mlp(config) for _ in range(config.heads))
        _initialise(self, torch.Generator().manual_seed(config.seed))

    def standardise(self, features: np.ndarray) -> None:
        """Remember mean and spread of training `features` (n_pairs, n_features); constant columns become 0."""
        spread = features.std(axis=0, dtype=np.float64)
        self.mean.copy_(torch.from_numpy(features.mean(axis=0, dtype=np.float64)))
        self.scale.copy_(torch.from_numpy(np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)))

    def each_head(
        self, users: Tensor, items: Tensor, user: Tensor, item: Tensor, cosine: Tensor, features: Tensor
    ) -> Tensor:
        """What each head adds to the weighed cosine of each pair, (heads, n_pairs).

        users (n, heads * projection) and items (m, heads * projection) come from `project`; user and item (n_pairs,)
        index them; cosine (n_pairs,) in [-1, 1]; features (n_pairs, n_features) as `pair_features` gives them.
        """
        x = ((features - self.mean) * self.scale).clamp(-6, 6)
        width, out = self.config.projection, []
        for head, mlp in enumerate(self.mlps):
            part = slice(head * width, (head + 1) * width)
            u, v = users[:, part][user], items[:, part][item]
            out.append(mlp(torch.cat([u, v, u * v, x], dim=1)).squeeze(1))
        return torch.stack(out)

    def forward(
        self, users: Tensor, items: Tensor, user: Tensor, item: Tensor, cosine: Tensor, features: Tensor
    ) -> Score:
        """Score pairs; the arguments are those of `each_head`."""
        mlp = self.each_head(users, items, user, item, cosine, features).mean(dim=0)
        return Score(cosine, mlp, self.cosine_weight * cosine + mlp)

    def probability(self, logit: Tensor) -> Tensor:
        """Calibrated probability in (0, 1) that the person takes the item within the training horizon."""
        return torch.sigmoid(self.platt[0] * logit + self.platt[1])


def _mlp(config: ScorerConfig) -> nn.Sequential:
    widths = (3 * config.projection + len(config.features), *config.hidden)
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.GELU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def _initialise(scorer: Scorer, generator: torch.Generator) -> None:
    """Seeded weights, whatever the global random state; the projection keeps lengths."""
    with torch.no_grad():
        for name, value in scorer.named_parameters():
            if value.ndim == 2:
                bound = 1.0 if name.startswith("project") else (3 / value.shape[1]) ** 0.5
                value.uniform_(-bound, bound, generator=generator)
            elif name.endswith("bias"):
                value.zero_()


def save_scorer(scorer: Scorer, folder: Path) -> None:
    """Write `scorer.safetensors` and `scorer.json` into an existing folder."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in scorer.state_dict().items()}, folder / WEIGHTS)
    text = json.dumps(asdict(scorer.config), indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def load_scorer(folder: Path) -> Scorer:
    """Read what `save_scorer` wrote. Raises `ModelError` when a file is missing or does not fit its config."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        raw["features"], raw["hidden"] = tuple(raw["features"]), tuple(raw["hidden"])
        scorer = Scorer(ScorerConfig(**raw))
        scorer.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: not a scorer of this version ({error}); train again") from error
    return scorer.eval()
