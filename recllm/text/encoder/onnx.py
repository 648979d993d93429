"""An exported encoder, run by onnxruntime: no torch, no transformers, the same vectors; and its export.

Its folder holds
onnx.json          how texts are prepared, what the vectors were compared with, a hash for every file; written last
tokenizer.json     of the tokenizers library
model.int8.onnx    token numbers and mask to unit rows, pooling included, with int8 weights
model.onnx         the same in float32, where the vectors of int8 are too far off

Int8 computes products of matrices on whole numbers, with one scale per token and per output:

    y[t, j] = x[t] . w[:, j]  ~  s[t] * v[j] * sum_i q[t, i] * p[i, j]
    q = round(x / s), s[t] = max|x[t]| / 127;  p = round(w / v), v[j] = max|w[:, j]| / 127

The scale of the activations is taken per token while the model runs. onnxruntime's own dynamic quantisation takes one
scale over the whole batch: a single large number costs every text its precision (lowest cosine .979 on product texts,
against .996 here at the same speed), and a text's vector would depend on what else is in its batch.
Source of symmetric, per-channel integers: Jacob et al. 2018, section 2; per token: Yao et al. 2022 (ZeroQuant).
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
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recllm.base.documents import json_value
from recllm.base.errors import MissingExtraError, ModelError, UsageError
from recllm.text.encoder.batches import TokenEncoder, Tokens
from recllm.text.encoder.file_hash import file_hash
from recllm.text.encoder.folder import first_line
from recllm.text.encoder.hardware import default_threads

if TYPE_CHECKING:
    from recllm.base.schema import FloatArray
    from recllm.text.encoder.huggingface import HuggingFaceEncoder

OnnxPrecision = Literal["float32", "int8"]

RECORD = "onnx.json"
TOKENIZER = "tokenizer.json"
MODELS: Mapping[OnnxPrecision, str] = {"float32": "model.onnx", "int8": "model.int8.onnx"}
SCHEME = "recllm-onnx-1"

LEAST_COSINE: Mapping[OnnxPrecision, float] = {"float32": 0.999, "int8": 0.99}
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
LEVELS = 127
_CONTRIB = "com.microsoft"
"""Home of MatMulIntegerToFloat, an operator of onnxruntime that scales the whole numbers where they are made."""
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
    """An `Encoder` on the CPU, in int8 where the folder has it. A text's vector does not depend on its neighbours in
    int8 either.

    The files are checked at once; tokenizer and model are loaded when they are needed.
    """

    folder: Path
    _: KW_ONLY
    threads: int | None = None
    progress: bool = True
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        _extra("onnxruntime")
        self.folder = self.folder.expanduser()
        record = self.record = read_record(self.folder, self.cache_dir)
        self.precision: OnnxPrecision = "int8" if MODELS["int8"] in record.files else "float32"
        file = MODELS[self.precision]
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
        runtime, path = _extra("onnxruntime"), self.folder / MODELS[self.precision]
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


def _extra(name: str) -> Any:
    """A module of the extra. Raises `MissingExtraError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, "onnx") from error


# --- export -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExport:
    """What an export wrote."""

    folder: Path
    name: str
    precision: OnnxPrecision
    lowest_cosine: float
    """With the original's vectors, over `texts` texts."""
    texts: int
    bytes: int
    """Size of the model file."""


def export_onnx(
    encoder: HuggingFaceEncoder, folder: str | Path, *, texts: Sequence[str] = EXAMPLE_TEXTS, int8: bool = True
) -> OnnxExport:
    """Write `encoder` (on the CPU) to `folder`, whole or not at all; an earlier export there is replaced.

    `texts`: real texts, by which the exported vectors are compared with the encoder's own. int8: whether it may be
    written in int8, which it is where the lowest cosine is at least .99. Raises `ModelError` when that of float32 is
    below .999.
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
        expected = encoder.encode(compared)

        def lowest_cosine() -> float:
            """Of the model in the folder."""
            _write_record(encoder, work, {})
            return float((OnnxEncoder(work, progress=False).encode(compared) * expected).sum(axis=1).min())

        write_graph(encoder, work / MODELS["float32"])
        precision: OnnxPrecision = "float32"
        lowest = lowest_cosine()
        if not lowest >= LEAST_COSINE["float32"]:
            raise ModelError(
                f"{encoder.name}: the exported vectors are not the original's (lowest cosine {lowest:.4f} over "
                f"{len(compared)} texts, {LEAST_COSINE['float32']} is asked for); nothing was kept"
            )
        if int8:
            write_int8(work / MODELS["float32"], work / MODELS["int8"])
            of_int8 = lowest_cosine()
            if of_int8 >= LEAST_COSINE["int8"]:
                precision, lowest = "int8", of_int8
            (work / MODELS["float32" if precision == "int8" else "int8"]).unlink()
        _write_record(encoder, work, {precision: {"lowest": lowest, "texts": len(compared)}})
        if target.exists():  # readers meet the earlier export or the new one
            target.rename(work.parent / "old")
        work.rename(target)
    size = (target / MODELS[precision]).stat().st_size
    return OnnxExport(
        folder=target,
        name=encoder.name,
        precision=precision,
        lowest_cosine=lowest,
        texts=len(compared),
        bytes=size,
    )


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
    files = [TOKENIZER, *(file for file in MODELS.values() if (work / file).is_file())]
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


# --- int8 ------------------------------------------------------------------------------------------------------------


def write_int8(source: Path, target: Path) -> None:
    """Raises `ModelError` for a graph that int8 would not change."""
    import onnx

    model, changed = quantise_matmuls(onnx.load(source, load_external_data=False))
    if not changed:
        raise ModelError("the exported graph has no product with a constant weight, so int8 would change nothing")
    onnx.save(model, target)


def quantise_matmuls(model: Any) -> tuple[Any, int]:
    """A copy of an ONNX model (opset >= 18) with int8 weights, and how many products were changed.

    Changed are products of anything with a constant two-dimensional weight, and tables of embeddings that rows are
    taken from. Products of two computed matrices (attention) stay float32.
    """
    import onnx

    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT
    }
    graph = _Int8Graph(onnx)
    changed = 0
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            graph.product(node, weights[node.input[1]])
            changed += 1
        elif (
            node.op_type == "Gather"
            and node.input[0] in weights
            and all(a.i == 0 for a in node.attribute if a.name == "axis")
        ):
            graph.table(node, weights[node.input[0]])
        else:
            graph.nodes.append(node)
    return graph.model(model), changed


def _integers(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers in [-127, 127] and the scale of each slice; `axis` is the one that a scale runs over."""
    scale = np.maximum(np.abs(values).max(axis=axis, keepdims=True), 1e-20) / LEVELS
    return np.rint(values / scale).astype(np.int8), scale.astype(np.float32)


@dataclass(eq=False)
class _Int8Graph:
    """Nodes and constants of the new graph, in order."""

    onnx: Any
    """The library."""
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    """Activations that are already whole numbers: query, key and value share theirs."""

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: type[np.generic]) -> str:
        self.constants[name] = self.onnx.numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def product(self, node: Any, weight: NDArray[np.float32]) -> None:
        x, y = node.input[0], node.output[0]
        if x not in self.inputs:
            self._quantise(x, weight.shape[0])
            self.inputs.add(x)
        integers, scale = _integers(weight, axis=0)
        operands = [
            f"{x}/q",
            self.constant(f"{y}/w", integers, np.int8),
            self.constant("int8/one", 1, np.float32),
            self.constant(f"{y}/scale", scale[0], np.float32),
            self.constant("int8/middle", LEVELS + 1, np.uint8),
            self.constant(f"{y}/zero", np.zeros(weight.shape[1]), np.int8),
        ]
        flat = self.add("MatMulIntegerToFloat", operands, f"{y}/flat", _CONTRIB)
        scaled = self.add("Mul", [flat, f"{x}/s"], f"{y}/scaled")
        width = self.constant(f"int8/width{weight.shape[1]}", [weight.shape[1]], np.int64)
        shape = self.add("Concat", [f"{x}/lead", width], f"{y}/shape", axis=0)
        self.add("Reshape", [scaled, shape], y)

    def _quantise(self, x: str, width: int) -> None:
        """x (..., width) as x/q uint8 (n, width) around 128 with x/s float32 (n, 1), its shape but the last as x/lead.

        Unsigned numbers around a fixed middle, because the processors' fast instructions take unsigned times signed.
        """
        rows = self.add("Reshape", [x, self.constant(f"int8/rows{width}", [-1, width], np.int64)], f"{x}/rows")
        last = self.constant("int8/last", [-1], np.int64)
        largest = self.add("ReduceMax", [self.add("Abs", [rows], f"{x}/abs"), last], f"{x}/max", keepdims=1)
        share = self.add("Mul", [largest, self.constant("int8/share", 1 / LEVELS, np.float32)], f"{x}/share")
        scale = self.add("Max", [share, self.constant("int8/tiny", 1e-20, np.float32)], f"{x}/s")
        flat = self.add("Squeeze", [scale, last], f"{x}/flat")
        middle = self.add("Expand", ["int8/middle", self.add("Shape", [flat], f"{x}/n")], f"{x}/middle")
        self.constant("int8/middle", LEVELS + 1, np.uint8)
        self.add("QuantizeLinear", [rows, flat, middle], f"{x}/q", axis=0)
        self.add("Shape", [x], f"{x}/lead", end=-1)

    def table(self, node: Any, rows: NDArray[np.float32]) -> None:
        name, index = node.input
        y = node.output[0]
        integers, scale = _integers(rows, axis=1)
        gathered = self.add("Gather", [self.constant(f"{name}/w", integers, np.int8), index], f"{y}/q")
        scales = self.add("Gather", [self.constant(f"{name}/scale", scale, np.float32), index], f"{y}/s")
        self.add("Mul", [self.add("Cast", [gathered], f"{y}/float", to=1), scales], y)

    def model(self, old: Any) -> Any:
        new = self.onnx.ModelProto()
        new.CopyFrom(old)
        used = {name for node in self.nodes for name in node.input} | {o.name for o in old.graph.output}
        weights = [tensor for tensor in old.graph.initializer if tensor.name in used]
        for section, values in (("node", self.nodes), ("initializer", [*weights, *self.constants.values()])):
            new.graph.ClearField(section)
            getattr(new.graph, section).extend(values)
        new.graph.ClearField("value_info")  # kinds and shapes of numbers that are no longer there
        if all(o.domain != _CONTRIB for o in new.opset_import):
            new.opset_import.append(self.onnx.helper.make_opsetid(_CONTRIB, 1))
        return new
