"""The door: an empty index of a kind, and one from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recllm.base.errors import ModelError, UsageError
from recllm.learn.features.item_index.record import read_about
from recllm.learn.features.item_index.rows import ExactIndex, ItemIndex, stored_rows

if TYPE_CHECKING:
    from recllm.base.service_settings import IndexKind

SERVERS = ("pgvector", "qdrant")
"""Kinds whose vectors lie in a server."""


def new_index(
    kind: IndexKind, dim: int, fingerprint: str, *, url: str | None = None, collection: str = "recllm-items"
) -> ItemIndex:
    """An empty index for vectors of `dim` dimensions that were made by what `fingerprint` names.

    url: of the PostgreSQL database, or the Qdrant server; what lies there in the place of an index is replaced. A kind
    is imported only here, so that others need not be installed. Raises `MissingExtraError` where it is not installed,
    `UsageError` for a server without its URL, `ModelError` where the server refuses.
    """
    if kind == "exact":
        return ExactIndex(dim, fingerprint)
    if kind == "faiss":
        from recllm.learn.features.item_index.faiss_lists import FaissIndex

        return FaissIndex(dim, fingerprint)
    if kind == "pgvector":
        from recllm.learn.features.item_index.postgres import PostgresIndex

        return PostgresIndex.create(_required(kind, url), dim, fingerprint)
    from recllm.learn.features.item_index.qdrant import QdrantIndex, connect

    return QdrantIndex.create(connect(_required(kind, url)), collection, dim, fingerprint)


def open_index(folder: Path, fingerprint: str | None, *, url: str | None = None) -> ItemIndex:
    """What `ItemIndex.save` wrote into a folder.

    fingerprint: what made the vectors of today, see `vectors_fingerprint`; None takes any, to bring the index up to
    date. Raises `ModelError` for an index of other vectors, and where a file is missing, truncated or changed;
    `MissingExtraError` and `UsageError` as `new_index` does.
    """
    about = read_about(folder)
    kind, dim, stored = str(about["kind"]), int(about["dim"]), str(about["fingerprint"])
    if fingerprint is not None and stored != fingerprint:
        raise ModelError(
            f"{folder}: the item index holds vectors of another model or encoder; "
            "build it again with: recllm refresh --index"
        )
    if kind == "exact":
        return ExactIndex(dim, stored, *stored_rows(folder, dim))
    if kind == "faiss":
        from recllm.learn.features.item_index.faiss_lists import FaissIndex

        return FaissIndex.open(folder, dim, stored, int(about.get("n_learned", 0)))
    if kind == "pgvector":
        from recllm.learn.features.item_index.postgres import PostgresIndex

        return PostgresIndex.open(_required(kind, url), dim, stored)
    if kind == "qdrant":
        from recllm.learn.features.item_index.qdrant import QdrantIndex, connect

        return QdrantIndex.open(connect(_required(kind, url)), str(about.get("collection")), dim, stored)
    raise ModelError(
        f"{folder}: no kind of item index is called {kind[:40]!r}; build it again with: recllm refresh --index"
    )


def _required(kind: str, url: str | None) -> str:
    if url is None:
        where = "store, in PostgreSQL" if kind == "pgvector" else "item_index.qdrant_url"
        raise UsageError(f"the kind {kind} needs a server; set {where}")
    return url
