"""Decoding under a grammar with llguidance: a token that no sentence of the grammar can hold is never sampled.

The masks are filled on the processor and applied here: `llguidance.torch` would compile a kernel at its first call.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from recllm.errors import GenerationError
from recllm.generator.constraint import Constraint, grammar

_KEPT = 16


def has_llguidance() -> bool:
    return importlib.util.find_spec("llguidance") is not None


class Grammars:
    """The grammars of one tokenizer, compiled when first asked for; a request takes copies of its own.

    `size` is the model's vocabulary, which may be larger than the tokenizer's; `ends` the tokens that end a text.
    Raises `ValueError` for a tokenizer that llguidance cannot read.
    """

    def __init__(self, tokenizer: Any, size: int, ends: list[int]) -> None:
        import llguidance.hf

        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=ends)
        self._size, self._ends = size, ends
        self._kept: OrderedDict[Constraint, Any] = OrderedDict()

    def processor(self, constraint: Constraint, rows: int, start: int) -> GrammarProcessor:
        """For `rows` texts that begin after `start` tokens. Raises `GenerationError` when the grammar is too large."""
        if constraint not in self._kept:
            self._kept[constraint] = self._compiled(constraint)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(constraint)
        base = self._kept[constraint]
        return GrammarProcessor([base.deep_copy() for _ in range(rows)], start, self._size, self._ends)

    def _compiled(self, constraint: Constraint) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(initial_lexer_fuel=10**9, step_lexer_fuel=10**8, max_lexer_states=10**7)
        matcher = LLMatcher(self._tokenizer, grammar(constraint), log_level=0, limits=limits)
        if matcher.is_error():
            raise GenerationError(f"the grammar of a line cannot be made: {matcher.get_error()[:200]}")
        return matcher


class GrammarProcessor(LogitsProcessor):
    """Single use: one matcher per row, which follows what was sampled.

    `scores`: (rows, vocabulary), the logits of the next token; what the grammar does not allow becomes -inf.
    """

    def __init__(self, matchers: list[Any], start: int, size: int, ends: list[int]) -> None:
        self._matchers, self._start, self._ends = matchers, start, ends
        self._open = [True] * len(matchers)
        self._mask = np.zeros((len(matchers), (size + 31) // 32), dtype=np.int32)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        from llguidance.numpy import fill_next_token_bitmask

        for row, matcher in enumerate(self._matchers):
            if self._open[row] and input_ids.shape[1] > self._start:
                self._follow(row, int(input_ids[row, -1]))
            if self._open[row]:
                fill_next_token_bitmask(matcher, self._mask, row)
                if matcher.is_error():
                    raise GenerationError(f"the grammar of a line gave up: {matcher.get_error()[:200]}")
        return scores.masked_fill(~self._allowed(scores), -torch.inf)

    def _follow(self, row: int, token: int) -> None:
        """A row that ended, or whose sentence is whole, takes nothing more than an end."""
        matcher = self._matchers[row]
        self._open[row] = token not in self._ends and matcher.consume_token(token) and not matcher.is_stopped()

    def _allowed(self, scores: Any) -> Any:
        bits = np.unpackbits(self._mask.view(np.uint8), axis=1, bitorder="little")[:, : scores.shape[-1]]
        allowed = torch.from_numpy(bits.astype(bool))
        for row, open_row in enumerate(self._open):
            if not open_row:
                allowed[row] = False
                allowed[row, self._ends] = True
        return allowed.to(scores.device)
