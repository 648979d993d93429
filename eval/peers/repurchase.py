"""Peers that model when an item is bought again: SLRC and TAIW.

SLRC: Wang et al. 2019, "Modeling Item-specific Temporal Dynamics of Repeat Consumption for Recommender Systems", WWW.
TAIW: Romanov et al. 2023, "Time-Aware Item Weighting for the Next Basket Recommendations", RecSys (their code:
alexeyromanov-hse/time_aware_item_weighting). Both take the form of the returns from the former: each purchase of an
item raises the rate of the next one, at once by an exponential and after its life-time by a Gaussian of the item's own.

Two things are fitted to the question here, both in favour of the peers. The rate is integrated over the window that is
asked about, where the authors know the time of the next basket. And the kernels are learned on past windows by the
likelihood of what came back among all that a person had bought, where the authors draw pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from peers.collaborative import blended_with_nearest, ease_scores
from recllm.base.arrays import Array, Floats, Ints
from recllm.base.schema import Action
from recllm.base.settings import ScorerTrainingSettings
from recllm.learn.training.windows import window_starts
from recllm.recommend.evaluation.baselines import Items, Score, rank_by, unit_rows
from recllm.recommend.evaluation.protocols import EvaluationQuery, Ranker
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import matrix, merged_lines

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ReturnSettings:
    horizon_days: int = 28
    windows: int = 4
    """Past windows to learn from."""
    l2: float = 3.0
    """Pulls the kernel of each item to that of all items, and this one to its start, in the logarithms of numbers."""
    interval_prior: float = 30.0
    """Intervals that the mean over all items counts as, next to an item's own."""
    steps: int = 40
    """Of L-BFGS at most."""


@dataclass(frozen=True, eq=False)
class ReturnKernels:
    """The five numbers of each item's kernel, (5, n_items): logarithms of the weight, of the mean days of the
    exponential, of the mean days of the Gaussian and of its deviation beyond one day, and the logit of its share."""

    numbers: Floats
    horizon_days: int

    def expected(self, dataset: Dataset, users: Ints) -> csr_array:
        """Returns to each item within the horizon, up to one factor for all, float32 sparse (len(users), n_items)."""
        import torch
        from scipy.sparse import csr_array

        bought = merged_lines(dataset.events.of(Action.PURCHASE).rows(users))
        days = torch.from_numpy(((dataset.as_of - bought.at) / DAY).astype(np.float32))
        weight = expected_returns(torch.from_numpy(self.numbers[:, bought.item]), days, self.horizon_days)
        return csr_array(matrix(bought, dataset.n_items, weight.numpy().astype(np.float64)))


def slrc(*, base_weight: float = 0.1, ease: dict[str, Any] | None = None, **settings: Any) -> Ranker:
    """Expected returns plus `base_weight` times EASE's score, the base intensity; ease: keywords of the peer `ease`."""
    fitted = lru_cache(maxsize=1)(lambda past: fit_returns(past, ReturnSettings(**settings)))
    base_scores = ease_scores(**(ease or {}))

    def scores(query: EvaluationQuery, items: Items) -> Score:
        own = fitted(query.fit_on).expected(query.dataset, query.users)[:, items]
        base = base_scores(query, items)
        return lambda block: base_weight * base(block) + own[block].toarray()

    return rank_by(scores)


def taiw(*, neighbours: int = 100, own_share: float = 0.7, **settings: Any) -> Ranker:
    """Expected returns in the place of TIFU-KNN's decayed frequencies, with its neighbours; vectors have length 1."""
    fitted = lru_cache(maxsize=1)(lambda past: fit_returns(past, ReturnSettings(**settings)))

    def scores(query: EvaluationQuery, items: Items) -> Score:
        kernels = fitted(query.fit_on)
        everyone = unit_rows(kernels.expected(query.fit_on, np.arange(query.fit_on.n_users)))
        asked = unit_rows(kernels.expected(query.dataset, query.users))
        return blended_with_nearest(query, items, everyone, asked, neighbours, own_share)

    return rank_by(scores)


