"""Vectors of a catalogue's texts, shard by shard, and from the files into a workspace's cache.

A shard is the items whose ids hash to its number. Its file holds one row for each distinct text that the model reads of
these items:

    key      20 bytes, under which the cache keeps the text's vector: a hash of encoder, kind and text
    vector   dim float32, a unit vector

Price texts are few and hang on the whole catalogue, so each lies in one shard, by a hash of the text. There is one for
every band of every group that is compared, whatever things cost: no purchase is read for them, and after a change of
prices none is missing. A text of items in two shards is encoded in both. The files hold no person and no text.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recllm.base.errors import DataError, StoreError, UsageError
from recllm.base.schema import Encoder, Table
from recllm.recommend.recommender.shop_recommender import usable_version, workspace_encoder
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.cache import CachedEncoder, vector_keys
from recllm.text.items import item_texts, possible_price_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recllm.base.schema import FloatArray

FINGERPRINT, LOAD, CHECKSUM = "recllm.encoder", "recllm.item_load", "recllm.checksum"
"""In the metadata of a file: the encoder's fingerprint, the load of items after which the catalogue was read, a hash
over both and all rows."""


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """The encoder of a run, so that each process opens the same one."""

    encoder: str
    """A name, or the absolute path of a folder."""
    fingerprint: str
    adapter: bool
    """Whether a model's adapter is merged."""
    version: str | None = None
    """Of the model whose adapter it is, None for the current one."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> EncodingOptions:
        """Raises `UsageError` for options of something else."""
        if set(options) - {field.name for field in fields(cls)} or not isinstance(options.get("fingerprint"), str):
            raise UsageError("the options of encoding are those of encoding_options")
        return cls(**options)


def encoding_options(workspace: Workspace, version: str | None = None, *, base: bool = False) -> dict[str, Any]:
    """The options of `BatchTask.ENCODE`: the workspace's encoder, with the adapter of the current or named model if it
    has one. base: without an adapter, as a new training starts. Raises `ModelError` as `load_encoder` and `load_model`
    do."""
    cached = workspace_encoder(workspace)
    bare = cached.encoder if isinstance(cached, CachedEncoder) else cached
    adapter = None if base else _adapter(workspace, version)
    if adapter is not None:
        from recllm.text.encoder.loading import with_adapter

        bare = with_adapter(bare, adapter)
    folder = Path(workspace.settings.encoder).expanduser()
    options = EncodingOptions(
        encoder=str(folder.absolute()) if folder.is_dir() else workspace.settings.encoder,
        fingerprint=bare.fingerprint,
        adapter=adapter is not None,
        version=version,
    )
    return {name: value for name, value in asdict(options).items() if value is not None}


def _adapter(workspace: Workspace, version: str | None) -> Path | None:
    from recllm.recommend.recommender.saved_model import load_model

    version = version or usable_version(workspace)
    return None if version is None else load_model(workspace.models_dir, version).adapter


def open_encoder(workspace: Workspace, options: EncodingOptions) -> Encoder:
    """The encoder of the options, without a cache: many machines must not write into one file of SQLite.

    Raises `UsageError` where it has become another one since.
    """
    from recllm.text.encoder.loading import load_encoder, with_adapter

    encoder = load_encoder(options.encoder, progress=False)
    if options.adapter and (adapter := _adapter(workspace, options.version)) is not None:
        encoder = with_adapter(encoder, adapter)
    if encoder.fingerprint != options.fingerprint:
        raise UsageError(
            f"the encoder {encoder.name} is not the one that this run was begun with (fingerprint "
            f"{encoder.fingerprint[:12]} instead of {options.fingerprint[:12]}); give another folder"
        )
    return encoder


def item_load(workspace: Workspace) -> int:
    """Number of the last load that changed the catalogue, 0 before the first."""
    with workspace.store().read() as reader:
        return reader.marks().load_no.get(Table.ITEMS, 0)


class CatalogueEncoder:
    """A catalogue and its encoder, opened once and asked for shard after shard."""

    def __init__(
        self, workspace: Workspace, options: EncodingOptions, shard_of: Callable[[Sequence[str]], NDArray[np.int64]]
    ) -> None:
        """shard_of: the shard of each id or text."""
        self.encoder = open_encoder(workspace, options)
        self.load = item_load(workspace)  # before the items: one that comes between is only looked at twice
        self.locale = workspace.settings.locale
        items = workspace.gate().catalogue()
        prices = possible_price_texts(items, self.locale)
        self._items = items.select("item_id", "title", "category", "brand", "attributes", "description")
        self._shard_of_item = shard_of(items["item_id"].to_list())
        self._price_texts = list(zip(shard_of(prices).tolist(), prices, strict=True))

    def texts(self, shard: int) -> list[str]:
        """The distinct texts of a shard, in order."""
        items = self._items.filter(pl.Series(self._shard_of_item == shard))
        prices = (text for number, text in self._price_texts if number == shard)
        return sorted({*item_texts(items, self.locale), *prices})

    def encode(self, shard: int, earlier: Path) -> tuple[bytes, int]:
        """The content of a shard's file, and how many of its texts were encoded now.

        earlier: the file as it was before the catalogue changed, if it is there; its vectors are taken over.
        """
        texts = self.texts(shard)
        keys = vector_keys(self.encoder.fingerprint, texts)
        rows = np.zeros((len(texts), self.encoder.dim), np.float32)
        missing = np.arange(len(texts))
        if (stored := _earlier(earlier, self.encoder.fingerprint)) is not None:
            row_of = dict(zip(stored.keys, range(len(stored.keys)), strict=True))
            earlier_rows = np.array([row_of.get(key, -1) for key in keys], np.int64)
            rows[earlier_rows >= 0] = stored.rows[earlier_rows[earlier_rows >= 0]]
            missing = np.flatnonzero(earlier_rows < 0)
        if len(missing):
            rows[missing] = self.encoder.encode([texts[row] for row in missing])
        return _content(ShardVectors(keys, rows, self.load), self.encoder.fingerprint), len(missing)


# --- the files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ShardVectors:
    """What a shard's file holds."""

    keys: list[bytes]
    rows: FloatArray
    """Unit rows, (n, dim) float32."""
    load: int
    """As `item_load`, when the catalogue was read."""

    def checksum(self, fingerprint: str) -> str:
        digest = hashlib.blake2b(f"{fingerprint} {self.load} {self.rows.shape}".encode(), digest_size=16)
        digest.update(b"".join(self.keys))
        digest.update(np.ascontiguousarray(self.rows, "<f4").data)
        return digest.hexdigest()


