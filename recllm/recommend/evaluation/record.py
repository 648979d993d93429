"""The record of a run: what its figures came from, the file they are written to, and the lists of unfinished runs."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from recllm.base.errors import DataError
from recllm.base.files import whole_file, write_whole
from recllm.recommend.evaluation.protocols import RankedLists
from recllm.text.encoder.hardware import usable_cores

logger = logging.getLogger("recllm.evaluation")

PACKAGE = Path(__file__).resolve().parents[2]
LIBRARIES = ("recllm", "numpy", "scipy", "polars", "torch", "transformers", "lightgbm", "implicit")
"""Libraries that can move a figure."""


def provenance() -> dict[str, Any]:
    """What every record holds: the commit (None without a checkout), the machine, the versions of libraries."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "recllm")),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hash_scheme": "sha256-columns",
        "hardware": {"cores": usable_cores(), "machine": platform.machine(), "system": platform.system()},
        "versions": versions(),
    }


def versions(*others: str) -> dict[str, str]:
    """Of Python, of `LIBRARIES` and of other packages, as far as they are installed."""
    numbers = {"python": platform.python_version()}
    for name in (*LIBRARIES, *others):
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers


def _git(*arguments: str) -> str | None:
    git = which("git")
    if git is None or not (PACKAGE.parent / ".git").exists():
        return None
    command = [git, "-C", str(PACKAGE.parent), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return process.stdout.strip() if process.returncode == 0 else None


def write_record(record: Mapping[str, Any], path: str | Path) -> None:
    """As JSON. Raises `ValueError` for a NaN, which is no JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def run_key(**parts: Any) -> str:
    """Hash of everything that a system's lists depend on: `parts`, the versions and the source of `recllm`."""
    source = sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        source.update(file.read_bytes())
    return sha256(json.dumps([parts, versions(), source.hexdigest()], default=str).encode()).hexdigest()


def save_lists(path: Path, key: str, seconds: float, lists: Mapping[str, RankedLists]) -> None:
    """What a system answered on each slice. The file appears whole or not at all."""
    columns: dict[str, Any] = {"key": np.array(key), "seconds": np.array(seconds)}
    for name, answer in lists.items():
        columns[f"{name} items"] = answer.items
        columns[f"{name} figures"] = np.array(json.dumps(dict(answer.figures)))
        if answer.probabilities is not None:
            columns[f"{name} probabilities"] = answer.probabilities
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.savez_compressed(file, **columns)


def load_lists(path: Path, key: str) -> tuple[float, dict[str, RankedLists]] | None:
    """Seconds and lists as saved; None where there is no file, or one of another run. Raises `DataError` for a file
    that holds something else."""
    if not path.exists():
        return None
    try:
        return _saved_lists(path, key)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: no lists that an evaluation saved ({error}); remove it, and they are made again"
        ) from error


def _saved_lists(path: Path, key: str) -> tuple[float, dict[str, RankedLists]] | None:
    with np.load(path, allow_pickle=False) as columns:
        if str(columns["key"]) != key:
            return None
        lists = {}
        for name in (c.removesuffix(" items") for c in columns.files if c.endswith(" items")):
            probabilities = columns[f"{name} probabilities"] if f"{name} probabilities" in columns.files else None
            figures = json.loads(str(columns[f"{name} figures"]))
            lists[name] = RankedLists(columns[f"{name} items"], probabilities, figures)
        return float(columns["seconds"]), lists
