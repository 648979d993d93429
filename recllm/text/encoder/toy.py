"""An encoder without a model: words and pieces of words, hashed. For tests, and for a first run without weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.errors import UsageError
from recllm.text.encoder.batches import distinct

if TYPE_CHECKING:
    from recllm.base.arrays import Floats
    from recllm.base.schema import TextKind

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
"""A Chinese character, or a run of other letters and digits."""

_MAX_WORDS = 254
"""Of a text; what follows is not read."""
_PIECE = 3
_PIECE_WEIGHT = 0.3
"""Weight of a three-letter piece; its whole word has 1: plurals and spelling variants come near, words decide."""


class ToyEncoder:
    """Bag of hashed words. Texts that share words are near; the same text has the same vector on every machine.

    It knows no meaning: "sofa" and "couch" have nothing in common.
    """

    name = "toy"

    def __init__(self, dim: int = 64) -> None:
        if dim < 1:
            raise UsageError(f"ToyEncoder needs dim >= 1, not {dim}.")
        self.dim = dim
        self.fingerprint = hashlib.sha256(f"toy-1 {dim} {_MAX_WORDS + 2}".encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> Floats:
        """Unit rows, (len(texts), dim) float32. `kind` makes no difference."""
        once, inverse = distinct(texts)
        rows = np.zeros((len(once), self.dim), np.float32)
        for row, text in enumerate(once):
            for feature, weight in _features(_WORD.findall(text.lower())[:_MAX_WORDS]):
                rows[row] += weight * _signs(feature, self.dim)
            norm = float(np.linalg.norm(rows[row]))
            # No words, or (nearly impossible) words that cancel out: still a unit vector, the same each time.
            rows[row] = rows[row] / norm if norm > 0 else _signs("", self.dim) / np.float32(np.sqrt(self.dim))
        return rows[inverse]


def _features(words: Sequence[str]) -> Iterator[tuple[str, float]]:
    for word in words:
        yield word, 1.0
        framed = f"<{word}>"
        for start in range(len(framed) - _PIECE):  # the last piece only when there are at least two
            yield framed[start : start + _PIECE], _PIECE_WEIGHT


@lru_cache(maxsize=100_000)
def _signs(feature: str, dim: int) -> Floats:
    """A vector of +1 and -1, (dim,) float32, fixed by the feature's hash; two features are nearly orthogonal."""
    digest = hashlib.shake_128(feature.encode("utf-8", "surrogatepass")).digest(-(-dim // 8))
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[:dim]
    return bits.astype(np.float32) * 2 - 1
