"""Export of an encoder, its adapter merged, for onnxruntime; nothing is kept whose vectors are not the original's."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recllm.encoder.json_cache import file_hash
from recllm.encoder.onnx import OnnxEncoder, int8_pays, onnxruntime
from recllm.encoder.onnx_folder import (
    LEAST_COSINE,
    MODELS,
    RECORD,
    SCHEME,
    TOKENIZER,
    OnnxPrecision,
    OnnxRecord,
    Parity,
    is_onnx_folder,
)
from recllm.encoder.precision import PROBE_TEXTS, compare
from recllm.errors import MissingExtraError, ModelError, UsageError

if TYPE_CHECKING:
    from recllm.encoder.huggingface import HuggingFaceEncoder
    from recllm.schema import FloatArray

OPSET = 20
MOST_TEXTS = 512
"""Texts compared at most: spread evenly over those given."""
_LARGEST = (2 << 30) - (1 << 20)
"""One ONNX file is a protobuf message, which ends at 2 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The account of an export. bytes: size of each model file; gain: float32 time / int8 time on this machine."""

    folder: Path
    name: str
    parity: Mapping[OnnxPrecision, Parity]
    bytes: Mapping[OnnxPrecision, int]
    gain: float | None
    chosen: OnnxPrecision
    """What precision "auto" takes on this machine."""


def export_onnx(
    encoder: HuggingFaceEncoder,
    folder: str | Path,
    *,
    texts: Sequence[str] = PROBE_TEXTS,
    int8: bool = True,
    threads: int | None = None,
) -> Exported:
    """Write `encoder` (float32, on the CPU) to `folder`, whole or not at all; an earlier export there is replaced.

    `texts`: real texts, by which the exported vectors are compared with the encoder's own. Raises `ModelError` when
    the lowest cosine in float32 is below .999; int8 is left out when its is below .99.
    """
    _check(encoder, Path(folder))
    wanted = list(dict.fromkeys(texts))
    wanted = wanted[:: max(1, -(-len(wanted) // MOST_TEXTS))] or list(PROBE_TEXTS)
    target = Path(folder).expanduser().absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as draft:
        work = Path(draft) / "export"
        work.mkdir()
        encoder.tokens.tokenizer.save(str(work / TOKENIZER))
        write_graph(encoder, work / MODELS["float32"])
        expected = encoder.encode(wanted)
        parity: dict[OnnxPrecision, Parity] = {"float32": _parity(encoder, work, "float32", wanted, expected)}
        if int8:
            _write_int8(work)
            parity["int8"] = _parity(encoder, work, "int8", wanted, expected)
        gain, chosen = _choose(work, threads)
        _replace(work, target)
    sizes = {name: (target / file).stat().st_size for name, file in MODELS.items() if (target / file).is_file()}
    return Exported(folder=target, name=encoder.name, parity=parity, bytes=sizes, gain=gain, chosen=chosen)


def _check(encoder: HuggingFaceEncoder, folder: Path) -> None:
    onnxruntime()
    for module in ("onnx", "onnxscript"):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingExtraError(module, "onnx") from error
    if folder.exists() and not is_onnx_folder(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UsageError(f"{folder}: holds something that is not an export; name a new folder")
    if encoder.precision != "float32" or encoder.device != "cpu":
        raise UsageError(
            'only a float32 encoder on the CPU is exported: load it with precision="float32", device="cpu"'
        )
    size = sum(4 * p.numel() for p in encoder.model.parameters())
    if size > _LARGEST:
        raise ModelError(f"{encoder.name}: {size >> 20} MiB of weights; one ONNX file holds at most 2048 MiB")


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
    with _quiet(), torch.no_grad():
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


def _write_int8(work: Path) -> None:
    import onnx

    from recllm.encoder.onnx_int8 import quantise_matmuls

    small, changed = quantise_matmuls(onnx.load(work / MODELS["float32"], load_external_data=False))
    if not changed:
        raise ModelError("the exported graph has no product with a constant weight, so int8 would change nothing")
    onnx.save(small, work / MODELS["int8"])


def _parity(
    encoder: HuggingFaceEncoder, work: Path, precision: OnnxPrecision, texts: Sequence[str], expected: FloatArray
) -> Parity:
    """Compares and, when near enough, records. Raises `ModelError` for float32 that is not."""
    path = work / MODELS[precision]
    _record(encoder, work, {})
    cosine = (OnnxEncoder(work, precision=precision, progress=False).encode(texts) * expected).sum(axis=1)
    found = Parity(lowest=float(cosine.min()), mean=float(cosine.mean()), texts=len(texts))
    if not found.lowest >= LEAST_COSINE[precision]:
        if precision == "float32":
            raise ModelError(
                f"{encoder.name}: the exported vectors are not the original's (lowest cosine {found.lowest:.4f} over "
                f"{len(texts)} texts, {LEAST_COSINE[precision]} is asked for); nothing was kept"
            )
        path.unlink()
    _record(encoder, work, {precision: found})
    return found


def _record(encoder: HuggingFaceEncoder, work: Path, parity: dict[OnnxPrecision, Parity]) -> None:
    earlier = json.loads((work / RECORD).read_text("utf-8"))["parity"] if (work / RECORD).exists() else {}
    known = [TOKENIZER, *(file for file in MODELS.values() if (work / file).is_file())]
    record = OnnxRecord(
        scheme=SCHEME,
        name=encoder.name,
        source=encoder.fingerprint,
        dim=encoder.dim,
        pad=encoder.tokens.pad,
        limit=encoder.tokens.limit,
        lower_case=encoder.tokens.lower_case,
        prompts=dict(encoder.tokens.prompts),
        parity=earlier | {name: asdict(found) for name, found in parity.items()},
        files={name: file_hash(work / name) for name in known},
    )
    (work / RECORD).write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _choose(work: Path, threads: int | None) -> tuple[float | None, OnnxPrecision]:
    if not (work / MODELS["int8"]).is_file():
        return None, "float32"
    exact, small = (OnnxEncoder(work, precision=p, threads=threads, progress=False) for p in MODELS)
    probe = compare(exact, small)
    return probe.gain, "int8" if int8_pays(probe) else "float32"


def _replace(work: Path, target: Path) -> None:
    """Put the finished folder where an earlier export may be; readers find the one or the other."""
    if target.exists():
        old = work.parent / "old"
        target.rename(old)
    work.rename(target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its steps on standard output, of optional packages in the log, of itself in warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
