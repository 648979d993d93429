"""A list of texts as work: each distinct text once, as token numbers, in batches of about equal work."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from recllm.base.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from recllm.base.arrays import Floats, Ints
    from recllm.base.schema import Encoder, TextKind

Anything = TypeVar("Anything", bound=Hashable)
"""Texts, and answers that make texts."""
BATCH_TOKENS = 2048


def distinct(texts: Sequence[Anything]) -> tuple[list[Anything], Ints]:
    """The distinct texts in order of first appearance, and each text's position among them, shape (len(texts),)."""
    position: dict[Anything, int] = {}
    inverse = np.fromiter((position.setdefault(text, len(position)) for text in texts), np.int64, count=len(texts))
    return list(position), inverse


def encode_once(encoder: Encoder, texts: Sequence[str], *, kind: TextKind = "document") -> Floats:
    """Unit rows of the texts, (len(texts), dim) float32; each distinct text is encoded once."""
    texts_once, inverse = distinct(texts)
    return encoder.encode(texts_once, kind=kind)[inverse]


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens:
    """A tokenizer without padding and without a limit of its own, and how texts are prepared for it.

    Needs the tokenizers library alone, no torch.
    """

    tokenizer: Tokenizer
    pad: int
    """The number that fills short rows up."""
    prompts: Mapping[str, str]
    lower_case: bool
    limit: int
    """Tokens at most, prompt and special tokens included."""

    def ids(self, texts: Sequence[str], kind: TextKind) -> list[list[int]]:
        """Each text's tokens, prompt and special tokens included, cut to the limit."""
        if kind not in ("query", "document"):
            raise UsageError(f'kind must be "query" or "document", not {kind!r}.')
        prompt = self.prompts.get(kind, "")
        # a lone surrogate (half of a broken emoji) is valid in a Python string and cannot be handed to Rust
        cleaned = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        rows, cleaned = [], [text.lower() for text in cleaned] if self.lower_case else cleaned
        for encoding in self.tokenizer.encode_batch_fast([prompt + text for text in cleaned]):
            ids: list[int] = encoding.ids
            if len(ids) > self.limit:
                # the first tokens, and the closing special token where the tokenizer puts one last
                last = ids[-1] if encoding.special_tokens_mask[-1] else ids[self.limit - 1]
                ids = [*ids[: self.limit - 1], last]
            rows.append(ids)
        return rows


def plan_batches(lengths: Ints, budget: int = BATCH_TOKENS) -> Iterator[Ints]:
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


def progress_bar(total: int, visible: bool) -> Any:
    """A bar of tqdm, from the first second on; silent where standard error is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc="encode", unit="text", delay=1.0, disable=None if visible else True)
