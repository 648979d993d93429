"""Trained states on disk: each version a folder that never changes, and one pointer that says which one serves.

    models/
      CURRENT                  the version that serves
      versions/<version>/      the files of a version, and manifest.json with the SHA-256 of each
      versions/<version>.tmp/  a version being written; swept away by the next publication

A version is complete before its name exists, and the pointer is replaced in one step: whoever is killed at whatever
moment leaves the old version or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recllm.errors import ModelError, UsageError
from recllm.files import lock_file, safe_id, sync_folder, write_whole

MANIFEST = "manifest.json"
POINTER = "CURRENT"
ALLOWED_SUFFIXES = frozenset({".safetensors", ".arrow", ".json", ".txt", ".toml"})
"""Files that hold data and nothing that runs when they are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a version consists of: for each file its SHA-256 and size in bytes, by its path with "/"."""

    version: str
    created_at: str
    files: Mapping[str, tuple[str, int]]


def publish(models_dir: Path, write: Callable[[Path], None], *, version: str | None = None) -> str:
    """Lets `write` fill an empty folder, seals it as a new version and makes that the serving one.

    Returns the version, by default the UTC time with a random end. Raises `ModelError` for a version that exists, a
    file type outside `ALLOWED_SUFFIXES`, a link, no file at all, or a full disk; `UsageError` for a version that is
    not a safe name. What else `write` raises goes through. In each case the version that served still serves.
    """
    version = safe_id(version or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", "model version")
    if version.endswith(".tmp"):
        raise UsageError(f"model version {version!r}: the ending .tmp is reserved; choose another name")
    with _explained(f"cannot publish model version {version} in {models_dir}"):
        (models_dir / "versions").mkdir(parents=True, exist_ok=True)
        with lock_file(models_dir / ".lock"):
            _write_version(models_dir / "versions", version, write)
            write_whole(models_dir / POINTER, version + "\n")
    return version


def current(models_dir: Path) -> str | None:
    """The serving version; None before the first publication. `ModelError` for a pointer that names nothing."""
    try:
        text = (models_dir / POINTER).read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{models_dir / POINTER} cannot be read ({error}); {_remedy(models_dir)}") from error
    try:
        return safe_id(text, "model version")
    except UsageError as error:
        raise ModelError(f"{models_dir / POINTER} is damaged: {error}; {_remedy(models_dir)}") from error


def _remedy(models_dir: Path) -> str:
    return f"let a version serve with: recllm models promote VERSION -w {models_dir.parent}"


def versions(models_dir: Path) -> list[Manifest]:
    """Every version whose manifest can be read, oldest first."""
    manifests = []
    for folder in sorted((models_dir / "versions").glob("*")):
        if folder.is_dir() and folder.suffix != ".tmp":
            try:
                manifests.append(_read_manifest(folder))
            except ModelError:
                continue
    return sorted(manifests, key=lambda manifest: (manifest.created_at, manifest.version))


def open_version(models_dir: Path, version: str | None = None) -> Path:
    """The folder of a version (default: the serving one) after checking every byte of it.

    Raises `ModelError` when there is none, and when a file is missing, added, changed or of a type that is not
    allowed; whoever holds an opened version keeps serving it.
    """
    version = version or current(models_dir)
    if version is None:
        raise ModelError(f"there is no trained model in {models_dir}; train one with: recllm train")
    folder = models_dir / "versions" / safe_id(version, "model version")
    if not folder.is_dir():
        names = ", ".join(manifest.version for manifest in versions(models_dir)) or "none"
        raise ModelError(f"model version {version} is not in {models_dir}; see recllm models list; known: {names}")
    with _explained(f"cannot read model version {version} in {models_dir}"):
        verify(folder)
    return folder


def verify(folder: Path) -> Manifest:
    """Checks a version's folder against its manifest; see `open_version`."""
    manifest = _read_manifest(folder)
    if manifest.version != folder.name:
        raise ModelError(
            f"{folder}: its manifest belongs to version {manifest.version}; train again, or run: recllm models rollback"
        )
    present = set(_files(folder)) - {MANIFEST}
    odd = sorted(present ^ set(manifest.files))
    if odd:
        raise ModelError(
            f"{folder}: {odd[0]} is missing or was added after publication; train again, or run: recllm models rollback"
        )
    for name, (sha256, _) in manifest.files.items():
        with (folder / name).open("rb") as stream:
            unchanged = hashlib.file_digest(stream, "sha256").hexdigest() == sha256
        if not unchanged:
            raise ModelError(
                f"{folder / name} was changed after publication; train again, or run: recllm models rollback"
            )
    return manifest


