"""What the fine-tuning loops take besides the settings of a shop: no file sets it, a caller may."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict

from recllm.base.documents import Count, CountOrZero, Flag, Positive, Text, Weight
from recllm.base.settings import (
    CopywriterSettings,
    Dropout,
    EffectSettings,
    Folds,
    LearningRate,
    LoraSettings,
    Rank,
    Seed,
)

Caching = Literal["off", "exact", "bank"]
Precision = Literal["auto", "float32", "bfloat16"]
ExampleKind = Literal["arrival", "new", "next"]


class LoraArguments(LoraSettings):
    """A fine-tuning run of the encoder. Names follow `transformers.TrainingArguments` where the meaning is the same."""

    section: ClassVar[str] = ""

    top_layers: Count | None = 2
    """So many blocks, counted from the output, are adapted; the output of those below never changes, so it is computed
    once per text and kept. None: all blocks."""
    cache_mib: CountOrZero = 1024
    """Memory for the kept outputs; texts beyond it go through the whole model at each step."""
    horizon_days: Count = 28
    """Length of a window."""
    n_windows: Annotated[int, Strict(), Field(ge=2)] = 6
    """Past windows at most, the latest one for validation alone."""
    kinds: Annotated[tuple[ExampleKind, ...], Field(min_length=1)] = ("arrival", "new")
    """Questions to learn from; a log that knows only an order is always learned from as "next"."""
    scale: Positive = 20.0
    """First value of the learned temperature tau."""
    gain: Weight = 0.25
    """First value of the learned weight of the similarity."""
    prior: Flag = True
    """Learn a linear term on the item's text beside the similarity: what sells."""
    head_steps: CountOrZero = 20
    """First steps that learn temperature, gain and prior alone, on the base vectors, so that the encoder does not have
    to bend to make up for wrong ones (Kumar et al. 2022)."""
    pull_weight: Weight = 1.0
    """Weight of 1 - cos(e, e_base) over the step's texts, which keeps a small catalogue from bending the language."""
    batch_size: Count = 256
    """Users of a step per device; all of one window and one question."""
    head_learning_rate: Weight = 2e-2
    """Of the temperature and the prior."""
    warmup_steps: CountOrZero = 15
    """First steps, in which the learning rate rises."""
    cached_loss: Caching = "bank"
    """off: one graph over all texts of the step. exact: vectors without graph, loss, then a graph in chunks (Gao et
    al. 2021), the same gradient with the memory of one chunk. bank: vectors may be as old as the round, and only
    `gradient_texts` texts, drawn by the size of their gradient, get a graph."""
    gradient_texts: Count = 256
    """Texts of a step that get a graph, where `cached_loss` is bank."""
    chunk_tokens: Count = 4_096
    """Tokens that go through the model at once."""
    precision: Precision = "auto"
    """bfloat16 where the processor gains by it."""
    eval_steps: Count = 20
    """Steps of a round: after each the validation users are evaluated, and the bank is filled anew."""
    patience: CountOrZero = 3
    """Rounds without a better evaluation before training ends."""
    resume_from_checkpoint: Flag = True
    """Go on from the run folder's checkpoint where it has one of the same settings and data."""
    seed: Seed = 0


class CopywriterArguments(CopywriterSettings):
    """LoRA on a causal language model with approved copy."""

    section: ClassVar[str] = ""

    rank: Rank = 8
    top_layers: Count | None = 10
    """So many blocks, counted from the output, are adapted: the gradient ends there. None: all blocks."""
    batch_size: Count = 16
    """Examples of a step per device."""
    warmup_steps: CountOrZero = 10
    """First steps, in which the learning rate rises."""
    seed: Seed = 0


class EffectArguments(EffectSettings):
    """How a model of which text people answer is learned from A/B tests."""

    section: ClassVar[str] = ""

    members: Folds = 3
    """Models, each learned without one fold of the tests, which judge it; their weights' mean is the result."""
    learning_rate: LearningRate = 8e-4
    rank: Rank = 16
    dropout: Dropout = 0.1
    batch_texts: Count = 64
    """Distinct texts of a step, at least; whole tests are drawn, and each text is encoded once."""
    head_learning_rate: LearningRate = 2e-3
    """Of the linear score."""
    device: Text | None = None
    """cpu, cuda or cuda:1; None for the fastest."""
    seed: Seed = 0
