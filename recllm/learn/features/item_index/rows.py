"""The contract of all kinds of item index, and what they share: ids and rows, checks of input, and filters.

An index holds unit vectors of items and nothing else; the vector of a query is not kept. A search without a filter asks
the kind for more than `k` candidates. With a filter it asks for as many more as the filter is narrow; where that would
be too many, or too few of them are allowed, all allowed items are compared, which is exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import ModelError, UsageError
from recllm.base.service_settings import IndexKind
from recllm.learn.features.item_index.record import write_about

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Allowed = Iterable[str] | NDArray[np.bool_]
"""Ids of items, or a mask over the rows of an index; `data.catalogue.allowed_items` makes a mask of a condition
on the catalogue."""

ITEMS, VECTORS = "items.arrow", "vectors.npy"

OVER_FETCH = 2
"""Times the candidates that are expected to be enough behind a filter."""
MAX_CANDIDATES = 2_000
"""More candidates than this cost more than going through the allowed items."""
EXACT_ITEMS = 5_000
"""So few items are gone through at once."""

BLOCK = 32_768
"""Items in a product with the queries."""
QUERIES = 256
"""Queries in it."""


@dataclass(frozen=True, eq=False)
class NearestItems:
    """The best items of n queries, best first; of equal ones the lower row."""

    rows: Ints
    """(n, k), rows of the index; -1 behind the last item that is allowed."""
    cosine: Floats
    """(n, k), inner product of the query and the item's unit vector, so the cosine of a unit query; NaN at -1."""


