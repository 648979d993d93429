"""From a log and an encoder to an encoder that knows what its people buy.

tuned = tune_encoder(dataset, "sentence-transformers/all-MiniLM-L6-v2", LoraSettings(), run_folder)
vectors = item_vectors(tuned.encoder, dataset)
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from recllm.training.lora.checkpoint import load_checkpoint, save_checkpoint
from recllm.training.lora.examples import ALONE, Takings, purchases, write_examples
from recllm.training.lora.judge import Judge
from recllm.training.lora.loop import Run, checkpoint_of, restore, train
from recllm.training.lora.objective import SetScore
from recllm.training.lora.run_folder import append_metrics, belongs_to, cut_metrics, same_run, write_card, write_config
from recllm.training.lora.steps import Group, Source
from recllm.training.lora.tower import Tower, check_device

ADAPTER = "adapter"


@dataclass(frozen=True, eq=False, kw_only=True)
class TunedEncoder:
    """encoder: the base with the adapter merged, behind the same cache as the base. adapter: its folder.

    scale, gain, prior, bias: tau, g, v (dim,) and b of `recllm.training.lora.objective`. metrics: the judges' verdict
    on
    the kept state; base_metrics: on the untuned encoder. history: one entry per round.
    """

    encoder: Encoder
    adapter: Path
    scale: float
    gain: float
    prior: Floats
    bias: float
    metrics: Mapping[str, float]
    base_metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
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
    tell = progress or (lambda _: None)
    base = load_encoder(encoder, cache_dir=cache_dir) if isinstance(encoder, str | Path) else encoder
    plain = trainable(base)
    device = check_device(args.device)
    run = prepare(dataset, base, plain, args, folder, device, locale, tell)
    belongs = belongs_to(dataset, args, plain.weights.name, plain.base_hash)
    main = run.accelerator.is_main_process
    _resume(run, belongs, folder)
    if main:
        write_config(folder, belongs, args)
        cut_metrics(folder, run.step)

    def log(values: Mapping[str, float]) -> None:
        if main:
            append_metrics(folder, values)
        run.accelerator.log(dict(values), step=int(values["step"]))

    def save(run: Run) -> None:
        if main:
            save_checkpoint(checkpoint_of(run, belongs), folder)

    train(run, tell, save, log)
    run.accelerator.end_training()
    if main:
        _write_outcome(run, folder, dataset, licence, consent)
    run.accelerator.wait_for_everyone()
    return _outcome(run, with_adapter(base, folder / ADAPTER), folder / ADAPTER, time.monotonic() - began)


def _write_outcome(run: Run, folder: Path, dataset: Dataset, licence: str, consent: str) -> None:
    adapter = {n.removeprefix("adapter/"): t for n, t in run.best.items() if n.startswith("adapter/")}
    save_adapter(adapter, run.tower.spec, folder / ADAPTER)
    write_card(folder, dataset, run.args, run.tower.spec.base, licence, consent, run.history[run.best_round])
    shutil.rmtree(folder / "examples", ignore_errors=True)


def _outcome(run: Run, encoder: Encoder, adapter: Path, seconds: float) -> TunedEncoder:
    return TunedEncoder(
        encoder=encoder,
        adapter=adapter,
        scale=float(run.best["score/log_scale"].exp()),
        gain=float(run.best["score/log_gain"].exp()),
        prior=run.best["score/prior"].numpy(),
        bias=float(run.best["score/bias"]),
        metrics=run.history[run.best_round],
        base_metrics=run.history[0],
        history=tuple(run.history),
        seconds=seconds,
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
) -> Run:
    """Examples, base vectors, the wrapped model and the judges of a run."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu", log_with=list(args.report_to) or None, project_dir=str(folder))
    if args.report_to:
        accelerator.init_trackers("recllm")
    texts, inverse = distinct(item_texts(dataset.items, locale))
    if len(texts) < 2:
        raise DataError(f"no item has a text that tells it from another, so there is nothing to fine-tune on; {ALONE}")
    path = folder / "examples" / f"{accelerator.process_index}.arrow"
    table = write_examples(dataset, args, path)
    takings = Takings.of(purchases(dataset), dataset.n_items)
    source = Source(table, takings, inverse.astype(np.int64), args)
    judged, learned = hold_out(source.groups(), args)
    judge = Judge.of(source, judged, args.validation_users, np.random.default_rng([args.seed, 0]))
    counts = f"{sum(len(g.rows) for g in learned):,} examples in {len({g.start for g in learned})} windows"
    tell(f"{counts}, {len(texts):,} distinct texts")
    rows = torch.from_numpy(base.encode(texts)).to(device)
    copy = HuggingFaceEncoder(
        plain.weights, max_tokens=plain.limit, prompts=plain.prompts, device=device, progress=False
    )
    tower, score = Tower(copy, texts, args), SetScore(plain.dim, args.scale, args.gain, prior=args.prior).to(device)
    return Run(tower, score, source, learned, judge, rows, args, accelerator)


def hold_out(groups: list[Group], args: LoraSettings) -> tuple[list[Group], list[Group]]:
    """Whole windows, latest first, for validation until they hold `validation_users` or a tenth; the rest to learn."""
    wanted = min(args.validation_users, sum(len(g.rows) for g in groups) / 10)
    judged: list[Group] = []
    for start in sorted({g.start for g in groups}, reverse=True):
        if sum(len(g.rows) for g in judged) >= wanted:
            break
        judged += [g for g in groups if g.start == start]
    learned = [g for g in groups if g not in judged]
    if not learned or not judged:
        raise DataError(f"only one past window holds anything to learn from, and fine-tuning needs two; {ALONE}")
    return judged, learned


def _resume(run: Run, belongs: Mapping[str, Any], folder: Path) -> None:
    found = load_checkpoint(folder) if run.args.resume_from_checkpoint else None
    if found is not None:
        same_run(found.record, belongs, folder)
        restore(run, found)
