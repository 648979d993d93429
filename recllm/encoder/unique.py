"""Each distinct text is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from recllm.schema import Encoder, FloatArray, IntArray, TextKind


def distinct(texts: Sequence[str]) -> tuple[list[str], IntArray]:
    """The distinct texts in order of first appearance, and each text's position among them, shape (len(texts),)."""
    place: dict[str, int] = {}
    inverse = np.fromiter((place.setdefault(text, len(place)) for text in texts), np.int64, count=len(texts))
    return list(place), inverse


def encode_unique(
    encoder: Encoder, texts: Sequence[str], *, kind: TextKind = "document"
) -> tuple[FloatArray, IntArray]:
    """Vectors of the distinct texts, (n_distinct, dim) float32 unit rows, and each text's row, (len(texts),) int64.

    `vectors[inverse]` are the rows of all texts; a caller with many duplicates can work on the short matrix instead.
    """
    texts_once, inverse = distinct(texts)
    return encoder.encode(texts_once, kind=kind), inverse
