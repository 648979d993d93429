"""The folder of a run: configuration, data hash, versions, metrics of every step, checkpoints, and the model card.

checkpoints/step-000040/       state.safetensors, state.json
checkpoints/step-000060.tmp/   one that a kill interrupted; swept away
"""

from __future__ import annotations

import errno
import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from recllm.base.errors import ModelError
from recllm.base.files import sync_folder, write_whole
from recllm.base.schema import Encoder
from recllm.learn.training.arguments import LoraArguments
from recllm.shop.data.dataset import Dataset, utc

CONFIG, METRICS, CARD = "config.json", "metrics.jsonl", "card.txt"
CHECKPOINTS = "checkpoints"
_TENSORS, _RECORD = "state.safetensors", "state.json"
_LIBRARIES = ("recllm", "torch", "transformers", "peft", "accelerate", "datasets")


def belongs_to(dataset: Dataset, args: LoraArguments, base: str, base_hash: str) -> dict[str, Any]:
    """What a checkpoint must share with a run that goes on from it. How long to run may differ."""
    settings = args.model_dump(mode="json")
    for name in ("max_minutes", "resume_from_checkpoint", "report_to", "cache_mib", "patience"):
        settings.pop(name)
    return {
        "data_hash": dataset.data_hash(),
        "as_of": dataset.as_of,
        "base": base,
        "base_hash": base_hash,
        "arguments": json.loads(json.dumps(settings)),
    }


def run_folder_name(dataset: Dataset, encoder: Encoder, args: LoraArguments) -> str:
    """A name that equal data, encoder and settings share, so that an interrupted run is found again."""
    record = belongs_to(dataset, args, encoder.name, encoder.fingerprint)
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def same_run(record: Mapping[str, Any], belongs: Mapping[str, Any], folder: Path) -> None:
    """Raises `ModelError` naming what differs between a checkpoint and the run that would go on from it."""
    for name, value in belongs.items():
        if record.get(name) != value:
            raise ModelError(
                f"{folder} holds a checkpoint of another run ({name} differs); use another run folder, or begin again "
                "with resume_from_checkpoint=False"
            )


def begin_records(folder: Path, belongs: Mapping[str, Any], args: LoraArguments, step: int) -> None:
    """Write the configuration, and forget the metrics after `step`: a resumed run writes them again."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except ImportError:  # recllm run from a checkout
            versions[name] = "not installed"
    record = {**belongs, "arguments": args.model_dump(mode="json"), "seed": args.seed, "versions": versions}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    path = folder / METRICS
    if path.is_file():
        lines = [line for line in path.read_text("utf-8").splitlines() if line.endswith("}")]
        path.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def append_metrics(folder: Path, values: Mapping[str, float]) -> None:
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(values)) + "\n")


def write_card(
    folder: Path,
    dataset: Dataset,
    args: LoraArguments,
    base: str,
    licence: str,
    consent: str,
    best: Mapping[str, float],
) -> None:
    """What somebody needs to know before using the adapter."""
    at = dataset.events.at
    figures = "\n".join(f"  {name}: {value:.4f}" for name, value in best.items() if name.startswith("ndcg"))
    text = f"""\
Adapter of {base} for the texts of one shop
===========================================
Learned from   {len(at):,} events of {dataset.n_users:,} people on {dataset.n_items:,} items,
               {utc(int(at.min())):%Y-%m-%d} to {utc(int(at.max())):%Y-%m-%d}, data hash {dataset.data_hash()}
Consent        {consent}
Split          past windows of {args.horizon_days} days before {utc(dataset.as_of):%Y-%m-%d}; the latest only validates
Protocol       text alone: NDCG@20 over all items of the question, what the user bought before left out
Slices         arrival: items first sold in the window; new: items sold before it; next: the next item of an order log
{figures}
Loss           {args.loss}, rank {args.rank}, seed {args.seed}; every setting is in {CONFIG}
Encoder        {base}; licence: {licence}
Holds          changes to weights and no row of any person
Not for        texts of another shop or language than those it was learned from; decisions about people
"""
    (folder / CARD).write_text(text, encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A state of a run. On disk it is a folder of its own, which gets its name after its last byte was written.

    Not that of `accelerate`: it would hold the whole encoder beside the adapter, and pickles.
    """

    step: int
    tensors: Mapping[str, Tensor]
    """Adapter, score, optimiser moments, best adapter."""
    record: Mapping[str, Any]
    """History, and what the run belongs to."""


def save_checkpoint(checkpoint: Checkpoint, run_folder: Path) -> None:
    """Raises `ModelError` when the disk is full or not writable; the checkpoint before stays as it was."""
    from safetensors.torch import save

    folder = run_folder / CHECKPOINTS
    final = folder / f"step-{checkpoint.step:06d}"
    draft = final.with_suffix(".tmp")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write_whole(draft / _TENSORS, save({name: t.contiguous() for name, t in checkpoint.tensors.items()}))
        write_whole(draft / _RECORD, json.dumps({"step": checkpoint.step, **checkpoint.record}, indent=1))
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        words = "the disk is full; free some space" if full else f"{error.strerror}; check the folder's permissions"
        raise ModelError(
            f"cannot save step {checkpoint.step} in {folder}: {words}, and run this again to go on"
        ) from error
    for old in folder.glob("step-*"):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(run_folder: Path) -> Checkpoint | None:
    """The latest whole checkpoint, None where there is none. Raises `ModelError` for one that is damaged."""
    from safetensors.torch import load_file

    folders = sorted(p for p in (run_folder / CHECKPOINTS).glob("step-*") if p.suffix != ".tmp")
    if not folders:
        return None
    try:
        record = json.loads((folders[-1] / _RECORD).read_text("utf-8"))
        return Checkpoint(int(record["step"]), load_file(folders[-1] / _TENSORS), record)
    except Exception as error:  # safetensors has an error of its own for each kind of damage
        raise ModelError(f"{folders[-1]} is damaged ({error}); delete this folder to begin again") from error
