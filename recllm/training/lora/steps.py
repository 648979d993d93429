"""From examples to the arrays of one step: which users, which texts, which candidates stand for how many items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY
from recllm.data.interactions import Floats, Ints
from recllm.settings import LoraSettings
from recllm.training.lora.examples import FirstPurchases

_READ = 2_048
"""Examples read at once."""

HARD = 5
"""Hard negatives are nearest texts behind the first so many, which are too often just as right."""


@dataclass(frozen=True, eq=False)
class StepArrays:
    """Arrays of one step; `texts` are text numbers, and the columns below are places among them.

    history, candidates: columns of the users's items and of what is ranked, ascending text numbers. weights: (B, H).
    log_weight: (B, T), see `recllm.training.lora.objective.Targets`. user, column: positives, places in (B, T).
    """

    texts: Ints
    history: Ints
    candidates: Ints
    weights: Floats
    log_weight: Floats
    user: Ints
    column: Ints


@dataclass(frozen=True, eq=False)
class ExampleGroup:
    """Consecutive rows of the examples that share a window and a kind of question."""

    start: int
    kind: str
    rows: range


@dataclass(frozen=True, eq=False)
class ExampleSource:
    """Examples and what a step needs besides. table: see `write_examples`. text_of: text number of each item."""

    table: Any
    purchased: FirstPurchases
    text_of: Ints
    args: LoraSettings
    popularity: dict[int, Floats] = field(default_factory=dict)

    def groups(self) -> list[ExampleGroup]:
        starts = np.asarray(self.table["start"])
        kinds = np.asarray(self.table["kind"])
        change = np.flatnonzero((np.diff(starts) != 0) | (kinds[1:] != kinds[:-1])) + 1
        edges = [0, *change.tolist(), len(starts)]
        pairs = pairwise(edges)
        return [ExampleGroup(int(starts[a]), str(kinds[a]), range(a, b)) for a, b in pairs]

    def draw(self, groups: list[ExampleGroup], rng: np.random.Generator, neighbours: Mapping[int, Ints]) -> StepArrays:
        """Users of one window and one question: a kind at random, then a window by its number of examples."""
        kinds = sorted({g.kind for g in groups})
        kind = kinds[rng.integers(len(kinds))]
        fit = [g for g in groups if g.kind == kind]
        sizes = np.array([len(g.rows) for g in fit])
        group = fit[rng.choice(len(fit), p=sizes / sizes.sum())]
        size = min(self.args.batch_size, len(group.rows))
        rows = np.sort(rng.choice(len(group.rows), size, replace=False)) + group.rows.start
        batch = self.table[rows.tolist()]
        items, weight = self.candidates(group, batch, rng)
        return assemble(batch, items, weight, group, self, neighbours)

    def candidates(
        self, group: ExampleGroup, batch: Mapping[str, Any], rng: np.random.Generator
    ) -> tuple[Ints, Floats]:
        """Item rows, each once, and how many items each stands for."""
        if self.args.loss == "in-batch":
            positives, count = np.unique(np.concatenate(batch["positives"]), return_counts=True)
            chance = self.popular(group.start + self.args.horizon_days * DAY) + 1.0  # + 1: this window's own share
            return positives, (count / (count.sum() * chance[positives] / chance.sum())).astype(np.float32)
        if group.kind == "arrival":
            return self.arrivals(group.start), np.ones(len(self.arrivals(group.start)), np.float32)
        offered = self.offered(group)
        bought = self.popular(group.start)[offered].astype(np.float64)
        even = np.full(len(offered), 1 / len(offered))
        chance = 0.5 * even + 0.5 * (bought / bought.sum() if bought.sum() else even)
        drawn, count = np.unique(rng.choice(len(offered), self.args.negatives, p=chance), return_counts=True)
        return offered[drawn], (count / (self.args.negatives * chance[drawn])).astype(np.float32)

    def texts(self, groups: list[ExampleGroup]) -> Ints:
        """Numbers of all texts that steps on these groups may ask for."""
        parts = [np.unique(self.text_of[self.offered(group)]) for group in groups]
        for group in groups:
            for at in range(group.rows.start, group.rows.stop, _READ):
                batch = self.table[at : min(at + _READ, group.rows.stop)]
                parts += [np.unique(self.text_of[flat([*batch["items"], *batch["positives"]])])]
        return np.unique(np.concatenate(parts))

    def arrivals(self, start: int) -> Ints:
        """Items first sold in the window."""
        sold = self.purchased.sold
        return np.flatnonzero((sold >= start) & (sold < start + self.args.horizon_days * DAY))

    def offered(self, group: ExampleGroup) -> Ints:
        """Items that the question is about: the window's arrivals, those sold before it, or all that ever sold."""
        if group.kind == "arrival":
            return self.arrivals(group.start)
        limit = group.start if group.kind == "new" else np.iinfo(np.int64).max
        return np.flatnonzero(self.purchased.sold < limit)

    def popular(self, before: int) -> Floats:
        """How many users bought each item before a time, (n_items,)."""
        if before not in self.popularity:
            early = self.purchased.tally.key[self.purchased.at < before]
            self.popularity[before] = np.bincount(early, minlength=len(self.text_of)).astype(np.float32)
        return self.popularity[before]


