"""What an index proposes to the rows of a catalogue, and the folder that it is opened from.

An index is built whole, of the unit vectors of one serving state, whose rows are its numbers. It only proposes: the
caller compares the exact vectors of what is proposed, and all vectors where nothing is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from recllm.base.arrays import Floats, Ints, Mask
from recllm.base.documents import json_value
from recllm.base.errors import ModelError, RecllmError
from recllm.base.files import write_whole
from recllm.base.service_settings import IndexKind
from recllm.learn.features.item_index.faiss_lists import REMEDY, FaissIndex

ABOUT = "index.json"
FORMAT = 2

OVER_FETCH = 2
"""Times the candidates that are expected to be enough behind a filter."""
MAX_CANDIDATES = 2_000
"""More candidates than this cost more than going through all items."""
EXACT_ITEMS = 5_000
"""So few items are gone through at once."""
RETRY_SECONDS = 30.0
"""An index that could not be opened, or did not answer, is tried again after so long."""

logger = logging.getLogger(__name__)


class ItemIndex(Protocol):
    """An index of any kind."""

    def candidates(self, queries: Floats, n: int) -> Iterable[Ints]:
        """For each query, (n_queries, dim), about `n` rows that are probably nearest by the inner product."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


class CatalogueIndex:
    """Candidates among the rows of a catalogue: those of the index, and all items behind these, which it does not have.

    It is opened when it is first needed, and done without where it cannot be. Threads may share it.
    """

    def __init__(self, opening: Callable[[], ItemIndex], n_rows: int) -> None:
        """opening: opens the index, and raises a `RecllmError` where that cannot be. n_rows: items of the index."""
        self._opening, self._n_rows = opening, n_rows
        self._index: ItemIndex | None = None
        self._retry_at = 0.0
        self._lock = Lock()
        self._complaint = ""

    def nearest(self, queries: Floats, k: int, allowed: Mask) -> list[Ints] | None:
        """For each query, (n, dim), rows of allowed items, among which the `k` best probably are; never fewer than
        min(k, allowed items). None where all items are to be compared: without an index, or behind a narrow filter.

        allowed: (n_items,).
        """
        is_open = np.asarray(allowed[: self._n_rows], bool)
        n_open, further = int(is_open.sum()), self._n_rows + np.flatnonzero(allowed[self._n_rows :])
        if n_open <= EXACT_ITEMS:
            return [np.append(np.flatnonzero(is_open), further)] * len(queries)
        n_candidates = math.ceil(OVER_FETCH * k * self._n_rows / n_open)
        # nothing is near to a vector of zeros
        index = self._opened() if n_candidates <= MAX_CANDIDATES and np.any(queries, axis=1).all() else None
        if index is None:
            return None
        try:
            proposals = [rows[(rows >= 0) & (rows < self._n_rows)] for rows in index.candidates(queries, n_candidates)]
        except RecllmError as error:
            self._give_up(error)
            return None
        proposals = [rows[is_open[rows]] for rows in proposals]
        if any(len(rows) < min(k, n_open) for rows in proposals):
            return None
        return [np.append(rows, further) for rows in proposals]

    def _opened(self) -> ItemIndex | None:
        with self._lock:
            if self._index is None and time.monotonic() >= self._retry_at:
                try:
                    self._index = self._opening()
                except RecllmError as error:
                    self._give_up(error)
            return self._index

    def _give_up(self, error: RecllmError) -> None:
        """Until it is tried again."""
        if str(error) != self._complaint:  # not at each try
            logger.warning("all items are compared: %s", error)
        self._complaint = str(error)
        self._index, self._retry_at = None, time.monotonic() + RETRY_SECONDS


def vectors_fingerprint(encoder_fingerprint: str, state: str, locale: str) -> str:
    """Of what made item vectors: an encoder with its adapter, and the serving state, whose prices are in them."""
    return hashlib.sha256(json.dumps([encoder_fingerprint, state, locale]).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlace:
    """Where the index of some vectors is."""

    kind: IndexKind
    folder: Path
    fingerprint: str
    n_rows: int

    def build(self, vectors: Floats, folder: Path) -> ItemIndex:
        """A new index in `folder`; its last file says that it is complete."""
        index = FaissIndex.build(vectors, folder)
        digests = {path.name: _sha256(path) for path in folder.iterdir()}
        write_whole(folder / ABOUT, json.dumps({**self._about, "files": digests}, indent=1) + "\n")
        return index

    def open(self) -> ItemIndex:
        """Raises `ModelError` for an index of other vectors, one of an older recllm, and where a file is missing or was
        changed."""
        folder = self.folder
        try:
            record = json_value((folder / ABOUT).read_text("utf-8"))
            digests = {str(name): str(digest) for name, digest in record["files"].items()}
            is_same = all(record[name] == value for name, value in self._about.items())
        except FileNotFoundError as error:
            raise ModelError(f"there is no item index in {folder}; {REMEDY}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / ABOUT} is damaged ({error}); {REMEDY}") from error
        if not is_same:
            raise ModelError(f"{folder}: the item index holds vectors of another model or encoder; {REMEDY}")
        for name, digest in digests.items():
            path = folder / name
            if Path(name).name != name or not path.is_file() or _sha256(path) != digest:
                raise ModelError(f"{path}: a file of the item index is missing or was changed; {REMEDY}")
        return FaissIndex.open(folder)

    @property
    def _about(self) -> dict[str, str | int]:
        return {"format": FORMAT, "kind": self.kind, "fingerprint": self.fingerprint, "n_rows": self.n_rows}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
