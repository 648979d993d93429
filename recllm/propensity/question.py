"""What is asked: of whom, learned from whom, how far ahead; and how a scored person becomes an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, USER_COLUMN, Dataset, utc
from recllm.errors import PolicyError, UsageError
from recllm.policy import Policy
from recllm.propensity.examples import cuts
from recllm.propensity.features import Basics, person_features, target_features
from recllm.propensity.reasons import Score, Teller, background, group_deltas
from recllm.propensity.table import Features
from recllm.schema import Action, Reason
from recllm.settings import PredictionReasonSettings
from recllm.text.templates import Prompts

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """learn: people whose past may be learned from. ask: people who are predicted, as of its own time."""

    learn: Dataset
    ask: Dataset
    horizon_days: int = 28
    items: tuple[str, ...] = ()
    """Only purchases of these count; all when empty."""
    category: str | None = None
    """Only purchases of this category count: a name, or a path "a > b"."""
    basics: bool = False
    """Whether what people told of themselves is used: on Complete Journey it tells nothing more."""
    explain: bool = True
    locale: str = "en"
    policy: Policy = field(default_factory=Policy)
    reasons: PredictionReasonSettings = field(default_factory=PredictionReasonSettings)
    seed: int = 0

    def times(self, most: int = 12) -> list[int]:
        """Past cuts, latest first; see `recllm.propensity.examples.cuts`."""
        return cuts(self.learn, self.horizon_days, most=most)

    @property
    def aimed(self) -> bool:
        """Whether only some items count."""
        return bool(self.items) or self.category is not None

    @property
    def target_name(self) -> str | None:
        if self.category is not None:
            return self.category
        if len(self.items) != 1:
            return None
        row = int(self.ask.item_rows(self.items)[0])
        return str(self.ask.items["title"][row] or self.items[0]) if row >= 0 else self.items[0]

    def meaning(self, kind: str, active_days: int = 0) -> str:
        """What is predicted, in the language of the reasons."""
        return Prompts.load().render("behaviour.meaning", self.locale, kind=kind, active=active_days)

    def checked(self, cut: NDArray[np.int64] | None, campaigns: int = 0) -> str:
        """Where the quality was measured: from the first of these times on, or None for people by other people."""
        day = None if cut is None else f"{utc(int(cut.min())):%Y-%m-%d}"
        facts = {"days": self.horizon_days, "day": day, "campaigns": campaigns}
        return Prompts.load().render("behaviour.checked", self.locale, **facts)

    def wanted(self, dataset: Dataset) -> Mask:
        """The items that count, (n_items,). Raises `UsageError` for none, `PolicyError` for sensitive ones."""
        if not self.aimed:
            return np.ones(dataset.n_items, bool)
        from recllm.audiences.targets import SENSITIVE, in_category  # brings torch, which nothing else here needs

        if self.items and self.category is not None:
            raise UsageError("a prediction is of items or of a category: give one of them")
        mask = _of_items(dataset, self.items) if self.items else in_category(dataset.items, str(self.category))
        if not mask.any():
            raise UsageError(f"no item in the category {self.category!r}; write a name, or a path as 'a > b'")
        found = dataset.items.filter(mask)
        paths = zip(found["category"].to_list(), found["title"].to_list(), strict=True)
        if any(self.policy.is_sensitive((*(path or ()), title or "")) for path, title in paths):
            raise PolicyError(SENSITIVE)
        return mask

    def table(self) -> Callable[[Dataset, int], Features]:
        """The features of everybody as of a time; basics as the people learned from have them."""
        told = Basics.of(self.learn.users) if self.basics else None
        masks = {id(d): self.wanted(d) for d in (self.learn, self.ask)} if self.aimed else {}

        def made(dataset: Dataset, at: int) -> Features:
            whole = person_features(dataset, at, basics=told)
            return whole.beside(target_features(dataset, at, masks[id(dataset)])) if self.aimed else whole

        return made

    def bought(self, dataset: Dataset, start: int, end: int) -> NDArray[np.float64]:
        """1 for who buys what counts with start <= time < end, (n_users,)."""
        window = dataset.between(start, end)
        window = window.select(self.wanted(dataset)[window.item]) if self.aimed else window
        return (np.diff(window.indptr) > 0).astype(np.float64)

    def answers(
        self,
        score: Score,
        read: Callable[[Features], Features],
        learned: Features,
        asked: Features,
        what: str = "chance",
    ) -> list[tuple[Reason, ...]]:
        """The reasons of each row of `asked`; nothing without `explain`.

        read: a table to what `score` is given the values of. learned: the people that others are drawn from.
        """
        if not self.explain or not len(asked):
            return [()] * len(asked)
        groups, deltas = group_deltas(score, read(asked), read(background(learned, self.reasons)).values)
        teller = Teller(self.locale, self.policy, Prompts.load(), what, self.target_name)
        rows = (dict(zip(asked.names, map(float, row), strict=True)) for row in asked.values)
        return [teller.reasons(groups, d, row, self.reasons) for d, row in zip(deltas, rows, strict=True)]


def known(dataset: Dataset, at: int) -> Mask:
    """Who has done anything before a time, (n_users,)."""
    return np.asarray(np.diff(dataset.before(at).events.indptr) > 0)


def active(days: int) -> Callable[[Dataset, int], Mask]:
    """Who has bought anything within so many days before a time."""

    def mask(dataset: Dataset, at: int) -> Mask:
        return np.asarray(np.diff(dataset.between(at - days * DAY, at, Action.PURCHASE).indptr) > 0)

    return mask


def ordered(dataset: Dataset, rows: NDArray[np.integer], score: NDArray[np.floating]) -> NDArray[np.int64]:
    """Places of `rows`, highest score first; equal scores in the order of a hash of the id."""
    names: Sequence[str] = dataset.users[USER_COLUMN].gather(rows).to_list()
    digest = [hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names]
    tie = np.argsort(np.argsort(np.array(digest, dtype="S8"), kind="stable"), kind="stable")
    return np.asarray(np.lexsort((tie, -score)), np.int64)


def ids_of(dataset: Dataset, rows: NDArray[np.integer]) -> list[str]:
    return list(dataset.users[USER_COLUMN].gather(rows).to_list())


def _of_items(dataset: Dataset, items: Sequence[str]) -> Mask:
    rows = dataset.item_rows(items)
    if (rows < 0).any():
        raise UsageError(f"no item {items[int(np.flatnonzero(rows < 0)[0])]!r} in the catalogue")
    mask = np.zeros(dataset.n_items, bool)
    mask[rows] = True
    return mask
