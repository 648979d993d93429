"""What both trainers need around a run: a random state of its own, one end for all processes, and an error for a full
disk."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recllm.base.errors import ModelError

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"


@contextmanager
def training_run(folder: Path) -> Iterator[None]:
    """A trainer seeds every generator of the process; the caller's are left as they were. Checkpoints of a run that was
    killed are removed. Raises `ModelError` for a folder that cannot be written."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what the trainer seeds
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        except OSError as error:
            raise ModelError(f"{folder} cannot be written ({error.strerror}); make room, and run this again") from error
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def finish_run(trainer: Any, folder: Path) -> None:
    """All processes have loaded the best state: the checkpoints go."""
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def any_process(trainer: Any, is_late: bool) -> bool:
    """Whether any process of a run is late: their clocks differ, and they have to stop together."""
    accelerator = trainer.accelerator
    if accelerator.num_processes == 1:
        return is_late
    return bool(accelerator.reduce(torch.tensor(float(is_late), device=accelerator.device), "sum") > 0)
