"""Where the histories of users come from: a dataset in memory, or a store that is read by key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import PolicyError, UnknownIdError
from recllm.base.schema import ACTION_CODE, Action, Profile, Purpose
from recllm.learn.features.item_vectors import basics_of
from recllm.recommend.recommender.leave_one_out import Evidence, UserHistory, lacking
from recllm.shop.data.dataset import OPEN_CART, USER_COLUMN, Dataset, Events, utc
from recllm.shop.data.interactions import Ints, merge

if TYPE_CHECKING:
    from recllm.shop.workspace.privacy import PolicyGate
    from recllm.shop.workspace.workspace import Workspace
    from recllm.text.items import UserTexts

Arrays = dict[str, NDArray[Any]]


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

    @property
    def has_evidence(self) -> NDArray[np.bool_]:
        """Of whom an event or a basic is known; what was only shown to a user is nothing that they did. (n,)"""
        acted = np.diff(self.events.select(self.events.action != ACTION_CODE[Action.SHOWN]).indptr) > 0
        stated = np.array([any(basics.values()) for basics in self.basics], bool)
        return np.asarray(acted | stated)

    def with_basket(self, item_rows: Ints, at: int) -> Histories:
        """Each user's events followed by these items in the cart at `at` (epoch seconds)."""
        if not len(item_rows):
            return self
        events, size = self.events, len(item_rows)
        n = len(events.indptr) - 1
        cart = ACTION_CODE[Action.CART]
        added: dict[str, Any] = {
            "item": item_rows,
            "at": at,
            "action": cart,
            "quantity": 1,
            "price": np.nan,
            "basket": OPEN_CART,
        }
        ends = np.repeat(events.indptr[1:], size)
        columns = {
            name: np.insert(getattr(events, name), ends, np.tile(np.broadcast_to(value, size), n))
            for name, value in added.items()
        }
        return replace(self, events=Events(events.indptr + size * np.arange(n + 1), **columns))

    def dismissed(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Compressed rows of what each user dismissed and did not buy since: (indptr, item)."""
        events, n = self.events, len(self.events.indptr) - 1
        if not (events.action == ACTION_CODE[Action.DISMISS]).any():
            return np.zeros(n + 1, np.int64), events.item[:0]
        pair = pl.DataFrame({"user": events.user, "item": events.item, "at": events.at, "action": events.action})
        latest = pair.group_by("user", "item").agg(
            no=pl.col("at").filter(pl.col("action") == ACTION_CODE[Action.DISMISS]).max(),
            yes=pl.col("at").filter(pl.col("action") == ACTION_CODE[Action.PURCHASE]).max(),
        )
        hidden = latest.filter(pl.col("no").is_not_null() & (pl.col("yes").is_null() | (pl.col("yes") <= pl.col("no"))))
        hidden = hidden.sort("user", "item")
        counts = np.bincount(hidden["user"].to_numpy(), minlength=n)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), hidden["item"].to_numpy()

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
            is_known,
            self.shop.pack_rows([person.events for person in read]),
            [{n: str(v) for n, v in basics if v is not None and n != USER_COLUMN} for basics in stated],
            np.where(is_known, self.state.digest(user_ids), -1),
            np.array([person.permitted for person in read], bool),
        )


@dataclass(frozen=True, eq=False)
class AgreedPeople:
    """Everybody who agreed to personalisation, with a state's histories and what they did since it was made."""

    shop: Dataset
    """The catalogue and the present; it may be without users."""
    state: PeopleState
    users: pl.DataFrame
    """As `Dataset.users`."""
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
        digests, order = state.digest(ids), np.argsort(state.digests)
        in_order = state.digests[order]
        nearest = np.minimum(np.searchsorted(in_order, digests), max(len(in_order) - 1, 0))
        in_state = in_order[nearest] == digests if len(in_order) else np.zeros(len(ids), bool)
        new = [ids[n] for n in np.flatnonzero(~in_state)]
        if new:
            _, earlier = gate.histories(new, Purpose.PERSONALISATION)
            written = pl.concat([written.filter(~pl.col(USER_COLUMN).is_in(new)), earlier], how="vertical_relaxed")
        state_rows = np.where(in_state, order[nearest], -1) if len(in_order) else np.full(len(ids), -1)
        return cls(shop, state, users, digests, state_rows, written, gate.oldest_event())

    def dataset(self, rows: Ints | None = None) -> tuple[Dataset, Ints]:
        """The users of these rows, in their order, all when None; and the row among them of each neighbour of the
        state's pool, -1 for one who is not among them."""
        rows = np.arange(len(self.users)) if rows is None else rows
        users, digests, state_rows = self.users[rows.tolist()], self.digests[rows], self.state_rows[rows]
        ids, in_state, past = users[USER_COLUMN].to_list(), state_rows >= 0, self.state.events
        lengths = np.where(in_state, np.diff(past.indptr)[state_rows], 0) if len(past.indptr) > 1 else 0 * rows
        events = past.rows(state_rows[in_state])
        events = replace(events, indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        written = self.written
        if len(rows) < len(self.users):
            written = written.filter(pl.col(USER_COLUMN).is_in(users[USER_COLUMN].implode()))
        if len(written):
            events = merge(events, self.shop.pack(written, ids))
        row_of_digest = dict(zip(digests.tolist(), range(len(ids)), strict=True))
        pool_digests = self.state.digests[self.state.arrays["pool"]].tolist()
        pool = np.array([row_of_digest.get(digest, -1) for digest in pool_digests], np.int64)
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
