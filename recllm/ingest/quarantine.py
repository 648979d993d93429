"""The file of refused rows of one load, for the shop to look at. It holds raw ids: only the owner may read it.

Lines gather in a hidden draft. The file gets its name when the load is committed, or when it is refused for too many
bad rows; otherwise the draft goes away, at the latest with the next load, when its process is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

from recllm.errors import StoreError
from recllm.files import PRIVATE, sweep_drafts, whole_file
from recllm.ingest.read.records import BadRecord


class Quarantine:
    """Use as a context: an exception before `publish` removes the draft. With no folder nothing is written."""

    def __init__(self, folder: str | Path | None, load_id: str, file: str, sha256: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._path = (self._folder or Path()) / f"{load_id}.jsonl"
        self._source = {"file": file, "sha256": sha256}
        self._draft = ExitStack()
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Quarantine:
        if self._folder is not None:
            sweep_drafts(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draft.__exit__(kind, error, trace)

    def add(self, record: BadRecord, record_no: int) -> None:
        """record_no: number of the record in its file, from 1, a header included."""
        if self._folder is None:
            return
        line = self._source | {"line_no": record.line_no, "record_no": record_no} | asdict(record)
        with self._explained():
            if self._stream is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._stream = self._draft.enter_context(whole_file(self._path, mode=PRIVATE))
            self._stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def publish(self) -> str | None:
        """Give the file its name, durably. Returns its path, None when no row was refused."""
        if self._stream is None:
            return None
        with self._explained():
            self._draft.close()
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
