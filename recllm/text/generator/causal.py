"""A causal language model from a folder: tokenizer, weights, an adapter merged into them, and how it reads a prompt.

Only JSON, vocabularies and safetensors are read.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from recllm.base.errors import ModelError
from recllm.text.encoder.adapters import merge_adapter
from recllm.text.encoder.file_hash import file_hash
from recllm.text.encoder.folder import check_settings, check_weights, quiet_loading
from recllm.text.generator.chat import Message

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


def render(turns: list[Message], tokenizer: Any, *, open_end: bool = True) -> str:
    """A conversation in the model's own format, which is known by its vocabulary. Its control tokens go from the turns,
    so that data opens no turn.

    The template that comes with a model is a program, which may never end; it is not run.
    """
    for token in filter(str.strip, tokenizer.all_special_tokens):
        turns = [Message(turn.role, turn.text.replace(token, " ")) for turn in turns]
    vocabulary = tokenizer.get_vocab()
    for opening, ending, turn_format, answer in _FORMATS:
        if opening in vocabulary and ending in vocabulary:
            text = "".join(turn_format.format(role=turn.role, text=turn.text) for turn in turns)
            return text + answer if open_end else text
    return "\n".join(turn.text for turn in turns) + "\n"  # a model without one of these reads the turns as they are


def check_folder(folder: Path) -> None:
    """Raises `ModelError` when the folder lacks safetensors, or a settings file would load code or another model."""
    check_weights(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json")
    check_settings(folder)
