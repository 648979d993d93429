"""The file of refused rows of one load, for the shop to look at. It holds raw ids: only the owner may read it.

Lines gather in a hidden draft. The file gets its name when the load is committed, or when it is refused for too many
bad rows; otherwise the draft goes away, at the latest with the next load, when its process is gone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from recllm.errors import StoreError
from recllm.files import PRIVATE, sync_folder
from recllm.ingest.read.records import BadRecord

_DRAFT = re.compile(r"\.[A-Za-z0-9_.-]+\.(?P<pid>\d+)\.draft")


class Quarantine:
    """Use as a context: leaving it without `publish` removes the draft. With no folder nothing is written."""

    def __init__(self, folder: str | Path | None, load_id: str, file: str, sha256: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._path = (self._folder or Path()) / f"{load_id}.jsonl"
        self._draft = self._path.with_name(f".{load_id}.{os.getpid()}.draft")
        self._source = {"file": file, "sha256": sha256}
        self._stream: IO[str] | None = None

    def __enter__(self) -> Quarantine:
        """Removes drafts whose process ended without a chance to."""
        for path in self._folder.glob(".*.draft") if self._folder else ():
            draft = _DRAFT.fullmatch(path.name)
            if draft and not _is_running(int(draft["pid"])):
                path.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
            self._draft.unlink(missing_ok=True)

    def add(self, record: BadRecord, record_no: int) -> None:
        """record_no: number of the record in its file, from 1, a header included."""
        if self._folder is None:
            return
        line = self._source | {
            "line_no": record.line_no,
            "record_no": record_no,
            "byte_offset": record.byte_offset,
            "column": record.column,
            "code": record.code,
            "message": record.message,
            "raw": record.raw,
        }
        with self._explained():
            if self._stream is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
                self._stream = os.fdopen(descriptor, "w", encoding="utf-8")
            self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def publish(self) -> str | None:
        """Give the file its name, durably. Returns its path, None when no row was refused."""
        if self._stream is None:
            return None
        with self._explained():
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._draft.replace(self._path)
            sync_folder(self._path.parent)
        self._stream = None
        return str(self._path)

    def withdraw(self) -> None:
        """Take a published file back: the load that it belongs to did not happen."""
        if self._folder is not None:
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the quarantine {self._folder} cannot be written: {error.strerror or error}; nothing was kept"
            ) from error


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
