"""Qdrant (extra `qdrant`): the vectors in a collection of a Qdrant server, or in a folder for tests.

A point is a row and its vector. The end of the collection's name is the fingerprint of what made the vectors: a new
collection is complete before earlier ones are deleted.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recllm.base.arrays import Floats, Ints
from recllm.base.errors import MissingExtraError, ModelError
from recllm.learn.features.item_index.catalogue import REMEDY, IndexPlace

KEY_VARIABLE = "RECLLM_QDRANT_KEY"
"""Environment variable of the server's API key."""
EXPANSION_SEARCH = 256
"""Candidates that are compared for a query, at least."""
BATCH = 500
"""Points of one request."""
TIMEOUT = 30
"""Seconds that a request may take."""


class QdrantIndex:
    """Vectors in a collection."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self._name, self._models = client, name, _qdrant().models

    @classmethod
    def build(cls, where: IndexPlace, vectors: Floats, folder: Path) -> QdrantIndex:
        index = cls.at(where)
        client, models = index._client, index._models
        with _explained():
            if client.collection_exists(index._name):  # of a build that was killed, or of the same vectors
                client.delete_collection(index._name)
            config = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
            client.create_collection(index._name, vectors_config=config)
            for start in range(0, len(vectors), BATCH):
                block = vectors[start : start + BATCH]
                points = models.Batch(ids=list(range(start, start + len(block))), vectors=block.tolist())
                client.upsert(index._name, points=points, wait=True)
            earlier = re.compile(rf"{re.escape(where.collection)}(-[0-9a-f]{{16}})?")
            for described in client.get_collections().collections:
                if described.name != index._name and earlier.fullmatch(described.name):
                    client.delete_collection(described.name)
        return index

    @classmethod
    def at(cls, where: IndexPlace) -> QdrantIndex:
        return cls(connect(where.server()), f"{where.collection}-{where.fingerprint[:16]}")

    @classmethod
    def open(cls, where: IndexPlace) -> QdrantIndex:
        """Raises `ModelError` where there is no such collection, or it is not complete."""
        index = cls.at(where)
        with _explained():
            exists = index._client.collection_exists(index._name)
            if not exists or index._client.count(index._name, exact=True).count != where.n_rows:
                index.close()
                raise ModelError(f"Qdrant has no item index of this model and encoder; {REMEDY}")
        return index

    def candidates(self, queries: Floats, n: int) -> Iterable[Ints]:
        parameters = self._models.SearchParams(hnsw_ef=max(n, EXPANSION_SEARCH))
        for query in queries:
            with _explained():
                points = self._client.query_points(
                    self._name, query=query.tolist(), limit=n, search_params=parameters, with_payload=False
                ).points
            yield np.array([point.id for point in points], np.int64)

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
