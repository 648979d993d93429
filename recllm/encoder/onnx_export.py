"""Export of an encoder, its adapter merged, for onnxruntime; nothing is kept whose vectors are not the original's."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from recllm.encoder.json_cache import file_hash
from recllm.encoder.onnx import (
    LEAST_COSINE,
    MODELS,
    RECORD,
    SCHEME,
    TOKENIZER,
    OnnxEncoder,
    OnnxPrecision,
    OnnxRecord,
    Parity,
    int8_pays,
    is_onnx_folder,
    onnxruntime,
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
class OnnxExport:
    """What an export wrote."""

    folder: Path
    name: str
    parity: Mapping[OnnxPrecision, Parity]
    bytes: Mapping[OnnxPrecision, int]
    """Size of each model file."""
    gain: float | None
    """float32 time / int8 time on this machine; None without int8."""
    auto_precision: OnnxPrecision = field(metadata={"json": "chosen"})
    """What precision "auto" takes on this machine."""


def export_onnx(
    encoder: HuggingFaceEncoder,
    folder: str | Path,
    *,
    texts: Sequence[str] = PROBE_TEXTS,
    int8: bool = True,
    threads: int | None = None,
) -> OnnxExport:
    """Write `encoder` (float32, on the CPU) to `folder`, whole or not at all; an earlier export there is replaced.

    `texts`: real texts, by which the exported vectors are compared with the encoder's own. Raises `ModelError` when
    the lowest cosine in float32 is below .999; int8 is left out when its is below .99.
    """
    target = Path(folder).expanduser().absolute()
    _check(encoder, target)
    compared = list(dict.fromkeys(texts))
    compared = compared[:: max(1, -(-len(compared) // MOST_TEXTS))] or list(PROBE_TEXTS)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as draft:
        work = Path(draft) / "export"
        work.mkdir()
        encoder.tokens.tokenizer.save(str(work / TOKENIZER))
        write_graph(encoder, work / MODELS["float32"])
        if int8:
            _write_int8(work)
        _write_record(encoder, work, {})
        parity = _parities(work, compared, encoder.encode(compared))
        if not parity["float32"].lowest >= LEAST_COSINE["float32"]:
            raise ModelError(
                f"{encoder.name}: the exported vectors are not the original's (lowest cosine "
                f"{parity['float32'].lowest:.4f} over {len(compared)} texts, {LEAST_COSINE['float32']} is asked for); "
                "nothing was kept"
            )
        if int8 and not parity["int8"].lowest >= LEAST_COSINE["int8"]:
            (work / MODELS["int8"]).unlink()
        _write_record(encoder, work, parity)
        probe = None
        if (work / MODELS["int8"]).is_file():
            exact, small = (OnnxEncoder(work, precision=p, threads=threads, progress=False) for p in MODELS)
            probe = compare(exact, small)
        if target.exists():  # readers meet the earlier export or the new one
            target.rename(work.parent / "old")
        work.rename(target)
    return OnnxExport(
        folder=target,
        name=encoder.name,
        parity=parity,
        bytes={name: (target / file).stat().st_size for name, file in MODELS.items() if (target / file).is_file()},
        gain=None if probe is None else probe.gain,
        auto_precision="int8" if probe and int8_pays(probe) else "float32",
    )


def _check(encoder: HuggingFaceEncoder, folder: Path) -> None:
    onnxruntime()
    for module in ("onnx", "onnxscript"):
        try:
            importlib.import_module(module)
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


def _parities(work: Path, texts: Sequence[str], expected: FloatArray) -> dict[OnnxPrecision, Parity]:
    """Each file's vectors against the original's, `expected`."""
    parities: dict[OnnxPrecision, Parity] = {}
    for precision, file in MODELS.items():
        if (work / file).is_file():
            rows = OnnxEncoder(work, precision=precision, progress=False).encode(texts)
            cosine = (rows * expected).sum(axis=1)
            parities[precision] = Parity(lowest=float(cosine.min()), mean=float(cosine.mean()), texts=len(texts))
    return parities


def _write_record(encoder: HuggingFaceEncoder, work: Path, parity: Mapping[OnnxPrecision, Parity]) -> None:
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
        parity={name: asdict(cosines) for name, cosines in parity.items()},
        files={name: file_hash(work / name) for name in files},
    )
    (work / RECORD).write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n", "utf-8")


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
