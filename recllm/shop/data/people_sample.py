"""Who is learned from where a shop has more people than are needed to learn what they do.

The people come in the order of a hash of their pseudonyms, and the first so many are learned from (a bottom-k sample,
Cohen and Kaplan 2007): a larger sample holds every smaller one, who is in it hangs neither on the order of a file nor
on a seed, and whoever comes or goes exchanges one other person at most. Pseudonyms are keyed already; the salt keeps
this order apart from that of shards, so that no shard is learned from more than another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SALT = b"people learned from"
RULE = "the first by a salted BLAKE2b hash of their pseudonyms"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleSample:
    """How many people are in a sample, and of how many."""

    people: int
    of_people: int

    @property
    def scale(self) -> float:
        """How many people each of the sample stands for, at least 1."""
        return max(self.of_people / max(self.people, 1), 1.0)

    def record(self) -> dict[str, Any]:
        """For what a model tells of its training: people, of_people and the rule by which they were chosen."""
        return {**asdict(self), "rule": RULE}


def sampled_rows(pseudonyms: Sequence[str], limit: int) -> NDArray[np.int64]:
    """Rows of the people who are learned from, ascending, (n,): all where they are not more than `limit`."""
    if len(pseudonyms) <= limit:
        return np.arange(len(pseudonyms))
    hashes = [hashlib.blake2b(name.encode(), key=SALT, digest_size=16).digest() for name in pseudonyms]
    return np.sort(np.array(sorted(range(len(hashes)), key=hashes.__getitem__)[:limit], np.int64))
