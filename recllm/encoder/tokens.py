"""From texts to token numbers: prompt, letter case and limit. Needs the tokenizers library alone, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recllm.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from recllm.schema import TextKind


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens:
    """A tokenizer without padding and without a limit of its own, and how texts are prepared for it."""

    tokenizer: Tokenizer
    pad: int
    """The number that fills short rows up."""
    prompts: Mapping[str, str]
    lower_case: bool
    limit: int
    """Tokens at most, prompt and special tokens included."""

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text that is used whole, with the longest prompt before it."""
        empty, *prompts = self.count(["", *self.prompts.values()])
        return self.limit - (max(prompts, default=empty) - empty)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included and the prompt not, before any cut."""
        return [len(encoding.ids) for encoding in self.tokenizer.encode_batch_fast(self._clean(texts))]

    def ids(self, texts: Sequence[str], kind: TextKind) -> list[list[int]]:
        """Each text's tokens, prompt and special tokens included, cut to the limit."""
        if kind not in ("query", "document"):
            raise UsageError(f'kind must be "query" or "document", not {kind!r}.')
        prompt = self.prompts.get(kind, "")
        encodings = self.tokenizer.encode_batch_fast([prompt + text for text in self._clean(texts)])
        return [self._cut(encoding) for encoding in encodings]

    def _clean(self, texts: Sequence[str]) -> list[str]:
        # A lone surrogate (half of a broken emoji) is valid in a Python string and cannot be handed to Rust.
        cleaned = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return [text.lower() for text in cleaned] if self.lower_case else cleaned

    def _cut(self, encoding: Encoding) -> list[int]:
        """The first tokens, and the closing special token where the tokenizer puts one last."""
        ids: list[int] = encoding.ids
        if len(ids) <= self.limit:
            return ids
        return [*ids[: self.limit - 1], ids[-1]] if encoding.special_tokens_mask[-1] else ids[: self.limit]
