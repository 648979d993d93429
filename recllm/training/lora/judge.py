"""The verdict on a state of training: NDCG@20 of the latest window's questions, by text alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recllm.data.interactions import Floats, Ints
from recllm.metrics import Truth, Values, average, ndcg
from recllm.training.lora.objective import SetScore
from recllm.training.lora.steps import Group, Source, flat, places

K = 20
_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Judge:
    """Examples that nothing is learned from. batches: per group the group, its sampled examples as columns."""

    source: Source
    batches: tuple[tuple[Group, Mapping[str, Any]], ...]

    @classmethod
    def of(cls, source: Source, groups: list[Group], people: int, rng: np.random.Generator) -> Judge:
        batches = []
        for kind in sorted({g.kind for g in groups}):
            fit = [g for g in groups if g.kind == kind]
            share = people / sum(len(g.rows) for g in fit)
            for group in fit:
                wanted = min(len(group.rows), max(1, round(share * len(group.rows))))
                rows = np.sort(rng.choice(len(group.rows), wanted, replace=False)) + group.rows.start
                batches.append((group, source.table[rows.tolist()]))
        return cls(source, tuple(batches))

    def texts(self) -> Ints:
        """Numbers of all texts that a verdict needs."""
        text_of = self.source.text_of
        parts = [text_of[self.source.offered(g)] for g, _ in self.batches]
        parts += [text_of[flat(b["items"])] for _, b in self.batches]
        return np.unique(np.concatenate(parts))

    def verdict(self, score: SetScore, bank: Tensor) -> dict[str, float]:
        """ndcg@20 by kind of question, of nearness alone, which is what the vectors are worth, and "with_prior".

        goal: the sum of the former.
        """
        values: dict[str, list[Values]] = {}
        for group, batch in self.batches:
            offered, positives = self.source.offered(group), batch["positives"]
            truth = Truth.from_pairs(places(positives), flat(positives), len(positives))
            for name, how in ((group.kind, score.near), (f"{group.kind}_with_prior", score.forward)):
                lists = ranked(how, bank, self.source, batch, offered)
                values.setdefault(name, []).append(ndcg(lists, truth, K))
        named = {f"ndcg@{K}_{kind}": float(average(np.concatenate(v))) for kind, v in values.items()}
        return {**named, "goal": sum(v for name, v in named.items() if not name.endswith("prior"))}


@torch.no_grad()
def ranked(
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    bank: Tensor,
    source: Source,
    batch: Mapping[str, Any],
    items: Ints,
    k: int = K,
) -> Any:
    """Top `k` of `items` for each example, int32 (n, k), without what the person took before."""
    columns, column = np.unique(source.text_of[items], return_inverse=True)
    candidates = bank[torch.from_numpy(columns)]
    out = []
    for at in range(0, len(batch["person"]), _BLOCK):
        part = {name: values[at : at + _BLOCK] for name, values in batch.items()}
        texts, place = np.unique(source.text_of[flat(part["items"])], return_inverse=True)
        weights = np.zeros((len(part["person"]), len(texts)), np.float32)
        np.add.at(weights, (places(part["items"]), place), np.concatenate(part["weights"]))
        by_text = score(torch.from_numpy(weights).to(bank.device), bank[torch.from_numpy(texts)], candidates)
        by_item = by_text.cpu().numpy()[:, column]
        row, item = _owned(source, np.asarray(part["person"]), np.asarray(part["start"]), items)
        by_item[row, item] = -np.inf
        out.append(_top(by_item, items, k))
    return np.concatenate(out)


def _owned(source: Source, people: Ints, start: Ints, items: Ints) -> tuple[Ints, Ints]:
    """Places in (people, items) of what a person took before the example's time."""
    tally, at = source.takings.tally, source.takings.at
    rows, found = [], []
    for row, (person, moment) in enumerate(zip(people, start, strict=True)):
        a, b = np.searchsorted(tally.keys, [person * tally.n_keys, (person + 1) * tally.n_keys])
        taken = tally.keys[a:b][at[a:b] < moment] % tally.n_keys
        place = np.searchsorted(items, taken)
        place = place[items[np.minimum(place, len(items) - 1)] == taken]
        rows.append(np.full(len(place), row))
        found.append(place)
    return np.concatenate(rows).astype(np.int64), np.concatenate(found).astype(np.int64)


def _top(score: Floats, items: Ints, k: int) -> Any:
    k = min(k, score.shape[1])
    some = np.argpartition(-score, k - 1, axis=1)[:, :k]
    order = np.lexsort((some, -np.take_along_axis(score, some, axis=1)), axis=1)
    best = np.take_along_axis(some, order, axis=1)
    return np.where(np.isfinite(np.take_along_axis(score, best, axis=1)), items[best], -1).astype(np.int32)