def assemble(
    batch: Mapping[str, Any],
    items: Ints,
    weight: Floats,
    group: ExampleGroup,
    source: ExampleSource,
    neighbours: Mapping[int, Ints],
) -> StepArrays:
    """The arrays of a step from its examples and candidate items (n,), each standing for `weight` (n,) items.

    What a user bought before the end of the window is no negative of theirs.
    """
    args, text_of = source.args, source.text_of
    users = np.asarray(batch["person"], np.int64)
    past_items, past_user = flat(batch["items"]), list_rows(batch["items"])
    right, user = text_of[flat(batch["positives"])], list_rows(batch["positives"])
    close = [neighbours.get(int(t), np.zeros(0, np.int64)) for t in right]
    hard, hard_user = np.concatenate([*close, np.zeros(0, np.int64)]), np.repeat(user, [len(c) for c in close])
    bought = np.isin(hard_user * len(text_of) + hard, past_user * len(text_of) + text_of[past_items])
    hard, hard_user = hard[~bought], hard_user[~bought]
    columns = np.unique(np.concatenate([text_of[items], right, hard])).astype(np.int64)
    stands = _stands_for(source, group, users, items, weight, columns)
    stands[hard_user, np.searchsorted(columns, hard)] += 1.0
    column = np.searchsorted(columns, right)
    if args.mask_equal_texts:
        stands[user, column] = 0.0
    with np.errstate(divide="ignore"):
        log_weight = np.log(stands)
    log_weight[np.isneginf(log_weight).all(axis=1)] = -30.0  # nothing to be told from: hardly any loss
    history, at = np.unique(text_of[past_items], return_inverse=True)
    weights = np.zeros((len(users), len(history)), np.float32)
    np.add.at(weights, (past_user, at), np.concatenate(batch["weights"]))
    pairs, first = np.unique(user * len(columns) + column, return_index=True)
    texts = np.union1d(history, columns)
    return StepArrays(
        texts,
        np.searchsorted(texts, history),
        np.searchsorted(texts, columns),
        weights,
        log_weight,
        user[first],
        (pairs % len(columns)).astype(np.int64),
    )


def _stands_for(
    source: ExampleSource, group: ExampleGroup, users: Ints, items: Ints, weight: Floats, columns: Ints
) -> Floats:
    """How many items each candidate text stands for as a negative of each user, (B, T)."""
    bought_at = source.purchased.first(*np.broadcast_arrays(users[:, None], items[None, :]))
    is_negative = (bought_at >= group.start + source.args.horizon_days * DAY) * weight  # (B, n)
    stands = np.zeros((len(users), len(columns)), np.float32)
    np.add.at(stands.T, np.searchsorted(columns, source.text_of[items]), is_negative.T)
    return stands


def flat(lists: list[list[int]]) -> Ints:
    return np.fromiter((value for values in lists for value in values), np.int64)


def list_rows(lists: list[list[int]]) -> Ints:
    """Row of the list that each entry of `flat` came from."""
    return np.repeat(np.arange(len(lists)), [len(values) for values in lists])


def hard_negatives(bank: NDArray[np.float32], texts: Ints, n: int) -> dict[int, Ints]:
    """For each of `texts`, `n` of its nearest other texts by cosine, the very nearest left out."""
    neighbours: dict[int, Ints] = {}
    for block in np.split(texts, range(512, len(texts), 512)) if n and len(texts) else ():
        cosine = bank[block] @ bank.T
        cosine[np.arange(len(block)), block] = -np.inf
        top = np.argsort(-cosine, axis=1, kind="stable")[:, HARD : HARD + n]
        neighbours |= {int(t): row for t, row in zip(block, top, strict=True)}
    return neighbours
