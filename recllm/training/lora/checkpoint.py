"""States of a run on disk: safetensors for numbers, JSON for the rest, written whole or not at all.

    checkpoints/step-000040/   state.safetensors, state.json
    checkpoints/step-000060.tmp/   one that a kill interrupted; swept away

A folder gets its name after its last byte is on the disk, and the one before it goes only then.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recllm.errors import ModelError

FOLDER = "checkpoints"
_TENSORS = "state.safetensors"
_RECORD = "state.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """tensors: adapter, score, optimiser moments, best adapter. record: step, seed, history and what it belongs to."""

    step: int
    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


def save_checkpoint(checkpoint: Checkpoint, run_folder: Path) -> None:
    """Raises `ModelError` when the disk is full or not writable; the checkpoint before stays as it was."""
    from safetensors.torch import save

    folder = run_folder / FOLDER
    final = folder / f"step-{checkpoint.step:06d}"
    draft = final.with_suffix(".tmp")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _write(draft / _TENSORS, save({name: t.contiguous() for name, t in checkpoint.tensors.items()}))
        record = {"step": checkpoint.step, **checkpoint.record}
        _write(draft / _RECORD, json.dumps(record, indent=1).encode())
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
        _sync(folder)
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

    folders = sorted(p for p in (run_folder / FOLDER).glob("step-*") if p.suffix != ".tmp")
    if not folders:
        return None
    try:
        record = json.loads((folders[-1] / _RECORD).read_text("utf-8"))
        return Checkpoint(int(record["step"]), load_file(folders[-1] / _TENSORS), record)
    except Exception as error:  # safetensors has an error of its own for each kind of damage
        raise ModelError(f"{folders[-1]} is damaged ({error}); delete this folder to begin again") from error


def optimiser_state(optimiser: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Moments and step counts of AdamW by the names of its parameters, in their order."""
    out: dict[str, Tensor] = {}
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in optimiser.state.get(parameter, {}).items():
            out[f"optimiser/{key}/{name}"] = value.detach().cpu().clone()
    return out


def restore_optimiser(optimiser: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """What `optimiser_state` gave, put back."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        state = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if (value := tensors.get(f"optimiser/{key}/{name}")) is not None:
                state[key] = value.clone() if key == "step" else value.to(parameter.device).clone()
        if state:
            optimiser.state[parameter] = state


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
