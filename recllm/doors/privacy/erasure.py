"""Erasure of people from every place of a workspace, with a certificate.

The order lets a stopped erasure resume and brings no one back: a note of what is to be done; tombstones, from which
moment nothing that is sent about the people is kept and nothing of theirs is used; the places of the registry, in its
order: models that learned from them are marked, then files, rows, serving states; the freed bytes of the database; the
certificate. The next erasure, or `recllm privacy retention`, goes on with a note that was left.

An unreadable file stops nothing: the certificate names it, and the note stays until it can be read or is gone.

Out of reach: files of exports that left the workspace, earlier backups (a restore puts the tombstones back into force),
and copies in a database server's archive or standby.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath

from recllm.base.errors import DataError, NothingToDo, RecllmError, StoreError, UsageError
from recllm.base.files import PRIVATE, sweep_drafts, write_whole
from recllm.doors.privacy.certificate import ErasureCertificate, TaintedModel, issue, read_certificate
from recllm.doors.privacy.registry import REGISTRY
from recllm.shop.workspace.audit import AuditAction, audit, audit_each
from recllm.shop.workspace.personal_records import ErasedPeople, PersonalRecords, Removed
from recllm.shop.workspace.workspace import CERTIFICATES, Workspace, restore_drafts

_NOTE = ".note"
logger = logging.getLogger(__name__)


def erase_people(
    workspace: Workspace,
    user_ids: Sequence[str],
    *,
    actor: str,
    by_pseudonym: bool = False,
) -> ErasureCertificate:
    """Erases everything that the workspace has of people, and puts tombstones that keep them out.

    actor: who asks, for the audit log. by_pseudonym: the ids are pseudonyms. An unknown person gets a tombstone too:
    what comes later is not kept. Raises `UsageError` without ids, `StoreError` with what is erased and what is not
    where it could not be completed, and at the end `NothingToDo` where all of them were unknown.
    """
    if not user_ids:
        raise UsageError("no person to erase: give the person's id")
    names = tuple(dict.fromkeys(user_ids))
    if not by_pseudonym:
        names = tuple(dict.fromkeys(workspace.pseudonymiser().many(names)))
    certificate_id = f"erasure-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    folder = workspace.root / CERTIFICATES
    note = _Note(path=folder / f".{certificate_id}{_NOTE}", people=names)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        note.write()
    except OSError as error:
        raise StoreError(
            f"nothing was erased: {folder} cannot be written ({error.strerror}); then repeat this"
        ) from error
    certificate = _erase(workspace, note, actor)
    if certificate.unknown == len(names):
        raise NothingToDo(
            f"nothing is known of {'this person' if len(names) == 1 else 'any of these people'}, or not any more; "
            f"tombstones stand, so nothing that is sent later is kept (certificate {certificate_id})"
        )
    return certificate


def finish_erasures(workspace: Workspace, *, actor: str) -> list[ErasureCertificate]:
    """Goes on with the erasures that a stopped process left, and with files that could not be read."""
    certificates = []
    for path in sorted((workspace.root / CERTIFICATES).glob(f".erasure-*{_NOTE}")):
        note = _Note.read(path)
        try:
            certificate = read_certificate(workspace, path.with_name(f"{note.certificate_id}.json"))
        except DataError:
            certificates.append(_erase(workspace, note, actor))
        else:
            certificates.append(_try_again(workspace, note, certificate))
    return certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """An erasure to be done, in a file that lies there until it is."""

    path: Path
    people: tuple[str, ...]
    sessions: tuple[str, ...] = ()
    """Joined to the people; the rows that say so are erased."""

    @property
    def certificate_id(self) -> str:
        return self.path.name.removeprefix(".").removesuffix(_NOTE)

    def write(self) -> None:
        content = {"people": self.people, "sessions": self.sessions}
        write_whole(self.path, json.dumps(content), mode=PRIVATE)

    @classmethod
    def read(cls, path: Path) -> _Note:
        content = json.loads(path.read_bytes())
        names = {"people": content} if isinstance(content, list) else content  # a list is of an earlier version
        return cls(path=path, **{kind: tuple(names.get(kind, ())) for kind in ("people", "sessions")})


def _erase(workspace: Workspace, note: _Note, actor: str) -> ErasureCertificate:
    store, at, root = workspace.store(), datetime.now(UTC), workspace.root.absolute()
    names, done = note.people, list[str]()
    with _with_what_is_left(done):
        with store.read() as reader:
            n_known = len(reader.users(names))
        begun = {"people": len(names), "certificate": note.certificate_id}
        subject = names[0] if len(names) == 1 else None
        entry = audit(workspace, actor, AuditAction.ERASURE_BEGUN, subject=subject, **begun)
        subjects = tuple(dict.fromkeys((*store.bury(names, at), *note.sessions)))
        if len(subjects) > len(names):
            note = replace(note, sessions=tuple(name for name in subjects if name not in names))
            note.write()
        done.append("tombstones")
        removed = _forget(workspace, note, at, REGISTRY.records, done)
        database = store.purge()
        done.append("freed bytes")
        for draft in restore_drafts(root):  # of a restore that was stopped, or knows nothing of this
            shutil.rmtree(draft, ignore_errors=True)
        counts = {"rows": sum(removed.rows.values()), "models": len(removed.models)}
        audit_each(workspace, actor, AuditAction.ERASED, names, certificate=note.certificate_id, **counts)
        certificate = ErasureCertificate(
            certificate_id=note.certificate_id,
            at=at.isoformat(),
            subjects=subjects,
            unknown=len(names) - n_known,
            rows=removed.rows,
            files=removed.files,
            exported_in=removed.exported_in,
            models=tuple(TaintedModel(name=name, use_until=until) for name, until in removed.models.items()),
            database=database,
            audit_entry=entry,
            beside=tuple(sorted(path.name for path in root.parent.glob(f"{root.name}.before-*"))),
            unread=removed.unread,
            unknown_files=REGISTRY.unknown_files(root),
        )
        logger.info("erased %d people", len(names), extra={"certificate": note.certificate_id})
        return _issue(workspace, note, certificate)


def _try_again(workspace: Workspace, note: _Note, certificate: ErasureCertificate) -> ErasureCertificate:
    """Removes the people from files that were unreadable before, except people readmitted since."""
    buried, done = workspace.store().tombstones(note.people), ["tombstones", "freed bytes"]
    note = replace(note, people=tuple(name for name in note.people if name in buried))
    records = [record for record in REGISTRY.records if any(record.has(PurePath(file)) for file in certificate.unread)]
    with _with_what_is_left(done):
        at = datetime.fromisoformat(certificate.at)
        removed = _forget(workspace, note, at, records if note.people else (), done)
        total = Removed(files=certificate.files, exported_in=certificate.exported_in).plus(removed)
        certificate = replace(certificate, files=total.files, exported_in=total.exported_in, unread=removed.unread)
        return _issue(workspace, note, certificate)


def _forget(
    workspace: Workspace, note: _Note, at: datetime, records: Iterable[PersonalRecords], done: list[str]
) -> Removed:
    """done: gets the name of each place that is finished."""
    people = ErasedPeople(at, frozenset((*note.people, *note.sessions)))
    removed = Removed()
    for record in records:
        if record.forget is not None:
            removed = removed.plus(record.forget(workspace, people))
            done.append(record.name)
    for folder in {draft.parent for draft in workspace.root.rglob(".*.draft")}:
        sweep_drafts(folder)
    return removed


def _issue(workspace: Workspace, note: _Note, certificate: ErasureCertificate) -> ErasureCertificate:
    issued = issue(workspace, certificate)
    if not issued.unread:
        note.path.unlink(missing_ok=True)
    return issued


@contextmanager
def _with_what_is_left(done: Sequence[str]) -> Iterator[None]:
    """Raises `StoreError` with the done and remaining steps, where the block fails."""
    try:
        yield
    except (OSError, RecllmError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        names = [record.name for record in REGISTRY.records if record.forget is not None]
        left = [step for step in ("tombstones", *names, "freed bytes", "certificate") if step not in done]
        raise StoreError(
            f"the erasure is not complete: {reason}. Done: {', '.join(done) or 'nothing'}; not done: "
            f"{', '.join(left)}. Free some space or repair the named file, then run: recllm privacy retention"
        ) from error


QUIET_DAYS = 90
"""Days without a load after which the clock is doubted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionReport:
    rows: Mapping[str, int]
    """Table of the store -> rows."""
    files: Mapping[str, int]
    """Kind -> files, or lines about people of campaigns."""
    finished_erasures: int
    """Of stopped processes."""
    dry_run: bool
    unread: tuple[str, ...] = ()
    """Files that could not be read."""


