"""The item index of a workspace: built of the serving version's vectors, brought up to date, and opened to serve.

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
from pathlib import Path

import numpy as np
import polars as pl

from recllm.base.errors import ModelError, NotFittedError, NothingToDo, RecllmError, UsageError
from recllm.base.files import lock_file, sync_folder
from recllm.base.service_settings import IndexKind
from recllm.learn.features.item_index.catalogue import CatalogueIndex
from recllm.learn.features.item_index.opening import SERVERS, new_index, open_index
from recllm.learn.features.item_index.record import ABOUT, vectors_fingerprint
from recllm.learn.features.item_index.rows import Floats, ItemIndex, best_products
from recllm.recommend.recommender.registry import current, open_version
from recllm.recommend.recommender.saved_model import Model, read_model
from recllm.recommend.recommender.serving_state import CatalogueState, open_catalogue_state
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

COMPARED = 100_000
"""Vectors that are compared with those of the index at once."""
NEW_SHARE = 0.5
"""From this share of new or changed items, or of empty rows, on an index is built from nothing."""
ASKED = 50
"""Items whose nearest are looked up in both ways, to tell how good and fast the index is."""
DEPTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What `recllm refresh --index` did, and how the index compares with going through all items."""

    kind: IndexKind
    model_version: str
    items: int
    added: int
    changed: int
    removed: int
    seconds: float
    mib: float
    """Of its files; 0 for one in a server."""
    recall: float
    """Share of the 100 nearest items that it finds, of a sample of the items."""
    ms: float
    """A query, one after another."""
    exact_ms: float


