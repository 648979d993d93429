"""Files on their way into a shop: the upload on disk, and the load that runs while its page is looked at.

uploads/<id>/file      in the workspace, readable by its owner only, gone when it was loaded or after a day; an upload
                       that broke off leaves nothing
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from recllm.base.errors import IngestError, StoreError, UnknownIdError, UsageError
from recllm.base.files import PRIVATE, whole_file
from recllm.base.schema import IngestReport, Table
from recllm.doors.service.jobs import Progress
from recllm.shop.ingest.options import ColumnMap
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import UPLOADS, Workspace

DAY_SECONDS = 24 * 3_600
BLOCK_BYTES = 1 << 20
MOST_LOADS = 50
"""Loads that may wait."""
LOAD = "load"
"""What the jobs are about."""


@dataclass(slots=True, eq=False, kw_only=True)
class FileLoad:
    """What a job loads; the job changes it while pages read it."""

    workspace: Workspace
    upload: Path
    """In a folder of its own, whose name is the upload's id."""
    maps: Sequence[tuple[Table, ColumnMap]]
    """What it goes into, in this order; several of an export that was recognised."""
    options: Mapping[str, Any]
    """How the file is written: of `load_file`."""
    likely_rows: int
    """About how many rows the file has; each table reads all of them."""
    dry_run: bool
    is_export: bool = False
    """Whether its kind was recognised, so that its columns were not chosen."""
    began: float = field(default_factory=time.monotonic)
    """By the monotonic clock, seconds."""
    rows: int = 0
    """Read so far, of the table that is being loaded."""
    reports: list[IngestReport] = field(default_factory=list)
    """Of the tables that are done: of a load that ended early, what stays."""
    error: IngestError | None = None
    """Why the file was refused; None for other failures, which the job says."""

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table for table, _ in self.maps)

    @property
    def problem(self) -> str:
        """The message of the error without a path of this machine; "" for none."""
        if self.error is None:
            return ""
        return self.error.message.removesuffix(f"; see {self.error.quarantine_file}")

    @property
    def share(self) -> float:
        """About how much is read, in [0, 0.99]."""
        share_of_table = min(1.0, self.rows / max(self.likely_rows, 1))
        return min(0.99, (len(self.reports) + share_of_table) / len(self.tables))

    @property
    def again(self) -> str:
        """The address where it can be tried again."""
        table = "" if self.is_export else f"?table={self.tables[0]}"
        return f"/data/upload/{self.upload.parent.name}{table}"

    @property
    def seconds_left(self) -> float | None:
        """About how long it still takes; None at the beginning."""
        passed = time.monotonic() - self.began
        return None if self.share < 0.02 else passed * (1 - self.share) / self.share

    def run(self, tell: Progress) -> FileLoad:
        """Load the upload, table after table; returns itself. Raises what `load_file` does."""

        def progress(rows: int) -> None:
            self.rows = rows
            tell("")  # where a job that is cancelled ends

        common: dict[str, Any] = {"dry_run": self.dry_run, "progress": progress, **self.options}
        try:
            for table, column_map in self.maps:
                self.rows = 0
                self.reports.append(load_file(self.workspace, self.upload, table, mapping=column_map, **common))
        except IngestError as error:
            self.error = error
            raise
        if not self.dry_run:
            remove_upload(self.workspace, self.upload.parent.name)
        return self


def receive_upload(workspace: Workspace, stream: BinaryIO, name: str) -> Path:
    """Copy a stream to the workspace's uploads, whole or not at all.
    Raises `UsageError` for an empty file."""
    sweep_uploads(workspace)
    folder = _uploads_folder(workspace)
    folder.mkdir(mode=0o700, exist_ok=True)
    upload_id = secrets.token_urlsafe(9).replace("-", "x").replace("_", "y")
    # the file's own name as far as it is safe in a path
    safe = re.sub(r"[^\w.-]+", "_", name.replace("\\", "/").rsplit("/", 1)[-1], flags=re.ASCII)[-60:].lstrip("._-")
    safe, draft = safe or "upload.csv", folder / f"{upload_id}.tmp"
    draft.mkdir(mode=0o700)
    try:
        with whole_file(draft / safe, mode=PRIVATE) as target:
            shutil.copyfileobj(stream, target, BLOCK_BYTES)
        if not (draft / safe).stat().st_size:
            raise UsageError("the file is empty; choose another one")
        draft.rename(folder / upload_id)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return find_upload(workspace, upload_id)


def find_upload(workspace: Workspace, upload_id: str) -> Path:
    """Raises `UnknownIdError` for one that never was, or is gone."""
    is_id = re.fullmatch(r"[A-Za-z0-9]{12}", upload_id) is not None
    files = (workspace.root / UPLOADS / upload_id).glob("*") if is_id else ()
    path = next((file for file in files if file.name != "upload.json"), None)  # of an earlier version
    if path is None:
        raise UnknownIdError("this upload is gone: it was loaded, or is older than a day; upload the file again")
    return path


def remove_upload(workspace: Workspace, upload_id: str) -> None:
    shutil.rmtree(find_upload(workspace, upload_id).parent, ignore_errors=True)


def sweep_uploads(workspace: Workspace) -> None:
    """Remove uploads of more than a day ago and broken ones. Raises `StoreError` for a link."""
    for folder in _uploads_folder(workspace).glob("*"):
        if time.time() - folder.stat().st_mtime > DAY_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _uploads_folder(workspace: Workspace) -> Path:
    """Raises `StoreError` for a link: what is swept would lie somewhere else."""
    folder = workspace.root / UPLOADS
    if folder.is_symlink():
        raise StoreError(f"{folder} is a link; remove it, and the folder is made again")
    return folder


def quarantine_name(source: IngestReport | IngestError) -> str:
    """Name of the list of rows that a load set aside; "" where there are none."""
    return Path(source.quarantine_file).stem if source.quarantine_file else ""
