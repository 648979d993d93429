"""What is told of groups of people, so that no combination of figures tells of fewer of them than the policy's floor.

Two kinds of things leave, and they differ in what can be promised.

A figure says how many people a group has and nothing else of them. It is told when `recllm.workspace.differencing`
certifies it beside everything that was told in the last `release_days`: then no sum and difference of figures is about
1 to floor - 1 people. A group that differs from an earlier one by fewer people than the floor, or by nobody, gets that
one's figure, with its date: both cases are answered alike, so that asking does not say whether somebody is there.
Where no certificate is found nothing is told. There is room for n / (floor - 1) independent figures of n people.

A list for action names its members to whoever may act on it: audiences and exports. It has the floor of people or
nobody, and it is not refused for being near an earlier list, because a shop has to write to 1,010 people after 1,000.
So whoever holds two lists can see who is on one of them alone; `LISTS_TELL` says so where lists are drawn. Figures are
compared with lists too: what is told of a group never tells, beside the lists, of fewer people than the floor, as far
as the lists themselves could be certified.

An estimate helps while somebody who may draw lists looks for the right group, and is asked many times. It is off by a
draw from the group's own members and the workspace's key: up to the floor, the same whenever the same group is asked,
and rounded to the floor. A few estimates do not tell whether a small group is there. The mean of n different ones is
off by about floor / sqrt(2 n), so that whoever asks hundreds on purpose could learn what two lists tell at once.

People are numbers here: see `recllm.store.releases`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from recllm.schema import SESSION_PREFIX
from recllm.store.releases import ReleaseRows, StoredRelease, digests_as_stored
from recllm.workspace.differencing import GroupVerdict, ReleasedGroups
from recllm.workspace.workspace import Workspace

SIGNED_AS = "releases"
"""Use of the key that digests are made with, see `Workspace.signing_key`."""

PEOPLE = "people"
"""Topic of counts of people: all of them are compared with one another."""

LISTED = "listed"
"""What the figure of a list for action is called among those of the groups that leave with it."""

LISTS_TELL = (
    "a list names its people: two lists side by side tell who is on one of them alone, however few; "
    "pass on figures, and not lists, to those who need not act on them"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigure:
    """What is told of one group."""

    verdict: GroupVerdict
    people: int | None
    """None where nothing is told."""
    since: datetime | None = None
    """When this number was told first, if that was before."""
    is_exact: bool = True
    """Whether the number is that of this very group. Who asks is not told so; what else may be told depends on it."""

    def words(self, floor: int) -> str:
        """Why there is no figure, or whose it is, in one sentence with what to do; empty where it is new."""
        if self.verdict is GroupVerdict.FEW:
            return f"fewer than {floor} people, so their number is not told"
        if self.verdict is GroupVerdict.NEAR and self.since is not None:
            return (
                f"as told on {self.since:%Y-%m-%d}: the same group, or one that differs by fewer than {floor} people; "
                "a group that differs by more has a figure of its own"
            )
        if self.verdict is GroupVerdict.ENTANGLED:
            return (
                f"not told: together with earlier figures it could tell of fewer than {floor} people; "
                "use one of those, or ask when they are forgotten (release_days in [policy])"
            )
        return ""


class Releases:
    """The figures and lists of one workspace. Several processes may ask at once: they wait for one another."""

    def __init__(self, workspace: Workspace, *, now: datetime | None = None) -> None:
        """now: the clock; figures age by it."""
        self._workspace, self._now = workspace, now or datetime.now(UTC)
        self._key = workspace.signing_key(SIGNED_AS)

    @property
    def floor(self) -> int:
        return self._workspace.policy.group_floor

    def figures(
        self,
        groups: Mapping[str, Sequence[str]],
        *,
        listed: Sequence[str] | None = None,
        topic: str = PEOPLE,
    ) -> dict[str, GroupFigure]:
        """What may be told of each group of pseudonyms; what comes first is told rather than what comes later.

        listed: a list for action that leaves with the figures: it is compared with what follows, and where it could not
        be certified nothing new is told beside it; its own figure stands under `LISTED`. topic: figures of different
        things about people, such as what two campaigns brought, do not add up, and are compared by topic.
        """
        if listed is not None:
            groups = {LISTED: listed, **groups}
        if self.floor <= 1:
            certified = GroupVerdict.CERTIFIED
            return {name: GroupFigure(verdict=certified, people=len(set(names))) for name, names in groups.items()}
        with self._workspace.store().read() as reader:
            users = reader.users()["user_id"].to_list()
        everybody = [name for name in users if not name.startswith(SESSION_PREFIX)]
        digests = {name: self._digests(names) for name, names in groups.items()}
        groups_and_all = {"": self._digests(everybody), **digests}
        with self._workspace.store().releases() as rows:
            answer = self._answer(rows, groups_and_all, topic, write=False)
        if answer is None:
            with self._workspace.store().releases(write=True) as rows:
                rows.delete_before(self._now - timedelta(days=self._workspace.policy.release_days))
                answer = self._answer(rows, groups_and_all, topic, write=True)
        return {name: figure for name, figure in (answer or {}).items() if name in groups}

    def estimate(self, names: Sequence[str]) -> int | None:
        """About how many people a group of pseudonyms has, off by up to one and a half times the floor; None for fewer
        than the floor."""
        if self.floor <= 1:
            return len(set(names))
        digests = np.unique(self._digests(names))
        if len(digests) < self.floor:
            return None
        sealed = hashlib.blake2b(digests.tobytes(), key=self._key, digest_size=8).digest()
        draw = int.from_bytes(sealed, "big") / 2**64
        noisy = len(digests) + (2 * draw - 1) * self.floor
        return max(1, round(noisy / self.floor)) * self.floor

    def forget(self, pseudonyms: Sequence[str]) -> int:
        """Takes people out of everything that is kept here; returns how many were in anything."""
        with self._workspace.store().releases(write=True) as rows:
            return rows.forget(self._digests(pseudonyms).tolist())

    def rename(self, old_key: bytes, pseudonyms: Mapping[str, str]) -> None:
        """After another key: old_key is the old `signing_key(SIGNED_AS)`, pseudonyms old -> new."""
        old, new = _digested(list(pseudonyms), old_key), self._digests(list(pseudonyms.values()))
        with self._workspace.store().releases(write=True) as rows:
            rows.rename(dict(zip(old.tolist(), new.tolist(), strict=True)))

    def start_anew(self) -> None:
        """Forgets every figure and list: what is told from then on is not compared with what was told before."""
        with self._workspace.store().releases(write=True) as rows:
            rows.clear()

    def _digests(self, pseudonyms: Sequence[str]) -> NDArray[np.int64]:
        return _digested(pseudonyms, self._key)

    def _answer(
        self, rows: ReleaseRows, groups: Mapping[str, NDArray[np.int64]], topic: str, *, write: bool
    ) -> dict[str, GroupFigure] | None:
        """None where something has to be kept for this answer, and `write` is not allowed."""
        stored_digests, numbers = rows.people()
        strangers = np.setdiff1d(np.concatenate(list(groups.values())), stored_digests)
        if len(strangers):
            if not write:
                return None
            rows.add_people(strangers)
            stored_digests, numbers = rows.people()
        stored = rows.read(topic, self._now - timedelta(days=self._workspace.policy.release_days))
        size = int(numbers.max(initial=-1)) + 1
        released = _replayed(stored, size, self.floor)
        earlier = [(release.people, datetime.fromtimestamp(release.at / 1_000_000, UTC)) for release in stored]
        figures: dict[str, GroupFigure] = {}
        is_open = True
        for name, digests in groups.items():
            members = np.zeros(size, bool)
            members[numbers[np.searchsorted(stored_digests, digests)]] = True
            decision, count = released.decide(members), int(members.sum())
            verdict, nearest = decision.verdict, decision.nearest
            is_same = nearest is not None and bool(np.array_equal(released.group(nearest), members))
            is_list = name == LISTED and count > 0
            if verdict.is_told and not (is_open or is_list):
                verdict = GroupVerdict.ENTANGLED
            if verdict.is_told or (is_list and not is_same):
                if not write:
                    return None
                is_independent = verdict is GroupVerdict.CERTIFIED
                rows.add(topic, np.flatnonzero(members), people=count, is_independent=is_independent, at=self._now)
                released.add(members, is_independent=is_independent)
                earlier.append((count, self._now))
            if is_list:  # what is told beside a list that could not be certified is what was told before
                is_open = verdict.is_told or (is_same and released.is_covered(members))
            if nearest is not None:
                people, since = earlier[nearest]
                figures[name] = GroupFigure(verdict=verdict, people=people, since=since, is_exact=is_same)
            else:
                told_people = count if verdict.is_told else None
                figures[name] = GroupFigure(verdict=verdict, people=told_people, is_exact=verdict.is_told)
        logger.debug("figures: %d groups, %d released before", len(groups), len(stored))
        return figures


def _replayed(stored: Sequence[StoredRelease], size: int, floor: int) -> ReleasedGroups:
    """size: one more than the largest number of a person."""
    released, groups = ReleasedGroups(size, floor), np.zeros((len(stored), size), bool)
    for members, release in zip(groups, stored, strict=True):
        members[release.numbers[release.numbers < size]] = True
    released.add_all(groups, [release.is_independent for release in stored])
    return released


def _digested(pseudonyms: Sequence[str], key: bytes) -> NDArray[np.int64]:
    digests = [hashlib.blake2b(name.encode(), key=key, digest_size=8).digest() for name in pseudonyms]
    return digests_as_stored(digests)
