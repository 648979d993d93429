"""From a log and an encoder to an encoder that knows what its people buy.

tuned = tune_encoder(dataset, "sentence-transformers/all-MiniLM-L6-v2", LoraSettings(), run_folder)
vectors = item_vectors(tuned.encoder, dataset)

Training is rounds of steps with an evaluation after each, checkpoints and an early stop. Everything drawn derives from
(seed, step, process), and a round begins with vectors computed from the weights alone, so a run that was killed and
resumed is the run that was not.

The loop is not that of `SentenceTransformerTrainer`, because its step is another one: users are sets of items, lower
blocks are computed once, vectors may be as old as the round, and only some texts get a graph. On plain pairs, where
both do the same work, this step trains 1.45 times as many texts a second on all layers and 1.36 times on the top two
(`eval/results/lora-speed.json`).
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recllm.base.errors import DataError, ModelError
from recllm.base.schema import Encoder
from recllm.base.settings import LoraSettings
from recllm.learn.training.arguments import LoraArguments
from recllm.learn.training.lora.examples import (
    ALONE,
    ExampleGroup,
    ExampleSource,
    StepArrays,
    write_examples,
)
from recllm.learn.training.lora.objective import SetScore, Targets, ValidationSet, bce_loss, draw_by_norm, softmax_loss
from recllm.learn.training.lora.run_folder import (
    Checkpoint,
    append_metrics,
    begin_records,
    belongs_to,
    load_checkpoint,
    same_run,
    save_checkpoint,
    write_card,
)
from recllm.learn.training.lora.tower import Tower
from recllm.shop.data.dataset import Dataset
from recllm.text.encoder.adapters import save_adapter, targets_of
from recllm.text.encoder.batches import distinct
from recllm.text.encoder.cache import CachedEncoder
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import load_encoder, with_adapter
from recllm.text.items import item_texts

VALIDATION_USERS = 500  # users of the latest window who are evaluated, at most
WEIGHT_DECAY = 0.0
MAX_GRAD_NORM = 1.0  # longer gradients are shortened to it

ADAPTER = "adapter"

Progress = Callable[[str], None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class TunedEncoder:
    """What fine-tuning gave."""

    encoder: Encoder
    """The base with the adapter merged, behind the same cache as the base."""
    adapter: Path
    """The adapter's folder."""
    metrics: Mapping[str, float]
    """Of the validation users, with the adapter; they chose the round, so the figures are somewhat too good."""
    base_metrics: Mapping[str, float]
    """The same of the untuned encoder."""
    history: Sequence[Mapping[str, float]]
    """One entry per round."""


