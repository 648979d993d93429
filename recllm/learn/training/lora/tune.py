"""From a log and an encoder to an encoder that knows what its people buy.

A LoRA adapter learns from pairs of items, one that a user had and one that the user then bought, by the in-batch
softmax of `sentence_transformers`. The latest windows judge every `eval_steps` steps, and the best state is the result:
the untuned encoder where no step is better.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset as Table
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.training_args import BatchSamplers, MultiDatasetBatchSamplers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from recllm.base.arrays import Ints
from recllm.base.errors import DataError, ModelError
from recllm.base.files import write_whole
from recllm.base.schema import Encoder, Progress
from recllm.base.settings import LoraSettings
from recllm.learn.training.lora.examples import ALONE, SCALE, LoraArguments, Questions, hold_out, judge, past_questions
from recllm.learn.training.lora.run_folder import CHECKPOINTS, METRICS, any_process, finish_run, training_run
from recllm.shop.data.dataset import Dataset
from recllm.text.encoder.adapters import AdapterSpec, adapter_state, attach, load_state, save_adapter, targets_of
from recllm.text.encoder.batches import distinct
from recllm.text.encoder.cache import CachedEncoder
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import load_encoder, with_adapter
from recllm.text.items import item_texts

ADAPTER, CONFIG = "adapter", "config.json"
LIBRARIES = ("torch", "transformers", "sentence-transformers", "peft")
"""Whose versions may move a result."""

Metrics = Mapping[str, float]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class TunedEncoder:
    encoder: Encoder
    """The base with the adapter merged, behind the same cache as the base."""
    adapter: Path
    """The adapter's folder."""
    metrics: Metrics
    """Of the validation users, with the adapter; they chose the state, so the figures are somewhat too good."""
    base_metrics: Metrics
    """The same of the untuned encoder."""
    history: Sequence[Metrics]
    """Of each evaluation, the untuned encoder's first."""


def tune_encoder(
    dataset: Dataset,
    encoder: Encoder | str | Path,
    arguments: LoraSettings | None = None,
    run_folder: str | Path = "run",
    progress: Progress | None = None,
    *,
    locale: str = "en",
) -> TunedEncoder:
    """LoRA on past windows of the log; everything is learned from events before `dataset.as_of`.

    encoder: a name, or an encoder that `load_encoder` gave. run_folder: gets config.json, metrics.jsonl,
    checkpoints while it runs, and adapter/. Raises `DataError` when there is
    too little to learn from, or no text; `ModelError` for an encoder that takes no adapter, a device that is not there,
    or a folder that cannot be written.
    """
    args, folder, tell = LoraArguments.layered(arguments), Path(run_folder), progress or logger.info
    base = load_encoder(encoder) if isinstance(encoder, str | Path) else encoder
    plain, device = trainable(base), usable_device(args.device)
    texts, text_of = distinct(item_texts(dataset.items, locale))
    if len(texts) < 2:
        raise DataError(f"no item has a text of its own, so there is nothing to fine-tune on; {ALONE}")
    judged, learned = hold_out(past_questions(dataset, args), args.seed)
    trained = HuggingFaceEncoder(plain.weights, prompts=plain.prompts, device=device, progress=False)
    spec = AdapterSpec.of(trained.model, plain.weights.name, plain.base_hash, args.rank, args.top_layers)
    ranked = [np.union1d(group.offered, group.history.indices) for group in judged]
    text_numbers = np.unique(text_of[np.concatenate(ranked)])  # of the texts that ranking these questions reads

    def quality(encoder: Encoder) -> dict[str, float]:
        vectors = np.zeros((len(texts), encoder.dim), np.float32)
        vectors[text_numbers] = encoder.encode([texts[number] for number in text_numbers])
        return judge(judged, vectors, text_of)

    pairs = text_pairs(learned, texts, text_of, args.seed)
    counts = f"{sum(map(len, pairs.values())):,} pairs in {len({group.start for group in learned})} windows"
    tell(f"{counts}, {len(texts):,} distinct texts")
    base_metrics = {"step": 0.0, **quality(base)}
    with training_run(folder):
        trainer = AdapterTrainer.of(trained, spec, pairs, lambda *_, **__: quality(trained), args, folder)
        trainer.add_callback(LoraCallback(trainer, args, tell, base_metrics["goal"]))
        trainer.add_callback(EarlyStoppingCallback(args.patience))
        trainer.train()
        history = [base_metrics, *trainer.metrics()]
        best = next(entry for entry in history if "goal" in entry and entry["step"] == trainer.state.best_global_step)
        if trainer.is_world_process_zero():
            # without a better evaluation than the base's the first state, which changes nothing
            state = adapter_state(trainer.adapted) if trainer.state.best_global_step else trainer.first_state
            save_adapter(state, spec, folder / ADAPTER)
            record: dict[str, Any] = {"data_hash": dataset.data_hash(), "base": spec.base, "base_hash": spec.base_hash}
            record |= {"arguments": args.model_dump(mode="json"), "seed": args.seed}
            record |= {"versions": {name: version(name) for name in LIBRARIES}}
            write_whole(folder / CONFIG, json.dumps(record, indent=2) + "\n")
            lines = [json.dumps(entry, sort_keys=True) + "\n" for entry in history]
            write_whole(folder / METRICS, "".join(lines))
        finish_run(trainer, folder)
    return TunedEncoder(
        encoder=with_adapter(base, folder / ADAPTER),
        adapter=folder / ADAPTER,
        metrics=best,
        base_metrics=base_metrics,
        history=[entry for entry in history if "goal" in entry],
    )


