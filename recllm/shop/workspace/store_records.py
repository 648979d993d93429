"""What the store keeps about people, its audit log among it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from recllm.base.documents import plain
from recllm.base.schema import Table
from recllm.shop.workspace.audit import ANCHOR, read_audit
from recllm.shop.workspace.personal_records import ErasedPeople, ExportedPerson, PersonalRecords, Removed, StoredCount
from recllm.shop.workspace.workspace import STORE_FILE, Workspace


def _forget(workspace: Workspace, people: ErasedPeople) -> Removed:
    with workspace.store().load(Table.CONSENT, load_id=secrets.token_hex(16), source="erasure") as load:
        rows = load.erase_users(sorted(people.subjects))
    rows.pop("restrictions", None)  # of `bury`, which kept their data from use until now
    return Removed(rows=rows)


def _export(workspace: Workspace, person: ExportedPerson) -> dict[str, Any]:
    name, store = person.name, workspace.store()
    with store.read() as reader:
        basics = reader.users([name])["basics"][0]
        consent = reader.consent(user_ids=[name]).drop("user_id").to_dicts()
        events = reader.events(user_ids=[name]).drop("user_id").to_dicts()
        sessions = sorted(reader.joined_sessions(user_id=name))
    return {
        "basics": json.loads(basics),
        "consent": consent,
        "restricted_since": plain(store.restricted_since([name]).get(name)),
        "events": [{field: value for field, value in event.items() if value is not None} for event in events],
        "sessions": sessions,
        "messages": [
            unnamed(plain(message))
            | {"events": [{"event": event.kind.value, "at": plain(event.at)} for event in of_message]}
            for message, of_message in store.messages_of(name)
        ],
    }


def unnamed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A part of an export without the person's name, which stands once, at the top."""
    return {field: value for field, value in document.items() if field != "user_id"}


def _counts(workspace: Workspace) -> list[StoredCount]:
    store, limits = workspace.store(), workspace.settings.retention
    with store.read() as reader:
        counts = reader.counts()
    return [
        StoredCount("people", counts["users"]),
        StoredCount("consent", counts["consent"]),
        StoredCount("events", counts["events"], limits.events),
        StoredCount("messages", len(store.sent_messages()), limits.messages),
        StoredCount("tombstones", len(store.tombstones())),
    ]


def _outdated(workspace: Workspace, clock: datetime, dry_run: bool) -> Removed:
    kinds, limits = ("events", "messages", "explored_slates"), workspace.settings.retention
    before = {kind: clock - timedelta(days=days) for kind in kinds if (days := getattr(limits, kind)) is not None}
    if not before:
        return Removed()
    return Removed(rows=workspace.store().count_old(before) if dry_run else workspace.store().delete_old(before))


STORE = PersonalRecords(
    name="store", files=(f"{STORE_FILE}*",), forget=_forget, export=_export, counts=_counts, outdated=_outdated
)
AUDIT_LOG = PersonalRecords(
    name="audit log",
    files=(ANCHOR,),
    in_backup=True,
    export=lambda shop, person: {
        "accesses": [
            {"at": plain(entry.at), "action": entry.action.value}
            for entry in read_audit(shop, subjects=person.names_over_time)
        ]
    },
    counts=lambda shop: [StoredCount("audit", len(shop.store().audit_entries()))],
)
