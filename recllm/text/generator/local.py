"""A causal language model on this machine, through transformers."""

from __future__ import annotations

import copy
import inspect
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Collection
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from recllm.base.errors import GenerationError
from recllm.base.schema import Purpose
from recllm.text.encoder.adapters import adapter_hash
from recllm.text.encoder.file_hash import file_hash
from recllm.text.generator.causal import load_causal, render
from recllm.text.generator.chat import Message, messages

MAX_PROMPT_TOKENS = 2_048
_MAX_PREFIXES = 4
_CLASSES = frozenset({"Nd", "Nl", "No", "Sc", "So", "Cc", "Cf"})
_PART = "\ufffd"
"""What a token decodes to that is one part of a character, as most of Chinese is in small vocabularies."""
_FORBIDDEN = frozenset('%‰"“”„«»「」『』<>{}[]()|\\/^~*_#@=+:`')


def is_forbidden(character: str) -> bool:
    """Numerals, currency signs, symbols, quotes, brackets, and whatever addresses and mark-up are made of."""
    if character == _PART:
        return False
    plain = unicodedata.normalize("NFKC", character)  # full-width signs count as what they stand for
    return any(c in _FORBIDDEN or unicodedata.category(c) in _CLASSES for c in (character, *plain))


class LocalGenerator:
    """Samples from a folder with a causal language model; one request at a time, any number of threads may ask.

    No token is sampled whose text holds a forbidden character (`is_forbidden`), and a line break ends a text. The turns
    of a prompt before the last one are read once and kept, so that examples in a prompt cost nothing the second time.
    Equal prompts and seeds give equal texts on the same machine and number of threads.

    `temperature` and `top_k` shape the sampling, `max_time` bounds one `generate` in seconds. bfloat16 is used where
    the processor computes in it, float32 elsewhere.
    """

    purpose = Purpose.LLM_LOCAL

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        temperature: float = 0.7,
        top_k: int = 40,
        max_time: float = 30.0,
        languages: Collection[str] | None = None,
        adapter: str | Path | None = None,
    ) -> None:
        path = Path(folder)
        self.name = name or path.name
        self._folder = path
        self.languages = None if languages is None else frozenset(languages)
        """The languages that the model is fit to write; None where unknown."""
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._adapter = Path(adapter) if adapter is not None else None
        self.tuned = adapter is not None
        """Whether the model learned how this shop writes, and needs no examples in a prompt."""
        self._tokenizer, self._model = load_causal(path, self._device, adapter=self._adapter)
        arguments = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache" if "cache" in arguments else "past_key_values"  # renamed in transformers 5.x
        self._sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": 1.0}
        self._max_time = max_time
        banned, self._ends = _vocabulary(self._tokenizer, self._model.config.vocab_size)
        self._banned = banned.to(self._device)
        self._prefixes: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the files of folder and adapter and the sampling: what has to be equal for a text to come
        again."""
        adapter = adapter_hash(self._adapter) if self._adapter else ""
        total = sha256(repr([*sorted(self._sampling.items()), "mask", adapter]).encode())
        for file in sorted(p for p in self._folder.iterdir() if p.is_file()):
            total.update(file.name.encode() + b"\0" + bytes.fromhex(file_hash(file)))
        return total.hexdigest()

    def __repr__(self) -> str:
        kind = str(self._model.dtype).removeprefix("torch.")
        return f"LocalGenerator({self.name!r}, {self._device}, {kind})"

    def generate(self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0) -> list[str]:
        """`n` continuations sampled together, the most likely first, without the empty ones.

        Likely means the model's own mean log probability per token. Raises `GenerationError` on any failure.
        """
        try:
            devices = [torch.cuda.current_device()] if self._device == "cuda" else []
            with self._lock, torch.inference_mode(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                rows = self._sample(messages(prompt), n, max_tokens)
        except (RuntimeError, ValueError, TypeError, IndexError, MemoryError) as error:
            raise GenerationError(f"{self.name} failed: {type(error).__name__}: {str(error)[:200]}") from error
        texts = [text.strip() for text in self._tokenizer.batch_decode(rows, skip_special_tokens=True)]
        if not any(texts):
            raise GenerationError(f"{self.name} finished no text of {max_tokens} tokens within {self._max_time} s")
        return [text for text in texts if text]

    def _sample(self, turns: list[Message], n: int, max_tokens: int) -> Any:
        head, tail = self._layout(turns)
        ids = torch.cat([self._ids(head), self._ids(tail)], dim=1)
        if ids.shape[1] > MAX_PROMPT_TOKENS:
            raise GenerationError(f"the prompt has {ids.shape[1]} tokens; at most {MAX_PROMPT_TOKENS} are read")
        cache = self._read(head, ids, n)
        ids = ids.expand(n, -1)
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **{self._cache_name: cache},
            max_new_tokens=max_tokens,
            max_time=self._max_time,
            logits_processor=LogitsProcessorList([_Mask(self._banned)]),
            eos_token_id=self._ends,
            pad_token_id=self._ends[0],
            return_dict_in_generate=True,
            output_logits=True,
            **self._sampling,
        )
        rows = output.sequences[:, ids.shape[1] :]  # (n, length)
        return rows[self._likelihood(rows, output.logits).argsort(descending=True, stable=True)]

    def _likelihood(self, rows: Any, logits: Any) -> Any:
        """Mean log probability of each row's tokens up to its end, (n,)."""
        total, length = torch.zeros(len(rows)), torch.zeros(len(rows))
        open_rows = torch.ones(len(rows), dtype=torch.bool)
        ends = torch.tensor(self._ends)
        for step, scores in enumerate(logits):  # each (n, vocabulary)
            token = rows[:, step]
            log_probability = scores.float().log_softmax(-1).gather(1, token[:, None])[:, 0].cpu()
            total += torch.where(open_rows, log_probability, 0.0)
            length += open_rows
            open_rows &= ~torch.isin(token.cpu(), ends)
        return total / length.clamp(min=1)

    def _read(self, head: str, ids: Any, n: int) -> Any:
        """The state after all tokens but the last, for `n` rows. The cut at `head` is the same whether it was kept or
        not, so that sums are made in the same order and texts can be made again."""
        length = self._ids(head).shape[1]
        cache = copy.deepcopy(self._prefix(head)) if head else DynamicCache(config=self._model.config)
        if ids.shape[1] - 1 > length:
            self._model(ids[:, length:-1], **{self._cache_name: cache}, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(n)
        return cache

    def _prefix(self, head: str) -> Any:
        if head not in self._prefixes:
            cache = DynamicCache(config=self._model.config)
            self._model(self._ids(head), **{self._cache_name: cache}, use_cache=True, logits_to_keep=1)
            self._prefixes[head] = cache
            if len(self._prefixes) > _MAX_PREFIXES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(head)
        return self._prefixes[head]

    def _ids(self, text: str) -> Any:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([ids], dtype=torch.long, device=self._device)

    def _layout(self, turns: list[Message]) -> tuple[str, str]:
        """The conversation as the model reads it, cut before the last turn."""
        conversation = render(turns, self._tokenizer)
        head = render(turns[:-1], self._tokenizer, open_end=False) if len(turns) > 1 else ""
        return (head, conversation[len(head) :]) if conversation.startswith(head) else ("", conversation)


def _vocabulary(tokenizer: Any, size: int) -> tuple[torch.Tensor, list[int]]:
    """(banned, ends): a bool per token of the vocabulary, and the tokens that end a text."""
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[i] for i in range(min(size, len(tokenizer)))])
    ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    ends += [i for i, text in enumerate(texts) if text.startswith("\n") and not text.strip()]
    banned = torch.ones(size, dtype=torch.bool)
    for i, text in enumerate(texts):
        banned[i] = i in special or "\n" in text or any(is_forbidden(c) for c in text)
    banned[ends] = False
    return banned, ends


class _Mask(LogitsProcessor):
    """Makes banned tokens impossible. `banned`: (vocabulary,), bool; `scores`: (rows, vocabulary), the next logits."""

    def __init__(self, banned: torch.Tensor) -> None:
        self._banned = banned

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores.masked_fill(self._banned[: scores.shape[-1]], -torch.inf)
