"""LoRA on a causal language model with a shop's approved copy: it learns how the shop opens a text.

    tuned = tune_generator(learn, judge, folder, out)      # Pairs of a prompt and the line that a person wrote
    LocalGenerator(folder, adapter=tuned.folder)

Only the line and its end are learned (completion-only loss); the prompt is read. After each epoch the lines held back
give the perplexity exp(mean negative log likelihood per token), and the best epoch is kept. A run that was interrupted
goes on after its last whole epoch, and is then the run that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recllm.encoder.adapters import AdapterSpec, adapter_state, attach, save_adapter
from recllm.errors import DataError
from recllm.generator.causal import base_hash, load_causal, rendered
from recllm.generator.locate import RECORD
from recllm.settings import CopywriterSettings
from recllm.training.lora.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimiser_state,
    restore_optimiser,
    save_checkpoint,
)
from recllm.training.lora.run_folder import append_metrics, cut_metrics, same_run

Progress = Callable[[str], None]
_IGNORED = -100


class Example(Protocol):
    """A prompt and the line that was written for it."""

    @property
    def prompt(self) -> str: ...

    @property
    def hook(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class TunedGenerator:
    folder: Path
    """The adapter."""
    perplexity: tuple[float, ...]
    """Of the held-back lines, before the first epoch and after each."""
    learned: int
    judged: int
    seconds: float


@dataclass(eq=False)
class _Run:
    model: Any
    optimiser: torch.optim.Optimizer
    accelerator: Any
    args: CopywriterSettings
    learn: list[tuple[list[int], list[int]]]
    """(ids, labels) of each example."""
    judge: list[tuple[list[int], list[int]]]
    epoch: int = 0
    perplexity: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [name for name, p in self.model.named_parameters() if p.requires_grad]

    @property
    def parameters(self) -> list[Any]:
        return [p for p in self.model.parameters() if p.requires_grad]


def tune_generator(
    learn: Sequence[Example],
    judge: Sequence[Example],
    base: str | Path,
    out: str | Path,
    args: CopywriterSettings | None = None,
    *,
    progress: Progress | None = None,
) -> TunedGenerator:
    """Trains an adapter for the causal model in `base` and writes it to `out`, with the record of the run.

    Raises `DataError` without examples on either side, `ModelError` for a model that takes no adapter, or a checkpoint
    in `out` of other data, settings or weights.
    """
    args, base, out = args or CopywriterSettings(), Path(base), Path(out)
    began, tell = time.monotonic(), progress or (lambda _: None)
    belongs: dict[str, Any] = {
        "data": _digest(learn, judge),
        "base": base_hash(base),
        "arguments": args.model_dump(mode="json"),
    }
    run, spec = _prepared(learn, judge, base, belongs["base"], args)
    _resume(run, out, belongs)
    _train(run, out, belongs, tell, began)
    if run.accelerator.is_main_process:
        save_adapter(run.best, spec, out)
        record = {**belongs, "languages": list(args.languages), "perplexity": run.perplexity, "best": _best(run)}
        (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    run.accelerator.wait_for_everyone()
    return TunedGenerator(
        folder=out,
        perplexity=tuple(run.perplexity),
        learned=len(run.learn),
        judged=len(run.judge),
        seconds=time.monotonic() - began,
    )


def _prepared(
    learn: Sequence[Example], judge: Sequence[Example], base: Path, weights: str, args: CopywriterSettings
) -> tuple[_Run, AdapterSpec]:
    """The model with a fresh adapter, its optimiser, and the examples as tokens."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    tokenizer, model = load_causal(base, str(accelerator.device))
    spec = _spec(model, base, weights, args)
    wrapped = _trainable(attach(model, spec, seed=args.seed))
    optimiser = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=args.learning_rate)
    sides = [_examples(side, tokenizer, args, part) for side, part in ((learn, 1.0), (judge, 0.2))]
    if not all(sides):
        raise DataError("there must be lines to learn from and lines to judge by; give more approved copy")
    return _Run(wrapped, optimiser, accelerator, args, learn=sides[0], judge=sides[1]), spec