def rollback(models_dir: Path, version: str | None = None) -> str:
    """Makes an earlier version serve again: `version`, or the one published before the serving one. Returns it.

    The version is verified first. Raises `ModelError` when it is not there or was changed.
    """
    if version is None:
        names = [manifest.version for manifest in versions(models_dir)]
        serving = current(models_dir)
        position = names.index(serving) if serving in names else len(names)
        if position == 0:
            raise ModelError(f"there is no version before {serving} in {models_dir}; nothing to roll back to")
        version = names[position - 1]
    open_version(models_dir, version)
    with _explained(f"cannot roll back in {models_dir}"), lock_file(models_dir / ".lock"):
        write_whole(models_dir / POINTER, version + "\n")
    return version


def _write_version(versions_dir: Path, version: str, write: Callable[[Path], None]) -> None:
    if (versions_dir / version).exists():
        raise ModelError(f"model version {version} exists in {versions_dir}; versions never change, choose a new name")
    for leftover in versions_dir.glob("*.tmp"):  # of killed publications: this one holds the lock
        shutil.rmtree(leftover)
    draft = versions_dir / f"{version}.tmp"
    draft.mkdir()
    try:
        write(draft)
        _seal(draft, version)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    draft.rename(versions_dir / version)
    sync_folder(versions_dir)


def _seal(draft: Path, version: str) -> None:
    """Writes the manifest of what a draft holds, and makes all of it survive a power cut."""
    names = _files(draft)
    if not names:
        raise ModelError(f"model version {version} has no files; nothing was published")
    if MANIFEST in names:
        raise ModelError(f"{MANIFEST} is written by the publication; use another file name")
    files = {}
    for name in names:
        with (draft / name).open("rb") as stream:
            os.fsync(stream.fileno())
            files[name] = (hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell())
    manifest = Manifest(version=version, created_at=datetime.now(UTC).isoformat(), files=files)
    write_whole(draft / MANIFEST, _manifest_text(manifest))
    for folder in sorted({(draft / name).parent for name in names} - {draft}, reverse=True):
        sync_folder(folder)


def _files(folder: Path) -> list[str]:
    """Path of each file with "/", in order. Raises `ModelError` for what no version may hold."""
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ModelError(f"{path} is a link or a special file; a model version holds plain files only")
        if path.is_file():
            if path.suffix not in ALLOWED_SUFFIXES:
                allowed = ", ".join(sorted(ALLOWED_SUFFIXES))
                raise ModelError(f"{path}: files of this type are refused; allowed: {allowed}")
            names.append(path.relative_to(folder).as_posix())
    return names


def _manifest_text(manifest: Manifest) -> str:
    body: dict[str, Any] = {"version": manifest.version, "created_at": manifest.created_at}
    body["files"] = {name: {"sha256": sha, "bytes": size} for name, (sha, size) in sorted(manifest.files.items())}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps(body | {"sha256": digest}, indent=1, sort_keys=True) + "\n"


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        text = path.read_text("utf-8")
        body = json.loads(text)
        files = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in body["files"].items()}
        manifest = Manifest(version=str(body["version"]), created_at=str(body["created_at"]), files=files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is missing or damaged; train again, or run: recllm models rollback") from error
    if _manifest_text(manifest) != text:  # every byte of the manifest counts, too
        raise ModelError(f"{path} was changed after publication; train again, or run: recllm models rollback")
    return manifest


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{what}: {error.strerror or error}; check the disk's free space and permissions") from error
