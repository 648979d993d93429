"""A list of texts as work: each distinct text once, batches of about equal work, a bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from recllm.schema import Encoder, FloatArray, IntArray, TextKind

BATCH_TOKENS = 2048
"""Tokens of one batch, padding included."""


def distinct(texts: Sequence[str]) -> tuple[list[str], IntArray]:
    """The distinct texts in order of first appearance, and each text's position among them, shape (len(texts),)."""
    position: dict[str, int] = {}
    inverse = np.fromiter((position.setdefault(text, len(position)) for text in texts), np.int64, count=len(texts))
    return list(position), inverse


def encode_unique(
    encoder: Encoder, texts: Sequence[str], *, kind: TextKind = "document"
) -> tuple[FloatArray, IntArray]:
    """Vectors of the distinct texts, (n_distinct, dim) float32 unit rows, and each text's row, (len(texts),) int64.

    `vectors[inverse]` are the rows of all texts; a caller with many duplicates can work on the short matrix instead.
    """
    texts_once, inverse = distinct(texts)
    return encoder.encode(texts_once, kind=kind), inverse


def plan_batches(lengths: IntArray, budget: int = BATCH_TOKENS) -> Iterator[IntArray]:
    """Rows in batches, shortest texts first: at most `budget` tokens each with padding (one text may exceed it).

    A batch that is already worth its overhead (a quarter of the budget) ends where the length changes, so that large
    jobs have no padding at all, while a handful of texts of many lengths is still one or two batches.
    """
    order = np.argsort(lengths, kind="stable")
    sizes = lengths[order]
    start = 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or sizes[end] * (end + 1 - start) > budget
        if full or (sizes[end] > sizes[end - 1] and sizes[end - 1] * (end - start) >= budget // 4):
            yield order[start:end]
            start = end


def encode_tokens(
    tokens: Sequence[Sequence[int]],
    dim: int,
    forward: Callable[[list[Sequence[int]]], FloatArray],
    *,
    progress: bool,
) -> FloatArray:
    """Rows (len(tokens), dim) of `forward`, which gets a batch of texts of about equal length as token ids."""
    rows = np.zeros((len(tokens), dim), np.float32)
    lengths = np.array([len(ids) for ids in tokens], np.int64)
    with progress_bar(len(tokens), progress) as bar:
        for batch in plan_batches(lengths):
            rows[batch] = forward([tokens[row] for row in batch])
            bar.update(len(batch))
    return rows


def progress_bar(total: int, visible: bool) -> Any:
    """A bar of tqdm, from the first second on; silent where standard error is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc="encode", unit="text", delay=1.0, disable=None if visible else True)
