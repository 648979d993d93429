"""LoRA on a causal language model with a shop's approved copy: it learns how the shop opens a text.

Only the line and its end are learned (completion-only loss); the prompt is read. The training is that of
`transformers.Trainer`: after each epoch the lines held back give the perplexity exp(mean negative log likelihood per
token), and the best epoch is the result.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from recllm.base.documents import Count, CountOrZero
from recllm.base.errors import DataError
from recllm.base.schema import Progress
from recllm.base.settings import CopywriterSettings, Rank, Seed
from recllm.learn.training.lora.run_folder import CHECKPOINTS, METRICS, any_process, finish_run, training_run
from recllm.text.encoder.adapters import AdapterSpec, adapter_state, attach, save_adapter
from recllm.text.generator.chat import messages
from recllm.text.generator.local import base_hash, load_causal, render
from recllm.text.generator.locate import RECORD

MAX_TOKENS = 160  # longer examples are left out

NOT_LEARNED = -100
"""Label of a token that is read and not learned, as torch's cross-entropy has it."""

logger = logging.getLogger(__name__)


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


class CopyExample(Protocol):
    """A prompt and the line that was written for it."""

    @property
    def prompt(self) -> str: ...

    @property
    def answer(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class TunedGenerator:
    folder: Path
    """The adapter."""
    perplexity: tuple[float, ...]
    """Of the held-back lines, before the first epoch and after each."""
    n_learned: int
    n_validation: int
    """Lines held back."""
    seconds: float


def tune_generator(
    learn: Sequence[CopyExample],
    validation: Sequence[CopyExample],
    base: str | Path,
    destination: str | Path,
    args: CopywriterSettings | None = None,
    *,
    progress: Progress | None = None,
) -> TunedGenerator:
    """Trains an adapter for the causal model in `base` and writes it to `destination`, with the record of the run.

    Raises `DataError` without examples on either side, `ModelError` for a model that takes no adapter, or a folder that
    cannot be written.
    """
    args, base, destination = CopywriterArguments.layered(args), Path(base), Path(destination)
    started = time.monotonic()
    texts = [[(example.prompt, example.answer) for example in side] for side in (learn, validation)]
    record: dict[str, Any] = {
        "data": sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest(),
        "base": base_hash(base),
        "arguments": args.model_dump(mode="json"),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model = load_causal(base, device)
    spec = AdapterSpec.of(model, base.name, record["base"], args.rank, args.top_layers)
    wrapped = attach(model, spec, seed=args.seed)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:  # in float32, so that small steps are not rounded away
            parameter.data = parameter.data.float()
    sides = [_tokenised(side, tokenizer, args, share) for side, share in ((learn, 1.0), (validation, 0.2))]
    if not all(sides):
        raise DataError("there must be lines to learn from and lines to validate by; give more approved copy")
    with training_run(destination):
        losses = _train(wrapped, sides[0], sides[1], tokenizer, args, destination, progress or logger.info, started)
        if losses is not None:  # the process that writes
            save_adapter(adapter_state(wrapped), spec, destination)
            perplexity = [math.exp(loss) for loss in losses]
            best = 1 + int(np.argmin(perplexity[1:]))
            record |= {"languages": list(args.languages), "perplexity": perplexity, "best": best}
            (destination / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    record = json.loads((destination / RECORD).read_text(encoding="utf-8"))
    return TunedGenerator(
        folder=destination,
        perplexity=tuple(record["perplexity"]),
        n_learned=len(sides[0]),
        n_validation=len(sides[1]),
        seconds=time.monotonic() - started,
    )


def _train(
    model: Any,
    learn: list[dict[str, list[int]]],
    validation: list[dict[str, list[int]]],
    tokenizer: Any,
    args: CopywriterArguments,
    destination: Path,
    tell: Progress,
    started: float,
) -> list[float] | None:
    """Leaves the best epoch's weights in the model. The validation loss before and after each epoch; None in other
    processes than the one that writes."""
    from datasets import Dataset

    arguments = TrainingArguments(
        output_dir=str(destination / CHECKPOINTS),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        weight_decay=0.01,
        max_grad_norm=1.0,
        **args.model_dump(include={"learning_rate", "warmup_steps", "seed"}),
        eval_strategy="epoch",
        eval_on_start=True,
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,  # the last and the best
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        label_names=["labels"],
        remove_unused_columns=False,
        bf16=model.dtype == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(learn),
        eval_dataset=Dataset.from_list(validation),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=NOT_LEARNED),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_EpochCallback(trainer, args, tell, started))
    trainer.train()
    finish_run(trainer, destination)
    if not trainer.is_world_process_zero():
        return None
    history = trainer.state.log_history
    lines = [json.dumps(entry) + "\n" for entry in history if {"loss", "eval_loss"} & set(entry)]
    (destination / METRICS).write_text("".join(lines), encoding="utf-8")
    by_epoch = {round(entry["epoch"]): entry["eval_loss"] for entry in history if "eval_loss" in entry}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


class CompletionTrainer(Trainer):
    """Computes logits of the learned tokens alone: the head over the whole vocabulary is most of a small model's work,
    and a line is a third of its example."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels = inputs["labels"][:, 1:]
        learned = labels != NOT_LEARNED
        # through the model's own door, which shares gradients between processes; one logit is the fewest it gives
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            output_hidden_states=True,
            logits_to_keep=1,
        )
        hidden = outputs.hidden_states[-1][:, :-1][learned]  # (n_tokens, dim), after the last norm
        head = self.accelerator.unwrap_model(model).get_base_model().get_output_embeddings()
        logits = head(hidden.to(head.weight.dtype))
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[learned], reduction="sum")
        loss = loss / (learned.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return (loss, {"loss": loss}) if return_outputs else loss


class _EpochCallback(TrainerCallback):
    """Reports the perplexity, and ends the run where another epoch at the pace so far would exceed its minutes."""

    def __init__(self, trainer: Trainer, args: CopywriterArguments, tell: Progress, started: float) -> None:
        self.trainer, self.settings, self.tell, self.started = trainer, args, tell, started
        self.n_epochs = 0

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **inputs: Any) -> None:
        if state.is_world_process_zero:
            perplexity = math.exp(inputs["metrics"]["eval_loss"])
            self.tell(f"epoch {round(state.epoch or 0)}: perplexity of the held-back lines {perplexity:.2f}")

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **inputs: Any) -> None:
        self.n_epochs += 1
        spent, limit = time.monotonic() - self.started, self.settings.max_minutes
        late = bool(limit and spent * (self.n_epochs + 1) / self.n_epochs > 60 * limit)
        control.should_training_stop = control.should_training_stop or any_process(self.trainer, late)


def _tokenised(
    side: Sequence[CopyExample], tokenizer: Any, args: CopywriterArguments, share: float
) -> list[dict[str, list[int]]]:
    """The examples that fit, or as many drawn from them as the settings allow this side."""
    usable = [tokens for example in side if (tokens := tokens_of(example, tokenizer, MAX_TOKENS))]
    if args.max_examples is None:
        return usable
    order = np.random.default_rng(args.seed).permutation(len(usable))[: max(1, int(args.max_examples * share))]
    return [usable[i] for i in sorted(order)]


def tokens_of(example: CopyExample, tokenizer: Any, max_tokens: int) -> dict[str, list[int]] | None:
    """input_ids, attention_mask and labels: the line and its end are learned, the prompt is not; None if too long."""
    prompt = tokenizer(render(messages(example.prompt), tokenizer), add_special_tokens=False)["input_ids"]
    line = [*tokenizer(example.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    if len(prompt) + len(line) > max_tokens:
        return None
    ids, labels = [*prompt, *line], [*[NOT_LEARNED] * len(prompt), *line]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
