"""Files on their way into a shop: the upload on disk, and the load that runs while its page is looked at.

uploads/<id>/file, upload.json      in the workspace, readable by its owner only, gone when it was loaded or after a
                                    day; an upload that broke off leaves nothing
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from recllm.base.errors import IngestError, RecllmError, StoreError, UnknownIdError, UsageError
from recllm.base.files import PRIVATE, whole_file, write_whole
from recllm.base.schema import IngestReport, Table
from recllm.shop.ingest.options import ColumnMap
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import UPLOADS, Workspace

logger = logging.getLogger(__name__)

DAY_SECONDS = 24 * 3_600
BLOCK_BYTES = 1 << 20
MOST_LOADS = 50
"""Finished loads that are remembered; the store keeps the account of each for good."""


class FileLoadState(StrEnum):
    """How far a load is."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CancelledLoad(Exception):  # noqa: N818 - no error
    """Ends a load; its transaction is not committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that waits to be loaded."""

    upload_id: str
    path: Path
    name: str
    """The file's own name."""
    bytes: int


@dataclass(slots=True, eq=False, kw_only=True)
class FileLoad:
    """One load; a thread changes it while pages read it."""

    load_id: str
    shop: str
    upload_id: str
    name: str
    tables: tuple[Table, ...]
    """What it goes into, in this order; several of an export that was recognised."""
    likely_rows: int
    """About how many rows the file has; each table reads all of them."""
    dry_run: bool
    is_export: bool = False
    """Whether its kind was recognised, so that its columns were not chosen."""
    began: float = field(default_factory=time.monotonic)
    """By the monotonic clock, seconds."""
    rows: int = 0
    """Read so far, of the table that is being loaded."""
    state: FileLoadState = FileLoadState.RUNNING
    reports: list[IngestReport] = field(default_factory=list)
    """Of the tables that are done: of a load that ended early, what stays."""
    problem: str = ""
    code: str = ""
    """Of the refusal, such as E_ENCODING."""
    quarantine: str = ""
    """Name of the list of rows for which a table was refused."""

    @property
    def is_over(self) -> bool:
        return self.state not in (FileLoadState.RUNNING, FileLoadState.CANCELLING)

    @property
    def share(self) -> float:
        """About how much is read, in [0, 0.99] until it is over."""
        share_of_table = min(1.0, self.rows / max(self.likely_rows, 1))
        return 1.0 if self.is_over else min(0.99, (len(self.reports) + share_of_table) / len(self.tables))

    @property
    def again(self) -> str:
        """The address where it can be tried again."""
        table = "" if self.is_export else f"?table={self.tables[0]}"
        return f"/data/upload/{self.upload_id}{table}"

    @property
    def seconds_left(self) -> float | None:
        """About how long it still takes; None at the beginning."""
        passed = time.monotonic() - self.began
        return None if self.share < 0.02 else passed * (1 - self.share) / self.share


def receive_upload(workspace: Workspace, stream: BinaryIO, name: str) -> Upload:
    """Copy a stream to the workspace's uploads, whole or not at all. Raises `UsageError` for an empty file."""
    sweep_uploads(workspace)
    folder = _uploads_folder(workspace)
    folder.mkdir(mode=0o700, exist_ok=True)
    upload_id = secrets.token_urlsafe(9).replace("-", "x").replace("_", "y")
    draft, safe = folder / f"{upload_id}.tmp", _safe_name(name)
    draft.mkdir(mode=0o700)
    try:
        with whole_file(draft / safe, mode=PRIVATE) as target:
            shutil.copyfileobj(stream, target, BLOCK_BYTES)
        size = (draft / safe).stat().st_size
        if not size:
            raise UsageError("the file is empty; choose another one")
        write_whole(draft / "upload.json", json.dumps({"name": safe, "bytes": size}), mode=PRIVATE)
        draft.rename(folder / upload_id)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return find_upload(workspace, upload_id)


