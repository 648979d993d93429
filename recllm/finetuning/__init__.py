"""LoRA fine-tuning of the text encoder on a shop's purchase log, and of a generator on its approved copy.

The encoder is trained through the question that it will be asked: which of a past window's items does a person, seen
as the set of what they had bought, take for the first time? `tune_encoder` is the door. `tune_generator`
teaches a causal language model how the shop writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recllm.finetuning.arguments import LoraArguments

if TYPE_CHECKING:
    from recllm.finetuning.copywriter import CopyArguments as CopyArguments
    from recllm.finetuning.copywriter import TunedGenerator as TunedGenerator
    from recllm.finetuning.copywriter import tune_generator as tune_generator
    from recllm.finetuning.run_folder import run_folder_name as run_folder_name
    from recllm.finetuning.tune import TunedEncoder as TunedEncoder
    from recllm.finetuning.tune import tune_encoder as tune_encoder

__all__ = [
    "CopyArguments",
    "LoraArguments",
    "TunedEncoder",
    "TunedGenerator",
    "run_folder_name",
    "tune_encoder",
    "tune_generator",
]

_ROOMS = {
    "CopyArguments": "copywriter",
    "TunedGenerator": "copywriter",
    "tune_generator": "copywriter",
    "run_folder_name": "run_folder",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"recllm.finetuning.{_ROOMS.get(name, 'tune')}"), name)