def build_index(
    workspace: Workspace, kind: IndexKind | None = None, *, progress: Callable[[str], None] | None = None
) -> IndexReport:
    """Build the index of the serving version, or bring an earlier one of this kind up to date.

    kind: that of the settings when None. What serves meanwhile goes on with the index it has. Raises `NothingToDo` for
    exact, which needs no index, `NotFittedError` when nothing was trained, `UsageError` and `ModelError` where a server
    is missing or refuses, and `MissingExtraError`.
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
    model = read_model(open_version(workspace.models_dir, version), version, item_offsets=False)
    state = newest_state(workspace, version)
    if state is None:
        raise ModelError(f"model {version} has no serving state; run: recllm refresh -w {workspace.root}")
    catalogue = open_catalogue_state(state)
    item_ids, vectors = catalogue.items["item_id"], catalogue.arrays["item_vectors"]
    fingerprint, folder = fingerprint_of(model, catalogue), index_folder(workspace, kind)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_file(folder.parent / ".lock"):
        for leftover in folder.parent.glob(f".{kind}.*"):  # of builds that were killed: this one holds the lock
            shutil.rmtree(leftover)
        index, added, changed, removed = _current(workspace, kind, item_ids, vectors, fingerprint, progress)
        draft = folder.with_name(f".{kind}.{os.getpid()}.new")
        draft.mkdir(mode=0o700)
        index.fingerprint = fingerprint
        index.save(draft)
        _exchange(folder, draft)
    recall, ms, exact_ms = _compared(index, item_ids, vectors)
    index.close()
    return IndexReport(
        kind=kind,
        model_version=version,
        items=len(item_ids),
        added=added,
        changed=changed,
        removed=removed,
        seconds=time.monotonic() - started,
        mib=0.0 if kind in SERVERS else sum(path.stat().st_size for path in folder.iterdir()) / 2**20,
        recall=recall,
        ms=ms,
        exact_ms=exact_ms,
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


def catalogue_index(
    workspace: Workspace, model: Model, catalogue: CatalogueState, item_ids: pl.Series
) -> CatalogueIndex | None:
    """What serves nearest items to the catalogue of a version; None where the settings compare all of them."""
    kind = workspace.settings.item_index.kind
    if kind == "exact":
        return None
    fingerprint = fingerprint_of(model, catalogue)
    folder, url = index_folder(workspace, kind), _url(workspace, kind)
    return CatalogueIndex(lambda: _opened(folder, _stamp(folder), fingerprint, url), item_ids)


@lru_cache(maxsize=4)
def _opened(folder: Path, stamp: tuple[int, int], fingerprint: str, url: str | None) -> ItemIndex:
    """An index for all recommenders of this process, which are made again with each load of items; every byte of its
    files is checked once. stamp: differs from one index in the folder to the next."""
    return open_index(folder, fingerprint, url=url)


def _stamp(folder: Path) -> tuple[int, int]:
    try:
        about = (folder / ABOUT).stat()
    except OSError:
        return 0, 0
    return about.st_ino, about.st_mtime_ns


def fingerprint_of(model: Model, catalogue: CatalogueState) -> str:
    """Of what made the item vectors of a state."""
    return vectors_fingerprint(model.encoder_fingerprint, catalogue.name, catalogue.locale)


def index_folder(workspace: Workspace, kind: IndexKind) -> Path:
    """Where the index of a kind lies."""
    return workspace.cache_dir / "item-index" / kind


def _url(workspace: Workspace, kind: IndexKind) -> str | None:
    """Where the server of a kind is, maybe with a password; None for a kind without one."""
    if kind == "pgvector":
        return workspace.postgres_url()
    return workspace.settings.item_index.qdrant_url if kind == "qdrant" else None


def _current(
    workspace: Workspace,
    kind: IndexKind,
    item_ids: pl.Series,
    vectors: Floats,
    fingerprint: str,
    progress: Callable[[str], None] | None,
) -> tuple[ItemIndex, int, int, int]:
    """An index that holds these items, and how many were added, changed and removed."""
    url, folder = _url(workspace, kind), index_folder(workspace, kind)
    tell = progress or logger.info
    index: ItemIndex | None = None
    if (folder / ABOUT).exists():
        try:
            index = open_index(folder, None, url=url)
        except (ModelError, UsageError) as error:
            tell(f"built from nothing: {error}")
    if index is not None and index.dim == vectors.shape[1] and len(index.item_ids):
        rows = pl.DataFrame({"item_id": index.item_ids}).with_row_index("row").drop_nulls()
        listed = pl.DataFrame({"item_id": item_ids}).with_row_index("position")
        gone = rows.join(listed, on="item_id", how="anti")["item_id"].to_list()
        new = listed.join(rows, on="item_id", how="anti")["position"].sort().to_numpy()
        both = listed.join(rows, on="item_id", how="inner").sort("row")
        moved = []
        for start in range(0, both.height, COMPARED):
            block = both[start : start + COMPARED]
            positions = block["position"].to_numpy()
            differs = np.abs(index.vectors_of(block["row"].to_numpy().astype(np.int64)) - vectors[positions]) > 1e-6
            moved.append(positions[differs.any(axis=1)])
        changed = np.concatenate([*moved, new[:0]])
        n_empty = len(index.item_ids) - len(index) + len(gone)
        if max(len(new) + len(changed), n_empty) <= NEW_SHARE * len(item_ids):
            tell(f"{len(new):,} items are new, {len(changed):,} changed, {len(gone):,} gone")
            index.delete(gone)
            positions = np.concatenate([changed, new]).astype(np.int64)
            index.upsert(item_ids.gather(positions).to_list(), vectors[positions])
            return index, len(new), len(changed), len(gone)
        index.close()
    tell(f"build the {kind} index of {len(item_ids):,} items")
    collection = workspace.settings.item_index.qdrant_collection
    index = new_index(kind, vectors.shape[1], fingerprint, url=url, collection=collection)
    index.upsert(item_ids.to_list(), vectors)
    return index, len(item_ids), 0, 0


def _exchange(folder: Path, draft: Path) -> None:
    """Put a complete folder in the place of an earlier one; who has that one open keeps its files."""
    earlier = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(earlier)
    draft.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def _compared(index: ItemIndex, item_ids: pl.Series, vectors: Floats) -> tuple[float, float, float]:
    """Recall, and milliseconds a query of the index and of going through all items."""
    sample = np.sort(np.random.default_rng(0).permutation(len(item_ids))[:ASKED])
    if not len(sample):
        return 1.0, 0.0, 0.0
    queries, depth = np.array(vectors[sample]), min(DEPTH, len(item_ids))
    index.search(queries[:1], depth)  # files that are mapped are read, and connections made
    times, matches = [0.0, 0.0], []
    for query in queries:
        started = time.perf_counter()
        _, products = best_products(vectors, query[None], depth)
        between = time.perf_counter()
        cosine = index.search(query, depth).cosine
        times[0] += time.perf_counter() - between
        times[1] += between - started
        # of items whose vectors are equal one is as good as another
        matches.append(float((cosine >= products[0, -1] - 1e-5).mean()))
    return float(np.mean(matches)), 1_000 * times[0] / len(sample), 1_000 * times[1] / len(sample)
