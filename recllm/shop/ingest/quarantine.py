"""Raw files about people: refused rows, and uploads that wait to be loaded."""

from __future__ import annotations

import json
from typing import Any

from recllm.base.files import PRIVATE, whole_file
from recllm.shop.workspace.personal_records import ErasedPeople, ExportedPerson, PersonalRecords, Removed, forget_files
from recllm.shop.workspace.workspace import UPLOADS, Workspace

_FILES = "quarantine/*.jsonl"
_PLACE = ("sha256", "line_no", "record_no", "code")
"""What stays of a refused row after an erasure: its place, and why it was refused."""
_EMPTY: dict[str, Any] = {"file": "erased", "column": None, "message": "", "raw": "", "fields": None, "user": None}


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    return row if isinstance(row, dict) else {"line_no": 0, "code": "", "raw": line.decode("utf-8", "replace")}


def _forget(workspace: Workspace, people: ErasedPeople) -> Removed:
    """Removes the texts of all refused rows: any may hold an id, in any spelling."""
    n_removed, unread = 0, []
    for path in sorted(workspace.root.glob(_FILES)):
        try:
            rows = [_row(line) for line in path.read_bytes().splitlines()]
        except OSError:
            unread.append(path.relative_to(workspace.root).as_posix())
            continue
        emptied = [{name: row[name] for name in _PLACE if name in row} | _EMPTY for row in rows]
        changed = sum(without != row for without, row in zip(emptied, rows, strict=True))
        if changed:
            with whole_file(path, mode=PRIVATE) as stream:
                stream.writelines(json.dumps(row).encode() + b"\n" for row in emptied)
        n_removed += changed
    return Removed(files={"quarantined_rows": n_removed}, unread=tuple(unread))


def _export(workspace: Workspace, person: ExportedPerson) -> dict[str, Any]:
    """The person's own refused rows, without those that may be another person's."""
    with workspace.store().read() as reader:
        names = {person.name, *reader.joined_sessions(user_id=person.name)}
    people, sessions = workspace.pseudonymiser(), workspace.session_pseudonymiser()

    def is_theirs(row: dict[str, Any]) -> bool:
        user, namespace = row.get("user"), row.get("namespace")
        ids = [] if user is None else [user] if namespace is None else [user, f"{namespace}:{user}"]
        return any(not names.isdisjoint((user_id, people.one(user_id), sessions.one(user_id))) for user_id in ids)

    paths = sorted(workspace.root.glob(_FILES))
    rows = (_row(line) for path in paths for line in path.read_bytes().splitlines())
    return {"refused_rows": [row for row in rows if is_theirs(row)]}


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