def apply_retention(
    workspace: Workspace,
    *,
    actor: str,
    now: datetime | None = None,
    dry_run: bool = False,
    trust_clock: bool = False,
) -> RetentionReport:
    """Deletes what is older than the settings' `retention` allows, and finishes interrupted erasures.

    The clock is that of this machine, also for a log of the past. Rows of restricted people stay. dry_run: only counts.
    Raises `UsageError` where the clock is more than `QUIET_DAYS` after the newest load, as a clock that jumped ahead
    would delete everything, unless `trust_clock` says that the clock is right.
    """
    clock = now or datetime.now(UTC)
    with workspace.store().read() as reader:
        newest = reader.loads(1)["committed_at"]
    if len(newest) and clock - newest[0] > timedelta(days=QUIET_DAYS) and not (trust_clock or dry_run):
        raise UsageError(
            f"the clock says {clock:%Y-%m-%d}, and nothing was loaded since {newest[0]:%Y-%m-%d}; if the clock is "
            "right, say --trust-clock"
        )
    erasures = [] if dry_run else finish_erasures(workspace, actor=actor)
    removed = Removed(unread=tuple(name for certificate in erasures for name in certificate.unread))
    for record in (*REGISTRY.records, *REGISTRY.impersonal):
        removed = removed.plus(record.retain(workspace, clock, dry_run=dry_run))
    rows, files = removed.rows, removed.files
    if not dry_run:
        if any(rows.values()):
            workspace.store().purge()
        if any(rows.values()) or any(files.values()):
            audit(workspace, actor, AuditAction.RETENTION_APPLIED, rows=rows, files=files)
    return RetentionReport(
        rows=rows,
        files=files,
        finished_erasures=sum(not certificate.unread for certificate in erasures),
        dry_run=dry_run,
        unread=tuple(dict.fromkeys(removed.unread)),
    )