def _content(vectors: ShardVectors, fingerprint: str) -> bytes:
    schema: dict[str, Any] = {"key": pl.Binary, "vector": pl.Array(pl.Float32, vectors.rows.shape[1])}
    frame = pl.DataFrame({"key": vectors.keys, "vector": vectors.rows}, schema=schema)
    about = {FINGERPRINT: fingerprint, LOAD: str(vectors.load), CHECKSUM: vectors.checksum(fingerprint)}
    content = io.BytesIO()
    frame.write_parquet(content, metadata=about)
    return content.getvalue()


def read_vectors(file: Path, fingerprint: str) -> ShardVectors:
    """Raises `DataError` where the file is missing or damaged in any bit, `UsageError` for vectors of another encoder.

    fingerprint: the encoder's.
    """
    try:
        content = file.read_bytes()
        about = pl.read_parquet_metadata(io.BytesIO(content))
        frame = pl.read_parquet(io.BytesIO(content), columns=["key", "vector"])
        rows = frame["vector"].to_numpy()
        vectors = ShardVectors(frame["key"].to_list(), rows, int(about[LOAD]))
        is_sound = rows.ndim == 2 and vectors.checksum(about[FINGERPRINT]) == about[CHECKSUM]
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{file} is missing or damaged; run the same batch again") from error
    if not is_sound:
        raise DataError(f"{file} is damaged; run the same batch again")
    if about[FINGERPRINT] != fingerprint:
        raise UsageError(
            f"{file} holds vectors of another encoder (fingerprint {about[FINGERPRINT][:12]} instead of "
            f"{fingerprint[:12]}); give another folder"
        )
    return vectors


def _earlier(file: Path, fingerprint: str) -> ShardVectors | None:
    try:
        return read_vectors(file, fingerprint)
    except DataError:
        return None


def is_current(file: Path, fingerprint: str, load: int) -> bool:
    """Whether a shard's file is sound and of the catalogue after that load. Raises `UsageError` for vectors of another
    encoder."""
    vectors = _earlier(file, fingerprint)
    return vectors is not None and vectors.load == load


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFill:
    """What was put into a workspace's cache."""

    vectors: int
    """That lie there now."""
    added: int
    """Of these, were not there before."""


def fill_cache(workspace: Workspace, options: EncodingOptions, files: Sequence[Path]) -> CacheFill | None:
    """Put the vectors of all files into the workspace's cache, where whatever encodes finds them; None for an encoder
    without a cache. What lies there already stays as it is.

    Raises `DataError` for a damaged file, `UsageError` for one of another encoder, `StoreError` where the cache cannot
    be written.
    """
    cached = workspace_encoder(workspace)
    if not isinstance(cached, CachedEncoder):
        return None
    fingerprint = options.fingerprint
    cache = cached.around(open_encoder(workspace, options))
    heads = [_heads(read_vectors(file, fingerprint).keys) for file in files]  # all are sound, or nothing is written
    n_vectors, added = len(np.unique(np.concatenate([np.zeros(0, np.uint64), *heads]))), 0
    try:
        for file in files:
            vectors = read_vectors(file, fingerprint)
            n_stored, n_before = cache.add(vectors.keys, vectors.rows)
            if n_stored < len(vectors.keys):
                raise StoreError(
                    f"the cache in {workspace.cache_dir / 'vectors'} cannot be written, as the warning says; the files "
                    "stand: run the same batch again"
                )
            added += n_stored - n_before
    finally:
        cache.close()
    return CacheFill(vectors=n_vectors, added=added)


def _heads(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """The first 8 bytes of each key, which tell keys apart; (n,)."""
    whole_keys = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
    return np.ascontiguousarray(whole_keys[:, :8]).view(np.uint64)[:, 0]
