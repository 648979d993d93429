"""Questions with known answers, made from the purchase log, and the arrays of one step on them.

An example is a user at the start of a past window: the set of items that they had bought by then, weighted by how
recently and often, and what they bought in the window for the first time. Nothing at or after the window's start
reaches the set. The examples of a log are written in batches to an Arrow file and read back memory-mapped, so their
number is bounded by the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.schema import Action
from recllm.learn.training.arguments import LoraArguments
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.shop.data.interactions import Floats, Ints, Tally, decay, matrix, of_actions

HISTORY_ITEMS = 30  # heaviest distinct items of a user that make the set
HALF_LIFE_DAYS = 60.0  # of an event of a user's history
USERS_PER_WINDOW = 4_000  # users drawn per window at most
NEGATIVES = 1_024  # items drawn per step where the window's own new items are not the whole question

LEAST_EXAMPLES = 50
"""People with something to learn from, over all windows, below which a run is refused."""

ALONE = "train the scorer alone on the frozen encoder (recllm train without --lora), or recommend zero-shot"

NEVER = np.iinfo(np.int64).max
"""Time of what did not happen."""

_BLOCK = 512


@dataclass(frozen=True, eq=False)
class FirstPurchases:
    """First time that each user bought each item."""

    tally: Tally
    """(user, item) pairs."""
    at: Ints
    """Epoch seconds beside `tally.keys`."""
    sold: Ints
    """First time that anybody bought the item, (n_items,); a huge number where nobody did."""

    @classmethod
    def of(cls, events: Events, n_items: int) -> FirstPurchases:
        tally = Tally.of(events.user, events.item, n_items)
        at = tally.smallest(events.at)
        sold = np.full(n_items, NEVER)
        np.minimum.at(sold, tally.key, at)
        return cls(tally, at, sold)

    def first(self, user: NDArray[np.integer], item: NDArray[np.integer]) -> Ints:
        """When each user bought each item first; a huge number for never. Both of one shape."""
        rows = self.tally.find(user.ravel(), item.ravel())
        return np.append(self.at, NEVER)[rows].reshape(user.shape)


def is_stepwise(events: Events, horizon_days: int) -> bool:
    """Whether the log only knows an order: all its times are whole horizons apart."""
    step = horizon_days * DAY
    return len(events) > 1 and not np.any((events.at - events.at[0]) % step) and len(np.unique(events.at)) > 1


def starts_of(dataset: Dataset, events: Events, args: LoraArguments) -> list[int]:
    """Starts of back-to-back windows, latest first; each has a horizon of history before it.

    Arrivals are rare, so windows reach further back than those of the scorer, whose counts need a long history. A log
    of steps has as many windows as steps. Raises `DataError` when fewer than two fit.
    """
    horizon, first = args.horizon_days * DAY, int(events.at.min())
    stepwise = is_stepwise(events, args.horizon_days)
    n_windows = (dataset.as_of - first) // horizon if stepwise else args.n_windows
    starts = [dataset.as_of - horizon * n for n in range(1, int(n_windows) + 1)]
    starts = [s for s in starts if s - first >= horizon]
    if len(starts) >= 2:
        return starts
    days = (dataset.as_of - first) / DAY
    raise DataError(
        f"the log spans {days:.0f} days; fine-tuning with horizon_days={args.horizon_days} needs "
        f"{3 * args.horizon_days}, a horizon of history and two windows: load a longer log, pass a shorter horizon, "
        f"or {ALONE}"
    )


def window_examples(
    events: Events, purchased: FirstPurchases, start: int, args: LoraArguments, rng: np.random.Generator
) -> Iterator[dict[str, list[Any]]]:
    n_items, end = purchased.tally.n_keys, start + args.horizon_days * DAY
    past = events.select(events.at < start)
    in_window = (purchased.at >= start) & (purchased.at < end)
    user, item = purchased.tally.user[in_window], purchased.tally.key[in_window]
    has_history = np.diff(past.indptr)[user] > 0
    user, item = user[has_history], item[has_history]
    arrived = purchased.sold[item] >= start
    questions = {kind: mask for kind, mask in (("arrival", arrived), ("new", ~arrived)) if kind in args.kinds}
    if is_stepwise(events, args.horizon_days):
        questions = {"next": np.ones(len(item), bool)}
    for kind, mask in questions.items():
        users = np.sort(rng.permutation(np.unique(user[mask]))[:USERS_PER_WINDOW])
        for block in np.split(users, range(_BLOCK, len(users), _BLOCK)) if len(users) else ():
            of_block = past.rows(block)
            weights = matrix(of_block, n_items, decay(of_block.at, start, HALF_LIFE_DAYS))
            items, item_weights = [], []
            for begin, stop in pairwise(weights.indptr):
                row_items, weight = weights.indices[begin:stop], weights.data[begin:stop]
                heaviest = np.lexsort((row_items, -weight))[:HISTORY_ITEMS]
                items.append(row_items[heaviest].tolist())
                item_weights.append((weight[heaviest] / weight[heaviest].sum()).tolist())
            ends = (np.searchsorted(user[mask], block, side=side) for side in ("left", "right"))
            yield {
                "start": [start] * len(block),
                "kind": [kind] * len(block),
                "person": block.tolist(),
                "items": items,
                "weights": item_weights,
                "positives": [item[mask][a:b].tolist() for a, b in zip(*ends, strict=True)],
            }


@dataclass(frozen=True, eq=False)
class StepArrays:
    """Arrays of one step; `texts` are text numbers, and the columns below are places among them.

    history, candidates: columns of the users's items and of what is ranked, ascending text numbers. weights: (B, H).
    log_weight: (B, T), see `recllm.learn.training.lora.objective.Targets`. user, column: positives, places in (B, T).
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
    args: LoraArguments
    popularity: dict[int, Floats] = field(default_factory=dict)

    def groups(self) -> list[ExampleGroup]:
        starts, kinds = np.asarray(self.table["start"]), np.asarray(self.table["kind"])
        change = np.flatnonzero((np.diff(starts) != 0) | (kinds[1:] != kinds[:-1])) + 1
        edges = [0, *change.tolist(), len(starts)]
        return [ExampleGroup(int(starts[a]), str(kinds[a]), range(a, b)) for a, b in pairwise(edges)]

    def draw(self, groups: list[ExampleGroup], rng: np.random.Generator) -> StepArrays:
        """Users of one window and one question: a kind at random, then a window by its number of examples."""
        kinds = sorted({g.kind for g in groups})
        kind = kinds[rng.integers(len(kinds))]
        fit = [g for g in groups if g.kind == kind]
        sizes = np.array([len(g.rows) for g in fit])
        group = fit[rng.choice(len(fit), p=sizes / sizes.sum())]
        size = min(self.args.batch_size, len(group.rows))
        batch = self.sample(group, size, rng)
        return assemble(batch, *self.candidates(group, batch, rng), group, self)

    def sample(self, group: ExampleGroup, size: int, rng: np.random.Generator) -> Mapping[str, Any]:
        rows = np.sort(rng.choice(len(group.rows), size, replace=False)) + group.rows.start
        columns: Mapping[str, Any] = self.table[rows.tolist()]
        return columns

    def candidates(
        self, group: ExampleGroup, batch: Mapping[str, Any], rng: np.random.Generator
    ) -> tuple[Ints, Floats]:
        """Item rows, each once, and how many items each stands for."""
        if self.args.loss == "in-batch":
            positives, count = np.unique(np.concatenate(batch["positives"]), return_counts=True)
            chance = self.popular(group.start + self.args.horizon_days * DAY) + 1.0  # + 1: this window's own share
            return positives, (count / (count.sum() * chance[positives] / chance.sum())).astype(np.float32)
        offered = self.offered(group)
        if group.kind == "arrival":
            return offered, np.ones(len(offered), np.float32)
        bought = self.popular(group.start)[offered].astype(np.float64)
        even = np.full(len(offered), 1 / len(offered))
        chance = 0.5 * even + 0.5 * (bought / bought.sum() if bought.sum() else even)
        drawn, count = np.unique(rng.choice(len(offered), NEGATIVES, p=chance), return_counts=True)
        return offered[drawn], (count / (NEGATIVES * chance[drawn])).astype(np.float32)

    def texts(self, groups: list[ExampleGroup]) -> Ints:
        """Numbers of all texts that steps on these groups may ask for."""
        parts = [np.unique(self.text_of[self.offered(group)]) for group in groups]
        for group in groups:
            for at in range(group.rows.start, group.rows.stop, 2_048):  # examples read at once
                batch = self.table[at : min(at + 2_048, group.rows.stop)]
                parts += [np.unique(self.text_of[flat([*batch["items"], *batch["positives"]])])]
        return np.unique(np.concatenate(parts))

    def offered(self, group: ExampleGroup) -> Ints:
        """Items that the question is about: the window's arrivals, those sold before it, or all that ever sold."""
        sold = self.purchased.sold
        if group.kind == "arrival":
            return np.flatnonzero((sold >= group.start) & (sold < group.start + self.args.horizon_days * DAY))
        return np.flatnonzero(sold < (group.start if group.kind == "new" else NEVER))

    def popular(self, before: int) -> Floats:
        """How many users bought each item before a time, (n_items,)."""
        if before not in self.popularity:
            early = self.purchased.tally.key[self.purchased.at < before]
            self.popularity[before] = np.bincount(early, minlength=len(self.text_of)).astype(np.float32)
        return self.popularity[before]


