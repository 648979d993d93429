"""The private scorer: a * cosine + a linear score + a small MLP, learned by `PrivateDescent`, served as any `Scorer`.

It reads a user's and an item's coordinates on the main directions of the catalogue's own vectors, their products, and
`PRIVATE_FEATURES`. Directions, scale of the features and first weights come from the catalogue and from constants. A
user's loss is that of `training.scorer`, listwise over all and over what is new to them, plus the term that ties
the level of the logits to how much is bought: so the probability is learned privately with the rest, and nothing is
calibrated afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from recllm.base.settings import CollaborativeSettings, PrivateTrainingSettings
from recllm.learn.features.candidates import CandidateCounts
from recllm.learn.features.other_crowds import PRIVATE_CANDIDATES, PRIVATE_FEATURES, is_listed
from recllm.learn.features.pair_features import FEATURE_NAMES
from recllm.learn.models.scorer import Scorer, ScorerConfig
from recllm.learn.training.private.accounting import PrivateMechanism
from recllm.learn.training.private.descent import PrivateDescent
from recllm.learn.training.private.examples import TARGET, UserWindows, user_windows
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import Floats, Ints

HIDDEN = 16  # units of the hidden layer; the linear score has none
COMPONENTS = 24  # main directions of the item vectors that the score reads of a user and an item

LEARNING_RATE = 1e-2
AVERAGED_SHARE = 0.5  # of the last steps, whose mean the weights are; it costs no privacy

LEVEL_WEIGHT = 0.05
"""Of the level's term, as `recllm.learn.training.scorer.LEVEL_WEIGHT`."""

EXPECTED_PURCHASES = 10.0
"""Of a user in a window, before anything is learned: the first bias spreads them over the catalogue."""

_FIRST_WEIGHTS = {"count_120": 0.3, "count_30": 0.2, "visit_rate": 0.2, "text_set": 0.2, "type_affinity": 0.1}
"""Of the linear score: what was bought often and lately, and what reads like it, is bought again."""


@dataclass(frozen=True, eq=False)
class PrivateScorer:
    """What a private training gives."""

    scorer: Scorer
    population: CollaborativeSettings
    candidates: CandidateCounts


class HeadNetwork(nn.Module):
    """Logits of pairs, (n, width), from their cosine (n, width) and inputs (n, width, n_inputs). Linear layers alone,
    and the first dimension is the user, as Opacus wants it."""

    def __init__(self, n_components: int, hidden: int, n_listed: int, seed: int) -> None:
        super().__init__()
        n_inputs = 3 * n_components + len(PRIVATE_FEATURES)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cosine = nn.Linear(1, 1, bias=False)
            self.linear = nn.Linear(n_inputs, 1)
            self.first = nn.Linear(n_inputs, hidden)
            self.second = nn.Linear(hidden, 1, bias=False)
        with torch.no_grad():
            self.cosine.weight.fill_(1.0)
            self.linear.weight.zero_()
            self.linear.bias.fill_(float(np.log(EXPECTED_PURCHASES / max(n_listed, 1))))
            for name, weight in _FIRST_WEIGHTS.items():
                self.linear.weight[0, 3 * n_components + list(PRIVATE_FEATURES).index(name)] = weight
            self.second.weight.mul_(0.1)

    def forward(self, cosine: Tensor, inputs: Tensor) -> Tensor:
        mlp = self.second(functional.gelu(self.first(inputs)))
        logits: Tensor = (self.cosine(cosine[..., None]) + self.linear(inputs) + mlp).squeeze(-1)
        return logits


