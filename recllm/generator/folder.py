"""Whether a folder with a causal language model is safe to open: only JSON, vocabularies and safetensors are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recllm.errors import ModelError

_FORBIDDEN_KEYS = frozenset({"auto_map", "trust_remote_code", "_attn_implementation_internal", "custom_pipelines"})
_MAX_JSON = 4 << 20
RECORD = "recllm.json"
"""Beside an adapter: how it was trained, and the languages that it learned."""


def check_folder(folder: Path) -> None:
    """Raises `ModelError` when the folder lacks safetensors, or a settings file would load code or another model."""
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no *.safetensors; pickled weights are not read")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            _check_settings(path)


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


def _check_settings(path: Path) -> None:
    if path.stat().st_size > _MAX_JSON:
        raise ModelError(f"{path} is larger than any settings file")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    for key in _keys(settings):
        if key in _FORBIDDEN_KEYS:
            raise ModelError(f"{path} holds {key!r}, which would run code from the folder; it is refused")


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for inner in value.values() for key in _keys(inner))]
    return [key for inner in value for key in _keys(inner)] if isinstance(value, list) else []
