"""One item for one person, explained whole: what each piece of evidence adds, and what it would take to lose the item.

    recommender.explain("ann", "tea")

Every number is a score or a list of the served model, computed again for a shortened history; see
`recllm.recommend.recommender.leave_one_out`. Sensitive evidence is counted and never named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field

from recllm.base.arrays import Floats, Ints, Rows, Values
from recllm.base.policy import Policy
from recllm.base.schema import Reason
from recllm.recommend.recommender.histories import Histories, UserHistory
from recllm.recommend.recommender.leave_one_out import (
    EVIDENCE_PER_ITEM,
    Evidence,
    PositionOf,
    ReasonWriter,
    choose,
    counterfactual,
    deltas,
    heaviest_first,
    lacking,
    units_of,
)
from recllm.recommend.recommender.ranking import LIST_DEPTH, NAMESAKES, Ranked
from recllm.shop.data.catalogue import on_offer
from recllm.shop.data.dataset import OPEN_CART, Dataset
from recllm.shop.data.interactions import Pairs
from recllm.text.items import item_names, reason_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """contributions: every piece that was tried and may be named, heaviest first; delta in logits, below 0 when the
    item stands lower for it. withheld: the sum of the deltas of sensitive evidence. counterfactual: a sentence, None
    when nothing that may be named takes the item out of the first `k`; `without` are its pieces.

    rank: in the person's list, each name counted once, from 1; after: without those pieces. Both are None when
    the item is not among the first `k`.
    """

    user_id: str
    item_id: str
    title: str
    k: int
    available: bool
    """False for an item off sale, which has no rank."""
    rank: Annotated[int | None, Field(serialization_alias="place")] = field(metadata={"json": "place"})
    reasons: tuple[Reason, ...]
    contributions: tuple[Reason, ...]
    withheld: float
    counterfactual: str | None
    without: tuple[str, ...]
    after: int | None


@dataclass(frozen=True, eq=False)
class Explainer:
    """Measures what moves the scores of one recommender, and says it in words."""

    dataset: Dataset
    policy: Policy
    locale: str
    item_vectors: Floats
    item_type: Rows
    """Narrowest category of each item, (n_items,)."""
    logits: Callable[[Histories, Pairs], Floats]
    """The served score of pairs."""
    ranked: Callable[[Histories, int], Ranked]
    """The first items of the served ranking that nothing filters."""
    broad: frozenset[tuple[str, ...]] = frozenset()
    """As of `ReasonWriter`."""

    def evidence(self, person: UserHistory, item_rows: Rows) -> tuple[list[Evidence], Floats]:
        """The person's pieces of evidence, and their measured worth for these items, (n_units, n_items)."""
        units = units_of(person, self.dataset.items["item_id"])
        tried = choose(units, item_rows, self.item_vectors, self.item_type, EVIDENCE_PER_ITEM)
        cart = set(person.events.item[person.events.basket == OPEN_CART].tolist())  # what orders the list before all
        tried[[unit.kind == "H" and unit.item in cart for unit in units]] = True
        return units, deltas(person, units, item_rows, tried, self.logits)

    def spread(self, person: UserHistory) -> float:
        """How far apart the person's scores lie; see `spreads`."""
        return float(spreads(self.ranked(lacking(person, [()]), LIST_DEPTH))[0])

    def reasons(self, person: UserHistory, item_rows: Rows, spread: float) -> list[tuple[Reason, ...]]:
        """What moves the score of each of these items, clearest first."""
        if not len(item_rows):
            return []
        units, deltas_of_units = self.evidence(person, item_rows)
        tried = np.flatnonzero(np.isfinite(deltas_of_units).any(axis=1))
        named = person.of_items([units[int(n)].item for n in tried])
        writer, profile = self._writer(), named.profile(self.dataset)
        return [
            writer.reasons(units, deltas_of_units[:, column], int(row), profile, spread)
            for column, row in enumerate(item_rows)
        ]

    def explanation(self, person: UserHistory, user: str, column: int, k: int) -> Explanation:
        """One item for one user, whether or not it would be shown. column: the item's row."""
        units, unit_deltas = self.evidence(person, np.array([column]))
        writer, profile = self._writer(), person.profile(self.dataset)
        named = np.array([not writer.sensitive(unit) for unit in units], bool)
        position = self.positions(column, k)
        before = int(position(lacking(person, [()]))[0])
        nameable = [unit for unit, may_be_named in zip(units, named, strict=True) if may_be_named]
        lost = counterfactual(person, nameable, unit_deltas[named, 0], position, k=k)
        removed, sentence = list[str](), None
        if lost is not None:
            removed = [self._title(u.item) if u.kind != "I" else u.name.replace("_", " ") for u in lost.units]
            listed, after = k + NAMESAKES, lost.after if lost.after <= k + NAMESAKES else None
            facts = {"titles": removed, "before": lost.before, "after": after, "listed": listed}
            sentence = reason_text("counterfactual", self.locale, **facts)
        contributions = [
            writer.contribution(units[n], float(unit_deltas[n, 0]), column, profile)
            for n in heaviest_first(unit_deltas[:, 0])
            if named[n] and np.isfinite(unit_deltas[n, 0])
        ]
        available = bool(on_offer(self.dataset.items, self.dataset.as_of)[column])
        return Explanation(
            user_id=user,
            item_id=self.dataset.items["item_id"][column],
            title=self._title(column),
            k=k,
            available=available,
            rank=before if before <= k and available else None,
            reasons=writer.reasons(units, unit_deltas[:, 0], column, profile, self.spread(person)),
            contributions=tuple(reason for reason in contributions if reason is not None),
            withheld=float(np.nansum(unit_deltas[~named, 0])),
            counterfactual=sentence,
            without=tuple(removed),
            after=None if lost is None else lost.after,
        )

    def positions(self, item: int, k: int) -> PositionOf:
        """The item's position in the lists of versions of a person, counting each name once as slates do.

        A list holds `k` + `NAMESAKES` items; an item that is not in it gets the position after the last.
        """
        name = self._title(item)

        def position(versions: Histories) -> Ints:
            lists = self.ranked(versions, k + NAMESAKES).item
            listed = np.unique(lists)
            names = item_names(self.dataset.items[np.maximum(listed, 0).tolist()], self.locale)
            name_of = dict(zip(listed.tolist(), names, strict=True))
            numbers = []
            for row in lists.tolist():
                row = row[: row.index(-1)] if -1 in row else row
                above = row[: row.index(item)] if item in row else row
                numbers.append(1 + len({name_of[row_above] for row_above in above} - {name}))
            return np.array(numbers, np.int64)

        return position

    def _writer(self) -> ReasonWriter:
        return ReasonWriter(self.dataset.items, self.policy, self.locale, self.broad)

    def _title(self, row: int) -> str:
        return item_names(self.dataset.items[[row]], self.locale)[0]


def spreads(ranked: Ranked) -> Values:
    """How far apart each user's scores lie in a list that nothing filters, in logits, at least 1, (n,); see
    `leave_one_out.MIN_EFFECT`. 1 without a scorer: how often an item was bought says nothing of other items there."""
    if np.isnan(ranked.mlp).all():
        return np.ones(len(ranked.mlp))
    logits = ranked.logit[:, :LIST_DEPTH]
    return np.asarray(np.maximum(np.nanmax(logits, axis=1) - np.nanmin(logits, axis=1), 1.0), np.float64)
