"""What is known of users, read from wherever it is kept, and of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from recllm.base.arrays import Ints, Ints32, Mask, Rows
from recllm.base.schema import ACTION_CODE, Action, Profile
from recllm.learn.profiles.profile import build_profile
from recllm.shop.data.dataset import OPEN_CART, USER_COLUMN, Dataset, Events, row_starts
from recllm.shop.data.interactions import Tally


@dataclass(frozen=True, eq=False)
class Histories:
    """What is known of n users, in the order in which they were asked for."""

    events: Events
    """n runs; an unknown user has none."""
    basics: Sequence[Mapping[str, str]]
    """n times name -> value."""
    rows: Ints
    """Who they are among the neighbours, as `CollaborativeStatistics.pool` counts; -1 for none. (n,)."""
    permitted: Mask | None = None
    """Who may be served personally, when this was read, (n,); None where unknown."""

    @property
    def has_evidence(self) -> Mask:
        """Of whom an event or a basic is known; what was only shown to a user is nothing that they did. (n,)"""
        acted = np.diff(self.events.select(self.events.action != ACTION_CODE[Action.SHOWN]).indptr) > 0
        stated = np.array([any(basics.values()) for basics in self.basics], bool)
        return np.asarray(acted | stated)

    def with_basket(self, item_rows: Ints, at: int) -> Histories:
        """Each user's events followed by these items in the cart at `at` (epoch seconds)."""
        if not len(item_rows):
            return self
        n, size = self.events.n_users, len(item_rows)
        action, price = np.full(size, ACTION_CODE[Action.CART]), np.full(size, np.nan)
        cart = Events.of_rows(1, np.zeros(size, int), item_rows, np.full(size, at), action, np.ones(size), price, None)
        cart = replace(cart, basket=np.full(size, OPEN_CART, np.int32))
        in_turn = Events.concat([self.events, cart]).rows(np.stack([np.arange(n), np.full(n, n)], axis=1).ravel())
        return replace(self, events=replace(in_turn, indptr=in_turn.indptr[::2]))

    def dismissed(self) -> tuple[Ints, Ints32]:
        """Compressed rows of what each user dismissed and did not buy since: (indptr, item)."""
        dismissals = self.events.of(Action.DISMISS)
        tally = Tally.of(dismissals.user, dismissals.item, int(self.events.item.max(initial=-1)) + 1)
        is_hidden = tally.last(self.events.of(Action.PURCHASE)) <= tally.largest(dismissals.at)
        starts = row_starts(np.bincount(tally.user[is_hidden], minlength=self.events.n_users))
        return starts, tally.key[is_hidden].astype(np.int32)

    def select(self, users: Rows) -> Histories:
        """These users, in the order given."""
        basics = [self.basics[int(n)] for n in users]
        permitted = None if self.permitted is None else self.permitted[users]
        return Histories(self.events.rows(users), basics, self.rows[users], permitted)

    def person(self, n: int) -> UserHistory:
        return UserHistory(self.events.rows(np.array([n])), self.basics[n], int(self.rows[n]))

    @classmethod
    def concat(cls, groups: Sequence[Histories]) -> Histories:
        """The users of all groups, of which there is one at least, one after another."""
        basics = [stated for group in groups for stated in group.basics]
        rows = np.concatenate([group.rows for group in groups])
        return cls(Events.concat([group.events for group in groups]), basics, rows)


@dataclass(frozen=True, eq=False)
class UserHistory:
    """What is known of one person. events: `Events` of a single row; basics: name -> value."""

    events: Events
    basics: Mapping[str, str]
    row: int = -1
    """Who they are in `CollaborativeStatistics.pool`, so that a person is not their own neighbour; -1 for none."""

    def of_items(self, items: Rows | Sequence[int]) -> UserHistory:
        """Only what they did with these items."""
        return replace(self, events=self.events.select(np.isin(self.events.item, items)))

    def profile(self, dataset: Dataset, pseudonym: str = "") -> Profile:
        users = pl.DataFrame({USER_COLUMN: [pseudonym], **{name: [value] for name, value in self.basics.items()}})
        return build_profile(replace(dataset, users=users, events=self.events), 0)
