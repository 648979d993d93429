"""The folder of a run: configuration with data hash and versions, metrics, and the checkpoints of its trainer."""

from __future__ import annotations

import hashlib
import json
import platform
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recllm.base.errors import ModelError
from recllm.base.files import write_whole
from recllm.base.schema import Encoder
from recllm.learn.training.arguments import LoraArguments
from recllm.shop.data.dataset import Dataset

CONFIG, METRICS = "config.json", "metrics.jsonl"
CHECKPOINTS, RUN = "checkpoints", "run.json"
_LIBRARIES = ("recllm", "torch", "transformers", "sentence-transformers", "peft", "accelerate", "datasets")


def belongs_to(dataset: Dataset, args: LoraArguments, base: str, base_hash: str) -> dict[str, Any]:
    """What a checkpoint must share with a run that goes on from it. How long to run may differ."""
    settings = args.model_dump(mode="json", exclude={"max_minutes", "resume_from_checkpoint", "report_to", "patience"})
    return {
        "data_hash": dataset.data_hash(),
        "as_of": dataset.as_of,
        "base": base,
        "base_hash": base_hash,
        "arguments": settings,
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


def last_checkpoint(folder: Path, belongs: Mapping[str, Any], *, resume: bool = True) -> Path | None:
    """The last complete checkpoint of this run, None for a new one. A trainer writes the state last, so a checkpoint
    without it is incomplete and is removed. Raises `ModelError` for checkpoints of another run."""
    checkpoints = folder / CHECKPOINTS
    if not resume or not (checkpoints / RUN).is_file():
        shutil.rmtree(checkpoints, ignore_errors=True)
        return None
    same_run(json.loads((checkpoints / RUN).read_text(encoding="utf-8")), belongs, folder)
    complete = []
    for checkpoint in sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            complete.append(checkpoint)
        except (OSError, ValueError):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return complete[-1] if complete else None


def write_belongs(folder: Path, belongs: Mapping[str, Any]) -> None:
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_whole(folder / CHECKPOINTS / RUN, json.dumps(belongs) + "\n")


@contextmanager
def random_state_restored() -> Iterator[None]:
    """A trainer seeds every generator of the process; the caller's are left as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what the trainer seeds
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def any_process(trainer: Any, is_late: bool) -> bool:
    """Whether any process of a run is late: their clocks differ, and they have to stop together."""
    accelerator = trainer.accelerator
    if accelerator.num_processes == 1:
        return is_late
    return bool(accelerator.reduce(torch.tensor(float(is_late), device=accelerator.device), "sum") > 0)


def write_records(folder: Path, belongs: Mapping[str, Any], args: LoraArguments, history: Iterable[Any]) -> None:
    """The configuration, and the metrics of every step as lines of JSON."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except ImportError:  # recllm run from a checkout
            versions[name] = "not installed"
    record = {**belongs, "arguments": args.model_dump(mode="json"), "seed": args.seed, "versions": versions}
    write_whole(folder / CONFIG, json.dumps(record, indent=2) + "\n")
    write_whole(folder / METRICS, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in history))
