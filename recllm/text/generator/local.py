"""A causal language model on this machine, through transformers: tokenizer, weights, an adapter merged into them, how
it reads a prompt, and how it writes. Only JSON, vocabularies and safetensors are read."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList

from recllm.base.errors import GenerationError, ModelError
from recllm.base.schema import Purpose
from recllm.text.encoder.adapters import merge_adapter
from recllm.text.encoder.folder import check_settings, check_weights, file_hash, quiet_loading
from recllm.text.generator.chat import Message, messages

MAX_PROMPT_TOKENS = 2_048
_CLASSES = frozenset({"Nd", "Nl", "No", "Sc", "So", "Cc", "Cf"})
_PART = "\ufffd"
"""What a token decodes to that is one part of a character, as most of Chinese is in small vocabularies."""
_FORBIDDEN = frozenset('%‰"“”„«»「」『』<>{}[]()|\\/^~*_#@=+:`')

_FORMATS = (
    ("<|im_start|>", "<|im_end|>", "<|im_start|>{role}\n{text}<|im_end|>\n", "<|im_start|>assistant\n"),
    (
        "<|start_header_id|>",
        "<|eot_id|>",
        "<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    ("<|assistant|>", "<|end|>", "<|{role}|>\n{text}<|end|>\n", "<|assistant|>\n"),
)
"""Of ChatML, Llama 3 and Phi 3: two tokens of the vocabulary by which a format is known, a turn, and the beginning of
an answer."""


def is_forbidden(character: str) -> bool:
    """Numerals, currency signs, symbols, quotes, brackets, and whatever addresses and mark-up are made of."""
    if character == _PART:
        return False
    plain = unicodedata.normalize("NFKC", character)  # full-width signs count as what they stand for
    return any(c in _FORBIDDEN or unicodedata.category(c) in _CLASSES for c in (character, *plain))


class LocalGenerator:
    """Samples from a folder with a causal language model; one request at a time, any number of threads may ask.

    No token is sampled whose text holds a forbidden character (`is_forbidden`), and a line break ends a text. Equal
    prompts and seeds give equal texts on the same machine and number of threads.

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
        self.languages = None if languages is None else frozenset(languages)
        """The languages that the model is fit to write; None where unknown."""
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tuned = adapter is not None
        """Whether the model learned how this shop writes, and needs no examples in a prompt."""
        self._tokenizer, self._model = load_causal(
            path, self._device, adapter=None if adapter is None else Path(adapter)
        )
        self._sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": 1.0}
        self._max_time = max_time
        banned, self._ends = _vocabulary(self._tokenizer, self._model.config.vocab_size)
        self._banned = banned.to(self._device)
        self._lock = threading.Lock()

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
        prompt = render(turns, self._tokenizer)
        ids = self._tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        if ids.shape[1] > MAX_PROMPT_TOKENS:
            raise GenerationError(f"the prompt has {ids.shape[1]} tokens; at most {MAX_PROMPT_TOKENS} are read")
        ids = ids.to(self._device)
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=n,
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
        scores = self._model.compute_transition_scores(output.sequences, output.logits, normalize_logits=True).float()
        is_end = torch.isin(rows, torch.tensor(self._ends, device=rows.device)).int()
        is_text = is_end.cumsum(1) - is_end == 0  # up to the first end, with it
        likelihood = torch.where(is_text, scores, 0.0).sum(1) / is_text.sum(1)
        return rows[likelihood.argsort(descending=True, stable=True)]


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


def load_causal(path: Path, device: str, *, adapter: Path | None = None) -> tuple[Any, Any]:
    """(tokenizer, model ready to write) of a folder; with `adapter` merged into the weights. Raises `ModelError`."""
    check_folder(path)
    abilities = torch.cpu.get_capabilities()
    if device == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    else:
        dtype = torch.bfloat16 if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else torch.float32
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                # on a processor the fused kernel took 1.6 times as long for one new token over a long prompt
                attn_implementation="sdpa" if device == "cuda" else "eager",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be loaded as a causal language model: {error}") from error
    model = model.to(device).eval()  # type: ignore[arg-type]
    if adapter is not None:
        kind = model.config.model_type
        model = merge_adapter(model, adapter, model_type=kind, base=path.name, base_hash=base_hash(path))
    return tokenizer, model


def base_hash(folder: Path) -> str:
    """SHA-256 over the weights' files."""
    return sha256(b"".join(bytes.fromhex(file_hash(f)) for f in sorted(folder.glob("*.safetensors")))).hexdigest()


def render(turns: list[Message], tokenizer: Any) -> str:
    """A conversation in the model's own format, which is known by its vocabulary. Its control tokens go from the turns,
    so that data opens no turn.

    The template that comes with a model is a program, which may never end; it is not run.
    """
    for token in filter(str.strip, tokenizer.all_special_tokens):
        turns = [Message(turn.role, turn.text.replace(token, " ")) for turn in turns]
    vocabulary = tokenizer.get_vocab()
    for opening, ending, turn_format, answer in _FORMATS:
        if opening in vocabulary and ending in vocabulary:
            return "".join(turn_format.format(role=turn.role, text=turn.text) for turn in turns) + answer
    return "\n".join(turn.text for turn in turns) + "\n"  # a model without one of these reads the turns as they are


def check_folder(folder: Path) -> None:
    """Raises `ModelError` when the folder lacks safetensors, or a settings file would load code or another model."""
    check_weights(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json")
    check_settings(folder)