class ItemIndex(ABC):
    """Item vectors and what is nearest to a query among them; a kind has candidates and the place of the vectors.

    Each item has a row, which it keeps until it is deleted; the row of a deleted item stays empty, and new items get
    rows behind all others.
    """

    kind: ClassVar[IndexKind]

    def __init__(self, dim: int, fingerprint: str, item_ids: pl.Series | None = None) -> None:
        """item_ids: those of a saved index, null where an item was deleted."""
        self.dim, self.fingerprint = dim, fingerprint
        self._ids = pl.Series("item_id", [] if item_ids is None else item_ids, dtype=pl.String)
        self._present: NDArray[np.bool_] = self._ids.is_not_null().to_numpy()
        self._n_items = int(self._present.sum())
        self._row_of: dict[str, int] | None = None

    def __len__(self) -> int:
        return self._n_items

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} items, {self.dim} dimensions)"

    @property
    def item_ids(self) -> pl.Series:
        """Id of each row, (n_rows,), null where the item was deleted."""
        return self._ids

    # --- search ------------------------------------------------------------------------------------------------------

    def search(self, queries: Floats, k: int, allowed: Allowed | None = None) -> NearestItems:
        """The `k` best items for each query, (n, dim), or (dim,) for one.

        With a filter never fewer than there are: min(k, items that are allowed). Unknown ids are passed over. Raises
        `UsageError` for queries or masks of another shape, numbers that are not finite, and a `k` below 1.
        """
        queries = self._checked(np.atleast_2d(queries), "queries")
        if k < 1:
            raise UsageError(f"k is {k}; ask for 1 item or more")
        is_open, n_open = self._present, self._n_items
        if allowed is not None:
            is_open = is_open & self._mask(allowed)
            n_open = int(is_open.sum())
        width, n_candidates = min(k, n_open), math.ceil(OVER_FETCH * k * self._n_items / max(n_open, 1))
        rows = np.full((len(queries), k), -1, np.int64)
        cosine = np.full((len(queries), k), np.nan, np.float32)
        if not width or not len(queries):
            return NearestItems(rows, cosine)
        complete = np.zeros(len(queries), bool)
        if n_open > EXACT_ITEMS and n_candidates <= MAX_CANDIDATES:
            has_direction = np.any(queries != 0, axis=1)  # nothing is near to nothing
            for query, (candidates, products) in zip(
                np.flatnonzero(has_direction), self._candidates(queries[has_direction], n_candidates), strict=True
            ):
                usable = (candidates >= 0) & (candidates < len(is_open))
                usable[usable] = is_open[candidates[usable]]
                candidates, products = candidates[usable], products[usable]
                if len(candidates) >= width:
                    order = np.lexsort((candidates, -products))[:width]
                    rows[query, :width], cosine[query, :width] = candidates[order], products[order]
                    complete[query] = True
        if not complete.all():
            open_rows = None if n_open == len(is_open) else np.flatnonzero(is_open)
            left = np.flatnonzero(~complete)
            rows[left, :width], cosine[left, :width] = self._exact(queries[left], width, open_rows)
        return NearestItems(rows, cosine)

    @abstractmethod
    def _candidates(self, queries: Floats, n: int) -> Iterable[tuple[Ints, Floats]]:
        """For each query about `n` rows that are probably nearest, and their exact inner products; -1 is no row."""

    @abstractmethod
    def _exact(self, queries: Floats, k: int, rows: Ints | None) -> tuple[Ints, Floats]:
        """The best `k` of these rows, ascending, of all rows when None. (n, k) each."""

    # --- change ------------------------------------------------------------------------------------------------------

    def upsert(self, item_ids: Iterable[str], vectors: Floats) -> None:
        """Add items, or exchange the vectors of those that are there. Of an id that comes twice the last one counts.

        vectors: unit rows, (n, dim), which may be kept without a copy. Raises `UsageError` for others.
        """
        ids, vectors = list(item_ids), self._checked(vectors, "vectors")
        if len(ids) != len(vectors):
            raise UsageError(f"{len(vectors)} vectors for {len(ids)} items; give each item one")
        if any(not isinstance(item_id, str) or not item_id for item_id in ids):
            raise UsageError("an id is empty or no text; give each item its id")
        lengths = np.linalg.norm(vectors, axis=1)
        if len(ids) and np.abs(lengths - 1).max() > 1e-3:
            raise UsageError(f"a vector has the length {lengths[np.abs(lengths - 1).argmax()]:.3f}; give unit vectors")
        if not ids:
            return
        row_of, last = self._rows(), {item_id: position for position, item_id in enumerate(ids)}
        new = [item_id for item_id in last if item_id not in row_of]
        n_rows = len(self._ids)
        rows = np.array([row_of.get(item_id, -1) for item_id in last], np.int64)
        rows[rows < 0] = n_rows + np.arange(len(new))
        if len(last) < len(ids):
            vectors = vectors[list(last.values())]
        self._put(rows, vectors, list(last), n_rows + len(new))
        row_of.update(zip(new, range(n_rows, n_rows + len(new)), strict=True))
        self._ids = pl.concat([self._ids, pl.Series("item_id", new, dtype=pl.String)])
        self._present = np.append(self._present, np.ones(len(new), bool))
        self._n_items += len(new)

    @abstractmethod
    def _put(self, rows: Ints, vectors: Floats, item_ids: list[str], n_rows: int) -> None:
        """Keep the vectors of rows, some of which may be there; `n_rows` rows are there afterwards."""

    def delete(self, item_ids: Iterable[str]) -> int:
        """Take items out; unknown ids are passed over. Returns the number removed."""
        row_of = self._rows()
        going = {item_id: row_of[item_id] for item_id in item_ids if item_id in row_of}
        if not going:
            return 0
        rows = np.array(sorted(going.values()), np.int64)
        self._remove(rows)
        for item_id in going:
            del row_of[item_id]
        self._present = self._present.copy()
        self._present[rows] = False
        self._n_items -= len(rows)
        self._ids = self._ids.scatter(rows, None)
        return len(rows)

    @abstractmethod
    def _remove(self, rows: Ints) -> None:
        """Forget these rows."""

    @abstractmethod
    def vectors_of(self, rows: Ints) -> Floats:
        """The vectors of these rows as they were given, (n, dim)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write it into an existing folder, for `recllm.learn.features.item_index.opening.open_index`."""

    def close(self) -> None:
        """Close files and connections; nothing to do for a kind without a server."""
        return

    # --- checks ------------------------------------------------------------------------------------------------------

    def _rows(self) -> dict[str, int]:
        """Row of each id."""
        if self._row_of is None:
            self._row_of = {item_id: row for row, item_id in enumerate(self._ids.to_list()) if item_id is not None}
        return self._row_of

    def _mask(self, allowed: Allowed) -> NDArray[np.bool_]:
        if isinstance(allowed, np.ndarray) and allowed.dtype == bool:
            if allowed.shape != (len(self._ids),):
                raise UsageError(f"the mask has the shape {allowed.shape}; the index has {len(self._ids)} rows")
            return allowed
        row_of, mask = self._rows(), np.zeros(len(self._ids), bool)
        mask[[row_of[item_id] for item_id in allowed if item_id in row_of]] = True
        return mask

    def _checked(self, vectors: Any, what: str) -> Floats:
        array = np.asarray(vectors, np.float32)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise UsageError(f"{what} have the shape {array.shape}; the index has {self.dim} dimensions")
        if not np.isfinite(array).all():
            raise UsageError(f"{what} hold a number that is not finite")
        return array