@dataclass(frozen=True, eq=False)
class HeadExamples:
    """The examples as tensors; one of each user's is drawn a step."""

    windows: UserWindows
    user: Tensor
    """Coordinates of each example's user, (n, n_components)."""
    items: Tensor
    """Of each item of the catalogue, (n_items, n_components)."""

    @classmethod
    def of(cls, windows: UserWindows, vectors: Floats, directions: Floats) -> HeadExamples:
        """vectors: (n_items, dim). directions: see `main_directions`."""
        return cls(
            windows, torch.from_numpy(windows.user_vectors @ directions.T), torch.from_numpy(vectors @ directions.T)
        )

    def draw(self, users: Ints, chance: np.ndarray) -> Ints:
        """Row of one example of each user, by a number in [0, 1) for each; -1 for a user without any."""
        first = self.windows.first()
        lengths = first[users + 1] - first[users]
        return np.where(lengths > 0, first[users] + np.floor(chance * lengths).astype(np.int64), -1)

    def logits(self, network: HeadNetwork, rows: Ints) -> Tensor:
        """(len(rows), width)."""
        w = self.windows
        u = self.user[torch.from_numpy(rows)]
        v = self.items[torch.from_numpy(w.item[rows].astype(np.int64))]
        u = u[:, None].expand_as(v)
        inputs = torch.cat([u, v, u * v, torch.from_numpy(w.features[rows])], dim=2)
        logits: Tensor = network(torch.from_numpy(w.cosine[rows]), inputs)
        return logits

    def losses(self, network: HeadNetwork, rows: Ints) -> Tensor:
        """Of each example, (len(rows),), from its own pairs alone; 0 for the row -1, a user without an example."""
        w, has = self.windows, torch.from_numpy(rows >= 0)
        rows = np.maximum(rows, 0)
        logit = self.logits(network, rows)
        is_pair, label, is_new = (torch.from_numpy(part[rows]) for part in (w.is_pair, w.label, w.is_new))
        correction = torch.from_numpy(w.correction[rows])
        loss = _listwise(logit, correction, label, is_pair) + _listwise(
            logit, correction, label & is_new, is_pair & is_new
        )
        total = _log_total(logit + correction, is_pair)
        bought = (label * torch.exp(correction)).sum(dim=1).clamp(min=1.0)
        loss = loss + LEVEL_WEIGHT * (total - torch.log(bought)) ** 2
        return torch.where(has, loss, torch.zeros_like(loss))


