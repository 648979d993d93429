"""Groups of people that were counted or listed: who was in which, under numbers instead of names.

A person is a keyed digest of the pseudonym, which only the workspace's key can make again, and a number. A group is a
compressed row of bits, one per number: to take a person out clears a bit in each row and deletes the digest.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from recllm.store import tables
from recllm.store.messages import microseconds


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredRelease:
    """One group."""

    at: int
    """Epoch microseconds of its release."""
    people: int
    """How many were told; people who were erased since are in it."""
    is_independent: bool
    """Whether it was certified together with the others of its topic."""
    numbers: NDArray[np.int64]
    """Of its members, ascending."""


class ReleaseRows:
    """The released groups within one transaction of the store."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def people(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Digest and number of everybody who is known here, by digest."""
        person = tables.release_people.c
        rows = self._connection.execute(sa.select(person.digest, person.person_no).order_by(person.digest)).all()
        columns = np.array([tuple(row) for row in rows], np.int64).reshape(-1, 2)
        return columns[:, 0].copy(), columns[:, 1].copy()

    def add_people(self, digests: NDArray[np.int64]) -> None:
        """Numbers for people who have none; nobody may be named twice."""
        if len(digests):
            rows = [{"digest": digest} for digest in digests.tolist()]
            self._connection.execute(sa.insert(tables.release_people), rows)

    def read(self, topic: str, since: datetime) -> list[StoredRelease]:
        """The groups of a topic since a time, the first first."""
        release = tables.releases.c
        query = sa.select(tables.releases).where(release.topic == topic, release.at >= microseconds(since))
        columns = ("at", "people", "is_independent")
        return [
            StoredRelease(**{name: getattr(row, name) for name in columns}, numbers=_numbers(row.members))
            for row in self._connection.execute(query.order_by(release.release_no))
        ]

    def add(self, topic: str, numbers: NDArray[np.int64], *, people: int, is_independent: bool, at: datetime) -> None:
        """Keeps a group."""
        row = {
            "topic": topic,
            "at": microseconds(at),
            "people": people,
            "is_independent": is_independent,
            "members": _members(numbers),
        }
        self._connection.execute(sa.insert(tables.releases), row)

    def delete_before(self, time: datetime) -> int:
        """Forgets older groups; returns how many."""
        old = sa.delete(tables.releases).where(tables.releases.c.at < microseconds(time))
        return self._connection.execute(old).rowcount

    def forget(self, digests: Sequence[int]) -> int:
        """Takes people out of every group; returns how many of them were in one."""
        person, release = tables.release_people.c, tables.releases.c
        leaving: list[int] = []
        for start in range(0, len(digests), tables.IN_KEYS):
            are_these = person.digest.in_(list(digests[start : start + tables.IN_KEYS]))
            leaving += self._connection.scalars(sa.select(person.person_no).where(are_these)).all()
        if not leaving:
            return 0
        for release_no, members in self._connection.execute(sa.select(release.release_no, release.members)).all():
            numbers = _numbers(members)
            staying = numbers[~np.isin(numbers, leaving)]
            if len(staying) < len(numbers):
                change = sa.update(tables.releases).where(release.release_no == release_no)
                self._connection.execute(change.values(members=_members(staying)))
        for start in range(0, len(leaving), tables.IN_KEYS):
            of_these = person.person_no.in_(leaving[start : start + tables.IN_KEYS])
            self._connection.execute(sa.delete(tables.release_people).where(of_these))
        return len(leaving)

    def rename(self, digests: Mapping[int, int]) -> None:
        """Gives people other digests, old -> new, as another key makes them. Who is not named stays as a number that
        nobody can tell whose it is."""
        person = tables.release_people.c
        rows = self._connection.execute(sa.select(person.person_no, person.digest)).all()
        renamed = [
            {"person_no": number, "digest": digests.get(digest, secrets.randbits(63) - 2**62)}
            for number, digest in rows
        ]
        self._connection.execute(sa.delete(tables.release_people))
        if renamed:
            self._connection.execute(sa.insert(tables.release_people), renamed)

    def clear(self) -> None:
        """Forgets everything."""
        self._connection.execute(sa.delete(tables.releases))
        self._connection.execute(sa.delete(tables.release_people))


def _members(numbers: NDArray[np.int64]) -> bytes:
    bits = np.zeros(int(numbers.max(initial=0)) + 1, np.uint8)
    bits[numbers] = 1
    return zlib.compress(np.packbits(bits).tobytes(), 6)


def _numbers(members: bytes) -> NDArray[np.int64]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(zlib.decompress(members), np.uint8)))


def digests_as_stored(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Digests of 8 bytes as the signed integers that both databases keep."""
    return np.frombuffer(b"".join(digests), ">i8").astype(np.int64)