class StoredVectors(ItemIndex):
    """A kind that keeps exact vectors as well as what finds candidates; from a folder they are mapped and not read."""

    def __init__(
        self, dim: int, fingerprint: str, item_ids: pl.Series | None = None, vectors: Floats | None = None
    ) -> None:
        super().__init__(dim, fingerprint, item_ids)
        self.vectors: Floats = np.zeros((0, dim), np.float32) if vectors is None else vectors
        """(n_rows, dim)."""

    def vectors_of(self, rows: Ints) -> Floats:
        return np.asarray(self.vectors[rows])

    def _products(self, query: Floats, rows: Ints) -> tuple[Ints, Floats]:
        """Candidate rows of one query with their exact products; -1 is left out."""
        rows = rows[rows >= 0]
        return rows, self.vectors[rows] @ query

    def _exact(self, queries: Floats, k: int, rows: Ints | None) -> tuple[Ints, Floats]:
        return best_products(self.vectors, queries, k, rows)

    def _put(self, rows: Ints, vectors: Floats, item_ids: list[str], n_rows: int) -> None:
        n_before = len(self.vectors)
        if not (n_before == 0 and np.array_equal(rows, np.arange(n_rows))):
            grown = np.zeros((n_rows, self.dim), np.float32)
            grown[:n_before] = self.vectors
            grown[rows] = vectors
            vectors = grown
        self.vectors = vectors

    def _remove(self, rows: Ints) -> None:
        """Their vectors stay, behind ids that are gone."""

    def _write_rows(self, folder: Path) -> list[str]:
        """Write ids and vectors; returns the names of the files."""
        pl.DataFrame({"item_id": self._ids}).write_ipc(folder / ITEMS, compression="uncompressed")
        np.save(folder / VECTORS, self.vectors, allow_pickle=False)
        return [ITEMS, VECTORS]


class ExactIndex(StoredVectors):
    """The default: every item is compared, a block at a time. Nothing is built, and nothing is missed."""

    kind = "exact"

    def _candidates(self, queries: Floats, n: int) -> Iterable[tuple[Ints, Floats]]:
        rows, products = best_products(self.vectors, queries, min(n, len(self._ids)))
        return zip(rows, products, strict=True)

    def save(self, folder: Path) -> None:
        about = {"kind": self.kind, "fingerprint": self.fingerprint, "dim": self.dim}
        write_about(folder, about, self._write_rows(folder))


def stored_rows(folder: Path, dim: int) -> tuple[pl.Series, Floats]:
    """Ids and mapped vectors of a folder. Raises `ModelError` where they do not fit."""
    try:
        item_ids = pl.read_ipc(folder / ITEMS)["item_id"]
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        if vectors.shape != (len(item_ids), dim) or vectors.dtype != np.float32:
            raise ValueError(f"vectors of the shape {vectors.shape} for {len(item_ids)} items of {dim} dimensions")
    except (OSError, ValueError, EOFError, pl.exceptions.PolarsError) as error:
        raise ModelError(
            f"{folder}: the item index is damaged ({error}); build it again with: recllm refresh --index"
        ) from error
    return item_ids, np.asarray(vectors)  # still mapped, without what a memmap does at each access


def padded(answers: Iterable[tuple[Ints, Floats]], k: int) -> tuple[Ints, Floats]:
    """Answers of a server as (n, k) each; it may have fewer items by now, then -1 and NaN follow."""
    answers = list(answers)
    rows, products = np.full((len(answers), k), -1, np.int64), np.full((len(answers), k), np.nan, np.float32)
    for n, (row, product) in enumerate(answers):
        rows[n, : len(row)], products[n, : len(row)] = row, product
    return rows, products


def best_products(vectors: Floats, queries: Floats, k: int, rows: Ints | None = None) -> tuple[Ints, Floats]:
    """The `k` highest inner products of each query with these rows (ascending; all when None), a block at a time.

    Returns rows and products, (n, k), best first, of equal ones the lower row. There are `k` rows at least.
    """
    n_rows = len(vectors) if rows is None else len(rows)
    best_rows = np.zeros((len(queries), k), np.int64)
    best = np.zeros((len(queries), k), np.float32)
    for first in range(0, len(queries), QUERIES):
        span = queries[first : first + QUERIES]
        best_so_far: list[tuple[Ints, Floats]] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(span)
        for start in range(0, n_rows, BLOCK):
            block = slice(start, start + BLOCK) if rows is None else rows[start : start + BLOCK]
            numbers = np.arange(start, min(start + BLOCK, n_rows)) if rows is None else rows[start : start + BLOCK]
            products = span @ vectors[block].T
            for n, row in enumerate(products):
                earlier_rows, earlier = best_so_far[n]
                if len(earlier) == k:  # most of a block is below what is there already
                    selected = np.flatnonzero(row > earlier[-1])
                    row, of_block = row[selected], numbers[selected]
                else:
                    of_block = numbers
                if len(row):
                    best_so_far[n] = _top(np.append(earlier_rows, of_block), np.append(earlier, row), k)
        for n, (query_rows, query_products) in enumerate(best_so_far):
            best_rows[first + n], best[first + n] = query_rows, query_products
    return best_rows, best


def _top(rows: Ints, products: Floats, k: int) -> tuple[Ints, Floats]:
    if len(products) > k:
        limit = np.partition(products, len(products) - k)[len(products) - k]
        selected = products >= limit
        rows, products = rows[selected], products[selected]
    order = np.lexsort((rows, -products))[:k]
    return rows[order], products[order]
