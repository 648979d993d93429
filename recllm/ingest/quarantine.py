"""The file of refused rows of one load, for the shop to look at. It holds raw ids: only the owner may read it.

Lines gather in a hidden draft. The file gets its name when the load is committed, or when it is refused for too many
bad rows; otherwise the draft goes away, at the latest with the next load, when its process is gone.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import IO

from recllm.errors import StoreError
from recllm.ingest.chunk import Place

_DRAFT = re.compile(r"\.(?P<load>[A-Za-z0-9_.-]+)\.(?P<pid>\d+)\.draft")


class Quarantine:
    """Use as a context: leaving it without `keep` removes the draft. With no folder nothing is written."""

    def __init__(self, folder: Path | None, load_id: str, file: str, sha256: str) -> None:
        self._folder = folder
        self._load_id = load_id
        self._head = {"file": file, "sha256": sha256}
        self._stream: IO[str] | None = None
        self.lines = 0

    def __enter__(self) -> Quarantine:
        if self._folder is not None:
            _sweep(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
            self._draft.unlink(missing_ok=True)

    @property
    def path(self) -> Path | None:
        return None if self._folder is None else self._folder / f"{self._load_id}.jsonl"

    @property
    def _draft(self) -> Path:
        folder = self._folder or Path()
        return folder / f".{self._load_id}.{os.getpid()}.draft"

    def add(self, place: Place, column: str | None, code: str, message: str, raw: str) -> None:
        self.lines += 1
        if self._folder is None:
            return
        line = self._head | {
            "line_no": place.line_no,
            "record_no": place.record_no,
            "byte_offset": place.byte_offset,
            "column": column,
            "code": code,
            "message": message,
            "raw": raw,
        }
        try:
            if self._stream is None:
                self._stream = self._open()
            self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise _not_written(self._draft, error) from error

    def keep(self) -> str | None:
        """Give the file its name. Returns it, None when there is nothing to keep."""
        if self._stream is None or self.path is None:
            return None
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._draft.replace(self.path)
        except OSError as error:
            raise _not_written(self._draft, error) from error
        self._stream = None
        return str(self.path)

    def withdraw(self) -> None:
        """Take a kept file back: the load that it belongs to did not happen."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _open(self) -> IO[str]:
        self._draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        return os.fdopen(descriptor, "w", encoding="utf-8")


def _not_written(path: Path, error: OSError) -> StoreError:
    return StoreError(f"the quarantine {path.parent} cannot be written: {error.strerror or error}; nothing was kept")


def _sweep(folder: Path) -> None:
    """Remove drafts whose process ended without a chance to."""
    for path in folder.glob(".*.draft"):
        found = _DRAFT.fullmatch(path.name)
        if found and not _alive(int(found["pid"])):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
