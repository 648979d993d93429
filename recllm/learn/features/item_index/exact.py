"""The default: every item is compared, a block at a time. Nothing is built, and nothing is missed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recllm.learn.features.item_index.contract import Floats, Ints, write_about
from recllm.learn.features.item_index.rows import StoredVectors, best_products


class ExactIndex(StoredVectors):
    """Vectors alone. A wide filter goes through all of them in their order, a narrow one through the allowed ones."""

    kind = "exact"

    def _candidates(self, queries: Floats, n: int) -> Iterable[tuple[Ints, Floats]]:
        rows, products = best_products(self.vectors, queries, min(n, len(self._ids)))
        return zip(rows, products, strict=True)

    def save(self, folder: Path) -> None:
        about = {"kind": self.kind, "fingerprint": self.fingerprint, "dim": self.dim}
        write_about(folder, about, self._write_rows(folder))
