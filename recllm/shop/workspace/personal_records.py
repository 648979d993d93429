"""Where a workspace keeps something about people: one contract for every place, which each room fills in.

`privacy.registry` lists them. Erasure, rotation of the key, backup, retention, the export of a person and the
console's privacy page use that list only.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any

from recllm.base.settings import RetentionSettings
from recllm.shop.workspace.workspace import Workspace

_DRAFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\..*draft")
"""A file that is being written; it belongs to the place of the final one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What an erasure, or retention, removed."""

    rows: Mapping[str, int] = field(default_factory=dict)
    """Table of the store -> rows."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Kind -> files, or entries of files."""
    exported_in: tuple[str, ...] = ()
    """Campaigns whose exports had one of the people."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Models that learned from one of the people -> until when they may be used, ISO 8601."""
    unread: tuple[str, ...] = ()
    """Files, below the workspace, that could not be read and may still hold the people."""

    def plus(self, further: Removed) -> Removed:
        rows, files = Counter(self.rows), Counter(self.files)
        rows.update(further.rows)  # unlike a sum it keeps what is zero
        files.update(further.files)
        exported_in = tuple(dict.fromkeys((*self.exported_in, *further.exported_in)))
        models, unread = {**self.models, **further.models}, (*self.unread, *further.unread)
        return Removed(rows=dict(rows), files=dict(files), exported_in=exported_in, models=models, unread=unread)


@dataclass(frozen=True, slots=True)
class ErasedPeople:
    at: datetime
    """When it began."""
    subjects: frozenset[str]
    """Their pseudonyms, and those of the sessions that were joined to them."""


@dataclass(frozen=True, slots=True)
class ExportedPerson:
    name: str
    names_over_time: frozenset[str]
    """Pseudonyms under each key, as far as they are known."""
    recommender: Any = None
    """The workspace's `Recommender`, where one is open."""
    predictions: Iterable[Any] = ()
    """`Prediction` of all people, by pseudonym."""


@dataclass(frozen=True, slots=True)
class StoredCount:
    kind: str
    """Of its words."""
    entries: int
    days: int | None = None
    """How long an entry is kept; None where no age ends it."""


Renamed = Callable[[Collection[str]], Mapping[str, str]]
"""Pseudonyms that stand in files -> those of them that got another one with the key: old -> new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalRecords:
    """One place where something about people is kept.
    A field that is left out means: nothing to do."""

    name: str
    files: tuple[str, ...] = ()
    """Patterns of files and folders below the workspace's folder; what lies in such a folder belongs to the place."""
    in_backup: bool = False
    leftovers: tuple[str, ...] = ()
    """Patterns of what a stopped process leaves among them; no backup holds it."""
    locked: Callable[[Path], AbstractContextManager[object]] = nullcontext
    """Within the block a file is not replaced."""
    entries: str = ""
    """Pattern of the files that are counted and go by age."""
    days: Callable[[RetentionSettings], int | None] | None = None
    """How long they are kept; None, or no function, where no age ends them."""
    forget: Callable[[Workspace, ErasedPeople], Removed] | None = None
    """Removes people. May be repeated."""
    rename: Callable[[Workspace, Renamed], object] | None = None
    """Brings pseudonyms to the newest key. May be repeated."""
    export: Callable[[Workspace, ExportedPerson], Mapping[str, Any]] | None = None
    """Parts of a person's export, by name."""
    counts: Callable[[Workspace], Iterable[StoredCount]] | None = None
    """Lines of the console's table, where they are not about `entries`."""
    outdated: Callable[[Workspace, datetime, bool], Removed] | None = None
    """Removes what is over its time, or with True only counts it, where that is not the age of `entries`."""

    def has(self, path: PurePath) -> bool:
        """Whether a file belongs to the place; path: relative to the workspace."""
        return lies_in(path, self.files)

    def is_backed_up(self, path: PurePath) -> bool:
        """Whether a backup holds a file of the place; path: relative to the workspace."""
        is_draft = any(map(_DRAFT.fullmatch, path.parts))
        return self.in_backup and not is_draft and not lies_in(path, self.leftovers)

    def stored_counts(self, workspace: Workspace) -> Iterator[StoredCount]:
        if self.counts is not None:
            yield from self.counts(workspace)
        elif self.entries:
            days = None if self.days is None else self.days(workspace.settings.retention)
            yield StoredCount(self.name, len(list(workspace.root.glob(self.entries))), days)

    def retain(self, workspace: Workspace, clock: datetime, *, dry_run: bool) -> Removed:
        if self.outdated is not None:
            return self.outdated(workspace, clock, dry_run)
        if self.days is None:
            return Removed()
        days, paths = self.days(workspace.settings.retention), workspace.root.glob(self.entries)
        outdated = [path for path in paths if days is not None and age(path, clock) > timedelta(days=days)]
        return Removed(files={self.name: len(outdated)}) if dry_run else remove_files(workspace, outdated, self.name)


@dataclass(frozen=True, slots=True)
class RecordRegistry:
    records: tuple[PersonalRecords, ...]
    """In the order in which an erasure goes through them."""
    impersonal: tuple[PersonalRecords, ...]
    """Files without customers, for backups."""

    def owners(self, path: PurePath) -> list[PersonalRecords]:
        """The places that a file belongs to: one, or none for a file that recllm does not know. path: relative to the
        workspace."""
        return [record for record in (*self.records, *self.impersonal) if record.has(path)]

    def unknown_files(self, root: Path) -> tuple[str, ...]:
        """Files in a workspace that belong to no place, such as an export saved there by hand."""
        paths = (path.relative_to(root) for path in sorted(root.rglob("*")) if not path.is_dir())
        return tuple(path.as_posix() for path in paths if not self.owners(path))


def lies_in(path: PurePath, patterns: Iterable[str]) -> bool:
    parts = [draft["name"] if (draft := _DRAFT.fullmatch(name)) else name for name in path.parts]
    split = [pattern.split("/") for pattern in patterns]
    return any(len(names) <= len(parts) and all(map(fnmatchcase, parts, names)) for names in split)


def age(path: Path, clock: datetime) -> timedelta:
    """Since the file or folder was changed."""
    return clock - datetime.fromtimestamp(path.stat().st_mtime, UTC)


def forget_files(kind: str, pattern: str) -> Callable[[Workspace, ErasedPeople], Removed]:
    """A `forget` that removes all files, which may hold any person and can be made, or loaded, again."""
    return lambda workspace, people: remove_files(workspace, workspace.root.glob(pattern), kind)


def remove_files(workspace: Workspace, paths: Iterable[Path], kind: str) -> Removed:
    """Removes files and folders; one that cannot be removed counts as not read."""
    n_removed, unread = 0, []
    for path in paths:
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            n_removed += 1
        except OSError:
            unread.append(path.relative_to(workspace.root).as_posix())
    return Removed(files={kind: n_removed}, unread=tuple(unread))
