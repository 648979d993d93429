"""Is the difference between two systems more than luck? Bootstraps over people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from recllm.evaluation.recllm_system import OURS
from recllm.stats.intervals import paired_bootstraps
from recllm.stats.ranking import Values

COMPARED = ("ndcg", "recall")
"""Metrics for which differences get an interval. The first chooses the best peer of each slice."""


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
            mean, low, high = (round(v, 6) for v in (gap.value, gap.low, gap.high))
            yield SystemDifference(ours=OURS, peer=peer, slice=part, metric=metric, mean=mean, low=low, high=high)
