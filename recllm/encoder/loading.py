"""The door: a name to an encoder that is ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recllm.encoder.locate import find_weights
from recllm.encoder.toy import ToyEncoder

if TYPE_CHECKING:
    from recllm.schema import Encoder

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def load_encoder(
    name: str | Path = DEFAULT_ENCODER,
    *,
    cache_dir: str | Path | None = None,
    precision: Literal["float32"] = "float32",
    max_tokens: int | None = None,
    prompts: Mapping[str, str] | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Encoder:
    """Load an encoder by hub id or folder; "toy" is the `ToyEncoder`.

    `prompts` replaces the texts put before a "query" and a "document" ({} for none); without it the folder decides,
    and E5 models get theirs. `device` is the fastest one found unless given. `progress` shows a bar on a terminal.
    Raises `ModelError` when the files are nowhere (naming every place), unsafe, or broken.
    """
    if name == "toy":
        return ToyEncoder()
    from recllm.encoder.huggingface import HuggingFaceEncoder

    return HuggingFaceEncoder(
        find_weights(name),
        precision=precision,
        max_tokens=max_tokens,
        prompts=prompts,
        device=device,
        progress=progress,
    )
