"""Files that stand complete or not at all, locks between processes, and names that are safe in a path."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from recllm.errors import StoreError, UsageError

PRIVATE = 0o600
"""Permissions of a file that only its owner may read."""

_SAFE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DRAFT = re.compile(r"\..+\.(?P<pid>\d+)\.draft")
_open_drafts: set[str] = set()
"""Names of the drafts that this process is writing."""


@contextmanager
def whole_file(path: Path, *, mode: int = 0o666, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A stream, to be read as well, whose bytes become the file at `path` at the end of the block, also if the power is
    cut right after.

    An exception in the block leaves `path` as it was. mode: permissions, less the umask. With `overwrite` false an
    existing file stays, and `FileExistsError` is raised at the end of the block. Raises `OSError` of the disk.
    """
    # a name of its own for each of several writers
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.{os.getpid()}.draft")
    _open_drafts.add(draft.name)
    try:
        with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if overwrite:
            draft.replace(path)
        else:
            path.hardlink_to(draft)  # unlike a rename it fails where a file is
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)
        _open_drafts.discard(draft.name)


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o666, overwrite: bool = True) -> None:
    """Writes a file that stands complete or not at all; text as UTF-8. See `whole_file`."""
    with whole_file(path, mode=mode, overwrite=overwrite) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def drafts_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent`, for the owner alone, which is gone at the end of the block. Raises `OSError`."""
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = parent / f".parts.{uuid.uuid4().hex}.{os.getpid()}.draft"
    _open_drafts.add(folder.name)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _open_drafts.discard(folder.name)


def sweep_drafts(folder: Path) -> None:
    """Removes the drafts of `whole_file` and `drafts_folder` whose process ended without a chance to."""
    from psutil import pid_exists  # os.kill(pid, 0) would interrupt the process on Windows

    for path in folder.glob(".*.draft"):
        if draft := _DRAFT.fullmatch(path.name):
            pid = int(draft["pid"])
            # in a container each start has the same number
            if path.name not in _open_drafts if pid == os.getpid() else not pid_exists(pid):
                _remove(path)


def _remove(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def check_plain(path: Path) -> None:
    """Raises `OSError` for what is there and is no plain file: a pipe or a device may never come to an end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is no plain file")


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock_file(path: Path, *, wait_seconds: float = 60.0) -> Iterator[None]:
    """One thread of one process at a time is in the block; the lock falls with the process that holds it.

    `path` is made if need be and stays. Raises `StoreError` when the lock is not free within `wait_seconds`.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"{path} is locked by another process; wait until that one is done, then try again") from None
    except OSError as error:
        if path.is_symlink():
            raise StoreError(f"{path} is a link, and what it leads to is not opened as a lock; remove it") from error
        raise
    try:
        yield
    finally:
        lock.release()


def safe_id(text: str, what: str) -> str:
    """`text` unchanged when it can stand in a file name: letters, digits, `_ . -`, at most 64, not only dots.

    Raises `UsageError` naming `what` otherwise.
    """
    if not _SAFE_ID.fullmatch(text) or not text.strip("."):
        raise UsageError(f"{what} {text[:80]!r} is not a safe name; use 1 to 64 letters, digits, '_', '.' or '-'")
    return text
