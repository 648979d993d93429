"""From a log and an encoder to an encoder that knows what its people buy.

tuned = tune_encoder(dataset, "sentence-transformers/all-MiniLM-L6-v2", LoraSettings(), run_folder)
vectors = item_vectors(tuned.encoder, dataset)
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recllm.data.dataset import Dataset
from recllm.data.interactions import Floats
from recllm.encoder.adapters import save_adapter, targets_of
from recllm.encoder.batches import distinct
from recllm.encoder.cache import CachedEncoder
from recllm.encoder.huggingface import HuggingFaceEncoder
from recllm.encoder.loading import load_encoder, with_adapter
from recllm.errors import DataError, ModelError
from recllm.schema import Encoder
from recllm.settings import LoraSettings
from recllm.text.items import item_texts
from recllm.training.lora.examples import ALONE, FirstPurchases, purchases, write_examples
from recllm.training.lora.loop import LoraRun, train
from recllm.training.lora.objective import SetScore
from recllm.training.lora.run_folder import (
    append_metrics,
    belongs_to,
    cut_metrics,
    load_checkpoint,
    same_run,
    save_checkpoint,
    write_card,
    write_config,
)
from recllm.training.lora.steps import ExampleGroup, ExampleSource
from recllm.training.lora.tower import Tower, check_device
from recllm.training.lora.validation import ValidationSet

ADAPTER = "adapter"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class TunedEncoder:
    """What fine-tuning gave. scale, gain, prior and bias are tau, g, v and b of `recllm.training.lora.objective`."""

    encoder: Encoder
    """The base with the adapter merged, behind the same cache as the base."""
    adapter: Path
    """The adapter's folder."""
    scale: float
    gain: float
    prior: Floats
    """(dim,)."""
    bias: float
    metrics: Mapping[str, float]
    """Of the validation users, with the adapter; they chose the round, so the figures are somewhat too good."""
    base_metrics: Mapping[str, float]
    """The same of the untuned encoder."""
    history: Sequence[Mapping[str, float]]
    """One entry per round."""
    seconds: float


def tune_encoder(
    dataset: Dataset,
    encoder: Encoder | str | Path,
    arguments: LoraSettings | None = None,
    run_folder: str | Path = "run",
    progress: Callable[[str], None] | None = None,
    *,
    locale: str = "en",
    cache_dir: str | Path | None = None,
    licence: str = "see the encoder's own card",
    consent: str = "stated by the caller's data",
) -> TunedEncoder:
    """LoRA on past windows of the log; everything is learned from events before `dataset.as_of`.

    encoder: a name, or an encoder that `load_encoder` gave. run_folder: gets config.json, metrics.jsonl, card.txt,
    checkpoints while it runs, and adapter/. licence, consent: sentences of the card. Raises `DataError` when there is
    too little to learn from, or no text; `ModelError` for an encoder that takes no adapter, a device that is not there,
    or a checkpoint that cannot be written or belongs to another run.
    """
    began, args, folder = time.monotonic(), arguments or LoraSettings(), Path(run_folder)
    tell = progress or logger.info
    base = load_encoder(encoder, cache_dir=cache_dir) if isinstance(encoder, str | Path) else encoder
    plain = trainable(base)
    device = check_device(args.device)
    run = prepare(dataset, base, plain, args, folder, device, locale, tell)
    belongs = belongs_to(dataset, args, plain.weights.name, plain.base_hash)
    main = run.accelerator.is_main_process
    checkpoint = load_checkpoint(folder) if args.resume_from_checkpoint else None
    if checkpoint is not None:
        same_run(checkpoint.record, belongs, folder)
        run.restore(checkpoint)
    if main:
        write_config(folder, belongs, args)
        cut_metrics(folder, run.step)

    def log(values: Mapping[str, float]) -> None:
        if main:
            append_metrics(folder, values)
        run.accelerator.log(dict(values), step=int(values["step"]))

    def save(run: LoraRun) -> None:
        if main:
            save_checkpoint(run.checkpoint(belongs), folder)

    train(run, tell, save, log)
    run.accelerator.end_training()
    if main:
        adapter = {n.removeprefix("adapter/"): t for n, t in run.best.items() if n.startswith("adapter/")}
        save_adapter(adapter, run.tower.spec, folder / ADAPTER)
        write_card(folder, dataset, run.args, run.tower.spec.base, licence, consent, run.history[run.best_round])
        shutil.rmtree(folder / "examples", ignore_errors=True)
    run.accelerator.wait_for_everyone()
    return TunedEncoder(
        encoder=with_adapter(base, folder / ADAPTER),
        adapter=folder / ADAPTER,
        scale=float(run.best["score/log_scale"].exp()),
        gain=float(run.best["score/log_gain"].exp()),
        prior=run.best["score/prior"].numpy(),
        bias=float(run.best["score/bias"]),
        metrics=run.history[run.best_round],
        base_metrics=run.history[0],
        history=tuple(run.history),
        seconds=time.monotonic() - began,
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


def prepare(
    dataset: Dataset,
    base: Encoder,
    plain: HuggingFaceEncoder,
    args: LoraSettings,
    folder: Path,
    device: str,
    locale: str,
    tell: Callable[[str], None],
) -> LoraRun:
    """Examples, base vectors, the wrapped model and the validation set of a run."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu", log_with=list(args.report_to) or None, project_dir=str(folder))
    if args.report_to:
        accelerator.init_trackers("recllm")
    texts, inverse = distinct(item_texts(dataset.items, locale))
    if len(texts) < 2:
        raise DataError(f"no item has a text that tells it from another, so there is nothing to fine-tune on; {ALONE}")
    path = folder / "examples" / f"{accelerator.process_index}.arrow"
    table = write_examples(dataset, args, path)
    purchased = FirstPurchases.of(purchases(dataset), dataset.n_items)
    source = ExampleSource(table, purchased, inverse.astype(np.int64), args)
    held_out, learned = hold_out(source.groups(), args)
    validation = ValidationSet.of(source, held_out, args.validation_users, np.random.default_rng([args.seed, 0]))
    counts = f"{sum(len(g.rows) for g in learned):,} examples in {len({g.start for g in learned})} windows"
    tell(f"{counts}, {len(texts):,} distinct texts")
    rows = torch.from_numpy(base.encode(texts)).to(device)
    trained = HuggingFaceEncoder(
        plain.weights, max_tokens=plain.limit, prompts=plain.prompts, device=device, progress=False
    )
    tower, score = Tower(trained, texts, args), SetScore(plain.dim, args.scale, args.gain, prior=args.prior).to(device)
    return LoraRun(tower, score, source, learned, validation, rows, args, accelerator)


def hold_out(groups: list[ExampleGroup], args: LoraSettings) -> tuple[list[ExampleGroup], list[ExampleGroup]]:
    """Whole windows, latest first, for validation until they hold `validation_users`, or a tenth of all; the others to
    learn from."""
    size = min(args.validation_users, sum(len(g.rows) for g in groups) / 10)
    validation: list[ExampleGroup] = []
    for start in sorted({g.start for g in groups}, reverse=True):
        if sum(len(g.rows) for g in validation) >= size:
            break
        validation += [g for g in groups if g.start == start]
    learned = [g for g in groups if g not in validation]
    if not learned or not validation:
        raise DataError(f"only one past window holds anything to learn from, and fine-tuning needs two; {ALONE}")
    return validation, learned
