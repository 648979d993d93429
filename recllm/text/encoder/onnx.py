"""An exported encoder, run by onnxruntime: no torch, no transformers, the same vectors.

Its folder holds
onnx.json          how texts are prepared, what the vectors were compared with, a hash for every file; written last
tokenizer.json     of the tokenizers library
model.onnx         float32: token numbers and mask to unit rows, pooling included
model.int8.onnx    the same with int8 weights; missing where its vectors were too far off
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recllm.base.documents import json_value
from recllm.base.errors import MissingExtraError, ModelError, UsageError
from recllm.text.encoder.batches import TokenEncoder, Tokens
from recllm.text.encoder.folder import first_line
from recllm.text.encoder.hardware import MIN_GAIN, Probe, compare, default_threads, processor_name, remembered_probe
from recllm.text.encoder.json_cache import file_hash

if TYPE_CHECKING:
    from recllm.base.schema import FloatArray

OnnxPrecision = Literal["float32", "int8"]

RECORD = "onnx.json"
TOKENIZER = "tokenizer.json"
MODELS: Mapping[OnnxPrecision, str] = {"float32": "model.onnx", "int8": "model.int8.onnx"}
SCHEME = "recllm-onnx-1"

LEAST_COSINE: Mapping[OnnxPrecision, float] = {"float32": 0.999, "int8": 0.99}
"""Lowest cosine with the original over the texts compared; below it a file is refused."""


@dataclass(frozen=True, slots=True)
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
        content = json_value((folder / RECORD).read_text("utf-8"))
        record = OnnxRecord(**{f.name: content[f.name] for f in fields(OnnxRecord)})
        if not isinstance(record.files, dict) or not isinstance(record.prompts, dict):
            raise TypeError("files and prompts are objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / RECORD}: not a readable export ({error}); export the encoder again") from error
    if record.scheme != SCHEME:
        raise ModelError(f"{folder / RECORD}: made by another version ({record.scheme}); export the encoder again")
    for name, expected in record.files.items():
        path = folder / name
        if name not in (TOKENIZER, *MODELS.values()) or not path.is_file() or file_hash(path, cache_dir) != expected:
            raise ModelError(f"{path}: missing, or not the file that was exported; export the encoder again")
    return record


@dataclass(eq=False, repr=False)
class OnnxEncoder(TokenEncoder):
    """An `Encoder` on the CPU. A text's vector does not depend on its neighbours in int8 either.

    The files are checked at once; tokenizer and model are loaded when they are needed.
    """

    folder: Path
    _: KW_ONLY
    precision: OnnxPrecision = "float32"
    threads: int | None = None
    progress: bool = True
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        onnxruntime()
        self.folder = self.folder.expanduser()
        record = self.record = read_record(self.folder, self.cache_dir)
        file = MODELS[self.precision]
        if file not in record.files:
            cosine = record.parity.get(self.precision, {}).get("lowest", float("nan"))
            raise ModelError(
                f"{self.folder} holds no {self.precision} model: its lowest cosine with the original was {cosine:.4f}, "
                f'and {LEAST_COSINE[self.precision]} is asked for; use precision="float32"'
            )
        self.name, self.dim = record.name, record.dim
        self.threads = self.threads or default_threads()
        parts = [SCHEME, record.files[file], record.files[TOKENIZER], dict(record.prompts), record.limit]
        self.fingerprint = hashlib.sha256(json.dumps([*parts, record.lower_case]).encode()).hexdigest()

    @cached_property
    def max_tokens(self) -> int:
        return self.tokens.max_tokens

    @cached_property
    def tokens(self) -> Tokens:
        from tokenizers import Tokenizer

        path, record = self.folder / TOKENIZER, self.record
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain exceptions
            raise ModelError(f"{path}: not a tokenizer ({first_line(error)}); export the encoder again") from error
        return Tokens(
            tokenizer=tokenizer,
            pad=record.pad,
            prompts=dict(record.prompts),
            lower_case=record.lower_case,
            limit=record.limit,
        )

    @cached_property
    def _session(self) -> Any:
        runtime, path = onnxruntime(), self.folder / MODELS[self.precision]
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3  # errors alone
        try:
            return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has a class of its own for every kind of bad file
            raise ModelError(f"{path}: onnxruntime does not load it ({first_line(error)})") from error

    def forward(self, tokens: list[list[int]]) -> FloatArray:
        shape = len(tokens), max(len(ids) for ids in tokens)
        padded, mask = np.full(shape, self.tokens.pad, np.int64), np.zeros(shape, np.int64)
        for row, ids in enumerate(tokens):
            padded[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        unit: FloatArray = self._session.run(None, {"input_ids": padded, "attention_mask": mask})[0]
        return unit


def load_onnx(
    folder: str | Path,
    *,
    precision: str = "float32",
    cache_dir: str | Path | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> OnnxEncoder:
    """An exported encoder. "auto" takes int8 where the folder has it and a probe on this machine finds it faster.

    The probe's answer is kept in `cache_dir`. Raises `UsageError` for bfloat16, `ModelError` for a damaged folder.
    """
    if precision not in ("float32", "int8", "auto"):
        raise UsageError(f'an exported encoder runs in "float32", "int8" or "auto", not {precision!r}')
    exact = OnnxEncoder(Path(folder), threads=threads, progress=progress, cache_dir=cache_dir)
    if precision == "int8":
        return replace(exact, precision="int8")
    if precision == "float32" or MODELS["int8"] not in exact.record.files:
        return exact
    small = replace(exact, precision="int8")
    machine = f"{platform.machine()} {processor_name()} {exact.threads} threads onnxruntime {onnxruntime().__version__}"
    probe = remembered_probe(cache_dir, f"{small.fingerprint} {machine}", lambda: compare(exact, small))
    return small if int8_pays(probe) else exact


def int8_pays(probe: Probe) -> bool:
    return probe.cosine >= LEAST_COSINE["int8"] and probe.gain >= MIN_GAIN


def onnxruntime() -> Any:
    """The module. Raises `MissingExtraError` where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx") from error
    return onnxruntime