def perplexity(model: Any, examples: Sequence[tuple[list[int], list[int]]], batch: int) -> float:
    """exp of the mean negative log likelihood per learned token, above 1."""
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for some in _batches(sorted(examples, key=lambda e: len(e[0])), batch):
            loss, tokens = _loss(model, some)
            total, count = total + float(loss), count + tokens
    return math.exp(total / count)


def perplexity_of(folder: str | Path, pairs: Sequence[Example], *, adapter: str | Path | None = None) -> float:
    """The perplexity of a model on disk, with or without an adapter, on the lines of `pairs`."""
    tokenizer, model = load_causal(Path(folder), "cpu", adapter=Path(adapter) if adapter else None)
    examples = [e for pair in pairs if (e := _example(pair, tokenizer, CopywriterSettings().max_tokens))]
    return perplexity(model, examples, 16)


def _train(run: _Run, out: Path, belongs: dict[str, Any], tell: Progress, began: float) -> None:
    if not run.perplexity:
        run.perplexity.append(perplexity(run.model, run.judge, run.args.batch_size))
        tell(f"perplexity of the held-back lines {run.perplexity[0]:.2f}")
    first = run.epoch
    while run.epoch < run.args.epochs and not _late(run, first, began):
        loss = _epoch(run)
        run.epoch += 1
        run.perplexity.append(perplexity(run.model, run.judge, run.args.batch_size))
        if run.perplexity[-1] <= min(run.perplexity[1:]):
            run.best = adapter_state(run.model)
        tell(f"epoch {run.epoch}: loss {loss:.3f}, perplexity of the held-back lines {run.perplexity[-1]:.2f}")
        if run.accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            append_metrics(out, {"step": run.epoch, "loss": loss, "perplexity": run.perplexity[-1]})
            save_checkpoint(_checkpoint(run, belongs), out)


def _late(run: _Run, first: int, began: float) -> bool:
    """True when another epoch at the pace so far would end after the minutes that the run has."""
    spent, made = time.monotonic() - began, run.epoch - first
    late = float(bool(made and run.args.max_minutes and spent * (made + 1) / made > 60 * run.args.max_minutes))
    if run.accelerator.num_processes > 1:  # their clocks differ, and they have to stop together
        late = float(run.accelerator.reduce(torch.tensor(late, device=run.accelerator.device), "sum"))
    return late > 0


def _epoch(run: _Run) -> float:
    """One pass over the examples in an order drawn from (seed, epoch); the mean loss per token."""
    order = np.random.default_rng([run.args.seed, run.epoch]).permutation(len(run.learn))
    whole = run.args.batch_size * run.accelerator.num_processes
    steps = math.ceil(len(order) / whole)
    total, count = 0.0, 0
    run.model.train()
    for step in range(steps):
        mine = order[step * whole : (step + 1) * whole][run.accelerator.process_index :: run.accelerator.num_processes]
        loss, tokens = _loss(run.model, [run.learn[i] for i in mine])
        run.optimiser.zero_grad(set_to_none=False)
        (loss / max(1, tokens)).backward()  # type: ignore[no-untyped-call]
        _share_gradients(run)
        torch.nn.utils.clip_grad_norm_(run.parameters, run.args.max_grad_norm)
        for group in run.optimiser.param_groups:
            group["lr"] = run.args.learning_rate * _pace(run.epoch * steps + step, steps, run.args)
        run.optimiser.step()
        total, count = total + float(loss.detach()), count + tokens
    return total / max(1, count)


def _pace(step: int, steps: int, args: CopywriterSettings) -> float:
    """Learning rate over the run, in [0, 1]: a linear warm-up, then linearly down to 5 %."""
    return min(1.0, (step + 1) / (args.warmup_steps + 1)) * (1 - 0.95 * step / (steps * args.epochs))


def _share_gradients(run: _Run) -> None:
    if run.accelerator.num_processes > 1:
        for parameter in run.parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = run.accelerator.reduce(gradient, "mean")


