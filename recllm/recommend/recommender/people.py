"""Where the histories of users come from: a dataset in memory, or, elsewhere, a store that is read by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recllm.learn.features.item_vectors import basics_of
from recllm.recommend.recommender.leave_one_out import Evidence, UserHistory, lacking
from recllm.shop.data.dataset import Dataset, Events
from recllm.shop.data.interactions import Ints


@dataclass(frozen=True, eq=False)
class Histories:
    """What is known of n users, in the order in which they were asked for."""

    is_known: NDArray[np.bool_]
    """Who is known at all, (n,)."""
    events: Events
    """n runs; an unknown user has none."""
    basics: Sequence[Mapping[str, str]]
    """n times name -> value."""
    rows: Ints
    """Who they are among the neighbours, as `CollaborativeStatistics.pool` counts; -1 for none. (n,)."""
    permitted: NDArray[np.bool_] | None = None
    """Who may be served personally, as decided when this was read, (n,); None where the source does not know."""

    def select(self, users: NDArray[np.integer]) -> Histories:
        """These users, in the order given."""
        basics = [self.basics[int(n)] for n in users]
        permitted = None if self.permitted is None else self.permitted[users]
        return Histories(self.is_known[users], self.events.rows(users), basics, self.rows[users], permitted)


class People(Protocol):
    """A source of histories. A person who has not agreed to personalisation is unknown to it."""

    def histories(self, user_ids: Sequence[str]) -> Histories:
        """What is known of these users, before the time that the recommender takes as the present."""
        ...

    def at(self, shop: Dataset) -> People:
        """The same people at the present of `shop`, the recommender's dataset at another time."""
        ...


@dataclass(frozen=True, eq=False)
class DatasetPeople:
    """The users of a dataset and their events before its `as_of`; rows there are the rows among the neighbours."""

    dataset: Dataset

    def histories(self, user_ids: Sequence[str]) -> Histories:
        return self.of_rows(self.dataset.user_rows(user_ids))

    def at(self, shop: Dataset) -> DatasetPeople:
        return DatasetPeople(shop)

    def of_rows(self, rows: Ints) -> Histories:
        """What is known of the users in these rows; -1 for an unknown one."""
        is_known = rows >= 0
        events = self.dataset.events.rows(rows[is_known])
        events = events.select(events.at < self.dataset.as_of)
        lengths = np.zeros(len(rows), np.int64)
        lengths[is_known] = np.diff(events.indptr)
        events = replace(events, indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        basics: list[Mapping[str, str]] = [{} for _ in rows]
        for n, stated in zip(
            np.flatnonzero(is_known), basics_of(self.dataset.users[rows[is_known].tolist()]), strict=True
        ):
            basics[n] = stated
        return Histories(is_known, events, basics, rows)


@dataclass(frozen=True, eq=False)
class PeopleLacking:
    """The same people, one of whom lacks some evidence: for "what if this had not happened"."""

    people: People
    user_id: str
    units: tuple[Evidence, ...]

    def histories(self, user_ids: Sequence[str]) -> Histories:
        complete = self.people.histories(user_ids)
        parts, basics = [], list(complete.basics)
        for n, user_id in enumerate(user_ids):
            events = complete.events.rows(np.array([n]))
            if user_id == self.user_id:
                events, (basics[n],) = lacking(UserHistory(events, basics[n]), [self.units])
            parts.append(events)
        return replace(complete, events=Events.concat(parts) if parts else complete.events, basics=basics)

    def at(self, shop: Dataset) -> PeopleLacking:
        return replace(self, people=self.people.at(shop))
