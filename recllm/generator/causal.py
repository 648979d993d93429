"""A causal language model from a folder: tokenizer, weights, an adapter merged into them, and how it reads a prompt."""

from __future__ import annotations

from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from recllm.encoder.adapters import merge_adapter
from recllm.encoder.libraries import quiet_loading
from recllm.errors import ModelError
from recllm.generator.chat import Message, chatml, messages, plain, without
from recllm.generator.folder import check_folder


def load_causal(path: Path, device: str, *, adapter: Path | None = None) -> tuple[Any, Any]:
    """(tokenizer, model ready to write) of a folder; with `adapter` merged into the weights. Raises `ModelError`."""
    check_folder(path)
    tokenizer, model = _load(path, device)
    if adapter is not None:
        kind = model.config.model_type
        model = merge_adapter(model, adapter, model_type=kind, base=path.name, base_hash=base_hash(path))
    return tokenizer, model


def base_hash(folder: Path) -> str:
    """SHA-256 over the weights' files."""
    total = sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            total.update(file_digest(stream, "sha256").digest())
    return total.hexdigest()


def rendered(prompt: str, tokenizer: Any) -> str:
    """A prompt as the model reads it, open for its answer."""
    turns = messages(prompt)
    return render([Message(turn.role, without(turn.text, tokenizer.all_special_tokens)) for turn in turns], tokenizer)


def render(turns: list[Message], tokenizer: Any, *, open_end: bool = True) -> str:
    vocabulary = tokenizer.get_vocab()
    if "<|im_start|>" in vocabulary and "<|im_end|>" in vocabulary:
        text = chatml(turns)
        return text if open_end else text.removesuffix("<|im_start|>assistant\n")
    if tokenizer.chat_template:
        conversation = [{"role": turn.role, "content": turn.text} for turn in turns]
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=open_end))
    return plain(turns)


def _load(path: Path, device: str) -> tuple[Any, Any]:
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=_dtype(device),
                attn_implementation=_attention(device),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be loaded as a causal language model: {error}") from error
    return tokenizer, model.to(device).eval()  # type: ignore[arg-type]


def _dtype(device: str) -> torch.dtype:
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    abilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else torch.float32


def _attention(device: str) -> str:
    """On a processor the fused kernel took 1.6 times as long in bfloat16 for one new token over a long prompt."""
    return "sdpa" if device == "cuda" else "eager"
