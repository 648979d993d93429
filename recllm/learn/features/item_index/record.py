"""The record in the folder of an item index: what made the vectors, and the size and SHA-256 of each file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recllm.base.documents import json_value
from recllm.base.errors import ModelError
from recllm.base.files import write_whole

ABOUT = "index.json"
FORMAT = 1


def vectors_fingerprint(encoder_fingerprint: str, state: str | None, locale: str) -> str:
    """Of what made item vectors: an encoder with its adapter, and the serving state, whose prices are in them."""
    return hashlib.sha256(json.dumps([encoder_fingerprint, state, locale]).encode()).hexdigest()


def write_about(folder: Path, about: Mapping[str, Any], files: Iterable[str]) -> None:
    """Write what the folder of an index says of it, last of all: a folder without it is not complete."""
    sizes = {name: [(folder / name).stat().st_size, _sha256(folder / name)] for name in files}
    write_whole(folder / ABOUT, json.dumps({"format": FORMAT, **about, "files": sizes}, indent=1) + "\n")


def read_about(folder: Path) -> dict[str, Any]:
    """What the folder of an index says of it, every byte of its files checked.

    Raises `ModelError` where it is missing, of another format, or a file is missing, truncated or changed.
    """
    remedy = "build it again with: recllm refresh --index"
    try:
        about = json_value((folder / ABOUT).read_text("utf-8"))
        if about["format"] != FORMAT:
            raise ModelError(f"{folder}: an item index of format {about['format']}, not {FORMAT}; {remedy}")
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in about["files"].items()}
        _ = (str(about["kind"]), str(about["fingerprint"]), int(about["dim"]))
    except FileNotFoundError as error:
        raise ModelError(f"there is no item index in {folder}; {remedy}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / ABOUT} is damaged ({error}); {remedy}") from error
    for name, (size, digest) in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ModelError(f"{path}: a file of the item index is missing; {remedy}")
        if path.stat().st_size != size:
            raise ModelError(f"{path}: {path.stat().st_size} bytes instead of {size}; {remedy}")
        if _sha256(path) != digest:
            raise ModelError(f"{path} was changed after it was written; {remedy}")
    return dict(about)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