def write_examples(dataset: Dataset, text_of: Ints, args: LoraArguments, path: Path) -> ExampleSource:
    """The examples of all windows, their table a memory-mapped `datasets.Dataset`, latest window first.

    Columns: start (epoch seconds), kind ("arrival", "new" or "next"), person (row of users), items and weights (at
    most `HISTORY_ITEMS`, weights sum to 1), positives. Raises `DataError` when there is too little to learn from.
    """
    from datasets import Dataset as Table
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features(
        start=Value("int64"),
        kind=Value("string"),
        person=Value("int32"),
        items=List(Value("int32")),
        weights=List(Value("float32")),
        positives=List(Value("int32")),
    )
    events = of_actions(dataset.events, (Action.PURCHASE,))
    if not len(events):
        raise DataError(f"the log has no purchases to fine-tune on; {ALONE}")
    purchased = FirstPurchases.of(events, dataset.n_items)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ArrowWriter(features=features, path=str(path)) as writer:
        for start in starts_of(dataset, events, args):
            rng = np.random.default_rng([args.seed, start])
            for columns in window_examples(events, purchased, start, args, rng):
                writer.write_batch(columns)
        written, _ = writer.finalize()
    if written < LEAST_EXAMPLES:
        raise DataError(
            f"in all past windows only {written} people took something for the first time, and fine-tuning needs "
            f"{LEAST_EXAMPLES}: load a longer log, or more people; or {ALONE}"
        )
    return ExampleSource(Table.from_file(str(path)), purchased, text_of, args)


