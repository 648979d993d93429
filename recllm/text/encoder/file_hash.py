"""Hashes of files of weights, remembered: by the process, and in hashes.json of a cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import lru_cache
from pathlib import Path

from recllm.base.documents import json_value
from recllm.base.files import write_whole

HASH_FILE = "hashes.json"


def file_hash(path: Path, cache_dir: str | Path | None = None) -> str:
    """SHA-256 of a file, remembered while its size and time of change stay the same: by this process, and on disk.

    `cache_dir` is where it is kept, in hashes.json; a damaged one is replaced, and a folder that cannot be written only
    costs a repeat. Hashing 90 MB takes a tenth of a second and more.
    """
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns, None if cache_dir is None else Path(cache_dir))


@lru_cache(maxsize=256)
def _hash_of(path: Path, size: int, mtime_ns: int, cache_dir: Path | None) -> str:
    key = f"{path.absolute()} {size} {mtime_ns}"
    hashes = {} if cache_dir is None else _read(cache_dir / HASH_FILE)
    digest = hashes.get(key)
    if isinstance(digest, str) and len(digest) == 64:
        return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if cache_dir is not None:
        with contextlib.suppress(OSError):
            cache_dir.mkdir(parents=True, exist_ok=True)
            write_whole(cache_dir / HASH_FILE, json.dumps(_read(cache_dir / HASH_FILE) | {key: digest}, indent=1))
    return digest


def _read(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        content = json_value(path.read_text("utf-8"))
        if isinstance(content, dict):
            return content
    return {}