def expected_returns(numbers: Tensor, days: Tensor, horizon: int) -> Tensor:
    """How much a purchase `days` ago adds to the returns within `horizon` days, (n,); numbers: (5, n)."""
    import torch

    weight, decay, mean, beyond = torch.exp(numbers[:4])
    share, deviation = torch.sigmoid(numbers[4]), 1 + beyond
    soon = torch.exp(-days / decay) * -torch.expm1(-horizon / decay)
    late = torch.special.ndtr((days + horizon - mean) / deviation) - torch.special.ndtr((days - mean) / deviation)
    return weight * ((1 - share) * soon + share * late)


def fit_returns(past: Dataset, args: ReturnSettings) -> ReturnKernels:
    """Kernels of the greatest likelihood of what each person bought again in past windows, given how much it was.

    Each person and window weighs the same. Items of few returns keep near the kernel of all items, with their own
    interval as its mean.
    """
    import torch

    examples = return_examples(past, args)
    event_pair, event_item, days, pair_run, bought = map(torch.from_numpy, examples)
    n_pairs, n_runs = len(pair_run), int(pair_run.max()) + 1 if len(pair_run) else 0
    bought_of_run = torch.zeros(n_runs).index_add(0, pair_run, bought)
    start = torch.tensor([1.0, 60.0, 1.0, 15.0, 1.0]).log()
    common = start.clone().requires_grad_()
    interval = torch.zeros(5, past.n_items)
    interval[2] = torch.from_numpy(log_intervals(past, args.interval_prior))
    own = torch.zeros(5, past.n_items, requires_grad=True)
    optimiser = torch.optim.LBFGS([common, own], max_iter=args.steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        numbers = (common[:, None] + interval + own)[:, event_item]
        rate = torch.full((n_pairs,), 1e-6).index_add(0, event_pair, expected_returns(numbers, days, args.horizon_days))
        of_run = torch.zeros(n_runs).index_add(0, pair_run, rate)
        likelihood = bought * (rate.log() - of_run.log()[pair_run]) / bought_of_run[pair_run]
        penalty = own.square().sum() + (common - start).square().sum()
        value: Tensor = -likelihood.sum() + args.l2 / 2 * penalty
        value.backward()  # type: ignore[no-untyped-call]
        return value

    if n_runs:
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return ReturnKernels((common[:, None] + interval + own).detach().numpy(), args.horizon_days)


def log_intervals(past: Dataset, prior: float) -> Floats:
    """Mean logarithm of the days between a person's purchases of each item, (n_items,); the mean over all items counts
    as `prior` intervals more."""
    bought = merged_lines(past.events.of(Action.PURCHASE))
    order = np.lexsort((bought.at, bought.item, bought.user))
    user, item, at = bought.user[order], bought.item[order], bought.at[order]
    again = (np.diff(user) == 0) & (np.diff(item) == 0)
    value, of_item = np.log(np.maximum(np.diff(at)[again] / DAY, 1.0)), item[1:][again]
    total, count = np.bincount(of_item, value, past.n_items), np.bincount(of_item, minlength=past.n_items)
    mean = value.mean() if len(value) else np.log(30.0)
    return np.asarray((total + prior * mean) / (count + prior), np.float32)


def return_examples(past: Dataset, args: ReturnSettings) -> tuple[Array, ...]:
    """Purchases before past windows, of people who came back for an earlier item in them.

    The pair of each event, its item and the days from it to the window's start, (n_events,); the run of each pair,
    which is a person in a window, and 1.0 where the pair was bought in the window, (n_pairs,).
    """
    parts: list[tuple[Array, ...]] = []
    pairs = runs = 0
    training = ScorerTrainingSettings(horizon_days=args.horizon_days, n_windows=args.windows)
    for start in window_starts(past, (Action.PURCHASE,), training):
        future = past.between(start, start + args.horizon_days * DAY)
        before = merged_lines(past.before(start).events.of(Action.PURCHASE))
        key, again = (e.user.astype(np.int64) * past.n_items + e.item for e in (before, future))
        returned = np.bincount(before.user[np.isin(key, again)], minlength=past.n_users) > 0
        chosen = returned[before.user]
        pair_keys, pair = np.unique(key[chosen], return_inverse=True)
        people, run = np.unique(pair_keys // past.n_items, return_inverse=True)
        days: Floats = ((start - before.at[chosen]) / DAY).astype(np.float32)
        bought = np.isin(pair_keys, again).astype(np.float32)
        parts.append((pair + pairs, before.item[chosen].astype(np.int64), days, run + runs, bought))
        pairs, runs = pairs + len(pair_keys), runs + len(people)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
