"""The people to learn from in a shop with more people than training needs.

They are the first by a hash of their pseudonyms (a bottom-k sample, Cohen and Kaplan 2007): a larger sample holds every
smaller one, it depends neither on the order of a file nor on a seed, and a new or lost person replaces at most one
other. The salt makes the order independent of that of shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recllm.base.arrays import Ints

SALT = b"people learned from"
RULE = "the first by a salted BLAKE2b hash of their pseudonyms"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleSample:
    """Size of a sample and of its population."""

    people: int
    of_people: int

    @property
    def scale(self) -> float:
        """People per person of the sample, at least 1."""
        return max(self.of_people / max(self.people, 1), 1.0)

    def record(self) -> dict[str, Any]:
        """For the record of a training: people, of_people and the rule of the choice."""
        return {**asdict(self), "rule": RULE}


def sampled_rows(pseudonyms: Sequence[str], limit: int) -> Ints:
    """Rows of at most `limit` people, ascending, (n,)."""
    if len(pseudonyms) <= limit:
        return np.arange(len(pseudonyms))
    hashes = [hashlib.blake2b(name.encode(), key=SALT, digest_size=16).digest() for name in pseudonyms]
    return np.sort(np.array(sorted(range(len(hashes)), key=hashes.__getitem__)[:limit], np.int64))
