"""FAISS (extra `faiss`): items in lists around centres, in 8 bit a component; the lists nearest to a query are read.

Inverted lists over a scalar quantizer (Jégou, Douze and Schmid 2011; Douze et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recllm.base.arrays import Floats, Ints
from recllm.base.errors import MissingExtraError, ModelError

LISTS = "lists.faiss"
LISTS_PER_ROOT = 2.0
"""Lists for each unit of the square root of the number of items."""
TRAINED_PER_LIST = 40
"""Items from which a centre is learned; FAISS warns below 39."""
PROBED = 80
"""Lists that are read for a query."""
REMEDY = "build it again with: recllm refresh --index"


class FaissIndex:
    """Lists over 8-bit vectors."""

    def __init__(self, lists: Any) -> None:
        self.lists = lists
        self._parameters = _faiss().SearchParametersIVF(nprobe=PROBED)

    @classmethod
    def build(cls, vectors: Floats, folder: Path) -> FaissIndex:
        """Centres from a sample drawn by a fixed seed; then all items go into their lists, and these to a file."""
        faiss, n = _faiss(), len(vectors)
        n_lists = max(1, min(int(LISTS_PER_ROOT * n**0.5), n // TRAINED_PER_LIST))
        lists = faiss.index_factory(vectors.shape[1], f"IVF{n_lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(n)[: max(TRAINED_PER_LIST * n_lists, 1_000)]
        lists.train(np.ascontiguousarray(vectors[np.sort(sample)]))
        for start in range(0, n, 100_000):
            lists.add(np.ascontiguousarray(vectors[start : start + 100_000]))
        faiss.write_index(lists, str(folder / LISTS))
        return cls(lists)

    @classmethod
    def open(cls, folder: Path) -> FaissIndex:
        """Raises `ModelError` for a file that is no such index."""
        try:
            return cls(_faiss().read_index(str(folder / LISTS)))
        except RuntimeError as error:
            raise ModelError(f"{folder / LISTS} is damaged ({error}); {REMEDY}") from error

    def candidates(self, queries: Floats, n: int) -> Iterable[Ints]:
        _, rows = self.lists.search(np.ascontiguousarray(queries, np.float32), n, params=self._parameters)
        return (row[row >= 0] for row in rows)

    def close(self) -> None:
        """Nothing is open."""


def _faiss() -> Any:
    """The module. Raises `MissingExtraError` where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", "faiss") from error
    return faiss
