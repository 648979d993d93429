"""An exported encoder, run by onnxruntime: no torch, no transformers, the same vectors."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.encoder.batches import distinct, plan_batches, progress_bar
from recllm.encoder.libraries import first_line
from recllm.encoder.onnx_folder import LEAST_COSINE, MODELS, SCHEME, TOKENIZER, OnnxPrecision, read_record
from recllm.encoder.precision import MIN_GAIN, Probe, compare, default_threads, processor_name, remembered_probe
from recllm.encoder.tokens import Tokens
from recllm.errors import MissingExtraError, ModelError, UsageError

if TYPE_CHECKING:
    from recllm.schema import FloatArray, TextKind


class OnnxEncoder:
    """An `Encoder` on the CPU. A text's vector does not depend on its neighbours beyond rounding, in int8 either.

    The files are checked at once; tokenizer and model are loaded when they are needed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: OnnxPrecision = "float32",
        threads: int | None = None,
        progress: bool = True,
        cache_dir: str | Path | None = None,
    ) -> None:
        onnxruntime()
        self.folder = Path(folder).expanduser()
        record = self._record = read_record(self.folder, cache_dir)
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
        self.threads = threads or default_threads()
        self._progress = progress
        parts = [SCHEME, record.files[file], record.files[TOKENIZER], dict(record.prompts), record.limit]
        self.fingerprint = hashlib.sha256(json.dumps([*parts, record.lower_case]).encode()).hexdigest()

    @cached_property
    def max_tokens(self) -> int:
        return self.tokens.max_tokens

    @cached_property
    def tokens(self) -> Tokens:
        from tokenizers import Tokenizer

        path, record = self.folder / TOKENIZER, self._record
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

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> FloatArray:
        """Unit rows, (len(texts), dim) float32. Each distinct text is computed once."""
        texts_once, inverse = distinct(texts)
        tokens = self.tokens.ids(texts_once, kind)
        lengths = np.array([len(ids) for ids in tokens], np.int64)
        rows = np.zeros((len(texts_once), self.dim), np.float32)
        with progress_bar(len(texts_once), self._progress) as bar:
            for batch in plan_batches(lengths):
                shape = len(batch), int(lengths[batch].max())
                ids, mask = np.full(shape, self.tokens.pad, np.int64), np.zeros(shape, np.int64)
                for row, text in enumerate(batch):
                    ids[row, : lengths[text]] = tokens[text]
                    mask[row, : lengths[text]] = 1
                rows[batch] = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
                bar.update(len(batch))
        return rows[inverse]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included and the prompt not, before any cut."""
        return self.tokens.count(texts)


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
    options: dict[str, Any] = {"threads": threads, "progress": progress, "cache_dir": cache_dir}
    if precision == "int8":
        return OnnxEncoder(folder, precision="int8", **options)
    exact = OnnxEncoder(folder, **options)
    if precision == "float32" or MODELS["int8"] not in read_record(exact.folder, cache_dir).files:
        return exact
    small = OnnxEncoder(folder, precision="int8", **options)
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