def _loss(model: Any, examples: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, int]:
    """(summed negative log likelihood, number) of the learned tokens; (0, 0) for no examples."""
    if not examples:
        return sum(p.sum() for p in model.parameters() if p.requires_grad) * 0.0, 0
    width = max(len(ids) for ids, _ in examples)
    device = next(model.parameters()).device
    ids, labels = (
        torch.tensor([e[side] + [fill] * (width - len(e[side])) for e in examples], device=device)
        for side, fill in ((0, 0), (1, _IGNORED))
    )
    mask = torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i, _ in examples], device=device)
    learned = labels[:, 1:] != _IGNORED
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.autocast(device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        hidden = inner.base_model(input_ids=ids, attention_mask=mask)[0][:, :-1]  # (examples, width - 1, dim)
        logits = inner.get_output_embeddings()(hidden[learned])  # of the learned tokens alone: a third of the work
    loss = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][learned], reduction="sum")
    return loss, int(learned.sum())


def _batches(examples: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def _examples(side: Sequence[Example], tokenizer: Any, args: CopywriterSettings, part: float) -> list[Any]:
    """The examples that fit, or as many drawn from them as the settings allow this side."""
    fit = [e for pair in side if (e := _example(pair, tokenizer, args.max_tokens))]
    if args.max_examples is None:
        return fit
    order = np.random.default_rng(args.seed).permutation(len(fit))[: max(1, int(args.max_examples * part))]
    return [fit[i] for i in sorted(order)]


def _spec(model: Any, base: Path, weights: str, args: CopywriterSettings) -> AdapterSpec:
    depth = int(model.config.num_hidden_layers)
    whole = args.top_layers is None or args.top_layers >= depth
    return AdapterSpec(
        rank=args.rank,
        alpha=args.alpha,
        model_type=model.config.model_type,
        base=base.name,
        base_hash=weights,
        layers=None if whole else tuple(range(depth - (args.top_layers or 0), depth)),
    )


def _example(pair: Example, tokenizer: Any, longest: int) -> tuple[list[int], list[int]] | None:
    """(ids, labels): the prompt's tokens are not learned, the line's and the end are; None where it is too long."""
    asked = tokenizer(rendered(pair.prompt, tokenizer), add_special_tokens=False)["input_ids"]
    line = [*tokenizer(pair.hook, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return ([*asked, *line], [*[_IGNORED] * len(asked), *line]) if len(asked) + len(line) <= longest else None


def _trainable(model: Any) -> Any:
    """The adapter in float32, so that small steps are not rounded away; the base stays in its own precision."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _checkpoint(run: _Run, belongs: dict[str, Any]) -> Checkpoint:
    now = {f"adapter/{name}": tensor for name, tensor in adapter_state(run.model).items()}
    best = {f"best/{name}": tensor for name, tensor in run.best.items()}
    tensors = now | best | optimiser_state(run.optimiser, run.names)
    return Checkpoint(run.epoch, tensors, {**belongs, "perplexity": run.perplexity})


def _resume(run: _Run, out: Path, belongs: dict[str, Any]) -> None:
    from peft import set_peft_model_state_dict

    checkpoint = load_checkpoint(out)
    if checkpoint is None:
        return
    same_run(checkpoint.record, belongs, out)
    now, best = (
        {name.removeprefix(head): t for name, t in checkpoint.tensors.items() if name.startswith(head)}
        for head in ("adapter/", "best/")
    )
    set_peft_model_state_dict(run.model, now)
    restore_optimiser(run.optimiser, run.names, checkpoint.tensors)
    run.epoch, run.perplexity, run.best = checkpoint.step, list(checkpoint.record["perplexity"]), best
    if run.accelerator.is_main_process:
        cut_metrics(out, run.epoch)


def _best(run: _Run) -> int:
    """The epoch that was kept, from 1."""
    after = run.perplexity[1:]
    return 1 + after.index(min(after))


def _digest(learn: Sequence[Example], judge: Sequence[Example]) -> str:
    told = [[(x.prompt, x.hook) for x in side] for side in (learn, judge)]
    return sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()
