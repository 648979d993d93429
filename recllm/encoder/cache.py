"""Vectors kept on disk, so that a text is computed once per model and not once per run.

One SQLite file in write-ahead mode holds all models' vectors: it survives a kill, and several processes may use it at
once. A row's key hashes model fingerprint, kind and text; each row carries a checksum, so that damage is noticed and
costs a recomputation, never a wrong vector. No text is stored. The cache never makes a call fail: when it cannot be
read or written, a warning says so and the encoder works as if there were none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.encoder.batches import distinct, progress_bar
from recllm.errors import UsageError

if TYPE_CHECKING:
    from recllm.schema import Encoder, FloatArray, TextKind

CACHE_FILE = "embeddings.sqlite"
DEFAULT_MAX_BYTES = 1 << 30
"""1 GiB: about 650,000 vectors of 384 numbers."""

_CHUNK = 1024
"""Texts computed between two writes: what a kill can cost, and a step of the progress bar."""

_ASK = 500
"""Keys of one query; SQLite allows 999 variables in its oldest builds."""

_WAL_PAGES = 256
_WAL_BYTES = 4 << 20
"""What the write-ahead file beside the cache is cut back to."""

_PATIENCE = 30.0
"""Seconds to wait for another process's write."""

_DAY = 86_400
_MIN_BYTES = 1 << 20
_KEEP = 0.9
"""Share of `max_bytes` that stays when the oldest rows are dropped."""

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
    """The same encoder, asking the disk first. A vector read back is bit for bit the one computed."""

    def __init__(
        self,
        encoder: Encoder,
        directory: str | Path,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        progress: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`max_bytes` bounds the file; the vectors not asked for the longest (by day) go first when it is full."""
        if max_bytes < _MIN_BYTES:
            raise UsageError(f"The embedding cache needs at least {_MIN_BYTES} bytes, not {max_bytes}.")
        self.encoder = encoder
        self.name = encoder.name
        self.fingerprint = encoder.fingerprint
        self.dim = encoder.dim
        self._file = _VectorFile(Path(directory) / CACHE_FILE, max_bytes, clock)
        self._progress = progress
        self._chunk = max(1, min(_CHUNK, max_bytes // 2 // _row_bytes(encoder.dim)))

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> FloatArray:
        """Unit rows, (len(texts), dim) float32: from disk where known, else computed and kept."""
        once, inverse = distinct(texts)
        keys = self._keys(once, kind)
        rows = np.zeros((len(once), self.dim), np.float32)
        found = self._file.read(keys, rows)
        missing = np.flatnonzero(~found)
        missing = missing[np.argsort([len(once[row]) for row in missing], kind="stable")]  # little padding per chunk
        if not len(missing):
            return rows[inverse]
        with progress_bar(len(missing), self._progress) as bar:
            for start in range(0, len(missing), self._chunk):
                chunk = missing[start : start + self._chunk]
                rows[chunk] = self.encoder.encode([once[row] for row in chunk], kind=kind)
                self._file.write([keys[row] for row in chunk], rows[chunk])
                bar.update(len(chunk))
        return rows[inverse]

    @cached_property
    def max_tokens(self) -> int:
        return self.encoder.max_tokens

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.encoder.count_tokens(texts)

    def around(self, encoder: Encoder) -> CachedEncoder:
        """Another encoder behind the same file."""
        file = self._file
        return CachedEncoder(encoder, file.path.parent, file.max_bytes, progress=self._progress, clock=file.clock)

    def clear(self) -> None:
        """Forget every vector in the file, other models' too."""
        self._file.remove()

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        self._file.close()

    def _keys(self, texts: Sequence[str], kind: TextKind) -> list[bytes]:
        base = hashlib.blake2b(f"{self.fingerprint}\0{kind}\0".encode(), digest_size=20)
        keys = []
        for text in texts:
            one = base.copy()
            one.update(text.encode("utf-8", "surrogatepass"))
            keys.append(one.digest())
        return keys


class _VectorFile:
    """Keys to rows of numbers. Each thread of each process has its own connection."""

    def __init__(self, path: Path, max_bytes: int, clock: Callable[[], float]) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.clock = clock
        self._kept = threading.local()

    def read(self, keys: Sequence[bytes], into: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Fill the rows of `into` whose keys are known; which ones, (len(keys),) bool."""
        found = np.zeros(len(keys), bool)
        if not keys or not self.path.exists():
            return found
        with self._guarded("read"):
            db = self._open()
            row_of = {key: row for row, key in enumerate(keys)}
            stale: list[bytes] = []
            broken: list[bytes] = []
            for key, used, digest, numbers in _ask(db, keys):
                row = row_of.get(key)
                if row is None or not _whole(key, digest, numbers, into.shape[1]):
                    broken.append(key)
                    continue
                into[row] = np.frombuffer(numbers, "<f4")
                found[row] = True
                if used != self._today():
                    stale.append(key)
            self._tidy(db, stale, broken)
        return found

    def write(self, keys: Sequence[bytes], rows: FloatArray) -> None:
        with self._guarded("write"):
            db = self._open()
            blobs = [row.astype("<f4").tobytes() for row in rows]
            today = self._today()
            records = [(key, today, _digest(key, blob), blob) for key, blob in zip(keys, blobs, strict=True)]
            size = len(blobs) * _row_bytes(rows.shape[1])
            with _transaction(db):
                made_room = self._make_room(db, size)
                db.executemany("INSERT OR IGNORE INTO vector VALUES (?, ?, ?, ?)", records)
            if made_room:  # give what is still free back to the disk
                db.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint;")  # execute() frees one page only

    def close(self) -> None:
        kept = getattr(self._kept, "connection", None)
        self._kept = threading.local()
        if kept is not None and kept[0] == os.getpid():
            kept[2].close()

    def remove(self) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _today(self) -> int:
        return int(self.clock() // _DAY)

    def _tidy(self, db: sqlite3.Connection, stale: list[bytes], broken: list[bytes]) -> None:
        """Mark rows as used today, at most once a day each; drop damaged ones."""
        if broken:
            warnings.warn(f"{self.path}: {len(broken)} damaged vectors are computed anew.", stacklevel=4)
        if stale or broken:
            with _transaction(db):
                db.executemany("UPDATE vector SET used = ? WHERE key = ?", [(self._today(), key) for key in stale])
                db.executemany("DELETE FROM vector WHERE key = ?", [(key,) for key in broken])

    def _make_room(self, db: sqlite3.Connection, size: int) -> bool:
        """Drop the rows unused for the longest until `size` more bytes fit."""
        used_bytes = _pragma(db, "page_size") * (_pragma(db, "page_count") - _pragma(db, "freelist_count"))
        if used_bytes + size <= self.max_bytes:
            return False
        rows = db.execute("SELECT count(*) FROM vector").fetchone()[0]
        target = max(0, int(self.max_bytes * _KEEP) - size)
        drop = rows - int(rows * min(1.0, target / max(used_bytes, 1)))
        db.execute("DELETE FROM vector WHERE rowid IN (SELECT rowid FROM vector ORDER BY used, rowid LIMIT ?)", (drop,))
        return True

    def _open(self) -> sqlite3.Connection:
        """This thread's connection, made anew after a fork and when the file was removed or replaced."""
        kept: tuple[int, int, sqlite3.Connection] | None = getattr(self._kept, "connection", None)
        if kept is not None and kept[:2] == (os.getpid(), _inode(self.path)):
            return kept[2]
        if kept is not None and kept[0] != os.getpid():
            self._kept.inherited = kept  # a parent's connection must not be closed in the child, so it is kept alive
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        # These two only act on a new file: large pages waste less on rows of 1.5 kB; freed pages can be given back.
        db.execute("PRAGMA page_size = 16384")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        # A power cut may cost the last vectors, which is no loss; a kill costs nothing.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        db.text_factory = bytes
        db.executescript(_SCHEMA)
        self._kept.connection = (os.getpid(), _inode(self.path), db)
        return db

    @contextlib.contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """Turn every trouble with the file into a warning; throw a damaged file away."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            if _is_damage(error):
                with contextlib.suppress(OSError):
                    self.remove()
                warnings.warn(f"{self.path}: damaged ({error}); it is started anew.", stacklevel=4)
            else:
                warnings.warn(f"{self.path}: cannot {doing} ({error}); working without it.", stacklevel=4)


def _row_bytes(dim: int) -> int:
    """About what a vector takes in the file, with keys, indexes and the edges of pages."""
    return dim * 5 + 128


def _is_damage(error: Exception) -> bool:
    if isinstance(error, UnicodeDecodeError):
        return True  # an error's own message quotes damaged bytes of the file
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    wrong_schema = code == sqlite3.SQLITE_ERROR  # a table of that name with other columns: not our file
    return wrong_schema or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1


def _ask(db: sqlite3.Connection, keys: Sequence[bytes]) -> Iterator[tuple[bytes, int, bytes, bytes]]:
    for start in range(0, len(keys), _ASK):
        some = keys[start : start + _ASK]
        marks = ",".join("?" * len(some))
        yield from db.execute(f"SELECT key, used, digest, numbers FROM vector WHERE key IN ({marks})", some)  # noqa: S608


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _whole(key: bytes, digest: bytes, numbers: bytes, dim: int) -> bool:
    """Whether a row is as it was written; a damaged page can even change the type of a column."""
    return isinstance(numbers, bytes) and len(numbers) == dim * 4 and digest == _digest(key, numbers)


def _digest(key: bytes, numbers: bytes) -> bytes:
    return hashlib.blake2b(key + numbers, digest_size=8).digest()
