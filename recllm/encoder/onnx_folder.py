"""What the folder of an exported encoder holds, and whether it is whole.

onnx.json          how texts are prepared, what the vectors were compared with, a hash for every file; written last
tokenizer.json     of the tokenizers library
model.onnx         float32: token numbers and mask to unit rows, pooling included
model.int8.onnx    the same with int8 weights; missing where its vectors were too far off
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from recllm.encoder.json_cache import file_hash
from recllm.errors import ModelError

OnnxPrecision = Literal["float32", "int8"]

RECORD = "onnx.json"
TOKENIZER = "tokenizer.json"
MODELS: Mapping[OnnxPrecision, str] = {"float32": "model.onnx", "int8": "model.int8.onnx"}
SCHEME = "recllm-onnx-1"

LEAST_COSINE: Mapping[OnnxPrecision, float] = {"float32": 0.999, "int8": 0.99}
"""Lowest cosine with the original over the texts compared; below it a file is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Cosine with the original's vectors over `texts` real texts."""

    lowest: float
    mean: float
    texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRecord:
    """What onnx.json holds. `source`: fingerprint of the encoder that was exported; `files`: name to sha256."""

    scheme: str
    name: str
    source: str
    dim: int
    pad: int
    limit: int
    lower_case: bool
    prompts: Mapping[str, str]
    parity: Mapping[str, Mapping[str, float]]
    files: Mapping[str, str]


def is_onnx_folder(path: str | Path) -> bool:
    return (Path(path).expanduser() / RECORD).is_file()


def read_record(folder: Path, cache_dir: str | Path | None = None) -> OnnxRecord:
    """What onnx.json holds, its files checked. `cache_dir` keeps their hashes.

    Raises `ModelError` for a damaged record, one of another version, and for files that are not the recorded.
    """
    try:
        content = json.loads((folder / RECORD).read_text("utf-8"))
        record = OnnxRecord(**{f.name: content[f.name] for f in fields(OnnxRecord)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / RECORD}: not a readable export ({error}); export the encoder again") from error
    if record.scheme != SCHEME:
        raise ModelError(f"{folder / RECORD}: made by another version ({record.scheme}); export the encoder again")
    for name, expected in record.files.items():
        path = folder / name
        if name not in (TOKENIZER, *MODELS.values()) or not path.is_file() or file_hash(path, cache_dir) != expected:
            raise ModelError(f"{path}: missing, or not the file that was exported; export the encoder again")
    return record
