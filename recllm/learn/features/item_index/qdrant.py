"""Qdrant (extra `qdrant`): the vectors in a collection of a Qdrant server, or in a folder for tests.

A point is a row: its number, the vector, and the item's id as its payload. The collection's metadata hold the
fingerprint. In a folder (`QdrantClient(path=...)`) every search compares all points, one process at a time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.base.errors import MissingExtraError, ModelError
from recllm.learn.features.item_index.record import write_about
from recllm.learn.features.item_index.rows import Floats, Ints, ItemIndex, padded

KEY_VARIABLE = "RECLLM_QDRANT_KEY"
"""Environment variable of the server's API key."""
EXPANSION_SEARCH = 256
"""Candidates that are compared for a query, at least."""
BATCH = 500
"""Points of one request."""
TIMEOUT = 30
"""Seconds that a request may take."""


class QdrantIndex(ItemIndex):
    """Vectors in a collection. Ids are read once, when it is opened."""

    kind = "qdrant"

    def __init__(
        self, client: Any, collection: str, dim: int, fingerprint: str, item_ids: pl.Series | None = None
    ) -> None:
        super().__init__(dim, fingerprint, item_ids)
        self._client, self._collection = client, collection
        self._models = _qdrant().models

    @classmethod
    def create(cls, client: Any, collection: str, dim: int, fingerprint: str) -> QdrantIndex:
        """An empty collection, in the place of an earlier one."""
        models = _qdrant().models
        with _explained():
            if client.collection_exists(collection):
                client.delete_collection(collection)
            client.create_collection(
                collection,
                vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT),
                metadata={"fingerprint": fingerprint, "n_rows": 0},
            )
        return cls(client, collection, dim, fingerprint)

    @classmethod
    def open(cls, client: Any, collection: str, dim: int, fingerprint: str) -> QdrantIndex:
        """Raises `ModelError` where the collection is missing, or was made of other vectors."""
        with _explained():
            if not client.collection_exists(collection):
                raise ModelError(f"Qdrant has no collection {collection}; build it again with: recllm refresh --index")
            config = client.get_collection(collection).config
            about = config.metadata or {}
            if about.get("fingerprint") != fingerprint or config.params.vectors.size != dim:
                raise ModelError(
                    f"the collection {collection} holds vectors of another model or encoder; build it again with: "
                    "recllm refresh --index"
                )
            item_ids, after = np.full(int(about["n_rows"]), None, object), None
            while True:
                points, after = client.scroll(collection, limit=10_000, offset=after, with_payload=["item_id"])
                for point in points:
                    item_ids[point.id] = point.payload["item_id"]
                if after is None:
                    break
        return cls(client, collection, dim, fingerprint, pl.Series("item_id", item_ids.tolist(), dtype=pl.String))

    def _candidates(self, queries: Floats, n: int) -> Iterable[tuple[Ints, Floats]]:
        parameters = self._models.SearchParams(hnsw_ef=max(n, EXPANSION_SEARCH))
        return self._answers(queries, n, parameters, None)

    def _exact(self, queries: Floats, k: int, rows: Ints | None) -> tuple[Ints, Floats]:
        condition = None
        if rows is not None:
            condition = self._models.Filter(must=[self._models.HasIdCondition(has_id=rows.tolist())])
        return padded(self._answers(queries, k, self._models.SearchParams(exact=True), condition), k)

    def _answers(self, queries: Floats, n: int, parameters: Any, condition: Any) -> Iterator[tuple[Ints, Floats]]:
        for query in queries:
            with _explained():
                points = self._client.query_points(
                    self._collection,
                    query=query.tolist(),
                    limit=n,
                    query_filter=condition,
                    search_params=parameters,
                    with_payload=False,
                ).points
            rows = np.array([point.id for point in points], np.int64)
            products = np.array([point.score for point in points], np.float32)
            order = np.lexsort((rows, -products))
            yield rows[order], products[order]

    def _put(self, rows: Ints, vectors: Floats, item_ids: list[str], n_rows: int) -> None:
        with _explained():
            for start in range(0, len(rows), BATCH):
                block = slice(start, start + BATCH)
                points = self._models.Batch(
                    ids=rows[block].tolist(),
                    vectors=vectors[block].tolist(),
                    payloads=[{"item_id": item_id} for item_id in item_ids[block]],
                )
                self._client.upsert(self._collection, points=points, wait=True)
            self._tell(n_rows)

    def _remove(self, rows: Ints) -> None:
        with _explained():
            selector = self._models.PointIdsList(points=rows.tolist())
            self._client.delete(self._collection, points_selector=selector, wait=True)

    def vectors_of(self, rows: Ints) -> Floats:
        vectors = np.zeros((len(rows), self.dim), np.float32)
        position_of = {int(row): position for position, row in enumerate(rows)}
        with _explained():
            for start in range(0, len(rows), BATCH):
                block = rows[start : start + BATCH].tolist()
                for point in self._client.retrieve(self._collection, block, with_payload=False, with_vectors=True):
                    vectors[position_of[point.id]] = point.vector
        return vectors

    def save(self, folder: Path) -> None:
        with _explained():
            self._tell(len(self._ids))
        about = {"kind": self.kind, "fingerprint": self.fingerprint, "dim": self.dim}
        write_about(folder, {**about, "collection": self._collection}, [])

    def _tell(self, n_rows: int) -> None:
        metadata = {"fingerprint": self.fingerprint, "n_rows": n_rows}
        self._client.update_collection(self._collection, metadata=metadata)

    def close(self) -> None:
        self._client.close()


def connect(url: str) -> Any:
    """A client of a server by its URL, with the key of `KEY_VARIABLE`; without "://" of a folder.

    Raises `MissingExtraError` without qdrant-client.
    """
    client = _qdrant().QdrantClient
    with _explained():
        if "://" not in url:
            return client(path=url)
        return client(url=url, api_key=os.environ.get(KEY_VARIABLE) or None, timeout=TIMEOUT, check_compatibility=False)


def _qdrant() -> Any:
    """The module. Raises `MissingExtraError` where it is not installed."""
    try:
        import qdrant_client
    except ImportError as error:
        raise MissingExtraError("qdrant-client", "qdrant") from error
    return qdrant_client


@contextmanager
def _explained() -> Iterator[None]:
    from qdrant_client.http.exceptions import ApiException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Local mode", category=UserWarning)
            yield
    except (ApiException, ValueError, RuntimeError, ConnectionError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ModelError(f"the item index in Qdrant cannot be used: {cause}; check its server and its URL") from error
