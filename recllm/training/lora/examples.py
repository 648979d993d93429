"""Questions with known answers, made from the purchase log.

An example is a user at the start of a past window: the set of items that they had bought by then, weighted by how
recently and often, and what they bought in the window for the first time. Nothing at or after the window's start
reaches the set. The examples of a log are written in batches to an Arrow file and read back memory-mapped, so their
number is bounded by the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, Dataset, Events
from recllm.data.interactions import Ints, Tally, decay, matrix, of_actions
from recllm.errors import DataError
from recllm.schema import Action
from recllm.settings import LoraSettings

LEAST_EXAMPLES = 50
"""People with something to learn from, over all windows, below which a run is refused."""

ALONE = "train the scorer alone on the frozen encoder (recllm train without --lora), or recommend zero-shot"

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
        sold = np.full(n_items, np.iinfo(np.int64).max)
        np.minimum.at(sold, tally.key, at)
        return cls(tally, at, sold)

    def first(self, user: NDArray[np.integer], item: NDArray[np.integer]) -> Ints:
        """When each user bought each item first; a huge number for never. Both of one shape."""
        rows = self.tally.find(user.ravel(), item.ravel())
        return np.append(self.at, np.iinfo(np.int64).max)[rows].reshape(user.shape)


def purchases(dataset: Dataset) -> Events:
    """Raises `DataError` where the log has none."""
    bought = of_actions(dataset.events, (Action.PURCHASE,))
    if not len(bought):
        raise DataError(f"the log has no purchases to fine-tune on; {ALONE}")
    return bought


def is_stepwise(events: Events, horizon_days: int) -> bool:
    """Whether the log only knows an order: all its times are whole horizons apart."""
    step = horizon_days * DAY
    return len(events) > 1 and not np.any((events.at - events.at[0]) % step) and len(np.unique(events.at)) > 1


def starts_of(dataset: Dataset, events: Events, args: LoraSettings) -> list[int]:
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
    events: Events, purchased: FirstPurchases, start: int, args: LoraSettings, rng: np.random.Generator
) -> Iterator[dict[str, list[Any]]]:
    """Batches of examples of one window, as columns."""
    n_items, end = purchased.tally.n_keys, start + args.horizon_days * DAY
    past = events.select(events.at < start)
    in_window = (purchased.at >= start) & (purchased.at < end)
    user, item = purchased.tally.user[in_window], purchased.tally.key[in_window]
    has_history = np.diff(past.indptr)[user] > 0
    user, item = user[has_history], item[has_history]
    arrived = purchased.sold[item] >= start
    stepwise = is_stepwise(events, args.horizon_days)
    questions = {"next": np.ones(len(item), bool)} if stepwise else {"arrival": arrived, "new": ~arrived}
    for kind, mask in questions.items():
        if kind not in args.kinds and not stepwise:
            continue
        users = np.sort(rng.permutation(np.unique(user[mask]))[: args.users_per_window])
        for block in np.split(users, range(_BLOCK, len(users), _BLOCK)):
            if len(block):
                yield _example_columns(past, n_items, start, kind, block, user[mask], item[mask], args)


def _example_columns(
    past: Events, n_items: int, start: int, kind: str, users: Ints, user: Ints, item: Ints, args: LoraSettings
) -> dict[str, list[Any]]:
    past_of_users = past.rows(users)
    weights = matrix(past_of_users, n_items, decay(past_of_users.at, start, args.half_life_days))
    ends = np.searchsorted(user, users), np.searchsorted(user, users, side="right")
    items, row_weights = [], []
    for row in range(len(users)):
        part = slice(weights.indptr[row], weights.indptr[row + 1])
        row_items, weight = weights.indices[part], weights.data[part]
        heaviest = np.lexsort((row_items, -weight))[: args.history_items]
        items.append(row_items[heaviest].tolist())
        row_weights.append((weight[heaviest] / weight[heaviest].sum()).tolist())
    return {
        "start": [start] * len(users),
        "kind": [kind] * len(users),
        "person": users.tolist(),
        "items": items,
        "weights": row_weights,
        "positives": [item[a:b].tolist() for a, b in zip(*ends, strict=True)],
    }


def write_examples(dataset: Dataset, args: LoraSettings, path: Path) -> Any:
    """The examples of all windows as a memory-mapped `datasets.Dataset`, latest window first.

    Columns: start (epoch seconds), kind ("arrival", "new" or "next"), person (row of users), items and weights (at
    most `history_items`, weights sum to 1), positives. Raises `DataError` when there is too little to learn from.
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
    events = purchases(dataset)
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
    return Table.from_file(str(path))
