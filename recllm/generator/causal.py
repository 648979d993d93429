"""A causal language model from a folder: tokenizer, weights, an adapter merged into them, and how it reads a prompt.

Only JSON, vocabularies and safetensors are read.
"""

from __future__ import annotations

import json
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from recllm.encoder.adapters import merge_adapter
from recllm.encoder.folder import quiet_loading
from recllm.errors import ModelError
from recllm.generator.chat import Message

_FORBIDDEN_KEYS = frozenset({"auto_map", "trust_remote_code", "_attn_implementation_internal", "custom_pipelines"})
_MAX_JSON = 4 << 20
"""Bytes."""


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
    total = sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            total.update(file_digest(stream, "sha256").digest())
    return total.hexdigest()


def render(turns: list[Message], tokenizer: Any, *, open_end: bool = True) -> str:
    """A conversation in the model's own format. Its control tokens go from the turns, so that data opens no turn."""
    for token in filter(str.strip, tokenizer.all_special_tokens):
        turns = [Message(turn.role, turn.text.replace(token, " ")) for turn in turns]
    vocabulary = tokenizer.get_vocab()
    if "<|im_start|>" in vocabulary and "<|im_end|>" in vocabulary:  # ChatML
        text = "".join(f"<|im_start|>{turn.role}\n{turn.text}<|im_end|>\n" for turn in turns)
        return f"{text}<|im_start|>assistant\n" if open_end else text
    if tokenizer.chat_template:
        conversation = [{"role": turn.role, "content": turn.text} for turn in turns]
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=open_end))
    return "\n".join(turn.text for turn in turns) + "\n"  # a model without a chat format reads the turns as they are


def check_folder(folder: Path) -> None:
    """Raises `ModelError` when the folder lacks safetensors, or a settings file would load code or another model."""
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no *.safetensors; pickled weights are not read")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size > _MAX_JSON:
            raise ModelError(f"{path} is larger than any settings file")
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path} is not JSON: {error}") from None
        if key := next((key for key in _keys(settings) if key in _FORBIDDEN_KEYS), None):
            raise ModelError(f"{path} holds {key!r}, which would run code from the folder; it is refused")


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for inner in value.values() for key in _keys(inner))]
    return [key for inner in value for key in _keys(inner)] if isinstance(value, list) else []
