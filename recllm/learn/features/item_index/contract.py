"""What every item index can do, and what its folder says of it.

An index holds unit vectors of items and nothing else: whoever searches brings a vector, and it is not kept. Its folder
names the fingerprint of what made the vectors (`vectors_fingerprint`), the size of each file and its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.documents import json_value
from recllm.base.errors import ModelError
from recllm.base.files import write_whole
from recllm.base.settings import IndexKind

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Allowed = Iterable[str] | NDArray[np.bool_]
"""Ids of items, or a mask over the rows of an index; a condition on the catalogue becomes a mask by
`recllm.shop.data.catalogue.allowed_items`."""

ABOUT = "index.json"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class NearestItems:
    """The best items of n queries, best first; of equal ones the lower row."""

    rows: Ints
    """(n, k), rows of the index; -1 behind the last item that is allowed."""
    cosine: Floats
    """(n, k), inner product of the query and the item's unit vector, so the cosine of a unit query; NaN at -1."""


class ItemIndex(Protocol):
    """Item vectors and what is nearest to a query among them.

    Each item has a row, which it keeps until it is deleted; the row of a deleted item stays empty, and new items get
    rows behind all others.
    """

    dim: int
    fingerprint: str

    @property
    def kind(self) -> IndexKind:
        """How it is looked up."""

    def __len__(self) -> int:
        """Items in it."""

    @property
    def item_ids(self) -> pl.Series:
        """Id of each row, (n_rows,), null where the item was deleted."""

    def search(self, queries: Floats, k: int, allowed: Allowed | None = None) -> NearestItems:
        """The `k` best items for each query, (n, dim), or (dim,) for one.

        With a filter never fewer than there are: min(k, items that are allowed). Unknown ids are passed over. Raises
        `UsageError` for queries or masks of another shape, numbers that are not finite, and a `k` below 1.
        """

    def upsert(self, item_ids: Iterable[str], vectors: Floats) -> None:
        """Add items, or exchange the vectors of those that are there. Of an id that comes twice the last one counts.

        vectors: unit rows, (n, dim), which may be kept without a copy. Raises `UsageError` for others.
        """

    def delete(self, item_ids: Iterable[str]) -> int:
        """Take items out; unknown ids are passed over. Returns how many are gone."""

    def vectors_of(self, rows: Ints) -> Floats:
        """The vectors of these rows as they were given, (n, dim)."""

    def save(self, folder: Path) -> None:
        """Write it into an existing folder, for `recllm.learn.features.item_index.opening.open_index`."""

    def close(self) -> None:
        """Let go of files and connections."""


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
