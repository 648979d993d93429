"""Erasing people: out of every table, file and state of a workspace, with a certificate.

In this order, so that a process that is stopped anywhere leaves something to go on from, and never somebody who comes
back: a note of what is to be done; tombstones, from which moment nothing that is sent about the people is kept and
nothing of theirs is used; models that learned from them are marked; files; rows; what serves; the freed bytes of the
database. The next erasure, or `recllm privacy retention`, goes on with a note that was left.

Out of reach, and told by the certificate: files of exports that left the workspace, backups that were made before
(a restore puts the tombstones back into force), and copies that a database server's archive or standby holds.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recllm.campaigns.forget import forget_people
from recllm.encoder.cache import QUERY_CACHE_FILE
from recllm.errors import NothingToDo, StoreError, UsageError
from recllm.files import PRIVATE, lock_file, sweep_drafts, whole_file, write_whole
from recllm.jobs.effects import FOLDER as EFFECTS
from recllm.jobs.effects import effect_names
from recllm.jobs.occasions import MODEL_FILE as REPLENISHMENT
from recllm.jobs.recommenders import forget_in_states, tainted_until
from recllm.privacy.certificate import ErasureCertificate, TaintedModel, issue
from recllm.recommender.registry import mark_tainted, taint_folder, taints
from recllm.schema import Table
from recllm.workspace.audit import AuditAction, audit, audit_each
from recllm.workspace.workspace import CERTIFICATES, SNAPSHOT, UPLOADS, Workspace, restore_drafts

logger = logging.getLogger(__name__)

_NOTE = ".note"
"""Suffix of what is to be done: a JSON list of pseudonyms."""

_BETWEEN_IDS = re.compile(r"[\s,;|\t\"'{}\[\]:=<>]+")
"""What separates an id from its surroundings in a refused row, whatever the file's format."""


def erase_people(
    workspace: Workspace, user_ids: Sequence[str], *, actor: str, by_pseudonym: bool = False
) -> ErasureCertificate:
    """Erases everything that the workspace has of people, and puts tombstones that keep them out.

    actor: who asks, for the audit log. by_pseudonym: the ids are pseudonyms already, which needs no key of the ids.
    Somebody unknown gets a tombstone all the same: what comes later is not kept. Raises `UsageError` for nobody at all,
    and at the end, when all is done, `NothingToDo` where nothing was known of any of them.
    """
    if not user_ids:
        raise UsageError("nobody was named: give the person's id")
    names = list(dict.fromkeys(user_ids if by_pseudonym else workspace.pseudonymiser().many(user_ids)))
    notes = workspace.root / CERTIFICATES
    certificate_id = f"erasure-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    try:
        notes.mkdir(mode=0o700, exist_ok=True)
        write_whole(notes / f".{certificate_id}{_NOTE}", json.dumps(names), mode=PRIVATE)
    except OSError as error:
        raise StoreError(
            f"nothing was erased: {notes} cannot be written ({error.strerror}); then repeat this"
        ) from error
    certificate = _erase(workspace, certificate_id, names, actor)
    if certificate.unknown == len(names):
        raise NothingToDo(
            f"nothing is known of {'this person' if len(names) == 1 else 'any of these people'}, or not any more; "
            f"tombstones stand, so nothing that is sent later is kept (certificate {certificate_id})"
        )
    return certificate


def finish_erasures(workspace: Workspace, *, actor: str) -> list[ErasureCertificate]:
    """Goes on with the erasures that a stopped process left."""
    certificates = []
    for note in sorted((workspace.root / CERTIFICATES).glob(f".erasure-*{_NOTE}")):
        names = json.loads(note.read_bytes())
        certificates.append(_erase(workspace, note.name.removeprefix(".").removesuffix(_NOTE), names, actor))
    return certificates


def _erase(workspace: Workspace, certificate_id: str, names: Sequence[str], actor: str) -> ErasureCertificate:
    at, store = datetime.now(UTC), workspace.store()
    subject = names[0] if len(names) == 1 else None
    with store.read() as reader:
        loaded = reader.first_loaded(names).values()
        n_known = len(reader.users(names))
    begun = {"people": len(names), "certificate": certificate_id}
    entry = audit(workspace, actor, AuditAction.ERASURE_BEGUN, subject=subject, **begun)
    subjects = store.bury(names, at)

    models = _mark_models(workspace, loaded, at)
    files, exported_in = _clean_files(workspace, subjects)
    with store.load(Table.CONSENT, load_id=secrets.token_hex(16), source="erasure") as load:
        rows = load.erase_users(subjects)
    rows.pop("restrictions", None)  # what `bury` put, so that nothing of theirs was used meanwhile
    forget_in_states(workspace)
    database = store.purge()
    root = workspace.root.absolute()
    for draft in restore_drafts(root):  # of a restore that was stopped, or knows nothing of this
        shutil.rmtree(draft, ignore_errors=True)

    certificate = issue(
        workspace,
        ErasureCertificate(
            certificate_id=certificate_id,
            at=at.isoformat(),
            subjects=tuple(subjects),
            unknown=len(names) - n_known,
            rows=rows,
            files=files,
            exported_in=exported_in,
            models=models,
            database=database,
            audit_entry=entry,
            beside=tuple(sorted(path.name for path in root.parent.glob(f"{root.name}.before-*"))),
        ),
    )
    done = {"certificate": certificate_id, "rows": sum(rows.values()), "models": len(models)}
    audit_each(workspace, actor, AuditAction.ERASED, names, **done)
    (workspace.root / CERTIFICATES / f".{certificate_id}{_NOTE}").unlink(missing_ok=True)
    logger.info("erased %d people", len(names), extra={"certificate": certificate_id})
    return certificate


