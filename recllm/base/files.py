"""Files that stand complete or not at all, locks between processes, and names that are safe in a path."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from recllm.base.errors import StoreError, UsageError

if sys.platform != "win32":
    import fcntl

PRIVATE = 0o600
"""Permissions of a file that only its owner may read."""

_SAFE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
LOCKLESS_SECONDS = 86_400.0
"""Age from which a draft is removed where files cannot be locked."""


@contextmanager
def whole_file(path: Path, *, mode: int = 0o666, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A stream, to be read as well, whose bytes become the file at `path` at the end of the block, also if the power is
    cut right after.

    An exception in the block leaves `path` as it was. mode: permissions, less the umask. With `overwrite` false an
    existing file stays, and `FileExistsError` is raised at the end of the block. Raises `OSError` of the disk.
    """
    with _new_draft(path, mode) as (draft, stream):
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        if sys.platform == "win32":  # which renames no open file
            stream.close()
        if overwrite:
            draft.replace(path)
        else:
            path.hardlink_to(draft)  # unlike a rename it fails where a file is
        sync_folder(path.parent)


@contextmanager
def _new_draft(path: Path, mode: int) -> Iterator[tuple[Path, IO[bytes]]]:
    """A hidden lock file next to `path`, held in the block and deleted at its end."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
    try:
        with os.fdopen(_open_locked(draft, mode), "w+b") as stream:
            yield draft, stream
    finally:
        draft.unlink(missing_ok=True)


def _open_locked(draft: Path, mode: int) -> int:
    while True:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        with suppress(OSError):
            _lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # a sweep was faster than the lock


def _lock(descriptor: int, *, wait: bool) -> None:
    """Raises `BlockingIOError` where another writer holds the lock, another `OSError` where there are no locks.

    Unlike a process id a lock means the same in all containers that share a volume.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no locks")
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o666, overwrite: bool = True) -> None:
    """Writes a file that stands complete or not at all; text as UTF-8. See `whole_file`."""
    with whole_file(path, mode=mode, overwrite=overwrite) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def drafts_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent`, for the owner alone, which is gone at the end of the block. Raises `OSError`."""
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _new_draft(parent / "parts", PRIVATE) as (draft, _):
        folder = _folder_of(draft)
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _folder_of(draft: Path) -> Path:
    return draft.with_suffix(".folder")


def sweep_drafts(folder: Path) -> None:
    """Removes the drafts of `whole_file` and `drafts_folder` whose writer ended without a chance to: their lock is
    free. Where files cannot be locked, drafts that were not written for `LOCKLESS_SECONDS`."""
    for draft in folder.glob(".*.draft"):
        with suppress(OSError):  # another sweep was faster
            is_old = time.time() - draft.lstat().st_mtime > LOCKLESS_SECONDS
            try:
                with draft.open("r+b") as stream:
                    _lock(stream.fileno(), wait=False)
                    _remove(draft)
            except BlockingIOError:
                continue
            except OSError:
                if is_old:
                    _remove(draft)


def _remove(draft: Path) -> None:
    shutil.rmtree(_folder_of(draft), ignore_errors=True)
    draft.unlink()


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