def find_upload(workspace: Workspace, upload_id: str) -> Upload:
    """Raises `UnknownIdError` for one that never was, or is gone."""
    folder = workspace.root / UPLOADS / upload_id
    if not re.fullmatch(r"[A-Za-z0-9]{12}", upload_id) or not (folder / "upload.json").is_file():
        raise UnknownIdError("this upload is gone: it was loaded, or is older than a day; upload the file again")
    about = json.loads((folder / "upload.json").read_text("utf-8"))
    return Upload(upload_id=upload_id, path=folder / about["name"], name=about["name"], bytes=about["bytes"])


def remove_upload(workspace: Workspace, upload_id: str) -> None:
    shutil.rmtree(find_upload(workspace, upload_id).path.parent, ignore_errors=True)


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


def quarantine_name(report: IngestReport) -> str:
    """Name of the list of rows that a load set aside; "" where there are none."""
    return Path(report.quarantine_file).stem if report.quarantine_file else ""


def _safe_name(name: str) -> str:
    """The file's own name as far as it is safe in a path."""
    safe = re.sub(r"[^\w.-]+", "_", name.replace("\\", "/").rsplit("/", 1)[-1], flags=re.ASCII)[-60:].lstrip("._-")
    return safe if safe not in ("", "upload.json") else "upload.csv"


class FileLoads:
    """The loads of one console: one at a time for each shop, each in a thread."""

    def __init__(self) -> None:
        self._loads: dict[str, FileLoad] = {}
        self._lock = threading.Lock()

    def find(self, shop: str, load_id: str) -> FileLoad:
        """Raises `UnknownIdError` for a load that is not of this shop."""
        load = self._loads.get(load_id)
        if load is None or load.shop != shop:
            raise UnknownIdError("there is no such load; the list of loads has those that were committed")
        return load

    def running(self, shop: str) -> FileLoad | None:
        """The load that runs in this shop."""
        return next((load for load in self._loads.values() if load.shop == shop and not load.is_over), None)

    def start(
        self,
        workspace: Workspace,
        upload: Upload,
        load: FileLoad,
        maps: Sequence[tuple[Table, ColumnMap]],
        **options: Any,
    ) -> FileLoad:
        """Load an upload in a thread, table after table. Raises `UsageError` while another load of the shop runs."""
        with self._lock:
            if self.running(load.shop) is not None:
                raise UsageError("another file is being loaded; wait until it is done, or cancel it")
            for finished in [key for key, entry in self._loads.items() if entry.is_over][: -MOST_LOADS or None]:
                del self._loads[finished]
            self._loads[load.load_id] = load
        arguments = (workspace, upload, load, maps, options)
        threading.Thread(target=self._run, args=arguments, name=f"load {load.shop}", daemon=True).start()
        return load

    @staticmethod
    def _run(
        workspace: Workspace,
        upload: Upload,
        load: FileLoad,
        maps: Sequence[tuple[Table, ColumnMap]],
        options: Mapping[str, Any],
    ) -> None:
        def progress(rows: int) -> None:
            load.rows = rows
            if load.state is FileLoadState.CANCELLING:
                raise CancelledLoad

        try:
            for table, column_map in maps:
                load.rows = 0
                report = load_file(
                    workspace,
                    upload.path,
                    table,
                    mapping=column_map,
                    dry_run=load.dry_run,
                    progress=progress,
                    **options,
                )
                load.reports.append(report)
            if not load.dry_run:
                remove_upload(workspace, upload.upload_id)
            load.state = FileLoadState.DONE
        except CancelledLoad:
            load.state = FileLoadState.CANCELLED
        except IngestError as error:
            file = error.quarantine_file
            load.quarantine = Path(file).stem if file else ""
            load.problem, load.code = error.message.removesuffix(f"; see {file}"), error.code
            load.state = FileLoadState.FAILED
        except RecllmError as error:
            load.problem, load.state = str(error), FileLoadState.FAILED
        except Exception as error:  # the page has to say that it is over, whatever it was
            logger.exception("a load failed", extra={"load_id": load.load_id})
            load.problem, load.state = f"{type(error).__name__}; see the log", FileLoadState.FAILED
