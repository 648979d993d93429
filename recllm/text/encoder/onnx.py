"""An exported encoder, run by onnxruntime: no torch, no transformers, the same vectors; and its export.

Its folder holds
onnx.json          how texts are prepared, what the vectors were compared with, a hash for every file; written last
tokenizer.json     of the tokenizers library
model.onnx         token numbers and mask to unit rows, pooling included, in float32
model.int8.onnx    the same with int8 weights, in folders of earlier versions
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recllm.base.documents import json_value
from recllm.base.errors import MissingExtraError, ModelError, UsageError
from recllm.text.encoder.batches import TokenEncoder, Tokens
from recllm.text.encoder.folder import file_hash, first_line
from recllm.text.encoder.hardware import default_threads

if TYPE_CHECKING:
    from recllm.base.arrays import Floats
    from recllm.text.encoder.huggingface import HuggingFaceEncoder

OnnxPrecision = Literal["float32", "int8"]

RECORD = "onnx.json"
TOKENIZER = "tokenizer.json"
MODELS: Mapping[OnnxPrecision, str] = {"float32": "model.onnx", "int8": "model.int8.onnx"}
SCHEME = "recllm-onnx-1"

LEAST_COSINE = 0.999
"""Lowest cosine with the original over the texts compared; below it a file is refused."""

EXAMPLE_TEXTS = (
    "GROCERY FROZEN ICE CREAM traditional, private label, 56 OZ",
    "women's waterproof trail running shoes, size 39",
    "Wireless noise-cancelling headphones with 30 hours of battery life",
    "2014 秋装 新款 打底衫 韩版 女装 长袖 纯棉",
    "age 35-44, income 50-74K, two adults with kids",
    "milk",
    "USB-C",
    "The person bought coffee every nine days, mostly ground coffee of a national brand, and lately bought filters, "
    "oat milk and dark chocolate; looked at an espresso machine and a grinder twice without buying.",
)
"""What the vectors are compared on where no text of a shop is at hand."""

OPSET = 20
MOST_TEXTS = 512
"""Texts compared at most: spread evenly over those given."""
_LARGEST = (2 << 30) - (1 << 20)
"""One ONNX file is a protobuf message, which ends at 2 GiB."""


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
    """An `Encoder` on the CPU, in int8 where the folder has it.

    The files are checked at once; tokenizer and model are loaded when they are needed.
    """

    folder: Path
    _: KW_ONLY
    progress: bool = True
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        _extra("onnxruntime")
        self.folder = self.folder.expanduser()
        record = self.record = read_record(self.folder, self.cache_dir)
        self.precision: OnnxPrecision = "int8" if MODELS["int8"] in record.files else "float32"
        file = MODELS[self.precision]
        self.name, self.dim = record.name, record.dim
        parts = [SCHEME, record.files[file], record.files[TOKENIZER], dict(record.prompts), record.limit]
        self.fingerprint = hashlib.sha256(json.dumps([*parts, record.lower_case]).encode()).hexdigest()

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
        runtime, path = _extra("onnxruntime"), self.folder / MODELS[self.precision]
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = default_threads(), 1
        options.log_severity_level = 3  # errors alone
        try:
            return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has a class of its own for every kind of bad file
            raise ModelError(f"{path}: onnxruntime does not load it ({first_line(error)})") from error

    def forward(self, tokens: list[list[int]]) -> Floats:
        shape = len(tokens), max(len(ids) for ids in tokens)
        padded, mask = np.full(shape, self.tokens.pad, np.int64), np.zeros(shape, np.int64)
        for row, ids in enumerate(tokens):
            padded[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        unit: Floats = self._session.run(None, {"input_ids": padded, "attention_mask": mask})[0]
        return unit


def _extra(name: str) -> Any:
    """A module of the extra. Raises `MissingExtraError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, "onnx") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExport:
    """What an export wrote."""

    folder: Path
    name: str
    lowest_cosine: float
    """With the original's vectors, over `texts` texts."""
    texts: int
    bytes: int
    """Size of the model file."""


def export_onnx(encoder: HuggingFaceEncoder, folder: str | Path, *, texts: Sequence[str] = EXAMPLE_TEXTS) -> OnnxExport:
    """Write `encoder` (on the CPU) to `folder`, whole or not at all; an earlier export there is replaced.

    `texts`: real texts, by which the exported vectors are compared with the encoder's own. Raises `ModelError` when
    the lowest cosine is below .999.
    """
    target = Path(folder).expanduser().absolute()
    for module in ("onnxruntime", "onnx", "onnxscript"):
        _extra(module)
    if target.exists() and not is_onnx_folder(target) and (target.is_file() or any(target.iterdir())):
        raise UsageError(f"{target}: holds something that is not an export; name a new folder")
    if encoder.torch_device != "cpu":
        raise UsageError('only an encoder on the CPU is exported: load it with device="cpu"')
    size = sum(4 * p.numel() for p in encoder.model.parameters())
    if size > _LARGEST:
        raise ModelError(f"{encoder.name}: {size >> 20} MiB of weights; one ONNX file holds at most 2048 MiB")
    compared = list(dict.fromkeys(texts))
    compared = compared[:: max(1, -(-len(compared) // MOST_TEXTS))] or list(EXAMPLE_TEXTS)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as draft:
        work = Path(draft) / "export"
        work.mkdir()
        encoder.tokens.tokenizer.save(str(work / TOKENIZER))
        write_graph(encoder, work / MODELS["float32"])
        _write_record(encoder, work, {})
        exported = OnnxEncoder(work, progress=False).encode(compared)
        lowest = float((exported * encoder.encode(compared)).sum(axis=1).min())
        if not lowest >= LEAST_COSINE:
            raise ModelError(
                f"{encoder.name}: the exported vectors are not the original's (lowest cosine {lowest:.4f} over "
                f"{len(compared)} texts, {LEAST_COSINE} is asked for); nothing was kept"
            )
        _write_record(encoder, work, {"float32": {"lowest": lowest, "texts": len(compared)}})
        if target.exists():  # readers meet the earlier export or the new one
            target.rename(work.parent / "old")
        work.rename(target)
    size = (target / MODELS["float32"]).stat().st_size
    return OnnxExport(folder=target, name=encoder.name, lowest_cosine=lowest, texts=len(compared), bytes=size)


def write_graph(encoder: HuggingFaceEncoder, path: Path) -> None:
    """Token numbers (B, T) and mask (B, T) to unit rows (B, dim), as one ONNX file."""
    import torch

    class UnitRows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = encoder.model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]  # (B, T, dim)
            return encoder.pooled(hidden, attention_mask)

    ids = torch.full((3, 7), encoder.tokens.pad)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0  # so that no size and no mask looks like a constant
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # The exporter writes its steps to standard output, optional packages to the log, and warnings about itself.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                UnitRows().eval(),
                (ids, mask),
                path,
                input_names=["input_ids", "attention_mask"],
                output_names=["unit"],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
                dynamic_shapes={"input_ids": free, "attention_mask": free},
            )
    finally:
        logger.setLevel(level)


def _write_record(encoder: HuggingFaceEncoder, work: Path, parity: Mapping[str, Mapping[str, float]]) -> None:
    files = [TOKENIZER, MODELS["float32"]]
    record = OnnxRecord(
        scheme=SCHEME,
        name=encoder.name,
        source=encoder.fingerprint,
        dim=encoder.dim,
        pad=encoder.tokens.pad,
        limit=encoder.tokens.limit,
        lower_case=encoder.tokens.lower_case,
        prompts=dict(encoder.tokens.prompts),
        parity=parity,
        files={name: file_hash(work / name) for name in files},
    )
    (work / RECORD).write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n", "utf-8")
