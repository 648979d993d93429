"""One run of one trainer for lora_speed.py, which writes the task to its standard input:  lora_trainers.py SYSTEM"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from recllm.learn.training.arguments import LoraArguments
from recllm.learn.training.lora.examples import StepArrays
from recllm.learn.training.lora.objective import SetScore
from recllm.learn.training.lora.tower import Tower
from recllm.learn.training.lora.tune import LoraRun, one_step
from recllm.text.encoder.adapters import TARGETS
from recllm.text.encoder.loading import DEFAULT_ENCODER, find_weights, load_encoder

RANK, SCALE, WARM = 8, 20.0, 2


class Pairs:
    """Hands out given steps of pairs: a person has one item, and takes one; the others' are the negatives."""

    def __init__(self, steps: np.ndarray) -> None:
        self.steps = iter(steps)
        self.every = np.unique(steps)

    def texts(self, *_: Any) -> np.ndarray:
        return self.every

    def draw(self, *_: Any) -> StepArrays:
        anchor, positive = next(self.steps)
        texts, n = np.union1d(anchor, positive), np.arange(len(anchor))
        weights, log_weight = np.eye(len(n), dtype=np.float32), np.zeros((len(n), len(n)), np.float32)
        log_weight[n, n] = -np.inf  # a person's own positive is no negative
        return StepArrays(
            texts, np.searchsorted(texts, anchor), np.searchsorted(texts, positive), weights, log_weight, n, n
        )


def arguments(task: dict[str, Any]) -> LoraArguments:
    return LoraArguments(
        rank=RANK,
        top_layers=task["top_layers"],
        loss="in-batch",
        gain=1.0,
        scale=SCALE,
        prior=False,
        pull_weight=0.0,
        head_steps=0,
        warmup_steps=0,
        max_steps=len(task["steps"]),
        cached_loss="off",
        precision=task["precision"],
        device="cpu",
        seed=task["seed"],
    )


def ours(task: dict[str, Any]) -> dict[str, Any]:
    from accelerate import Accelerator

    encoder, args = load_encoder(DEFAULT_ENCODER, device="cpu", progress=False), arguments(task)
    pairs, accelerator = Pairs(np.array(task["steps"])), Accelerator(cpu=True)
    started = time.perf_counter()
    tower, score = Tower(encoder, task["texts"], args), SetScore(encoder.dim, SCALE, 1.0, prior=False)
    run = LoraRun(tower, score, pairs, [], pairs, torch.zeros(len(task["texts"]), encoder.dim), args, accelerator)
    ends, losses = [], []
    for _ in task["steps"]:
        losses.append(one_step(run))
        run.step += 1
        ends.append(time.perf_counter())
    return figures(task, started, ends, losses)


def theirs(task: dict[str, Any]) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig, TaskType, inject_adapter_in_model
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import BatchSampler, SequentialSampler

    model = SentenceTransformer(str(find_weights(DEFAULT_ENCODER).path), device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    transformer = model[0].model
    depth, top = transformer.config.num_hidden_layers, task["top_layers"]
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=RANK,
        lora_alpha=2.0 * RANK,
        lora_dropout=0.0,
        target_modules=list(TARGETS["bert"]),
        layers_to_transform=top and list(range(depth - top, depth)),
        layers_pattern=top and "layer",
    )
    inject_adapter_in_model(config, transformer)  # all that model.add_adapter does, which asks for a later peft
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        args = Arguments(
            output_dir=folder,
            per_device_train_batch_size=len(task["steps"][0][0]),
            num_train_epochs=1,
            learning_rate=3e-4,
            bf16=task["precision"] == "bfloat16",
            batch_sampler=lambda data, batch_size, **_: BatchSampler(SequentialSampler(data), batch_size, True),
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            seed=task["seed"],
        )
        columns = {n: [task["texts"][t] for s in task["steps"] for t in s[i]] for i, n in enumerate(("a", "b"))}
        loss = MultipleNegativesRankingLoss(model, scale=SCALE)
        started = time.perf_counter()
        trainer = SentenceTransformerTrainer(model, args, Dataset.from_dict(columns), loss=loss, callbacks=[Clock()])
        trainer.train()
    return figures(task, started, ends, [h["loss"] for h in trainer.state.log_history if "loss" in h])


def figures(task: dict[str, Any], started: float, ends: list[float], losses: list[float]) -> dict[str, Any]:
    n, pairs = len(ends), len(task["steps"][0][0])
    assert n == len(task["steps"])
    seconds, steady = ends[-1] - started, (ends[-1] - ends[WARM - 1]) / (n - WARM)
    return {
        "seconds": round(seconds, 2),
        "texts_per_s": round(2 * pairs * n / seconds, 1),
        "examples_per_s": round(pairs * n / seconds, 1),
        f"texts_per_s_after_{WARM}_steps": round(2 * pairs / steady, 1),
        "first_loss": round(losses[0], 3),  # equal where both do the same work; later ones differ by learning rates
    }


if __name__ == "__main__":
    print(json.dumps({"recllm": ours, "sentence-transformers": theirs}[sys.argv[1]](json.load(sys.stdin))))
