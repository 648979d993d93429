"""The item index of a workspace: built of the vectors of the serving version's state, and opened to serve.

It lies in `cache/item-index/KIND`, as it can be built again; the vectors of pgvector and Qdrant lie in their server.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from recllm.base.errors import ModelError, NotFittedError, NothingToDo, RecllmError, UsageError
from recllm.base.files import lock_file, sync_folder
from recllm.base.service_settings import IndexKind
from recllm.learn.features.item_index.catalogue import (
    ABOUT,
    CatalogueIndex,
    Floats,
    ItemIndex,
    check_about,
    vectors_fingerprint,
    write_about,
)
from recllm.recommend.recommender.registry import current, open_version
from recllm.recommend.recommender.saved_model import Model, read_model
from recllm.recommend.recommender.serving_state import CatalogueState, open_catalogue_state
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

CLASSES = {
    "faiss": ("faiss_lists", "FaissIndex"),
    "pgvector": ("postgres", "PostgresIndex"),
    "qdrant": ("qdrant", "QdrantIndex"),
}
"""Kind -> module and class, which is imported when it is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What `recllm refresh --index` did."""

    kind: IndexKind
    model_version: str
    items: int
    seconds: float
    mib: float
    """Of its files; 0 for one in a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlace:
    """Where the index of some vectors is; None of `url` for one without a server, or whose server is not set."""

    kind: IndexKind
    folder: Path
    url: str | None
    """Of its server, maybe with a password."""
    collection: str
    fingerprint: str
    n_rows: int

    @classmethod
    def of(cls, workspace: Workspace, kind: IndexKind, model: Model, catalogue: CatalogueState) -> IndexPlace:
        settings = workspace.settings.item_index
        urls = {"pgvector": workspace.postgres_url(), "qdrant": settings.qdrant_url}
        fingerprint = vectors_fingerprint(model.encoder_fingerprint, catalogue.name, catalogue.locale)
        return cls(
            kind=kind,
            folder=workspace.cache_dir / "item-index" / kind,
            url=urls.get(kind),
            collection=settings.qdrant_collection,
            fingerprint=fingerprint,
            n_rows=catalogue.items.height,
        )

    @property
    def about(self) -> dict[str, str | int]:
        return {"kind": self.kind, "fingerprint": self.fingerprint, "n_rows": self.n_rows}

    def server(self) -> str:
        """Raises `UsageError` where the settings do not name it."""
        if self.url is None:
            where = "store, in PostgreSQL" if self.kind == "pgvector" else "item_index.qdrant_url"
            raise UsageError(f"the kind {self.kind} needs a server; set {where}")
        return self.url

    def build(self, vectors: Floats, folder: Path) -> ItemIndex:
        """A new index; what of it is no server's lies in `folder`."""
        index: ItemIndex
        if self.kind == "faiss":
            index = self._class.build(vectors, folder)
        elif self.kind == "pgvector":
            index = self._class.build(self.server(), vectors, self.fingerprint)
        else:
            index = self._class.build(self.server(), self.collection, vectors, self.fingerprint)
        write_about(folder, self.about, [path.name for path in folder.iterdir()])
        return index

    def open(self) -> ItemIndex:
        """Raises `ModelError` for an index of other vectors, and a missing or damaged one."""
        check_about(self.folder, self.about)
        index: ItemIndex
        if self.kind == "faiss":
            index = self._class.open(self.folder)
        elif self.kind == "pgvector":
            index = self._class.open(self.server(), self.fingerprint)
        else:
            index = self._class.open(self.server(), self.collection, self.fingerprint, self.n_rows)
        return index

    @property
    def _class(self) -> Any:
        module, name = CLASSES[self.kind]
        return getattr(import_module(f"recllm.learn.features.item_index.{module}"), name)


def build_index(
    workspace: Workspace, kind: IndexKind | None = None, *, progress: Callable[[str], None] | None = None
) -> IndexReport:
    """Build the index of the serving version's state.

    kind: that of the settings when None. What serves meanwhile goes on with the index it has, or compares all items.
    Raises `NothingToDo` for exact, which needs no index, `NotFittedError` when nothing was trained, `UsageError` and
    `ModelError` where a server is missing or refuses, and `MissingExtraError`.
    """
    kind, started = kind or workspace.settings.item_index.kind, time.monotonic()
    if kind == "exact":
        raise NothingToDo(
            "exact compares all items and needs no index; name another: "
            "recllm refresh --index --set item_index.kind=faiss"
        )
    version = current(workspace.models_dir)
    if version is None:
        raise NotFittedError(f"there is no model whose items could be indexed; run: recllm train -w {workspace.root}")
    model = read_model(open_version(workspace.models_dir, version), version)
    state = newest_state(workspace, version)
    if state is None:
        raise ModelError(f"model {version} has no serving state; run: recllm refresh -w {workspace.root}")
    catalogue = open_catalogue_state(state)
    vectors = catalogue.arrays["item_vectors"]
    target = IndexPlace.of(workspace, kind, model, catalogue)
    folder = target.folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_file(folder.parent / ".lock"):
        for leftover in folder.parent.glob(f".{kind}.*"):  # of builds that were killed: this one holds the lock
            shutil.rmtree(leftover)
        draft = folder.with_name(f".{kind}.{os.getpid()}.new")
        draft.mkdir(mode=0o700)
        (progress or logger.info)(f"build the {kind} index of {len(vectors):,} items")
        index = target.build(vectors, draft)
        earlier = folder.with_name(f".{kind}.{os.getpid()}.old")
        if folder.exists():  # a process that has it open keeps its files
            folder.rename(earlier)
        draft.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(earlier, ignore_errors=True)
    index.close()
    return IndexReport(
        kind=kind,
        model_version=version,
        items=len(vectors),
        seconds=time.monotonic() - started,
        mib=0.0 if target.url else sum(path.stat().st_size for path in folder.iterdir()) / 2**20,
    )


def bring_index_along(workspace: Workspace, progress: Callable[[str], None] | None = None) -> None:
    """After a version began to serve: its index, where the settings name one. Without it all items are compared, so an
    index that cannot be built stops nothing."""
    if workspace.settings.item_index.kind == "exact":
        return
    try:
        build_index(workspace, progress=progress)
    except (RecllmError, OSError) as error:
        logger.warning("the item index was not built: %s", error)


def catalogue_index(workspace: Workspace, model: Model, catalogue: CatalogueState) -> CatalogueIndex | None:
    """What proposes nearest items of a state's catalogue; None where the settings compare all of them."""
    kind = workspace.settings.item_index.kind
    if kind == "exact":
        return None
    target = IndexPlace.of(workspace, kind, model, catalogue)

    def opened() -> ItemIndex:
        try:
            about = (target.folder / ABOUT).stat()
        except OSError:
            return shared_index(target, (0, 0))
        return shared_index(target, (about.st_ino, about.st_mtime_ns))

    return CatalogueIndex(opened, target.n_rows)


@lru_cache(maxsize=4)
def shared_index(target: IndexPlace, stamp: tuple[int, int]) -> ItemIndex:
    """An index for all recommenders of this process, which are made again with each load of items; every byte of its
    files is checked once. stamp: differs from one index in the folder to the next."""
    return target.open()
