"""Commands about people's rights, how long things are kept, the key, and backups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recllm.base.documents import plain
from recllm.base.errors import DataError, UnknownIdError, UsageError
from recllm.doors.cli.options import (
    Answer,
    Shop,
    User,
    Users,
    WorkspaceDir,
    document_lines,
    read_user_ids,
    show,
    write_audit,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from recllm.doors.privacy.certificate import ErasureCertificate
    from recllm.market.propensity.prediction import Prediction

Pseudonyms = Annotated[bool, typer.Option("--pseudonyms", help="The ids are pseudonyms already.")]
Sessions = Annotated[bool, typer.Option("--sessions", help="The ids are of anonymous visitors' sessions.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="A file whose first line encrypts the backup; keep it apart from the backup.")
]


def export(
    user: User,
    shop: Shop,
    by_pseudonym: Pseudonyms = False,
    sessions: Sessions = False,
    predictions: Annotated[
        bool, typer.Option(help="Include predictions, which are computed for it; the slowest part.")
    ] = True,
) -> None:
    """All stored and inferred data of one person, as JSON."""
    from tqdm import tqdm

    from recllm.doors.privacy.registry import export_person
    from recllm.market.propensity.predict import EVERYDAY, everyday_predictions

    predicted: Iterable[Prediction] = ()
    if predictions:
        predicted = tqdm(everyday_predictions(shop), total=len(EVERYDAY), desc="predictions", disable=None)
    if sessions:
        user, by_pseudonym = shop.session_pseudonymiser().one(user), True
    document = export_person(shop, user, by_pseudonym=by_pseudonym, predictions=predicted)
    write_audit(shop, "person_exported", subject=document["pseudonym"])
    show(Answer(document), json=True)


def erase(
    *,
    user: Users,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm: erased people cannot be restored.")] = False,
    lift: Annotated[
        bool, typer.Option("--lift", help="Instead: lift the tombstones of people who returned by their own choice.")
    ] = False,
    by_pseudonym: Pseudonyms = False,
    sessions: Sessions = False,
    shop: Shop,
) -> Answer:
    """Erase people: rows, files, serving states; mark models that learned from them; set tombstones that keep them out.
    With --lift new data about them are kept again; nothing old comes back."""
    from recllm.doors.privacy.erasure import erase_people
    from recllm.shop.workspace.audit import command_line_actor

    if not yes:
        raise UsageError(
            "only for customers who came back by their own will; add --yes"
            if lift
            else "nothing brings an erased person back; say --yes"
        )
    names = read_user_ids(user)
    if lift:
        pseudonyms, store = names if by_pseudonym else shop.pseudonymiser().many(names), shop.store()
        lifted = [pseudonym for pseudonym in pseudonyms if store.lift_tombstone(pseudonym)]
        for pseudonym in lifted:
            write_audit(shop, "readmitted", subject=pseudonym)
        if not lifted:
            raise UnknownIdError("no tombstone for this id; there is nothing to lift")
        count = f"customers who may be kept again: {len(lifted):,}"
        return Answer({"pseudonyms": lifted}, [count])
    if sessions:
        names, by_pseudonym = shop.session_pseudonymiser().many(names), True
    certificate = erase_people(shop, names, actor=command_line_actor(), by_pseudonym=by_pseudonym)
    return Answer(certificate, without_people(certificate), remedies(certificate))


def without_people(certificate: ErasureCertificate) -> list[str]:
    """The lines of a certificate for a screen: a count in place of pseudonyms."""
    document = plain(certificate)
    document["subjects"] = len(certificate.subjects)
    document.pop("signature", None)
    return list(document_lines(document))


def remedies(certificate: ErasureCertificate) -> list[str]:
    lines = ["recllm retrain --if-due replaces the model that serves"] if certificate.models else []
    if certificate.exported_in:
        campaigns = ", ".join(certificate.exported_in)
        lines.append(f"delete the files that left, and what providers keep, of the campaigns {campaigns}")
    lines += [f"delete {folder}, next to the workspace: they are in it" for folder in certificate.beside]
    lines += [f"{file}: not read, and tried again by recllm privacy retention" for file in certificate.unread]
    lines += [f"{file}: no file of recllm; look for them in it yourself" for file in certificate.unknown_files]
    undone = [step.replace("_", " ") for step, is_done in certificate.database.items() if not is_done]
    if undone:
        lines.append(f"left to the database's owner: {', '.join(undone)}")
    return lines


def restrict(
    user: User,
    shop: Shop,
    lift: Annotated[bool, typer.Option("--lift", help="Use the data again, as consented.")] = False,
    by_pseudonym: Pseudonyms = False,
) -> Answer:
    """Keep a person's data without using them, whatever the consent."""
    from recllm.doors.privacy.registry import restrict_person

    name = user if by_pseudonym else shop.pseudonymiser().one(user)
    if changed := restrict_person(shop, name, restricted=not lift):
        write_audit(shop, "restriction_lifted" if lift else "restricted", subject=name)
    since = shop.store().restricted_since([name]).get(name)
    line = "not restricted" if since is None else f"restricted since {since:%Y-%m-%d %H:%M} UTC: used for nothing"
    return Answer({"pseudonym": name, "restricted_since": since, "changed": changed}, [line])


