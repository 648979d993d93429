"""Who is learned from where a shop has more people than are needed to learn what they do.

The people come in the order of a hash of their pseudonyms, and the first so many are learned from: a larger sample holds
every smaller one, who is in it does not hang on the order of a file or on a seed, and whoever comes or goes exchanges
one other person at most. (A bottom-k sample, Cohen and Kaplan 2007.) Pseudonyms are keyed already; the salt keeps this
order apart from that of shards and of other samples, so that no shard is learned from more than another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from recllm.data.dataset import USER_COLUMN, Dataset
from recllm.data.interactions import Ints

SALT = b"people learned from"
RULE = "the first by a salted BLAKE2b hash of their pseudonyms"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleSample:
    """How many people are learned from, and of how many."""

    people: int
    of_people: int

    @property
    def scale(self) -> float:
        """How many people each of the sample stands for, at least 1."""
        return self.of_people / max(self.people, 1)

    def record(self) -> dict[str, Any]:
        """For a model's record of its training."""
        return {**asdict(self), "rule": RULE}


def sampled_rows(pseudonyms: Sequence[str], limit: int) -> Ints:
    """Rows of the people who are learned from, ascending, (n,): all where they are not more than `limit`."""
    if len(pseudonyms) <= limit:
        return np.arange(len(pseudonyms))
    hashes = [hashlib.blake2b(name.encode(), key=SALT, digest_size=16).digest() for name in pseudonyms]
    return np.sort(np.array(sorted(range(len(hashes)), key=hashes.__getitem__)[:limit], np.int64))


def sampled(dataset: Dataset, limit: int) -> tuple[Dataset, PeopleSample]:
    """A dataset in memory with only the people who are learned from, and of how many they are."""
    rows = sampled_rows(dataset.users[USER_COLUMN].to_list(), limit)
    of_them = PeopleSample(people=len(rows), of_people=dataset.n_users)
    if len(rows) == dataset.n_users:
        return dataset, of_them
    return replace(dataset, users=dataset.users[rows.tolist()], events=dataset.events.rows(rows)), of_them
