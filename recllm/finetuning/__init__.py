"""LoRA fine-tuning of the text encoder on a shop's purchase log.

The encoder is trained through the question that it will be asked: which of a past window's items does a person, seen
as the set of what they had bought, take for the first time? `tune_encoder` is the door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recllm.finetuning.arguments import LoraArguments

if TYPE_CHECKING:
    from recllm.finetuning.run_folder import run_folder_name as run_folder_name
    from recllm.finetuning.tune import TunedEncoder as TunedEncoder
    from recllm.finetuning.tune import tune_encoder as tune_encoder

__all__ = ["LoraArguments", "TunedEncoder", "run_folder_name", "tune_encoder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    room = "run_folder" if name == "run_folder_name" else "tune"
    return getattr(import_module(f"recllm.finetuning.{room}"), name)
