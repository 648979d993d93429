"""Raw files: refused rows, and uploads that wait to be loaded; what of them is about a person."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from recllm.base.files import PRIVATE, whole_file
from recllm.shop.workspace.personal_records import ErasedPeople, ExportedPerson, PersonalRecords, Removed, forget_files
from recllm.shop.workspace.workspace import UPLOADS, Workspace
from recllm.text.ids import is_telling, possible_ids

_FILES = "quarantine/*.jsonl"


class _Mentions:
    """Finds people in refused rows by their pseudonyms, without their raw ids."""

    def __init__(self, workspace: Workspace, subjects: Collection[str]) -> None:
        """subjects: pseudonyms of people and of sessions."""
        names, people, sessions = frozenset(subjects), workspace.pseudonymiser(), workspace.session_pseudonymiser()

        @lru_cache(maxsize=1 << 16)
        def is_one(user_id: str) -> bool:
            return not names.isdisjoint((user_id, people.one(user_id), sessions.one(user_id)))

        self._is_one, self._are_in = is_one, lru_cache(maxsize=1 << 12)(self._find)

    def is_of(self, user_id: str | None, namespace: str | None = None) -> bool:
        """Whether an id is that of one of the people; namespace: see `IngestOptions`."""
        if user_id is None or self._is_one(user_id):
            return user_id is not None
        return namespace is not None and self._is_one(f"{namespace}:{user_id}")

    def _find(self, text: str, namespace: str | None, only_telling: bool) -> bool:
        ids = possible_ids(text)
        return any(self.is_of(some_id, namespace) for some_id in ids if not only_telling or is_telling(some_id))

    def taken_out(self, line: bytes) -> bytes:
        """A refused row without the people; empty if it is, or may be, theirs.

        In a row of another person a short id is a quantity or an item. If the name of the file or of a column holds an
        id, that name is removed and not the row.
        """
        row = _row(line)
        user, namespace, cells = row.get("user"), row.get("namespace"), row.get("fields") or {}
        texts = [text for text in (row.get("raw"), row.get("message"), user, *cells.values()) if isinstance(text, str)]
        if self.is_of(user, namespace) or any(self._are_in(text, namespace, user is not None) for text in texts):
            return b""
        for name in {row.get("file") or "", *cells}:
            if self._are_in(name, namespace, True):
                line = line.replace(json.dumps(name, ensure_ascii=False).encode(), b'"erased"')
        return line


def _row(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    return row if isinstance(row, dict) else {"raw": line.decode("utf-8", "replace")}


def _forget(workspace: Workspace, people: ErasedPeople) -> Removed:
    """Removes the refused rows of people, in doubt one too many, and files without rows."""
    mentions, n_removed, unread = _Mentions(workspace, people.subjects | people.spellings), 0, []
    for path in sorted(workspace.root.glob(_FILES)):
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except OSError:
            unread.append(path.relative_to(workspace.root).as_posix())
            continue
        staying = [left for line in lines if (left := mentions.taken_out(line))]
        n_removed += len(lines) - len(staying)
        if not staying:
            path.unlink()
        elif staying != lines:
            with whole_file(path, mode=PRIVATE) as stream:
                stream.writelines(staying)
    return Removed(files={"quarantined_rows": n_removed}, unread=tuple(unread))


def _export(workspace: Workspace, person: ExportedPerson) -> dict[str, Any]:
    """The person's own refused rows, without those that may be another person's."""
    with workspace.store().read() as reader:
        mentions = _Mentions(workspace, {person.name, *reader.joined_sessions(user_id=person.name)})
    paths = sorted(workspace.root.glob(_FILES))
    rows = (_row(line) for path in paths for line in path.read_bytes().splitlines())
    return {"refused_rows": [row for row in rows if mentions.is_of(row.get("user"), row.get("namespace"))]}


QUARANTINE = PersonalRecords(
    name="quarantine",
    files=("quarantine",),
    entries=_FILES,
    days=lambda limits: limits.quarantine,
    forget=_forget,
    export=_export,
)
UPLOADED = PersonalRecords(
    name="uploads",
    files=(UPLOADS,),
    entries=f"{UPLOADS}/*",
    days=lambda limits: limits.uploads,
    forget=forget_files("uploads", f"{UPLOADS}/*"),
)
