"""Small answers that cost time, kept in JSON files of a cache folder: hashes of weights, probes of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from recllm.base.documents import json_value
from recllm.base.files import write_whole

HASH_FILE = "hashes.json"


def remembered(path: Path | None, key: str, compute: Callable[[], Any], valid: Callable[[Any], bool]) -> Any:
    """The JSON value stored under `key` of `path`; computed and stored where there is none that is `valid`.

    Without a path nothing is stored. Readers see the old file or the new one. A damaged file is replaced, and a
    folder that cannot be written only costs a repeat.
    """
    value = _read(path).get(key) if path else None
    if valid(value):
        return value
    value = compute()
    if path:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(_read(path) | {key: value}, indent=1))
    return value


def file_hash(path: Path, cache_dir: str | Path | None = None) -> str:
    """SHA-256 of a file, remembered while its size and time of change stay the same: by this process, and on disk.

    `cache_dir` is where it is kept, in hashes.json. Hashing 90 MB takes a tenth of a second and more.
    """
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns, None if cache_dir is None else Path(cache_dir))


@lru_cache(maxsize=256)
def _hash_of(path: Path, size: int, mtime_ns: int, cache_dir: Path | None) -> str:
    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    store = None if cache_dir is None else cache_dir / HASH_FILE
    key = f"{path.absolute()} {size} {mtime_ns}"
    digest: str = remembered(store, key, compute, lambda value: isinstance(value, str) and len(value) == 64)
    return digest


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json_value(path.read_text("utf-8"))
        if isinstance(content, dict):
            return content
    return {}
