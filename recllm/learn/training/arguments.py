"""What the fine-tuning loops take besides the settings of a shop: no file sets it, a caller may."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, Strict

from recllm.base.documents import Count, CountOrZero, Flag
from recllm.base.settings import (
    CopywriterSettings,
    LoraSettings,
    Rank,
    Seed,
)


class LoraArguments(LoraSettings):
    """A fine-tuning run of the encoder. Names follow `transformers.TrainingArguments` where the meaning is the same."""

    section: ClassVar[str] = ""

    top_layers: Count | None = 2
    """Adapted blocks, counted from the output; None: all."""
    horizon_days: Count = 28
    """Length of a window."""
    n_windows: Annotated[int, Strict(), Field(ge=2)] = 6
    """Past windows at most, the latest ones for validation alone."""
    batch_size: Count = 128
    """Pairs of a step per device, each the others' negatives; all of one kind of question."""
    warmup_steps: CountOrZero = 15
    """First steps, in which the learning rate rises."""
    eval_steps: Count = 25
    """Steps between evaluations by the validation users."""
    patience: Count = 3
    """Evaluations without a better one before training ends."""
    resume_from_checkpoint: Flag = True
    """Go on from the run folder's checkpoint where it has one of the same settings and data."""
    seed: Seed = 0


class CopywriterArguments(CopywriterSettings):
    """LoRA on a causal language model with approved copy."""

    section: ClassVar[str] = ""

    rank: Rank = 8
    top_layers: Count | None = 10
    """Adapted blocks, counted from the output: the gradient ends there. None: all blocks."""
    batch_size: Count = 16
    """Examples of a step per device."""
    warmup_steps: CountOrZero = 10
    """First steps, in which the learning rate rises."""
    seed: Seed = 0
