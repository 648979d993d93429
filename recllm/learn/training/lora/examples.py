"""Past windows of the purchase log as pairs of texts to learn from, and as questions to judge by.

A question is a user at the start of a window: the items bought by then, weighted by how recently and often, and what
the user bought in the window for the first time. Nothing at or after the start reaches the items before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, Strict

from recllm.base.arrays import Floats, Ints, Rows
from recllm.base.documents import Count, CountOrZero
from recllm.base.errors import DataError
from recllm.base.schema import Action
from recllm.base.settings import LoraSettings, Seed
from recllm.base.stats.ranking import Truth, average, ndcg
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.shop.data.interactions import Tally, decay, matrix, of_actions

HISTORY_ITEMS = 30  # heaviest distinct items of a user that count
HALF_LIFE_DAYS = 60.0  # of an event of a user's history
USERS_PER_WINDOW = 4_000  # users drawn per window and kind of question at most
PAIRS_PER_USER = 4  # pairs drawn per question at most
LEAST_EXAMPLES = 50  # questions over all windows, below which a run is refused
VALIDATION_USERS = 500  # users of the latest windows who are evaluated, at most
K = 20  # ranks that are judged
SCALE = 20.0  # inverse temperature of the cosines, in the loss and in the judgement

ALONE = "train the scorer alone on the frozen encoder (recllm train without --lora), or recommend zero-shot"

NEVER = np.iinfo(np.int64).max
"""Time of what did not happen."""


class LoraArguments(LoraSettings):
    """A fine-tuning run of the encoder.
    Names follow `transformers.TrainingArguments` where the meaning is the same."""

    section: ClassVar[str] = ""

    top_layers: Count | None = 2
    """Adapted blocks, counted from the output; None: all."""
    horizon_days: Count = 28
    """Length of a window."""
    n_windows: Annotated[int, Strict(), Field(ge=2)] = 6
    """Past windows at most, the latest ones for validation alone."""
    batch_size: Count = 128
    """Pairs of a step per device, each the others' negatives; all of one kind of question."""
    warmup_steps: CountOrZero = 15
    """First steps, in which the learning rate rises."""
    eval_steps: Count = 25
    """Steps between evaluations by the validation users."""
    patience: Count = 3
    """Evaluations without a better one before training ends."""
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class Questions:
    """Users of one window who have the same kind of question: "arrival", "new" or "next"."""

    start: int
    """Of the window, epoch seconds."""
    kind: str
    offered: Ints
    """Items that are ranked: the window's arrivals, those sold before it, or all that ever sold."""
    history: Any
    """Sparse (n_users, n_items): weights of each user's heaviest items; they sum to 1."""
    bought: Any
    """Sparse (n_users, n_items): not 0 for what each user bought before the start."""
    positives: Truth

    def __len__(self) -> int:
        return int(self.history.shape[0])

    def rows(self, users: Ints) -> Questions:
        """The same of some of the users."""
        history, bought = self.history[users], self.bought[users]
        return Questions(self.start, self.kind, self.offered, history, bought, self.positives.rows(users))

    def pairs(self, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Items that users had, drawn by their weights, and items that they then bought: (n_pairs,) each."""
        by_user = np.lexsort((rng.random(len(self.positives.item)), self.positives.user))
        rank = np.arange(len(by_user)) - np.repeat(self.positives.indptr[:-1], self.positives.sizes)
        drawn = by_user[rank < PAIRS_PER_USER]
        user = self.positives.user[drawn]
        ends, begins = self.history.indptr[user + 1], self.history.indptr[user]
        position = np.searchsorted(np.cumsum(self.history.data, dtype=np.float64), user + rng.random(len(user)))
        return self.history.indices[np.clip(position, begins, ends - 1)], self.positives.item[drawn]


def past_questions(dataset: Dataset, args: LoraArguments) -> list[Questions]:
    """The questions of all past windows, latest first.
    Raises `DataError` when there is too little to learn from."""
    events = of_actions(dataset.events, (Action.PURCHASE,))
    if not len(events):
        raise DataError(f"the log has no purchases to fine-tune on; {ALONE}")
    starts = window_starts(dataset, events, args)
    questions = [group for start in starts for group in window_questions(events, dataset.n_items, start, args)]
    if (n_users := sum(map(len, questions))) < LEAST_EXAMPLES:
        raise DataError(
            f"in all past windows only {n_users} people took something for the first time, and fine-tuning needs "
            f"{LEAST_EXAMPLES}: load a longer log, or more people; or {ALONE}"
        )
    return questions


def window_starts(dataset: Dataset, events: Events, args: LoraArguments) -> list[int]:
    """Starts of back-to-back windows, latest first; each has a horizon of history before it.

    Arrivals are rare, so windows reach further back than those of the scorer, whose counts need a long history. A log
    of steps has as many windows as steps. Raises `DataError` when fewer than two fit.
    """
    horizon, first = args.horizon_days * DAY, int(events.at.min())
    n_windows = (dataset.as_of - first) // horizon if is_stepwise(events, args.horizon_days) else args.n_windows
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


def is_stepwise(events: Events, horizon_days: int) -> bool:
    """Whether the log only knows an order: all its times are whole horizons apart."""
    step = horizon_days * DAY
    return len(events) > 1 and not np.any((events.at - events.at[0]) % step) and len(np.unique(events.at)) > 1


def window_questions(events: Events, n_items: int, start: int, args: LoraArguments) -> Iterator[Questions]:
    tally, past = Tally.of(events.user, events.item, n_items), events.select(events.at < start)
    first_bought, end = tally.smallest(events.at), start + args.horizon_days * DAY
    first_sold = np.full(n_items, NEVER)
    np.minimum.at(first_sold, tally.key, first_bought)
    is_asked = (first_bought >= start) & (first_bought < end) & (np.diff(past.indptr)[tally.user] > 0)
    arrives = (first_sold >= start) & (first_sold < end)
    kinds = {"arrival": (is_asked & arrives[tally.key], arrives)}
    kinds["new"] = (is_asked & ~arrives[tally.key], first_sold < start)
    if is_stepwise(events, args.horizon_days):
        kinds = {"next": (is_asked, first_sold < NEVER)}
    rng = np.random.default_rng([args.seed, start])
    for kind, (is_positive, is_offered) in kinds.items():
        users = np.sort(rng.permutation(np.unique(tally.user[is_positive]))[:USERS_PER_WINDOW])
        if not len(users):
            continue
        of_users = past.rows(users)
        bought = matrix(of_users, n_items, decay(of_users.at, start, HALF_LIFE_DAYS))
        is_drawn = is_positive & np.isin(tally.user, users)
        user = np.searchsorted(users, tally.user[is_drawn])
        positives = Truth.from_pairs(user, tally.key[is_drawn], len(users))
        yield Questions(start, kind, np.flatnonzero(is_offered), heaviest(bought), bought, positives)


def heaviest(weights: Any) -> Any:
    """Sparse rows cut to their `HISTORY_ITEMS` largest weights, which then sum to 1."""
    from scipy.sparse import csr_matrix

    lengths = np.diff(weights.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((weights.indices, -weights.data, row))
    first = np.sort(order[np.arange(len(order)) - weights.indptr[row] < HISTORY_ITEMS])
    data, row = weights.data[first], row[first]
    data = data / np.bincount(row, data)[row].astype(np.float32)
    return csr_matrix((data, (row, weights.indices[first])), shape=weights.shape)


def hold_out(questions: Sequence[Questions], seed: int) -> tuple[list[Questions], list[Questions]]:
    """Questions to judge by and questions to learn from.

    The latest windows are for judging until they have `VALIDATION_USERS` or a tenth of all users; of each kind users
    are drawn. Raises `DataError` where all questions are in one window.
    """
    size, latest = min(VALIDATION_USERS, sum(map(len, questions)) / 10), set[int]()
    for start in sorted({group.start for group in questions}, reverse=True):
        if sum(len(group) for group in questions if group.start in latest) < size:
            latest.add(start)
    learned = [group for group in questions if group.start not in latest]
    if not learned:
        raise DataError(f"only one past window holds anything to learn from, and fine-tuning needs two; {ALONE}")
    judged, rng = [group for group in questions if group.start in latest], np.random.default_rng([seed, 0])
    share = {kind: min(1.0, VALIDATION_USERS / sum(len(group) for group in judged if group.kind == kind))
             for kind in {group.kind for group in judged}}  # fmt: skip
    drawn = [rng.permutation(len(group))[: max(1, round(share[group.kind] * len(group)))] for group in judged]
    return [group.rows(np.sort(users)) for group, users in zip(judged, drawn, strict=True)], learned


def judge(questions: Sequence[Questions], vectors: Floats, text_of: Ints) -> dict[str, float]:
    """ndcg@20 of each kind of question by text alone, and "goal", their sum.

    vectors: unit rows of the texts, (n_texts, dim). An item's score for a user is the log of the weighted mean of
    exp(`SCALE` cos) over the items of the user's history, so it has to be near to one of them and not to their mean.
    """
    values: dict[str, list[Any]] = {}
    for group in questions:
        items, column = np.unique(text_of[group.offered], return_inverse=True)
        for start in range(0, len(group), 64):
            block = group.rows(np.arange(start, min(start + 64, len(group))))
            history = np.unique(block.history.indices)
            nearness = np.exp(SCALE * (vectors[text_of[history]] @ vectors[items].T - 1))
            score = (block.history[:, history] @ nearness)[:, column]
            score[block.bought[:, group.offered].nonzero()] = -1.0
            best = np.argsort(-score, axis=1, kind="stable")[:, :K]
            is_open = np.take_along_axis(score, best, axis=1) >= 0
            lists = np.where(is_open, group.offered[best], -1).astype(np.int32)
            values.setdefault(f"ndcg@{K}_{group.kind}", []).append(ndcg(lists, block.positives, K))
    by_kind = {name: average(np.concatenate(parts)) for name, parts in values.items()}
    return {**by_kind, "goal": sum(by_kind.values())}