def fit_private_scorer(
    dataset: Dataset,
    vectors: Floats,
    basics: Floats | None,
    settings: PrivateTrainingSettings,
    mechanism: PrivateMechanism,
    population: CollaborativeSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> PrivateScorer:
    """Learn the scorer privately. vectors: of the items by the catalogue alone, unit rows (n_items, dim). basics:
    Emb(I) of the users, (n_users, dim), or None. mechanism: what `planned_mechanism` gives.

    Nothing about the people leaves this function but the weights: no loss and no metric is logged. Raises `DataError`
    when there is nothing to learn from; what `PrivateDescent` raises.
    """
    population = (population or CollaborativeSettings()).model_copy(update={"target": TARGET})
    vectors = np.asarray(vectors, np.float32)
    windows = user_windows(dataset, vectors, basics, settings, population)
    listed = is_listed(dataset.items)
    directions = main_directions(vectors[listed], COMPONENTS)
    network = HeadNetwork(len(directions), HIDDEN, int(listed.sum()), settings.seed)
    if progress is not None:
        progress(
            f"private scorer: {settings.steps} steps, noise {mechanism.noise_multiplier:.3g}, "
            f"epsilon {mechanism.epsilon:.3g}, delta {mechanism.delta:.3g}"
        )
    learn_privately(network, HeadExamples.of(windows, vectors, directions), settings, mechanism)
    return PrivateScorer(served_scorer(network, directions), population, PRIVATE_CANDIDATES)


def learn_privately(
    network: HeadNetwork,
    examples: HeadExamples,
    settings: PrivateTrainingSettings,
    mechanism: PrivateMechanism,
    *,
    users: Ints | None = None,
) -> None:
    """Trains `network` on all users or on some, rows ascending."""
    rows = np.arange(examples.windows.n_users) if users is None else users
    rng = np.random.default_rng()  # seeded by the system

    def losses(drawn: Ints) -> Tensor:
        return examples.losses(network, examples.draw(rows[drawn], rng.random(len(drawn))))

    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    after_step = averaged(network, mechanism.steps)  # copied before the hooks are set
    descent = PrivateDescent(network, optimiser, losses, len(rows), mechanism)
    descent.run(after_step)


def averaged(network: HeadNetwork, steps: int, share: float = AVERAGED_SHARE) -> Callable[[int], None]:
    """What is to be called after each step, by its number from 1: it gives the network, after the last one, the mean of
    its weights over the last steps; of private weights it costs nothing more (post-processing)."""
    mean, first = AveragedModel(network), steps - int(steps * share) + 1

    def after_step(number: int) -> None:
        if number >= first:
            mean.update_parameters(network)
        if number == steps and number >= first:
            network.load_state_dict(mean.module.state_dict())

    return after_step


def main_directions(vectors: Floats, n_components: int) -> Floats:
    """The main directions of the catalogue's vectors (n, dim), each scaled so that its coordinate has a mean square of
    1: (n_components, dim), fewer of a small catalogue."""
    _, values, directions = np.linalg.svd(vectors.T @ vectors / max(len(vectors), 1))
    n = min(n_components, int((values > 1e-6).sum()))
    signs = np.sign(directions[np.arange(n), np.abs(directions[:n]).argmax(axis=1)])
    return np.asarray(directions[:n] * (signs / np.sqrt(values[:n]))[:, None], np.float32)


def served_scorer(network: HeadNetwork, directions: Floats) -> Scorer:
    """The network in the form that serves. A linear score is two units of a GELU layer: gelu(x) - gelu(-x) = x."""
    n, hidden = len(directions), network.first.out_features + 2
    config = ScorerConfig(
        dim=directions.shape[1],
        features=FEATURE_NAMES,
        sold_features=tuple(PRIVATE_FEATURES),
        learned_arrivals=False,
        heads=1,
        projection=n,
        hidden=(hidden,),
    )
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    line = state["linear.weight"]
    mean, scale = np.zeros(len(FEATURE_NAMES), np.float32), np.zeros(len(FEATURE_NAMES), np.float32)
    for name, (centre, spread) in PRIVATE_FEATURES.items():
        mean[FEATURE_NAMES.index(name)], scale[FEATURE_NAMES.index(name)] = centre, 1 / spread
    ones = np.array([[1.0, -1.0]], np.float32)
    weights = {
        "cosine_weight": state["cosine.weight"].reshape(()),
        "platt": np.array([1.0, 0.0], np.float32),
        "mean": mean,
        "scale": scale,
        "arrival_mean": np.zeros_like(mean),
        "arrival_scale": np.ones_like(mean),
        "newcomer": np.zeros(1, np.float32),
        "projection.weight": np.asarray(directions, np.float32),
        "mlps.0.0.weight": np.concatenate([state["first.weight"], line, -line]),
        "mlps.0.0.bias": np.concatenate([state["first.bias"], np.zeros(2, np.float32)]),
        "mlps.0.3.weight": np.concatenate([state["second.weight"], ones], axis=1),
        "mlps.0.3.bias": state["linear.bias"],
    }
    return Scorer(config, {name: np.array(value, np.float32) for name, value in weights.items()})


def _listwise(logit: Tensor, correction: Tensor, label: Tensor, is_pair: Tensor) -> Tensor:
    """Mean over each user's positives of -log softmax, (n,); 0 for a user without one."""
    total, n = _log_total(logit + correction, is_pair), label.sum(dim=1)
    return torch.where(n > 0, total - (logit * label).sum(dim=1) / n.clamp(min=1), torch.zeros_like(total))


def _log_total(corrected: Tensor, is_pair: Tensor) -> Tensor:
    """Log of each user's summed exp, (n,); very low for a user without pairs."""
    return torch.logsumexp(corrected.masked_fill(~is_pair, -1e9), dim=1)
