"""The item index of a workspace: built of the vectors of the serving version's state, and opened to serve.

It lies in `cache/item-index/KIND`, as it can be built again.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass
from functools import lru_cache

from recllm.base.errors import ModelError, NotFittedError, NothingToDo, RecllmError
from recllm.base.files import lock_file, sync_folder
from recllm.base.schema import Progress
from recllm.base.service_settings import IndexKind
from recllm.learn.features.item_index.catalogue import ABOUT, CatalogueIndex, IndexPlace, ItemIndex, vectors_fingerprint
from recllm.recommend.recommender.registry import current, open_version
from recllm.recommend.recommender.saved_model import Model, read_model
from recllm.recommend.recommender.serving_state import CatalogueState, open_catalogue_state
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What `recllm refresh --index` did."""

    kind: IndexKind
    model_version: str
    items: int
    seconds: float
    mib: float


def index_place(workspace: Workspace, kind: IndexKind, model: Model, catalogue: CatalogueState) -> IndexPlace:
    """Where the index of a state's items is."""
    return IndexPlace(
        kind=kind,
        folder=workspace.cache_dir / "item-index" / kind,
        fingerprint=vectors_fingerprint(model.encoder_fingerprint, catalogue.name, catalogue.locale),
        n_rows=catalogue.items.height,
    )


def build_index(
    workspace: Workspace, kind: IndexKind | None = None, *, progress: Progress | None = None
) -> IndexReport:
    """Build the index of the serving version's state.

    kind: that of the settings when None. What serves meanwhile goes on with the index it has, or compares all items.
    Raises `NothingToDo` for exact, which needs no index, `NotFittedError` when nothing was trained, and
    `MissingExtraError`.
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
    target = index_place(workspace, kind, model, catalogue)
    folder = target.folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_file(folder.parent / ".lock"):
        for leftover in folder.parent.glob(f".{kind}.*"):  # of killed builds
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
        mib=sum(path.stat().st_size for path in folder.iterdir()) / 2**20,
    )


def bring_index_along(workspace: Workspace, progress: Progress | None = None) -> None:
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
    target = index_place(workspace, kind, model, catalogue)

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
