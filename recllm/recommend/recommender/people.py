"""Where the histories of users come from: a dataset in memory, or a store that is read by key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from recllm.base.arrays import Array, Ints
from recllm.base.errors import PolicyError, UnknownIdError
from recllm.base.schema import Profile, Purpose
from recllm.learn.features.item_vectors import basics_of
from recllm.recommend.recommender.histories import Histories
from recllm.recommend.recommender.leave_one_out import Evidence, lacking
from recllm.shop.data.dataset import USER_COLUMN, Dataset, Events, rows_of_ids, utc
from recllm.shop.data.interactions import merge

if TYPE_CHECKING:
    from recllm.shop.workspace.privacy import PolicyGate
    from recllm.shop.workspace.workspace import Workspace
    from recllm.text.items import UserTexts

Arrays = dict[str, Array]


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
        events, users = self.dataset.events.rows(rows), rows[rows >= 0].tolist()
        basics = dict(zip(users, basics_of(self.dataset.users[users]), strict=True))
        events = events.select(events.at < self.dataset.as_of)
        return Histories(events, [basics.get(row, {}) for row in rows.tolist()], rows)


@dataclass(frozen=True, eq=False)
class PeopleLacking:
    """The same people, one of whom lacks some evidence: for "what if this had not happened"."""

    people: People
    user_id: str
    units: tuple[Evidence, ...]

    def histories(self, user_ids: Sequence[str]) -> Histories:
        complete = self.people.histories(user_ids)
        if self.user_id not in user_ids:
            return complete
        units_of = {self.user_id: self.units}
        versions = [lacking(complete.person(n), [units_of.get(name, ())]) for n, name in enumerate(user_ids)]
        return replace(Histories.concat(versions), permitted=complete.permitted)

    def at(self, shop: Dataset) -> PeopleLacking:
        return replace(self, people=self.people.at(shop))


@dataclass(frozen=True, eq=False)
class PeopleState:
    """The part about single people. A user's row is that of their digest."""

    digests: Ints
    """Salted digest of each user's pseudonym, (n_users,), in the order of the users of the dataset."""
    events: Events
    """Everybody's history, n_users runs, on the rows of the catalogue's state."""
    arrays: Arrays
    salt: bytes
    event_no: int
    """Number of the last event that it knows."""
    consent_load: int
    """Number of the last load of consent that it knows."""

    def digest(self, pseudonyms: Sequence[str]) -> Ints:
        """Of each pseudonym, int64 (n,), at least 0."""
        return digest(pseudonyms, self.salt)


def digest(pseudonyms: Sequence[str], salt: bytes) -> Ints:
    """A number at least 0 for each pseudonym, int64 (n,), from which none can be read."""
    hashes = b"".join(hashlib.blake2b(name.encode(), key=salt, digest_size=8).digest() for name in pseudonyms)
    return np.frombuffer(hashes, np.int64) & np.int64(2**63 - 1)


@dataclass(frozen=True, eq=False)
class StorePeople:
    """Histories of users as the store has them now, read by key."""

    gate: PolicyGate
    shop: Dataset
    """The catalogue and the present; it may be without users."""
    state: PeopleState

    def at(self, shop: Dataset) -> StorePeople:
        return replace(self, shop=shop)

    def histories(self, user_ids: Sequence[str]) -> Histories:
        read = self.gate.stored_histories(user_ids, Purpose.PERSONALISATION, before=utc(self.shop.as_of))
        is_known = np.array([person.is_known and person.permitted for person in read], bool)
        stated = [sorted(json.loads(person.basics).items()) for person in read]
        return Histories(
            self.shop.pack_rows([person.events for person in read]),
            [{n: str(v) for n, v in basics if v is not None and n != USER_COLUMN} for basics in stated],
            np.where(is_known, self.state.digest(user_ids), -1),
            np.array([person.permitted for person in read], bool),
        )


@dataclass(frozen=True, eq=False)
class AgreedPeople:
    """All who agreed to personalisation, with a state's histories and what they did since."""

    shop: Dataset
    """The catalogue and the present; it may be without users."""
    state: PeopleState
    users: pl.DataFrame
    digests: Ints
    """Of each of the users in the state, (n_users,)."""
    state_rows: Ints
    """Row of each of the users in the state, -1 for one that it does not have, (n_users,)."""
    written: pl.DataFrame
    """Events since the state was made; all of those of users whom it does not have."""
    oldest: datetime | None
    """What is older is not used any more."""

    @classmethod
    def read(cls, gate: PolicyGate, shop: Dataset, state: PeopleState) -> AgreedPeople:
        users, written = gate.people(Purpose.PERSONALISATION, after_event=state.event_no)
        ids = users[USER_COLUMN].to_list()
        digests = state.digest(ids)
        state_rows = rows_of_ids(pl.Series(state.digests), digests)
        new = [ids[n] for n in np.flatnonzero(state_rows < 0)]
        if new:
            _, earlier = gate.histories(new, Purpose.PERSONALISATION)
            written = pl.concat([written.filter(~pl.col(USER_COLUMN).is_in(new)), earlier], how="vertical_relaxed")
        return cls(shop, state, users, digests, state_rows, written, gate.oldest_event())

    def dataset(self, rows: Ints | None = None) -> tuple[Dataset, Ints]:
        """The users of these rows, in their order, all when None; and the row among them of each neighbour of the
        state's pool, -1 for one who is not among them."""
        rows = np.arange(len(self.users)) if rows is None else rows
        users, digests, state_rows = self.users[rows.tolist()], self.digests[rows], self.state_rows[rows]
        ids, events, written = users[USER_COLUMN].to_list(), self.state.events.rows(state_rows), self.written
        if len(rows) < len(self.users):
            written = written.filter(pl.col(USER_COLUMN).is_in(users[USER_COLUMN].implode()))
        if len(written):
            events = merge(events, self.shop.pack(written, ids))
        pool = rows_of_ids(pl.Series(digests), self.state.digests[self.state.arrays["pool"]])
        if self.oldest is not None:
            events = events.select(events.at >= int(self.oldest.timestamp()))
        return replace(self.shop, users=users, events=events).before(self.shop.as_of), pool


NOT_AGREED = "this person has not agreed to personalisation; nothing was read"
UNKNOWN_PERSON = "no customer with this id is known; check the id, or load the users and events tables"


def person_profile(
    workspace: Workspace, user_id: str, locale: str, *, by_pseudonym: bool = False
) -> tuple[Profile, UserTexts]:
    """One person's profile and its texts, read by key. by_pseudonym: the id is the pseudonym already.

    Raises `PolicyError` without consent, `UsageError` for a person who is not known.
    """
    from recllm.learn.profiles.profile import build_profile
    from recllm.shop.workspace.workspace import present
    from recllm.text.items import user_texts

    gate = workspace.gate()
    name = user_id if by_pseudonym else workspace.pseudonymiser().one(user_id)
    if not gate.permits(name, Purpose.PERSONALISATION):
        raise PolicyError(NOT_AGREED)
    users, events = gate.histories([name], Purpose.PERSONALISATION)
    if not len(users):
        raise UnknownIdError(UNKNOWN_PERSON)
    items = gate.catalogue(events["item_id"].unique())
    data = Dataset.construct(events, users, items, as_of=present(workspace))
    data = replace(data, step_seconds=gate.step_seconds())
    profile = build_profile(data, 0)
    return profile, user_texts(profile, data.items, workspace.locale(locale))
