"""An exported encoder, run by onnxruntime: no torch, no transformers, the same vectors."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.encoder.huggingface import BATCH_TOKENS, plan_batches
from recllm.encoder.onnx_folder import LEAST_COSINE, MODELS, SCHEME, TOKENIZER, OnnxPrecision, OnnxRecord, read_record
from recllm.encoder.precision import MIN_GAIN, Probe, compare, processor_name, remembered
from recllm.encoder.tokens import Tokens
from recllm.encoder.unique import distinct
from recllm.errors import MissingExtraError, ModelError, UsageError

if TYPE_CHECKING:
    from recllm.schema import FloatArray, TextKind


class OnnxEncoder:
    """An `Encoder` on the CPU. A text's vector does not depend on its neighbours beyond rounding, in int8 either."""

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: OnnxPrecision = "float32",
        threads: int | None = None,
        progress: bool = True,
    ) -> None:
        self.folder = Path(folder).expanduser()
        record = read_record(self.folder)
        file = MODELS[precision]
        if file not in record.files:
            cosine = record.parity.get(precision, {}).get("lowest", float("nan"))
            raise ModelError(
                f"{self.folder} holds no {precision} model: its lowest cosine with the original was {cosine:.4f}, and "
                f'{LEAST_COSINE[precision]} is asked for; use precision="float32"'
            )
        self.name = record.name
        self.precision: OnnxPrecision = precision
        self.dim = record.dim
        self.parity = record.parity
        self.tokens = _tokens(self.folder, record)
        self.max_tokens = self.tokens.max_tokens
        self.threads = threads or default_threads()
        self._session = _session(self.folder / file, self.threads)
        self._progress = progress
        told = [SCHEME, record.files[file], record.files[TOKENIZER], dict(record.prompts), record.limit]
        self.fingerprint = hashlib.sha256(json.dumps([*told, record.lower_case]).encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> FloatArray:
        """Unit rows, (len(texts), dim) float32. Each distinct text is computed once."""
        from tqdm import tqdm

        once, inverse = distinct(texts)
        tokens = self.tokens.ids(once, kind)
        lengths = np.array([len(ids) for ids in tokens], np.int64)
        rows = np.zeros((len(once), self.dim), np.float32)
        off = None if self._progress else True  # None: silent where stderr is no terminal
        with tqdm(total=len(once), desc="encode", unit="text", delay=1.0, disable=off) as bar:
            for batch in plan_batches(lengths, BATCH_TOKENS):
                rows[batch] = self._forward([tokens[row] for row in batch])
                bar.update(len(batch))
        return rows[inverse]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included and the prompt not, before any cut."""
        return self.tokens.count(texts)

    def _forward(self, tokens: list[list[int]]) -> FloatArray:
        width = max(len(ids) for ids in tokens)
        ids = np.full((len(tokens), width), self.tokens.pad, np.int64)
        mask = np.zeros((len(tokens), width), np.int64)
        for row, known in enumerate(tokens):
            ids[row, : len(known)] = known
            mask[row, : len(known)] = 1
        unit: FloatArray = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
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
    if precision != "auto":
        return OnnxEncoder(folder, precision=_known(precision), threads=threads, progress=progress)
    exact = OnnxEncoder(folder, threads=threads, progress=progress)
    if MODELS["int8"] not in read_record(exact.folder).files:
        return exact
    small = OnnxEncoder(folder, precision="int8", threads=threads, progress=progress)
    key = f"{small.fingerprint} {_machine(exact.threads)}"
    return small if int8_pays(remembered(cache_dir, key, lambda: compare(exact, small))) else exact


def int8_pays(probe: Probe) -> bool:
    return probe.cosine >= LEAST_COSINE["int8"] and probe.gain >= MIN_GAIN


def default_threads() -> int:
    """Cores that this process may use, at most OMP_NUM_THREADS where that is set, as torch counts them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(wanted))) if wanted.isdecimal() else cores


def onnxruntime() -> Any:
    """The module. Raises `MissingExtraError` where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx") from error
    return onnxruntime


def _known(precision: str) -> OnnxPrecision:
    return "int8" if precision == "int8" else "float32"


def _machine(threads: int) -> str:
    return f"{platform.machine()} {processor_name()} {threads} threads onnxruntime {onnxruntime().__version__}"


def _tokens(folder: Path, record: OnnxRecord) -> Tokens:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises plain exceptions
        raise ModelError(f"{folder / TOKENIZER}: not a tokenizer ({error}); export the encoder again") from error
    return Tokens(
        tokenizer=tokenizer,
        pad=record.pad,
        prompts=dict(record.prompts),
        lower_case=record.lower_case,
        limit=record.limit,
    )


def _session(path: Path, threads: int) -> Any:
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors alone
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a class of its own for every kind of bad file
        raise ModelError(f"{path}: onnxruntime does not load it ({str(error).splitlines()[0][:300]})") from error
