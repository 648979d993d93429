"""FAISS (extra `faiss`): items in lists around centres, in 8 bit a component; the lists nearest to a query are read.

Inverted lists over a scalar quantizer (Jégou, Douze and Schmid 2011; Douze et al. 2024). Candidates are compared again
by the exact vectors. Items can be taken out and exchanged, which its graphs do not allow.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.base.errors import MissingExtraError, ModelError
from recllm.learn.features.item_index.record import write_about
from recllm.learn.features.item_index.rows import Floats, Ints, StoredVectors, stored_rows

LISTS = "lists.faiss"
LISTS_PER_ROOT = 2.0
"""Lists for each unit of the square root of the number of items."""
TRAINED_PER_LIST = 40
"""Items from which a centre is learned; FAISS warns below 39."""
PROBED = 80
"""Lists that are read for a query."""
GROWTH = 4
"""With this many times the items that the centres were learned from, they are learned again."""


class FaissIndex(StoredVectors):
    """Lists over 8-bit vectors, and the exact ones for the last comparison."""

    kind = "faiss"

    def __init__(
        self,
        dim: int,
        fingerprint: str,
        item_ids: pl.Series | None = None,
        vectors: Floats | None = None,
        lists: Any = None,
        n_learned: int = 0,
    ) -> None:
        super().__init__(dim, fingerprint, item_ids, vectors)
        self._faiss = _faiss()
        self._lists = lists
        self._n_learned = n_learned
        """Items that the centres were learned from."""

    @classmethod
    def open(cls, folder: Path, dim: int, fingerprint: str, n_learned: int) -> FaissIndex:
        item_ids, vectors = stored_rows(folder, dim)
        if not n_learned:
            return cls(dim, fingerprint, item_ids, vectors)
        try:
            lists = _faiss().read_index(str(folder / LISTS))
            if lists.d != dim:
                raise ValueError(f"lists of {lists.d} dimensions for {dim}")
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{folder / LISTS} is damaged ({error}); build it again with: recllm refresh --index"
            ) from error
        return cls(dim, fingerprint, item_ids, vectors, lists, n_learned)

    def _candidates(self, queries: Floats, n: int) -> Iterable[tuple[Ints, Floats]]:
        if self._lists is None:
            return
        parameters = self._faiss.SearchParametersIVF(nprobe=PROBED)
        _, rows = self._lists.search(np.ascontiguousarray(queries), n, params=parameters)
        for query, row in zip(queries, rows, strict=True):
            yield self._products(query, row)

    def _put(self, rows: Ints, vectors: Floats, item_ids: list[str], n_rows: int) -> None:
        n_before = len(self.vectors)
        super()._put(rows, vectors, item_ids, n_rows)
        if self._lists is None or n_rows > GROWTH * self._n_learned:
            self._learn(np.union1d(np.flatnonzero(self._present), rows))
            return
        changed = rows[rows < n_before]
        if len(changed):
            self._lists.remove_ids(self._faiss.IDSelectorBatch(changed))
        self._lists.add_with_ids(np.ascontiguousarray(vectors), rows)

    def _learn(self, rows: Ints) -> None:
        """Centres and steps again, from a sample drawn by a fixed seed; then all items go into their lists."""
        n_lists = max(1, min(int(LISTS_PER_ROOT * len(rows) ** 0.5), len(rows) // TRAINED_PER_LIST))
        lists = self._faiss.index_factory(self.dim, f"IVF{n_lists},SQ8", self._faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(rows)[: max(TRAINED_PER_LIST * n_lists, 1_000)]
        lists.train(np.ascontiguousarray(self.vectors[np.sort(sample)]))
        for start in range(0, len(rows), 100_000):
            block = rows[start : start + 100_000]
            lists.add_with_ids(np.ascontiguousarray(self.vectors[block]), block)
        self._lists, self._n_learned = lists, len(rows)

    def _remove(self, rows: Ints) -> None:
        self._lists.remove_ids(self._faiss.IDSelectorBatch(rows))

    def save(self, folder: Path) -> None:
        names = self._write_rows(folder)
        if self._lists is not None:
            self._faiss.write_index(self._lists, str(folder / LISTS))
            names.append(LISTS)
        about = {"kind": self.kind, "fingerprint": self.fingerprint, "dim": self.dim, "n_learned": self._n_learned}
        write_about(folder, about, names)


def _faiss() -> Any:
    """The module. Raises `MissingExtraError` where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", "faiss") from error
    return faiss
