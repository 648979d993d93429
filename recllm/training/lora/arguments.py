"""Settings of a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recllm.errors import UsageError

Loss = Literal["window", "in-batch", "bce"]
Caching = Literal["off", "exact", "bank"]
Precision = Literal["auto", "float32", "bfloat16"]

LOSSES = ("window", "in-batch", "bce")
CACHINGS = ("off", "exact", "bank")
KINDS = ("arrival", "new", "next")


@dataclass(frozen=True, kw_only=True)
class LoraArguments:
    """Names follow `transformers.TrainingArguments` where the meaning is the same."""

    # --- the adapter
    rank: int = 8
    alpha: float = 16.0
    """The change to a weight is alpha / rank * B A."""
    top_layers: int | None = 2
    """So many blocks, counted from the output, are adapted; the output of those below never changes, so it is computed
    once per text and kept. None: all blocks."""
    keep_mib: int = 1024
    """Memory for the kept outputs; texts beyond it go through the whole model at each step."""

    # --- the examples
    horizon_days: int = 28
    n_windows: int = 6
    """Past windows at most, the latest one for judging alone."""
    history_items: int = 30
    """Heaviest distinct items of a person that make the set."""
    half_life_days: float = 60.0
    kinds: tuple[str, ...] = ("arrival", "new")
    """Questions to learn from; a log that knows only an order is always learned from as "next"."""
    people_per_window: int = 4_000
    judge_people: int = 500

    # --- the objective
    loss: Loss = "window"
    negatives: int = 1_024
    """Items drawn per step as candidates where the window's own arrivals are not the whole question."""
    hard_negatives: int = 0
    """Nearest texts of each positive, mined anew at each round, that are added to the candidates."""
    mask_equal_texts: bool = False
    """An item with the very text of something the person took is no negative for that person. Off, because the share
    of items of one text that is taken is what ranks it against other texts."""
    scale: float = 20.0
    """First value of the learned temperature tau."""
    gain: float = 0.25
    """First value of the learned weight of the similarity."""
    prior: bool = True
    """Learn a linear term on the item's text beside the similarity: what sells."""
    head_steps: int = 20
    """First steps that learn temperature, gain and prior alone, on the base vectors, so that the encoder does not have
    to bend to make up for wrong ones (Kumar et al. 2022)."""
    pull_weight: float = 1.0
    """Weight of 1 - cos(e, e_base) over the step's texts, which keeps a small catalogue from bending the language."""

    # --- the loop
    per_device_batch: int = 256
    """People of a step; all of one window and one question."""
    gradient_accumulation_steps: int = 1
    learning_rate: float = 3e-4
    """Of the adapter; 1e-3 and above undid the similarity of texts within 20 steps on both logs it was tried on."""
    head_learning_rate: float = 2e-2
    """Of the temperature and the prior."""
    weight_decay: float = 0.0
    warmup_steps: int = 15
    max_grad_norm: float = 1.0
    max_steps: int = 100
    max_minutes: float | None = 12.0
    """Ends the run at the next round; the learning rate falls by steps alone, so that a resumed run is the same run."""
    cached_loss: Caching = "bank"
    """off: one graph over all texts of the step. exact: vectors without graph, loss, then a graph in chunks (Gao et
    al. 2021), the same gradient with the memory of one chunk. bank: vectors may be as old as the round, and only
    `gradient_texts` texts, drawn by the size of their gradient, get a graph."""
    gradient_texts: int = 256
    chunk_tokens: int = 4_096
    gradient_checkpointing: bool = False
    precision: Precision = "auto"
    """bfloat16 where the processor gains by it."""
    device: str | None = None

    # --- the record
    eval_steps: int = 20
    """Steps of a round: after each the judges are asked, and the bank is filled anew."""
    save_steps: int | None = None
    """Steps between checkpoints, a multiple of `eval_steps`; None for every round."""
    patience: int = 3
    """Rounds without a better verdict before training ends."""
    resume_from_checkpoint: bool = True
    """Go on from the run folder's checkpoint where it has one of the same settings and data."""
    report_to: tuple[str, ...] = ()
    """Trackers of accelerate, such as "tensorboard" or "wandb", beside metrics.jsonl."""
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("loss", self.loss, LOSSES)
        _one_of("cached_loss", self.cached_loss, CACHINGS)
        _one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        for kind in self.kinds:
            _one_of("kinds", kind, KINDS)
        counts = ("rank", "horizon_days", "history_items", "negatives", "per_device_batch", "max_steps", "eval_steps")
        for name in (*counts, "gradient_accumulation_steps", "gradient_texts", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_windows < 2:
            raise UsageError(f"n_windows is {self.n_windows}; it takes one window to learn from and one to judge by")
        if self.save_steps is not None and (self.save_steps < 1 or self.save_steps % self.eval_steps):
            raise UsageError(f"save_steps is {self.save_steps}; give a multiple of eval_steps ({self.eval_steps})")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}; known: {', '.join(known)}")
