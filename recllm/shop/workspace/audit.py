"""The audit log: who did what, to whose data, when; only ever longer.

Each entry of the store's table holds a hash over the one before it and itself (Haber and Stornetta 1991), made with the
workspace's key: it shows a changed, removed, added or moved entry. Such a chain does not show a cut end, so the number
and hash of the last entry are signed in a file next to the store, `audit.json`.

Lines for another system, out of reach of an attacker who can write the store, are JSON, `{"shop", "log", "number",
"at", "actor", "action", "details", "hash"}`; `log` names the log among those of several shops, by the
workspace's first key. The subject is left out,
as it could not be erased there; the hash covers it. A line is the same whenever it is printed: what was cut or changed
since differs from the lines that were collected.
"""

from __future__ import annotations

import getpass
import hmac
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import pairwise
from typing import Any

from recllm.base.documents import plain
from recllm.base.files import PRIVATE, lock_file, sweep_drafts, write_whole
from recllm.shop.workspace.workspace import Workspace

ANCHOR = "audit.json"


class AuditAction(StrEnum):
    """Kinds of entries. New ones are added at the end; none is renamed, as logs hold them."""

    LOADED = "loaded"
    CONSENT_CHANGED = "consent_changed"
    PERSON_SHOWN = "person_shown"
    """In the console or on the command line."""
    PERSON_EXPORTED = "person_exported"
    ERASURE_BEGUN = "erasure_begun"
    """Before the rows are deleted."""
    ERASED = "erased"
    READMITTED = "readmitted"
    RESTRICTED = "restricted"
    RESTRICTION_LIFTED = "restriction_lifted"
    PEOPLE_LISTED = "people_listed"
    """An audience, predictions, occasions."""
    CAMPAIGN_PLANNED = "campaign_planned"
    CAMPAIGN_DECIDED = "campaign_decided"
    CAMPAIGN_EXPORTED = "campaign_exported"
    CAMPAIGN_SENT = "campaign_sent"
    MODEL_TRAINED = "model_trained"
    MODEL_PROMOTED = "model_promoted"
    MODEL_REMOVED = "model_removed"
    EXPERIMENT_STARTED = "experiment_started"
    EXPERIMENT_STOPPED = "experiment_stopped"
    FEEDBACK_RECORDED = "feedback_recorded"
    """In the console."""
    FILE_DOWNLOADED = "file_downloaded"
    """A table of the console with ids of people."""
    KEY_MADE = "key_made"
    KEY_REVOKED = "key_revoked"
    RETENTION_APPLIED = "retention_applied"
    KEY_ROTATED = "key_rotated"
    BACKED_UP = "backed_up"
    RESTORED = "restored"
    SIGNED_IN = "signed_in"
    """To the console."""
    SESSION_ENDED = "session_ended"
    """Of the console, by another user or from another browser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    number: int
    """From 1, without gaps."""
    at: datetime
    """UTC."""
    actor: str
    """Who: "key:ID" of the service, "console:NAME", "cli:LOGIN", or "retention"."""
    action: AuditAction
    subject: str | None
    """Pseudonym of the person it was about, under the key of that time; None for a group, or no person."""
    details: Mapping[str, Any]
    """Counts and names of things; no id of a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCheck:
    """Whether the log is as it was written."""

    entries: int
    problem: str | None
    """What is wrong, None when nothing is."""
    n_unsigned: int = 0
    """Entries at the start, signed with a key that was lost since: their order is checked, not their text."""


