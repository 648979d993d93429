"""Vectors kept on disk, so that a text is computed once per model and not once per run.

Documents lie in one file, and queries, which are people's statements about themselves, in another, so that erasure
removes the vectors of people and not those of the catalogue. Such a file is SQLite in write-ahead mode, for
all models' vectors: it survives a kill, and several processes may use it at once. A row's key hashes model
fingerprint, kind and text; each row carries a checksum, so that damage is noticed and costs a recomputation, never a
wrong vector. No text is stored. A vector that no call asked for in `UNUSED_DAYS` is deleted. The cache never makes a
call fail: when it cannot be read or written, a warning says so and the encoder works as if there were none.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recllm.text.encoder.batches import distinct, progress_bar

if TYPE_CHECKING:
    from recllm.base.arrays import Floats, Mask
    from recllm.base.schema import Encoder, TextKind

CACHE_FILE = "embeddings.sqlite"
QUERY_CACHE_FILE = "queries.sqlite"
"""Vectors of texts about people."""
UNUSED_DAYS = 90

_CHUNK = 1024
"""Texts computed between two writes: what a kill can cost, and a step of the progress bar."""

_KEYS_PER_QUERY = 500
"""Keys of one query; SQLite allows 999 variables in its oldest builds."""

_WAL_PAGES = 256
_WAL_BYTES = 4 << 20
"""Size to which the write-ahead file of the cache is cut back."""

_PATIENCE = 30.0
"""Seconds to wait for another process's write."""

_DAY = 86_400

_DAMAGE = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vector (
    key BLOB NOT NULL UNIQUE,   -- 20 bytes
    used INTEGER NOT NULL,      -- the day it was last asked for
    digest BLOB NOT NULL,       -- 8 bytes over key and numbers
    numbers BLOB NOT NULL       -- dim little-endian float32
);
CREATE INDEX IF NOT EXISTS vector_used ON vector (used);
"""


class CachedEncoder:
    """The same encoder, asking the disk first.
    A vector read back is bit for bit the one computed."""

    def __init__(self, encoder: Encoder, directory: str | Path, *, progress: bool = False) -> None:
        self.encoder = encoder
        self.name = encoder.name
        self.fingerprint = encoder.fingerprint
        self.earlier_fingerprint = getattr(encoder, "earlier_fingerprint", "")
        self.dim = encoder.dim
        self._files = {
            "document": _VectorFile(Path(directory) / CACHE_FILE),
            "query": _VectorFile(Path(directory) / QUERY_CACHE_FILE),
        }
        self._progress = progress

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> Floats:
        """Unit rows, (len(texts), dim) float32: from disk where they are, else computed and written."""
        texts_once, inverse = distinct(texts)
        keys = vector_keys(self.fingerprint, texts_once, kind)
        rows = np.zeros((len(texts_once), self.dim), np.float32)
        file = self._files["query" if kind == "query" else "document"]  # what is neither, the encoder refuses
        missing = np.flatnonzero(~file.read(keys, rows))
        if not len(missing):
            return rows[inverse]
        missing = missing[np.argsort([len(texts_once[row]) for row in missing], kind="stable")]  # little padding
        with progress_bar(len(missing), self._progress) as bar:
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                rows[chunk] = self.encoder.encode([texts_once[row] for row in chunk], kind=kind)
                file.write([keys[row] for row in chunk], rows[chunk])
                bar.update(len(chunk))
        return rows[inverse]

    def around(self, encoder: Encoder) -> CachedEncoder:
        """Another encoder behind the same files."""
        return CachedEncoder(encoder, self._files["document"].path.parent, progress=self._progress)


def vector_keys(fingerprint: str, texts: Sequence[str], kind: TextKind = "document") -> list[bytes]:
    """Under what the cache keeps each text's vector, 20 bytes each. fingerprint: the encoder's."""
    base = hashlib.blake2b(f"{fingerprint}\0{kind}\0".encode(), digest_size=20)
    keys = []
    for text in texts:
        key = base.copy()
        key.update(text.encode("utf-8", "surrogatepass"))
        keys.append(key.digest())
    return keys


def vector_checksum(key: bytes, numbers: bytes) -> bytes:
    """8 bytes over a key and the little-endian float32 of its vector."""
    return hashlib.blake2b(key + numbers, digest_size=8).digest()


class _VectorFile:
    """Keys to rows of numbers. Each call opens the file: one that was removed or replaced costs nothing but a miss."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._swept_on = 0
        """Day on which this object last deleted what was not used."""

    def read(self, keys: Sequence[bytes], rows: Floats) -> Mask:
        """Fill the rows whose keys are in the file; which ones, (len(keys),) bool."""
        hits = np.zeros(len(keys), bool)
        if not keys or not self.path.exists():
            return hits
        with self._guarded("read"), self._opened() as db:
            row_of = {key: row for row, key in enumerate(keys)}
            stale: list[bytes] = []
            broken: list[bytes] = []
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                block = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(block))
                query = f"SELECT key, used, digest, numbers FROM vector WHERE key IN ({marks})"  # noqa: S608
                for key, used, digest, numbers in db.execute(query, block):
                    row = row_of.get(key)
                    # a damaged page can even change the type of a column
                    sound = isinstance(numbers, bytes) and len(numbers) == rows.shape[1] * 4
                    if row is None or not sound or digest != vector_checksum(key, numbers):
                        broken.append(key)
                        continue
                    rows[row] = np.frombuffer(numbers, "<f4")
                    hits[row] = True
                    if used != self._today():
                        stale.append(key)
            if broken:
                warnings.warn(f"{self.path}: {len(broken)} damaged vectors are computed again.", stacklevel=3)
            if stale or broken:
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    db.executemany("UPDATE vector SET used = ? WHERE key = ?", [(self._today(), key) for key in stale])
                    db.executemany("DELETE FROM vector WHERE key = ?", [(key,) for key in broken])
        return hits

    def write(self, keys: Sequence[bytes], rows: Floats) -> None:
        with self._guarded("write"), self._opened() as db:
            blobs = [row.astype("<f4").tobytes() for row in rows]
            today = self._today()
            records = [(key, today, vector_checksum(key, blob), blob) for key, blob in zip(keys, blobs, strict=True)]
            with db:
                db.execute("BEGIN IMMEDIATE")
                if self._swept_on != today:
                    db.execute("DELETE FROM vector WHERE used < ?", (today - UNUSED_DAYS,))
                    self._swept_on = today
                db.executemany("INSERT OR IGNORE INTO vector VALUES (?, ?, ?, ?)", records)

    def remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _today(self) -> int:
        return int(time.time() // _DAY)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as db:
            db.execute("PRAGMA page_size = 16384")  # of a new file: large pages waste less on rows of 1.5 kB
            db.execute("PRAGMA journal_mode = WAL")
            # A power cut may cost the last vectors, which is no loss; a kill costs nothing.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
            db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            db.text_factory = bytes
            db.executescript(_SCHEMA)
            yield db

    @contextlib.contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """Turn every trouble with the file into a warning; throw a damaged file away."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
            # an error's own message quotes damaged bytes of the file; a table with other columns is not our file
            if isinstance(error, UnicodeDecodeError) or code in _DAMAGE:
                with contextlib.suppress(OSError):
                    self.remove()
                warnings.warn(f"{self.path}: damaged ({error}); it is replaced.", stacklevel=4)
            else:
                warnings.warn(f"{self.path}: cannot {doing} ({error}); working without it.", stacklevel=4)
