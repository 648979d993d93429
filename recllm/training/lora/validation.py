"""How good a state of training is: NDCG@20 of the latest window's questions, by text alone."""

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
from recllm.training.lora.steps import ExampleGroup, ExampleSource, flat, list_rows

K = 20
_BLOCK = 64


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """Examples that nothing is learned from. batches: per group the group, its sampled examples as columns."""

    source: ExampleSource
    batches: tuple[tuple[ExampleGroup, Mapping[str, Any]], ...]

    @classmethod
    def of(
        cls, source: ExampleSource, groups: list[ExampleGroup], n_users: int, rng: np.random.Generator
    ) -> ValidationSet:
        batches = []
        for kind in sorted({g.kind for g in groups}):
            fit = [g for g in groups if g.kind == kind]
            share = n_users / sum(len(g.rows) for g in fit)
            for group in fit:
                size = min(len(group.rows), max(1, round(share * len(group.rows))))
                rows = np.sort(rng.choice(len(group.rows), size, replace=False)) + group.rows.start
                batches.append((group, source.table[rows.tolist()]))
        return cls(source, tuple(batches))

    def texts(self) -> Ints:
        """Numbers of all texts that an evaluation needs."""
        text_of = self.source.text_of
        parts = [text_of[self.source.offered(g)] for g, _ in self.batches]
        parts += [text_of[flat(b["items"])] for _, b in self.batches]
        return np.unique(np.concatenate(parts))

    def evaluate(self, score: SetScore, bank: Tensor) -> dict[str, float]:
        """ndcg@20 by kind of question, of nearness alone, which is what the vectors are worth, and "with_prior".

        goal: the sum of the former.
        """
        values: dict[str, list[Values]] = {}
        for group, batch in self.batches:
            offered, positives = self.source.offered(group), batch["positives"]
            truth = Truth.from_pairs(list_rows(positives), flat(positives), len(positives))
            for name, how in ((group.kind, score.nearness), (f"{group.kind}_with_prior", score.forward)):
                lists = ranked(how, bank, self.source, batch, offered)
                values.setdefault(name, []).append(ndcg(lists, truth, K))
        named = {f"ndcg@{K}_{kind}": float(average(np.concatenate(v))) for kind, v in values.items()}
        return {**named, "goal": sum(v for name, v in named.items() if not name.endswith("prior"))}


@torch.no_grad()
def ranked(
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    bank: Tensor,
    source: ExampleSource,
    batch: Mapping[str, Any],
    items: Ints,
    k: int = K,
) -> Any:
    """Top `k` of `items` for each example, int32 (n, k), without what the user bought before."""
    columns, column = np.unique(source.text_of[items], return_inverse=True)
    candidates = bank[torch.from_numpy(columns)]
    lists = []
    for at in range(0, len(batch["person"]), _BLOCK):
        part = {name: values[at : at + _BLOCK] for name, values in batch.items()}
        texts, text = np.unique(source.text_of[flat(part["items"])], return_inverse=True)
        weights = np.zeros((len(part["person"]), len(texts)), np.float32)
        np.add.at(weights, (list_rows(part["items"]), text), np.concatenate(part["weights"]))
        by_text = score(torch.from_numpy(weights).to(bank.device), bank[torch.from_numpy(texts)], candidates)
        by_item = by_text.cpu().numpy()[:, column]
        row, item = _bought_before(source, np.asarray(part["person"]), np.asarray(part["start"]), items)
        by_item[row, item] = -np.inf
        lists.append(_top(by_item, items, k))
    return np.concatenate(lists)


def _bought_before(source: ExampleSource, users: Ints, start: Ints, items: Ints) -> tuple[Ints, Ints]:
    """Positions in (users, items) of what a user bought before the example's time."""
    tally, at = source.purchased.tally, source.purchased.at
    rows, columns = [], []
    for row, (user, moment) in enumerate(zip(users, start, strict=True)):
        a, b = np.searchsorted(tally.keys, [user * tally.n_keys, (user + 1) * tally.n_keys])
        bought = tally.keys[a:b][at[a:b] < moment] % tally.n_keys
        column = np.searchsorted(items, bought)
        column = column[items[np.minimum(column, len(items) - 1)] == bought]
        rows.append(np.full(len(column), row))
        columns.append(column)
    return np.concatenate(rows).astype(np.int64), np.concatenate(columns).astype(np.int64)


def _top(score: Floats, items: Ints, k: int) -> Any:
    k = min(k, score.shape[1])
    some = np.argpartition(-score, k - 1, axis=1)[:, :k]
    order = np.lexsort((some, -np.take_along_axis(score, some, axis=1)), axis=1)
    best = np.take_along_axis(some, order, axis=1)
    return np.where(np.isfinite(np.take_along_axis(score, best, axis=1)), items[best], -1).astype(np.int32)