def assemble(
    batch: Mapping[str, Any],
    items: Ints,
    weight: Floats,
    group: ExampleGroup,
    source: ExampleSource,
) -> StepArrays:
    """The arrays of a step from its examples and candidate items (n,), each standing for `weight` (n,) items.

    What a user bought before the end of the window is no negative of theirs.
    """
    args, text_of = source.args, source.text_of
    users = np.asarray(batch["person"], np.int64)
    right, user = text_of[flat(batch["positives"])], list_rows(batch["positives"])
    columns = np.unique(np.concatenate([text_of[items], right])).astype(np.int64)
    # how many items each candidate text stands for as a negative of each user, (B, T)
    bought_at = source.purchased.first(*np.broadcast_arrays(users[:, None], items[None, :]))
    is_negative = (bought_at >= group.start + args.horizon_days * DAY) * weight  # (B, n)
    stands = np.zeros((len(users), len(columns)), np.float32)
    np.add.at(stands.T, np.searchsorted(columns, text_of[items]), is_negative.T)
    column = np.searchsorted(columns, right)
    with np.errstate(divide="ignore"):
        log_weight = np.log(stands)
    log_weight[np.isneginf(log_weight).all(axis=1)] = -30.0  # nothing to be told from: hardly any loss
    history, weights = weighted_texts(batch, text_of)
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


def weighted_texts(batch: Mapping[str, Any], text_of: Ints) -> tuple[Ints, Floats]:
    """Ascending numbers of the texts that the users' items have, (H,), and their weights in each user's set, (B, H)."""
    texts, column = np.unique(text_of[flat(batch["items"])], return_inverse=True)
    weights = np.zeros((len(batch["person"]), len(texts)), np.float32)
    np.add.at(weights, (list_rows(batch["items"]), column), np.concatenate(batch["weights"]))
    return texts, weights


def flat(lists: list[list[int]]) -> Ints:
    return np.fromiter((value for values in lists for value in values), np.int64)


def list_rows(lists: list[list[int]]) -> Ints:
    """Row of the list that each entry of `flat` came from."""
    return np.repeat(np.arange(len(lists)), [len(values) for values in lists])