def audit_log(
    shop: Shop,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only entries about this person.")] = None,
    last: Annotated[int, typer.Option(min=0, help="Number of the latest entries; 0 for all.")] = 20,
    after: Annotated[
        int | None,
        typer.Option(min=0, help="The entries behind this number as JSON lines for another system, without people."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Check this certificate of an erasure instead, and print what it says.")
    ] = None,
) -> Answer:
    """Who did what to whose data; the whole log is checked first."""
    from recllm.doors.privacy.certificate import read_certificate
    from recllm.shop.workspace.audit import exported_lines, read_audit, verify_audit

    if after is not None and user is not None:
        raise UsageError("--after prints the entries about all people, without them; leave out --user")
    if certificate is not None:
        signed = read_certificate(shop, certificate)
        return Answer(signed, without_people(signed), ["signed by this workspace", *remedies(signed)])
    check = verify_audit(shop)
    names = None if user is None else frozenset(shop.pseudonymiser().each(user))
    entries = read_audit(shop, subjects=names, after=after or 0)[-last if after is None else 0 :]
    intact = [f"{check.entries:,} entries, each as it was written"] if check.problem is None else []
    if check.n_unsigned:
        unsigned = f"of the first {check.n_unsigned:,} only the order is checked"
        intact.append(f"{unsigned}: they were signed with a key that was lost")
    changed = f"the audit log is not as it was written: {check.problem}; compare it with a backup"
    problem = None if check.problem is None else DataError(changed)
    lines = [] if after is None else list(exported_lines(shop, after))
    document = {"check": check, "entries": entries if after is None else list(map(json.loads, lines))}
    return Answer(document, iter(lines) if after is not None else (), notes=intact, problem=problem)


def retention(
    shop: Shop,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only.")] = False,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="Confirm that nothing was loaded for months.")
    ] = False,
) -> Answer:
    """Delete data older than the settings in [retention], and finish interrupted erasures; run it daily."""
    from recllm.doors.privacy.erasure import apply_retention
    from recllm.shop.workspace.audit import command_line_actor

    report = apply_retention(shop, actor=command_line_actor(), dry_run=dry_run, trust_clock=trust_clock)
    remedy = "put back the file from a backup, or remove it"
    return Answer(report, notes=[f"{file}: {remedy}" for file in report.unread])


def rotate_key(
    shop: Shop,
    lost: Annotated[bool, typer.Option("--lost", help="The old key is lost; needs --yes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --lost: confirm that no backup of the key exists.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while an experiment runs.")] = False,
) -> Answer:
    """Rename all pseudonyms under a new key; restart services afterwards, and back up the key file."""
    from recllm.doors.privacy.rotation import LOST_WITH_THE_KEY
    from recllm.doors.privacy.rotation import rotate_key as rotate
    from recllm.shop.workspace.audit import command_line_actor

    if lost and not yes:
        raise UsageError(f"look for a backup of the key first; without it {LOST_WITH_THE_KEY}. To go on, say --yes")
    rotation = rotate(shop, actor=command_line_actor(), lost=lost, force=force)
    return Answer(rotation, notes=[f"{rotation.generation} keys are in force: keep them all"])


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    shop: Shop,
    passphrase_file: PassphraseFile = None,
    with_key: Annotated[bool, typer.Option("--with-key", help="Include the key and the webhooks' secrets.")] = False,
) -> Answer:
    """Write the workspace to one file while it is in use, read it back and check it."""
    from recllm.doors.privacy.backup import back_up
    from recllm.shop.workspace.audit import command_line_actor

    passphrase = read_passphrase(passphrase_file)
    done = back_up(shop, file, actor=command_line_actor(), passphrase=passphrase, with_key=with_key)
    remark = "the key is not in it: keep it apart: without it no one in the backup can be found by their id"
    missing = [f"{file}: not in the backup, as it is no file of recllm" for file in done.unknown_files]
    return Answer(done, notes=missing if done.has_key else [*missing, remark])


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    workspace: WorkspaceDir,
    passphrase_file: PassphraseFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the workspace.")] = False,
    certificate: Annotated[
        list[Path] | None, typer.Option(help="A certificate of an erasure since the backup; may be repeated.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="The key, where neither backup nor workspace has it.")] = None,
    store: Annotated[str | None, typer.Option(help="URL of an empty PostgreSQL schema for the rows.")] = None,
) -> Answer:
    """Make a workspace of a backup; people erased since are erased again, and later refusals stay in force."""
    from recllm.doors.privacy.backup import restore as restore_backup
    from recllm.shop.workspace.audit import command_line_actor

    done = restore_backup(
        file,
        workspace,
        actor=command_line_actor(),
        passphrase=read_passphrase(passphrase_file),
        replace=replace,
        certificates=certificate or (),
        key_file=key_file,
        store=store,
    )
    notes = [] if done.before is None else [f"all customers are in {done.before} too: delete it soon"]
    if not done.taken_over:
        notes.append(
            "refusals, restrictions and erasures since the backup are not known here: give --certificate for each "
            "erasure, and load the consent table again before anyone is written to"
        )
    return Answer(done, notes=notes)


def read_passphrase(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        (line, *_) = file.read_text("utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a passphrase: {error}") from error
    return line
