"""Is the difference between two systems more than luck? Bootstraps over people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.errors import UsageError
from recllm.evaluation.recllm_system import OURS
from recllm.metrics import Values

COMPARED = ("ndcg", "recall")
"""Metrics for which differences get an interval. The first chooses the best peer of each slice."""


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """A figure and the interval that holds it at the level asked for."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemDifference:
    """Mean of ours - peer over people, and its 95 % interval."""

    ours: str
    peer: str
    slice: str
    metric: str
    mean: float
    low: float
    high: float


def paired_bootstraps(
    gaps: Values, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> list[BootstrapInterval]:
    """Percentile intervals of mean differences, people redrawn with replacement (Efron 1979; Sakai 2006 for ranking).

    gaps: (n_users, n_comparisons) of ours - peer, one interval per column. All columns see the same redrawn people.
    People without a value in any column are left out of all. Raises `UsageError` when nobody is left.
    """
    gaps = gaps[~np.isnan(gaps).any(axis=1)]
    if not len(gaps):
        raise UsageError("paired bootstrap: nobody has a value in both systems")
    mean = low = high = gaps.mean(axis=0)
    if len(gaps) > 1:  # one person is always redrawn
        low, high = _percentiles(gaps.T, np.mean, draws, level, seed, batch=max(1, 10_000_000 // gaps.size))
    return [BootstrapInterval(*map(float, line)) for line in zip(mean, low, high, strict=True)]


def bootstrap(
    figure: Callable[[NDArray[np.int64]], float], n: int, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> BootstrapInterval:
    """Percentile interval of any figure of n rows, redrawn with replacement. `figure` takes row numbers, (n,)."""
    rows = np.arange(n)
    low, high = _percentiles(rows, figure, draws, level, seed)
    return BootstrapInterval(float(figure(rows)), float(low), float(high))


def _percentiles(data: NDArray[Any], figure: Any, draws: int, level: float, seed: int, **options: Any) -> Any:
    """Redraws the last axis of `data`. The draws of a seed are those of `Generator.integers`, one after the other."""
    from scipy.stats import bootstrap as scipy_bootstrap

    return scipy_bootstrap(
        (data,),
        figure,
        n_resamples=draws,
        vectorized=figure is np.mean,
        axis=-1,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
        **options,
    ).confidence_interval


def best_peers(scores: Mapping[str, Mapping[str, Mapping[str, float]]], k: int) -> dict[str, str]:
    """Of each slice, the system with the highest main metric. recllm and its variants are no peers."""
    best: dict[str, str] = {}
    metric = f"{COMPARED[0]}@{k}"
    for name, slices in scores.items():
        if name == OURS or name.startswith(f"{OURS}-"):
            continue
        for part, figures in slices.items():
            if part not in best or figures.get(metric, 0.0) > scores[best[part]][part].get(metric, 0.0):
                best[part] = name
    return best


def system_differences(
    values: Mapping[tuple[str, str], Mapping[str, Values]], best: Mapping[str, str], k: int, seed: int, draws: int
) -> Iterator[SystemDifference]:
    """Slice by slice, the best peer first. values: per person, by (system, slice) and metric."""
    for part in dict.fromkeys(p for _, p in values):
        peers = [name for name, p in values if p == part and name != OURS]
        if (OURS, part) not in values or not peers:
            continue
        peers.sort(key=lambda name: name != best.get(part))
        pairs = [(peer, f"{metric}@{k}") for peer in peers for metric in COMPARED]
        gaps = [values[OURS, part][metric] - values[peer, part][metric] for peer, metric in pairs]
        intervals = paired_bootstraps(np.stack(gaps, axis=1), draws=draws, seed=seed)
        for (peer, metric), gap in zip(pairs, intervals, strict=True):
            mean, low, high = (round(v, 6) for v in (gap.mean, gap.low, gap.high))
            yield SystemDifference(ours=OURS, peer=peer, slice=part, metric=metric, mean=mean, low=low, high=high)