def _mark_models(
    workspace: Workspace, loaded: Collection[tuple[int, datetime]], at: datetime
) -> tuple[TaintedModel, ...]:
    """Marks what learned from people; loaded: number and time of the load with the first data of each."""
    if not loaded:
        return ()
    first_load, loaded_at = min(number for number, _ in loaded), min(time for _, time in loaded)
    until = tainted_until(workspace, at)
    learned = mark_tainted(workspace.models_dir, first_load, loaded_at, at=at, use_until=until)
    marked = taints(workspace.models_dir)
    models = [TaintedModel(name=version, use_until=marked[version].use_until) for version in learned]
    if names := effect_names(workspace):
        taint_folder(workspace.root / EFFECTS, names, at=at, use_until=until)
        of_effects = taints(workspace.root / EFFECTS)
        models += [TaintedModel(name=f"{EFFECTS}/{n}", use_until=of_effects[n].use_until) for n in names]
    (workspace.root / REPLENISHMENT).unlink(missing_ok=True)  # it is learned anew when somebody asks for occasions
    return tuple(models)


def _clean_files(workspace: Workspace, subjects: Collection[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Removes people from files: kind of file -> what was removed; and the campaigns whose exports had them."""
    campaigns = forget_people(workspace.root, subjects)
    removed = {
        "campaign_people": campaigns.people,
        "campaign_exports": campaigns.exports,
        "quarantined_rows": _clean_quarantine(workspace, frozenset(subjects)),
        "uploads": _remove_uploads(workspace),
        "cached_vectors": _remove_query_vectors(workspace),
        "fine_tuning_examples": _remove_examples(workspace),
    }
    with suppress(StoreError), lock_file(workspace.root / f"{SNAPSHOT}.lock", wait_seconds=0.0):
        shutil.rmtree(workspace.root / SNAPSHOT, ignore_errors=True)  # of a backup that was killed
    for folder in ("", "campaign-files", "quarantine", "serving"):
        sweep_drafts(workspace.root / folder)
    return removed, campaigns.exported_in


def _clean_quarantine(workspace: Workspace, subjects: frozenset[str]) -> int:
    """Removes the refused rows of people; a file without rows goes."""
    n_removed = 0
    for path, theirs in quarantined_rows(workspace, subjects).items():
        n_removed += len(theirs)
        gone = set(theirs)
        staying = [line for line in path.read_bytes().splitlines(keepends=True) if line not in gone]
        if staying:
            with whole_file(path, mode=PRIVATE) as stream:
                stream.writelines(staying)
        else:
            path.unlink()
    return n_removed


def quarantined_rows(
    workspace: Workspace, subjects: frozenset[str], *, with_unread: bool = True
) -> dict[Path, list[bytes]]:
    """File of the quarantine -> its lines about people with one of these pseudonyms.

    with_unread: where nobody could read whose row it is, also those in which one of them is named anywhere, which may
    be somebody else's with the same number in it.
    """
    people, sessions = workspace.pseudonymiser(), workspace.session_pseudonymiser()
    is_named: dict[str, bool] = {}

    def names_one(token: str) -> bool:
        if token not in is_named:
            is_named[token] = not subjects.isdisjoint((token, people.one(token), sessions.one(token)))
        return is_named[token]

    def is_theirs(line: bytes) -> bool:
        try:
            record = json.loads(line)
        except ValueError:
            record = {"raw": line.decode("utf-8", "replace")}
        if record.get("user") is not None:
            return names_one(record["user"])
        return with_unread and any(map(names_one, _tokens(record)))

    lines = {
        path: [line for line in path.read_bytes().splitlines(keepends=True) if is_theirs(line)]
        for path in sorted(workspace.quarantine_dir.glob("*.jsonl"))
    }
    return {path: theirs for path, theirs in lines.items() if theirs}


def _tokens(record: Mapping[str, Any]) -> set[str]:
    """Everything in a refused row that may be an id: whole cells, and words of what could not be told apart."""
    texts = [str(record.get("raw") or ""), *(str(cell) for cell in (record.get("fields") or {}).values() if cell)]
    return {token for text in texts for token in (text.strip(), *_BETWEEN_IDS.split(text)) if token}


def _remove_uploads(workspace: Workspace) -> int:
    """Files that nobody loaded yet may hold anything of anybody: all of them go, and are uploaded again."""
    folders = list((workspace.root / UPLOADS).glob("*"))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return len(folders)


def _remove_query_vectors(workspace: Workspace) -> int:
    """The vectors of all that people told of themselves; they are computed again when needed."""
    return _unlink((workspace.cache_dir / "vectors").glob(f"{QUERY_CACHE_FILE}*"))


def _remove_examples(workspace: Workspace) -> int:
    """Examples of fine-tuning are rows of people. A run that is going on keeps its open file."""
    return _unlink((workspace.cache_dir / "lora").glob("*/examples/*.arrow"))


def _unlink(paths: Any) -> int:
    files: list[Path] = list(paths)
    for path in files:
        path.unlink(missing_ok=True)
    return len(files)
