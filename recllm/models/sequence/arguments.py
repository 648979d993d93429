"""Settings of the interest model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InterestArguments:
    """How the sequence of what people took is learned.

    Cost is linear in events x epochs; see `eval/results` for measured minutes.
    """

    dim: int = 128
    layers: int = 1
    attention_heads: int = 2
    interests: int = 1
    """Vectors per person; the score takes a soft maximum over them."""
    max_length: int = 50
    """Events of a person that are read, the latest ones; longer sequences are learned from in stretches."""
    dropout: float = 0.3
    text: bool = True
    """False learns from ids alone (the classic SASRec): such a model says nothing about items that never sold."""
    residual_dropout: float = 0.5
    """Share of steps in which an item stands on its text alone; the residual counts 1 minus this when serving."""
    temperature: float = 0.1
    """At the start; it is learned."""
    negatives: int = 1024
    """Sampled per step, shared by the batch, besides the other people's next items."""
    batch_sequences: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    max_epochs: int = 30
    patience: int = 2
    """Verdicts in a row without a better one before learning stops."""
    epochs_per_verdict: int = 2
    judge_people: int = 3_000
    later_epochs: int = 3
    """Passes over each later stretch of the log, mixed with as many older events, once the first is learned."""
    bfloat16: bool = True
    seed: int = 0