def trainable(encoder: Encoder) -> HuggingFaceEncoder:
    """The model behind an encoder. Raises `ModelError` for one that takes no adapter."""
    inner = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    if not isinstance(inner, HuggingFaceEncoder):
        raise ModelError(f"the encoder {encoder.name!r} cannot be fine-tuned: it has no transformer weights; {ALONE}")
    targets_of(inner.model_type)
    if inner.adapter is not None:
        raise ModelError(f"{encoder.name}: has an adapter already; fine-tune its base, {inner.weights.name}")
    return inner


def usable_device(device: str | None) -> str:
    """The device, by default the fastest.
    Raises `ModelError` for a GPU where there is none, or one among several."""
    if device not in (None, "cpu", "cuda"):
        raise ModelError(f"device {device!r}: give cpu or cuda; CUDA_VISIBLE_DEVICES chooses among GPUs")
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, and torch sees no CUDA here; pass device='cpu' or none")
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def text_pairs(
    learned: Sequence[Questions], texts: Sequence[str], text_of: Ints, seed: int
) -> dict[str, list[tuple[str, str]]]:
    """Texts of an item that a user had and of one that the user then bought, by kind of question."""
    rng, pairs = np.random.default_rng([seed, 1]), dict[str, list[tuple[str, str]]]()
    for group in learned:
        numbers = (text_of[items] for items in group.pairs(rng))
        drawn = [(texts[a], texts[b]) for a, b in zip(*numbers, strict=True) if a != b]
        pairs.setdefault(group.kind, []).extend(drawn)
    return {kind: drawn for kind, drawn in pairs.items() if drawn}


class AdapterTrainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """Trains an adapter alone; its checkpoints hold the adapter and not the encoder."""

    @classmethod
    def of(
        cls,
        encoder: HuggingFaceEncoder,
        spec: AdapterSpec,
        pairs: Mapping[str, Sequence[tuple[str, str]]],
        quality: Callable[..., Metrics],
        args: LoraArguments,
        folder: Path,
    ) -> AdapterTrainer:
        """quality: of the encoder's present state, with the "goal" by which the best is chosen."""
        on_cpu, model = encoder.torch_device == "cpu", encoder.sentence_transformer
        model.max_seq_length = encoder.limit
        for module in encoder.model.requires_grad_(False).modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        adapted = attach(encoder.model, spec, seed=args.seed)
        trainer = cls(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=str(folder / CHECKPOINTS),
                **args.model_dump(include={"max_steps", "learning_rate", "warmup_steps", "seed", "eval_steps"}),
                per_device_train_batch_size=args.batch_size,
                batch_sampler=BatchSamplers.NO_DUPLICATES,
                multi_dataset_batch_sampler=MultiDatasetBatchSamplers.ROUND_ROBIN,
                prompts=encoder.tokens.prompts.get("document") or None,
                eval_strategy="steps",
                save_strategy="steps",
                save_steps=args.eval_steps,
                save_total_limit=2,  # the last and the best
                load_best_model_at_end=True,
                metric_for_best_model="goal",
                greater_is_better=True,
                logging_steps=1,
                logging_nan_inf_filter=False,
                bf16=not on_cpu and torch.cuda.is_bf16_supported(),
                use_cpu=on_cpu,
                dataloader_pin_memory=not on_cpu,
                report_to=list(args.report_to) or "none",
                disable_tqdm=not sys.stderr.isatty(),
            ),
            train_dataset={
                kind: Table.from_dict({"anchor": [a for a, _ in drawn], "positive": [b for _, b in drawn]})
                for kind, drawn in pairs.items()
            },
            evaluator=[quality],
            loss=MultipleNegativesRankingLoss(model, scale=SCALE),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.adapted, trainer.spec, trainer.first_state = adapted, spec, adapter_state(adapted)
        return trainer

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: its card would quote the shop's texts."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_adapter(adapter_state(self.adapted), self.spec, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        load_state(self.adapted, Path(checkpoint_path))

    def metrics(self) -> list[dict[str, float]]:
        """The loss of each step, and the figures of each evaluation."""
        entries = [
            {name.removeprefix("eval_"): float(value) for name, value in entry.items() if is_figure(name)}
            for entry in self.state.log_history
        ]
        return [entry for entry in entries if {"loss", "goal"} & entry.keys()]


def is_figure(name: str) -> bool:
    """Whether the trainer's log has a figure of ours under this name, and not a time."""
    return name in ("step", "loss", "eval_goal") or name.startswith("eval_ndcg")


class LoraCallback(TrainerCallback):
    """Reports the evaluations, and ends a run that has no time left, or whose loss is not finite. The base is the best
    until an evaluation is better."""

    def __init__(self, trainer: AdapterTrainer, args: LoraArguments, tell: Progress, base_goal: float) -> None:
        self.trainer, self.settings, self.tell, self.base_goal = trainer, args, tell, base_goal
        self.began = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began, state.best_metric, state.best_global_step = time.monotonic(), self.base_goal, 0

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        limit = self.settings.max_minutes
        is_late = any_process(self.trainer, limit is not None and time.monotonic() - self.began > 60 * limit)
        if is_late or state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **inputs: Any) -> None:
        if not math.isfinite(inputs["logs"].get("loss", 0.0)):
            self.tell(f"step {state.global_step}: the loss is not finite; the last good state is kept")
            control.should_training_stop = True

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **inputs: Any) -> None:
        metrics = {name.removeprefix("eval_"): v for name, v in inputs["metrics"].items() if is_figure(name)}
        figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        steps = max(state.global_step, 1)
        minutes = (time.monotonic() - self.began) / steps * (state.max_steps - state.global_step) / 60
        if state.is_world_process_zero:
            self.tell(f"step {state.global_step}: {figures}, {minutes:.1f} minutes left at most")
