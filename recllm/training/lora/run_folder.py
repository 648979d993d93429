"""The record of a run: configuration, data hash, versions, metrics of every step, and the model card."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recllm.data.dataset import Dataset, utc
from recllm.errors import ModelError
from recllm.schema import Encoder
from recllm.settings import LoraSettings

CONFIG, METRICS, CARD = "config.json", "metrics.jsonl", "card.txt"
_LIBRARIES = ("recllm", "torch", "transformers", "peft", "accelerate", "datasets")


def belongs_to(dataset: Dataset, args: LoraSettings, base: str, base_hash: str) -> dict[str, Any]:
    """What a checkpoint must share with a run that goes on from it. How long to run may differ."""
    settings = args.model_dump(mode="json")
    for name in ("max_minutes", "resume_from_checkpoint", "report_to", "cache_mib", "save_steps", "patience"):
        settings.pop(name)
    return {
        "data_hash": dataset.data_hash(),
        "as_of": dataset.as_of,
        "base": base,
        "base_hash": base_hash,
        "arguments": json.loads(json.dumps(settings)),
    }


def run_folder_name(dataset: Dataset, encoder: Encoder, args: LoraSettings) -> str:
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


def write_config(folder: Path, belongs: Mapping[str, Any], args: LoraSettings) -> None:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except ImportError:  # recllm run from a checkout
            versions[name] = "not installed"
    record = {**belongs, "arguments": args.model_dump(mode="json"), "seed": args.seed, "versions": versions}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def cut_metrics(folder: Path, step: int) -> None:
    """Forget the lines after `step`: a resumed run writes them again."""
    path = folder / METRICS
    if path.is_file():
        lines = [line for line in path.read_text("utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def append_metrics(folder: Path, values: Mapping[str, float]) -> None:
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(values)) + "\n")


def write_card(
    folder: Path,
    dataset: Dataset,
    args: LoraSettings,
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
Split          past windows of {args.horizon_days} days before {utc(dataset.as_of):%Y-%m-%d}; the latest only judges
Protocol       text alone: NDCG@20 over all items of the question, what the person took before left out
Slices         arrival: items first sold in the window; new: items sold before it; next: the next item of an order log
{figures}
Loss           {args.loss}, rank {args.rank}, seed {args.seed}; every setting is in {CONFIG}
Encoder        {base}; licence: {licence}
Holds          changes to weights and no row of any person
Not for        texts of another shop or language than those it was learned from; decisions about people
"""
    (folder / CARD).write_text(text, encoding="utf-8")