def tune_encoder(
    dataset: Dataset,
    encoder: Encoder | str | Path,
    arguments: LoraSettings | None = None,
    run_folder: str | Path = "run",
    progress: Progress | None = None,
    *,
    locale: str = "en",
    licence: str = "see the encoder's own card",
    consent: str = "stated by the caller's data",
) -> TunedEncoder:
    """LoRA on past windows of the log; everything is learned from events before `dataset.as_of`.

    encoder: a name, or an encoder that `load_encoder` gave. run_folder: gets config.json, metrics.jsonl, card.txt,
    checkpoints while it runs, and adapter/. licence, consent: sentences of the card. Raises `DataError` when there is
    too little to learn from, or no text; `ModelError` for an encoder that takes no adapter, a device that is not there,
    or a checkpoint that cannot be written or belongs to another run.
    """
    args, folder = LoraArguments.layered(arguments), Path(run_folder)
    base = load_encoder(encoder) if isinstance(encoder, str | Path) else encoder
    run = prepare(dataset, base, args, folder, locale, progress or logger.info)
    spec, is_main = run.tower.spec, run.accelerator.is_main_process
    run.belongs = belongs_to(dataset, args, spec.base, spec.base_hash)
    checkpoint = load_checkpoint(folder) if args.resume_from_checkpoint else None
    if checkpoint is not None:
        same_run(checkpoint.record, run.belongs, folder)
        run.restore(checkpoint)
    if is_main:
        begin_records(folder, run.belongs, args, run.step)
    train(run)
    run.accelerator.end_training()
    if is_main:
        adapter = {n.removeprefix("adapter/"): t for n, t in run.best.items() if n.startswith("adapter/")}
        save_adapter(adapter, spec, folder / ADAPTER)
        write_card(folder, dataset, args, spec.base, licence, consent, run.history[run.best_round])
        shutil.rmtree(folder / "examples", ignore_errors=True)
    run.accelerator.wait_for_everyone()
    return TunedEncoder(
        encoder=with_adapter(base, folder / ADAPTER),
        adapter=folder / ADAPTER,
        metrics=run.history[run.best_round],
        base_metrics=run.history[0],
        history=tuple(run.history),
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


def prepare(dataset: Dataset, base: Encoder, args: LoraArguments, folder: Path, locale: str, tell: Progress) -> LoraRun:
    from accelerate import Accelerator

    plain = trainable(base)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, and torch sees no CUDA here; pass device='cpu' or none")
    accelerator = Accelerator(cpu=device == "cpu", log_with=list(args.report_to) or None, project_dir=str(folder))
    if args.report_to:
        accelerator.init_trackers("recllm")
    texts, inverse = distinct(item_texts(dataset.items, locale))
    if len(texts) < 2:
        raise DataError(f"no item has a text that tells it from another, so there is nothing to fine-tune on; {ALONE}")
    path = folder / "examples" / f"{accelerator.process_index}.arrow"
    source = write_examples(dataset, inverse.astype(np.int64), args, path)
    held_out, learned = hold_out(source.groups(), args)
    validation = ValidationSet.of(source, held_out, VALIDATION_USERS, np.random.default_rng([args.seed, 0]))
    counts = f"{sum(len(g.rows) for g in learned):,} examples in {len({g.start for g in learned})} windows"
    tell(f"{counts}, {len(texts):,} distinct texts")
    rows = torch.from_numpy(base.encode(texts)).to(device)
    trained = HuggingFaceEncoder(
        plain.weights, max_length=plain.limit, prompts=plain.prompts, device=device, progress=False
    )
    tower, score = Tower(trained, texts, args), SetScore(plain.dim, args.scale, args.gain, prior=args.prior).to(device)
    return LoraRun(tower, score, source, learned, validation, rows, args, accelerator, folder, tell)


def hold_out(groups: list[ExampleGroup], args: LoraArguments) -> tuple[list[ExampleGroup], list[ExampleGroup]]:
    """Whole windows, latest first, for validation until they hold `validation_users`, or a tenth of all; the others to
    learn from."""
    size = min(VALIDATION_USERS, sum(len(g.rows) for g in groups) / 10)
    validation: list[ExampleGroup] = []
    for start in sorted({g.start for g in groups}, reverse=True):
        if sum(len(g.rows) for g in validation) >= size:
            break
        validation += [g for g in groups if g.start == start]
    learned = [g for g in groups if g not in validation]
    if not learned or not validation:
        raise DataError(f"only one past window holds anything to learn from, and fine-tuning needs two; {ALONE}")
    return validation, learned


@dataclass(eq=False)
class LoraRun:
    """What changes while training, and who takes part."""

    tower: Tower
    score: SetScore
    source: ExampleSource
    groups: list[ExampleGroup]
    validation: ValidationSet
    base: Tensor
    """Unit rows of the untuned encoder, (n_texts, dim)."""
    args: LoraArguments
    accelerator: Any
    folder: Path = Path()
    tell: Progress = logger.info
    belongs: Mapping[str, Any] = field(default_factory=dict)
    """What a run that goes on from a checkpoint must share."""
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_round: int = -1
    encoded: int = 0
    """Texts that went through the model, for throughput."""
    began: float = 0.0
    """When the first round began, by the monotonic clock."""

    def __post_init__(self) -> None:
        args = self.args
        groups: list[dict[str, Any]] = [
            {"params": self.tower.parameters, "lr": args.learning_rate, "weight_decay": WEIGHT_DECAY},
            {"params": list(self.score.parameters()), "lr": args.head_learning_rate, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: pace(step, args.max_steps, args.warmup_steps)
        )
        self.bank = self.base.clone()
        self.learned_texts = self.source.texts(self.groups)
        self.tower.keep(np.union1d(self.validation.texts(), self.learned_texts))

    @property
    def named(self) -> dict[str, torch.nn.Parameter]:
        """The parameters by name, in the optimiser's order."""
        adapter = {name: p for name, p in self.tower.model.named_parameters() if p.requires_grad}
        return adapter | {f"score.{name}": p for name, p in self.score.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        score = {f"score/{n}": t.detach().cpu().clone() for n, t in self.score.state_dict().items()}
        return {**{f"adapter/{n}": t for n, t in self.tower.state().items()}, **score}

    def log(self, values: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            append_metrics(self.folder, values)
        self.accelerator.log(dict(values), step=int(values["step"]))

    def save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = self.state() | {f"best/{n}": t for n, t in self.best.items()}
        for name, parameter in self.named.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser/{key}/{name}"] = value.detach().cpu().clone()
        record = {**self.belongs, "history": self.history, "best_round": self.best_round}
        save_checkpoint(Checkpoint(self.step, tensors, record), self.folder)

    def restore(self, checkpoint: Checkpoint) -> None:
        from peft import set_peft_model_state_dict

        def under(head: str) -> dict[str, Tensor]:
            return {n.removeprefix(head): t for n, t in checkpoint.tensors.items() if n.startswith(head)}

        set_peft_model_state_dict(self.tower.model, under("adapter/"))
        self.score.load_state_dict(under("score/"))
        moments, optimiser = under("optimiser/"), self.optimiser.state_dict()
        for number, name in enumerate(self.named):
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in moments]
            if keys:
                optimiser["state"][number] = {key: moments[f"{key}/{name}"] for key in keys}
        self.optimiser.load_state_dict(optimiser)
        self.step = self.schedule.last_epoch = checkpoint.step
        for group, rate in zip(self.optimiser.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = rate * pace(self.step, self.args.max_steps, self.args.warmup_steps)
        self.history = [dict(h) for h in checkpoint.record["history"]]
        self.best_round, self.best = int(checkpoint.record["best_round"]), under("best/")


def train(run: LoraRun) -> None:
    """Rounds until the steps, the minutes or the patience are used up; `run.best` holds the best state."""
    args = run.args
    run.began = time.monotonic()
    while True:
        refresh(run)
        if not run.history or run.history[-1]["step"] < run.step:
            evaluate(run)
        if run.step and run.step % args.eval_steps == 0:
            run.save()
        waited = len(run.history) - 1 - run.best_round
        late = args.max_minutes is not None and time.monotonic() - run.began > 60 * args.max_minutes
        if run.accelerator.num_processes > 1:  # their clocks differ, and they have to stop together
            late = float(run.accelerator.reduce(torch.tensor(float(late), device=run.tower.device), "sum")) > 0
        if run.step >= args.max_steps or waited >= args.patience or late or not round_of_steps(run):
            return


def refresh(run: LoraRun) -> None:
    """Vectors of every text that an evaluation or a step may need, by the present weights, in their usual order."""
    if run.step > run.args.head_steps:
        texts = run.validation.texts()
        texts = np.union1d(texts, run.learned_texts) if run.args.cached_loss == "bank" else texts
        run.bank[torch.from_numpy(texts)] = run.tower.encode(texts)
        run.encoded += len(texts)


def evaluate(run: LoraRun) -> None:
    """Adds a line to the history, and keeps the state where it is the best so far."""
    run.score.eval()
    metrics = {"step": float(run.step), **run.validation.evaluate(run.score, run.bank), "scale": run.score.scale}
    run.history.append(metrics)
    early = 0 < run.step <= run.args.head_steps  # the encoder is still the base: nothing to be better or worse
    if run.best_round < 0 or early or metrics["goal"] > run.history[run.best_round]["goal"]:
        run.best_round, run.best = len(run.history) - 1, run.state()
    run.log(metrics)
    seconds = max(time.monotonic() - run.began, 1e-9)
    minutes = seconds / run.step * (run.args.max_steps - run.step) / 60 if run.step else 0.0
    left = f"{minutes:.1f} minutes left at most" if run.step else f"{run.args.max_steps} steps to go"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    run.tell(f"{figures}, {run.encoded / seconds:.0f} texts/s, {left}")


def round_of_steps(run: LoraRun) -> bool:
    """Steps up to the next evaluation; False when a loss was not finite, and the last good state is the result."""
    from tqdm import tqdm

    until = min(run.args.max_steps, (run.step // run.args.eval_steps + 1) * run.args.eval_steps)
    hidden = None if run.accelerator.is_main_process else True
    with tqdm(total=until - run.step, desc="fine-tune", unit="step", delay=1.0, disable=hidden) as bar:
        while run.step < until:
            loss = one_step(run)
            if not math.isfinite(loss):
                run.tell(f"step {run.step + 1}: the loss is not finite; the last good state is kept")
                if len(run.history) < 2:
                    raise DataError(
                        "the loss is not finite before the first evaluation: lower the learning rate, or look for "
                        "broken values in the encoder's weights"
                    )
                return False
            run.step += 1
            run.log({"step": float(run.step), "loss": loss})
            bar.update()
    return True


def one_step(run: LoraRun) -> float:
    """One update of the weights; the mean loss, over processes too."""
    args, accelerator = run.args, run.accelerator
    run.score.train()
    run.optimiser.zero_grad(set_to_none=True)
    seed = [args.seed, run.step, 0, accelerator.process_index]
    step = run.source.draw(run.groups, np.random.default_rng(seed))
    total = add_gradients(run, step, seed)
    for parameter in (p for p in run.named.values() if p.requires_grad):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if accelerator.num_processes > 1:
            parameter.grad = accelerator.reduce(parameter.grad, "mean")
    loss = torch.tensor(total, device=run.tower.device)
    value = float(accelerator.reduce(loss, "mean")) if accelerator.num_processes > 1 else float(loss)
    norm = torch.nn.utils.clip_grad_norm_(run.tower.parameters, MAX_GRAD_NORM)
    if not math.isfinite(value) or not torch.isfinite(norm):
        return math.nan
    run.optimiser.step()
    run.schedule.step()
    return value


def pace(step: int, total: int, warmup_steps: float) -> float:
    """Learning rate over a run, in [0, 1]: a linear warm-up, then linearly down to 5 %."""
    return min(1.0, (step + 1) / (warmup_steps + 1)) * (1 - 0.95 * step / total)


def add_gradients(run: LoraRun, step: StepArrays, seed: list[int]) -> float:
    """Adds the step's gradient to every parameter's; the loss."""
    head_only, exact = run.step < run.args.head_steps, run.args.cached_loss == "exact"
    if run.args.cached_loss == "off" and not head_only:
        loss = loss_of(run, step, run.tower.with_graph(step.texts))
        loss.backward()  # type: ignore[no-untyped-call]
        run.encoded += len(step.texts)
        return float(loss.detach())
    # the loss on vectors without a graph, whose gradients then go through the model text by text
    rows = run.tower.encode(step.texts) if exact and not head_only else run.bank[torch.from_numpy(step.texts)].clone()
    leaf = rows.requires_grad_()
    loss = loss_of(run, step, leaf)
    loss.backward()  # type: ignore[no-untyped-call]
    if head_only or not torch.isfinite(loss):
        return float(loss.detach())
    assert leaf.grad is not None  # noqa: S101 - backward filled it
    rows = leaf.detach()
    along = leaf.grad - (leaf.grad * rows).sum(dim=1, keepdim=True) * rows  # rows stay unit: only this part acts
    if exact:
        sample, weight = torch.arange(len(rows)), torch.ones(len(rows))
    else:
        generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(1 << 62)))
        sample, weight = draw_by_norm(along, run.args.gradient_texts, generator)
    texts, sample = step.texts[sample.numpy()], sample.to(along.device)
    encoded = run.tower.backward(texts, along[sample] * weight.to(along.device)[:, None])
    run.encoded += len(texts) + (len(step.texts) if exact else 0)
    if not exact:
        run.bank[torch.from_numpy(texts)] = encoded
    return float(loss.detach())


def loss_of(run: LoraRun, step: StepArrays, rows: Tensor) -> Tensor:
    """The loss of a step whose texts have these unit rows, (n_texts, dim)."""

    def tensor(array: Any) -> Tensor:
        return torch.from_numpy(array).to(rows.device)

    score = run.score(tensor(step.weights), rows[tensor(step.history)], rows[tensor(step.candidates)])
    targets = Targets(tensor(step.log_weight), tensor(step.user), tensor(step.column))
    loss = bce_loss(score, targets) if run.args.loss == "bce" else softmax_loss(score, targets)
    if run.args.pull_weight:
        loss = loss + run.args.pull_weight * (1 - (rows * run.base[tensor(step.texts)]).sum(dim=1)).mean()
    return loss
