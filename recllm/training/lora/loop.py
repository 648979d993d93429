"""The training loop: rounds of steps, a verdict after each, checkpoints, early stop.

Everything drawn derives from (seed, step, process), and a round begins with vectors computed from the weights alone, so
a run that was killed and resumed is the run that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recllm.data.interactions import Ints
from recllm.errors import DataError
from recllm.settings import LoraSettings
from recllm.training.lora.checkpoint import Checkpoint, optimiser_state, restore_optimiser
from recllm.training.lora.judge import Judge
from recllm.training.lora.objective import SetScore, Targets, bce_loss, draw_by_norm, softmax_loss
from recllm.training.lora.steps import Group, Source, Step, mine
from recllm.training.lora.tower import Tower

Progress = Callable[[str], None]


@dataclass(eq=False)
class Run:
    """What changes while training, and who takes part. base: unit rows of the untuned encoder, (n_texts, dim)."""

    tower: Tower
    score: SetScore
    source: Source
    groups: list[Group]
    judge: Judge
    base: Tensor
    args: LoraSettings
    accelerator: Any
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_round: int = -1
    neighbours: dict[int, Ints] = field(default_factory=dict)
    encoded: int = 0
    """Texts that went through the model, for throughput."""

    def __post_init__(self) -> None:
        args = self.args
        groups: list[dict[str, Any]] = [
            {"params": self.tower.parameters, "lr": args.learning_rate, "weight_decay": args.weight_decay},
            {"params": list(self.score.parameters()), "lr": args.head_learning_rate, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups)
        self.rates = [float(g["lr"]) for g in groups]
        self.bank = self.base.clone()
        self.learned = self.source.texts(self.groups)
        self.tower.keep(np.union1d(self.judge.texts(), self.learned))

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.tower.parameters, *(p for p in self.score.parameters() if p.requires_grad)]

    @property
    def names(self) -> list[str]:
        adapter = [n for n, p in self.tower.model.named_parameters() if p.requires_grad]
        return [*adapter, *(f"score.{n}" for n, _ in self.score.named_parameters())]


def train(run: Run, tell: Progress, save: Callable[[Run], None], log: Callable[[Mapping[str, float]], None]) -> None:
    """Rounds until the steps, the minutes or the patience are used up; `run.best` holds the best state found."""
    began = time.monotonic()
    while True:
        refresh(run)
        if not run.history or run.history[-1]["step"] < run.step:
            verdict(run, log, tell, began)
        if run.step and run.step % (run.args.save_steps or run.args.eval_steps) == 0:
            save(run)
        if finished(run, began):
            return
        if not round_of_steps(run, log, tell):
            return


def finished(run: Run, began: float) -> bool:
    args = run.args
    waited = len(run.history) - 1 - run.best_round
    late = args.max_minutes is not None and time.monotonic() - began > 60 * args.max_minutes
    if run.accelerator.num_processes > 1:  # their clocks differ, and they have to stop together
        late = float(run.accelerator.reduce(torch.tensor(float(late), device=run.tower.device), "sum")) > 0
    return run.step >= args.max_steps or waited >= args.patience or late


def refresh(run: Run) -> None:
    """Vectors of every text that a verdict or a step may ask for, by the present weights, in their usual order."""
    if run.step > run.args.head_steps:
        judged = run.judge.texts()
        texts = np.union1d(judged, run.learned) if run.args.cached_loss == "bank" else judged
        run.bank[torch.from_numpy(texts)] = run.tower.encode(texts)
        run.encoded += len(texts)
    if run.args.hard_negatives:
        rows = run.bank.cpu().numpy()
        run.neighbours = mine(rows, run.learned, run.args.hard_negatives)


def verdict(run: Run, log: Callable[[Mapping[str, float]], None], tell: Progress, began: float) -> None:
    run.score.eval()
    found = {"step": float(run.step), **run.judge.verdict(run.score, run.bank), "scale": run.score.scale}
    run.history.append(found)
    early = 0 < run.step <= run.args.head_steps  # the encoder is still the base: nothing to be better or worse
    if run.best_round < 0 or early or found["goal"] > run.history[run.best_round]["goal"]:
        run.best_round, run.best = len(run.history) - 1, state(run)
    log(found)
    seconds = max(time.monotonic() - began, 1e-9)
    tell(
        ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        + f", {run.encoded / seconds:.0f} texts/s, {_left(run, seconds)}"
    )


def _left(run: Run, seconds: float) -> str:
    if not run.step:
        return f"{run.args.max_steps} steps to go"
    return f"{seconds / run.step * (run.args.max_steps - run.step) / 60:.1f} minutes left at most"


def state(run: Run) -> dict[str, Tensor]:
    """Adapter and score, on the CPU."""
    score = {f"score/{n}": t.detach().cpu().clone() for n, t in run.score.state_dict().items()}
    return {**{f"adapter/{n}": t for n, t in run.tower.state().items()}, **score}


def round_of_steps(run: Run, log: Callable[[Mapping[str, float]], None], tell: Progress) -> bool:
    """Steps up to the next verdict; False when a loss was not finite, and the last good state is to be kept."""
    from tqdm import tqdm

    until = min(run.args.max_steps, (run.step // run.args.eval_steps + 1) * run.args.eval_steps)
    shown = None if run.accelerator.is_main_process else True
    with tqdm(total=until - run.step, desc="fine-tune", unit="step", delay=1.0, disable=shown) as bar:
        while run.step < until:
            loss = one_step(run)
            if not math.isfinite(loss):
                tell(f"step {run.step + 1}: the loss is not finite; the last good state is kept")
                if len(run.history) < 2:
                    raise DataError(
                        "the loss is not finite before the first verdict: lower the learning rate, or look for broken "
                        "values in the encoder's weights"
                    )
                return False
            run.step += 1
            log({"step": float(run.step), "loss": loss})
            bar.update()
    return True


def one_step(run: Run) -> float:
    """One update of the weights; the mean loss, over processes too."""
    args = run.args
    run.score.train()
    run.optimiser.zero_grad(set_to_none=True)
    total = 0.0
    for part in range(args.gradient_accumulation_steps):
        seed = [args.seed, run.step, part, run.accelerator.process_index]
        drawn = run.source.draw(run.groups, np.random.default_rng(seed), run.neighbours)
        total += _gradients(run, drawn, seed)
    for parameter in run.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad /= args.gradient_accumulation_steps
        if run.accelerator.num_processes > 1:
            parameter.grad = run.accelerator.reduce(parameter.grad, "mean")
    loss = torch.tensor(total / args.gradient_accumulation_steps, device=run.tower.device)
    value = float(run.accelerator.reduce(loss, "mean")) if run.accelerator.num_processes > 1 else float(loss)
    norm = torch.nn.utils.clip_grad_norm_(run.tower.parameters, args.max_grad_norm)
    if not math.isfinite(value) or not torch.isfinite(norm):
        return math.nan
    for group, rate in zip(run.optimiser.param_groups, run.rates, strict=True):
        group["lr"] = rate * pace(run.step, args)
    run.optimiser.step()
    return value


def pace(step: int, args: LoraSettings) -> float:
    """Learning rate over the run, in [0, 1]: a linear warm-up, then linearly down to 5 %."""
    return min(1.0, (step + 1) / (args.warmup_steps + 1)) * (1 - 0.95 * step / args.max_steps)


def _gradients(run: Run, step: Step, seed: list[int]) -> float:
    """Adds the step's gradient to every parameter's; the loss."""
    if run.args.cached_loss == "off" and run.step >= run.args.head_steps:
        rows = run.tower.with_graph(step.texts)
        loss = loss_of(run, step, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        run.encoded += len(step.texts)
        return float(loss.detach())
    places = torch.from_numpy(step.texts)
    fresh = run.args.cached_loss == "exact"
    early = run.step < run.args.head_steps
    leaf = (run.tower.encode(step.texts) if fresh and not early else run.bank[places].clone()).requires_grad_()
    loss = loss_of(run, step, leaf)
    loss.backward()  # type: ignore[no-untyped-call]
    if early or not torch.isfinite(loss):
        return float(loss.detach())
    assert leaf.grad is not None  # noqa: S101 - backward filled it
    rows = leaf.detach()
    along = leaf.grad - (leaf.grad * rows).sum(dim=1, keepdim=True) * rows  # rows stay unit: only this part acts
    if fresh:
        kept, weight = torch.arange(len(rows)), torch.ones(len(rows))
    else:
        generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(1 << 62)))
        kept, weight = draw_by_norm(along, run.args.gradient_texts, generator)
    texts, kept = step.texts[kept.numpy()], kept.to(along.device)
    encoded = run.tower.backward(texts, along[kept] * weight.to(along.device)[:, None])
    run.encoded += len(texts) + (len(step.texts) if fresh else 0)
    if not fresh:
        run.bank[torch.from_numpy(texts)] = encoded
    return float(loss.detach())


def loss_of(run: Run, step: Step, rows: Tensor) -> Tensor:
    """The loss of a step whose texts have these unit rows, (n_texts, dim)."""

    def there(array: Any) -> Tensor:
        return torch.from_numpy(array).to(rows.device)

    score = run.score(there(step.weights), rows[there(step.history)], rows[there(step.candidates)])
    targets = Targets(there(step.log_weight), there(step.person), there(step.column))
    loss = bce_loss(score, targets) if run.args.loss == "bce" else softmax_loss(score, targets)
    if run.args.pull_weight:
        loss = loss + run.args.pull_weight * (1 - (rows * run.base[there(step.texts)]).sum(dim=1)).mean()
    return loss


def checkpoint_of(run: Run, belongs: Mapping[str, Any]) -> Checkpoint:
    tensors = state(run) | {f"best/{n}": t for n, t in run.best.items()} | optimiser_state(run.optimiser, run.names)
    return Checkpoint(run.step, tensors, {**belongs, "history": run.history, "best_round": run.best_round})


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Put a run back to where a checkpoint was made."""
    from peft import set_peft_model_state_dict

    def under(head: str) -> dict[str, Tensor]:
        return {n.removeprefix(head): t for n, t in checkpoint.tensors.items() if n.startswith(head)}

    set_peft_model_state_dict(run.tower.model, under("adapter/"))
    run.score.load_state_dict(under("score/"))
    restore_optimiser(run.optimiser, run.names, checkpoint.tensors)
    run.step = checkpoint.step
    run.history = [dict(h) for h in checkpoint.record["history"]]
    run.best_round, run.best = int(checkpoint.record["best_round"]), under("best/")