def command_line_actor() -> str:
    """Who runs this process, by the login name."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # an account without a name
        return f"cli:{os.getuid() if hasattr(os, 'getuid') else 'unknown'}"


def audit(
    workspace: Workspace, actor: str, action: AuditAction, /, *, subject: str | None = None, **details: Any
) -> int:
    """Appends an entry, durable on return; its number. subject: a pseudonym. details: what JSON can hold."""
    return audit_each(workspace, actor, action, [subject], **details)


def audit_each(
    workspace: Workspace, actor: str, action: AuditAction, subjects: Sequence[str | None], /, **details: Any
) -> int:
    """Appends an entry about each of these people, so that a person's own log has it; the number of the last one."""
    same = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "actor": actor,
        "action": action.value,
        "details": plain(details),
    }
    entries = [
        json.dumps({**same, "subject": subject}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        for subject in subjects
    ]
    key = workspace.signing_key("audit")
    with lock_file(workspace.root / f".{ANCHOR}.lock"):
        number, digest = workspace.store().append_audit(entries, partial(_hash, key))
        _anchor(workspace, number, digest)
    return number


def read_audit(workspace: Workspace, *, subjects: frozenset[str] | None = None, after: int = 0) -> list[AuditEntry]:
    """The entries behind a number, oldest first; with `subjects` those about one of these pseudonyms."""
    entries = []
    fields_of_subjects = None if subjects is None else [f'"subject":"{name}"' for name in sorted(subjects)]
    for number, text, _ in workspace.store().audit_entries(after, fields_of_subjects):
        fields = json.loads(text)
        if subjects is None or fields["subject"] in subjects:
            at, action = datetime.fromisoformat(fields["at"]), AuditAction(fields["action"])
            entries.append(AuditEntry(**{**fields, "number": number, "at": at, "action": action}))
    return entries


def verify_audit(workspace: Workspace) -> AuditCheck:
    """Checks every entry, their order and number, and the end of the log against the signed anchor.

    An entry behind the anchor is right: its writer was stopped before it signed the anchor.
    """
    entries = workspace.store().audit_entries()
    n_unsigned = signed_with_a_lost_key(entries, workspace.signing_keys("audit"))
    problem = audit_problem(workspace, entries, n_unsigned)
    return AuditCheck(entries=len(entries), problem=problem, n_unsigned=n_unsigned if problem is None else 0)


def audit_problem(workspace: Workspace, entries: Sequence[tuple[int, str, str]], n_unsigned: int) -> str | None:
    """The first thing that is wrong with the log; None where nothing is."""
    keys, digest = list(workspace.signing_keys("audit")), ""
    for expected, (number, entry, recorded) in enumerate(entries, start=1):
        if number != expected:
            return f"entry {expected} is missing"
        while number > n_unsigned and keys and not hmac.compare_digest(_hash(keys[0], digest, entry), recorded):
            del keys[0]  # from here on with the next key, or with none
        if not keys:
            return f"entry {number} is not as it was written"
        digest = recorded
    path = workspace.root / ANCHOR
    if not path.exists():
        return f"{ANCHOR} is missing, so a cut end cannot be seen" if entries else None
    try:
        anchor = json.loads(path.read_bytes())
        count, last, signature = int(anchor["entries"]), str(anchor["hash"]), str(anchor["signature"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{ANCHOR} is damaged"
    if not any(hmac.compare_digest(_signature(key, count, last), signature) for key in workspace.signing_keys("audit")):
        return f"{ANCHOR} was not signed by this workspace"
    if count > len(entries):
        return f"the last {count - len(entries)} entries are missing"
    if count and entries[count - 1][2] != last:
        return f"entry {count} is not the one that was signed"
    return None


def signed_with_a_lost_key(entries: Sequence[tuple[int, str, str]], keys: Sequence[bytes]) -> int:
    """Number of entries before the latest one that says, signed, that the key before it was lost. It is signed over
    the last hash before it, so that those entries cannot be changed later."""
    for (_, _, before), (number, entry, recorded) in reversed(list(pairwise(entries))):
        if '"lost":true' not in entry or all(_hash(key, before, entry) != recorded for key in keys):
            continue
        fields = json.loads(entry)
        if fields["action"] == AuditAction.KEY_ROTATED and fields["details"].get("lost"):
            return number - 1
    return 0


def exported_lines(workspace: Workspace, after: int) -> Iterator[str]:
    """The entries behind a number as lines of JSON for another system."""
    shop, log = workspace.root.name, workspace.signing_keys("name of the audit log")[0].hex()[:12]
    for number, entry, digest in workspace.store().audit_entries(after):
        fields = {name: value for name, value in json.loads(entry).items() if name != "subject"}
        yield json.dumps({"shop": shop, "log": log, "number": number, **fields, "hash": digest})


def anchor_audit(workspace: Workspace) -> None:
    """Signs the present end of the log: after the workspace's key or store was exchanged."""
    with lock_file(workspace.root / f".{ANCHOR}.lock"):
        entries = workspace.store().audit_entries()
        number, _, digest = entries[-1] if entries else (0, "", "")
        _anchor(workspace, number, digest)


def _anchor(workspace: Workspace, number: int, digest: str) -> None:
    signature = _signature(workspace.signing_key("audit"), number, digest)
    record = {"entries": number, "hash": digest, "signature": signature}
    sweep_drafts(workspace.root)
    write_whole(workspace.root / ANCHOR, json.dumps(record) + "\n", mode=PRIVATE)


def _signature(key: bytes, number: int, digest: str) -> str:
    return hmac.digest(key, f"{number}\0{digest}".encode(), "sha256").hex()


def _hash(key: bytes, last: str, entry: str) -> str:
    return hmac.digest(key, f"{last}\n{entry}".encode("utf-8", "surrogatepass"), "sha256").hex()
