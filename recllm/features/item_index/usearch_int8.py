"""usearch (extra `usearch`): a graph of near items over 8-bit vectors, mapped from its file.

Hierarchical navigable small worlds (Malkov and Yashunin 2018). Each vector is rounded with a scale of its own, so that
its largest component is 127: the components of a unit vector of 384 are small, and one scale for all would leave a
dozen steps of the 255. Candidates are compared again by the exact vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.errors import MissingExtraError, ModelError
from recllm.features.item_index.contract import Floats, Ints, write_about
from recllm.features.item_index.rows import StoredVectors, stored_rows

GRAPH = "graph.usearch"
CONNECTIONS = 16
"""Edges of an item, twice as many in the lowest layer: 128 bytes of memory."""
EXPANSION_ADD = 128
"""Candidates that are compared when an item is put in."""
EXPANSION_SEARCH = 1_024
"""Candidates that are compared for a query, at least."""
ADDED = 100_000
"""Items that are rounded and added at once."""


class UsearchIndex(StoredVectors):
    """A graph over 8-bit vectors, and the exact ones for the last comparison."""

    kind = "usearch"

    def __init__(
        self,
        dim: int,
        fingerprint: str,
        item_ids: pl.Series | None = None,
        vectors: Floats | None = None,
        graph: Any = None,
    ) -> None:
        super().__init__(dim, fingerprint, item_ids, vectors)
        self._graph = (
            graph
            if graph is not None
            else _usearch().Index(
                ndim=dim,
                metric="cos",
                dtype="i8",
                connectivity=CONNECTIONS,
                expansion_add=EXPANSION_ADD,
                expansion_search=EXPANSION_SEARCH,
            )
        )
        self._file: Path | None = None
        """Whence the graph is mapped, read-only; None where it is in memory."""

    @classmethod
    def open(cls, folder: Path, dim: int, fingerprint: str) -> UsearchIndex:
        item_ids, vectors = stored_rows(folder, dim)
        graph = cls(dim, fingerprint)._graph
        try:
            graph.view(str(folder / GRAPH))
            if graph.ndim != dim:
                raise ValueError(f"a graph of {graph.ndim} dimensions for {dim}")
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{folder / GRAPH} is damaged ({error}); build it again with: recllm index") from error
        graph.expansion_search = EXPANSION_SEARCH
        index = cls(dim, fingerprint, item_ids, vectors, graph)
        index._file = folder / GRAPH
        return index

    def _candidates(self, queries: Floats, n: int) -> Iterable[tuple[Ints, Floats]]:
        if not len(self._graph):
            return
        matches = self._graph.search(rounded(queries), min(n, len(self._graph)))
        counts = np.atleast_1d(matches.counts) if hasattr(matches, "counts") else [len(matches.keys)]
        keys = np.atleast_2d(matches.keys)
        for query, row, count in zip(queries, keys, counts, strict=True):
            yield self._products(query, row[:count].astype(np.int64))

    def _put(self, rows: Ints, vectors: Floats, item_ids: list[str], n_rows: int) -> None:
        self._make_writable()
        n_before = len(self.vectors)
        super()._put(rows, vectors, item_ids, n_rows)
        changed = rows[rows < n_before]
        if len(changed):
            self._graph.remove(changed.astype(np.uint64))
        for start in range(0, len(rows), ADDED):
            part = slice(start, start + ADDED)
            self._graph.add(rows[part].astype(np.uint64), rounded(vectors[part]))

    def _remove(self, rows: Ints) -> None:
        self._make_writable()
        self._graph.remove(rows.astype(np.uint64))

    def _make_writable(self) -> None:
        if self._file is not None:
            self._graph.load(str(self._file))
            self._graph.expansion_add, self._graph.expansion_search = EXPANSION_ADD, EXPANSION_SEARCH
            self._file = None

    def save(self, folder: Path) -> None:
        names = self._write_rows(folder)
        self._graph.save(str(folder / GRAPH))
        about = {"kind": self.kind, "fingerprint": self.fingerprint, "dim": self.dim}
        write_about(folder, about, [*names, GRAPH])


def rounded(vectors: Floats) -> NDArray[np.int8]:
    """To 8 bit, each vector with a scale of its own: the largest component becomes 127. (n, dim)"""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.asarray(np.rint(vectors * (127 / np.maximum(largest, 1e-12))), np.int8)


def _usearch() -> Any:
    """The module. Raises `MissingExtraError` where it is not installed."""
    try:
        import usearch.index
    except ImportError as error:
        raise MissingExtraError("usearch", "usearch") from error
    return usearch.index
