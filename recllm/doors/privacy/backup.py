"""Backups: a workspace in one file, written while it is in use, read back and checked; encrypted by a passphrase.

    backup.json       what it is of, when, and the SHA-256 of each member; the last member, so that half a file has none
    store.sqlite      the store at one moment, whichever database it lies in
    workspace.toml, models/, campaigns/, campaign-files/, effects/, certificates/, ...
    key, webhooks.json   only on request: with the key and the store, ids can be tried out

Left out: what can be made again (cache, serving state), raw data (refused rows, uploads), and sessions of the console,
so that a restore signs no one in.

A restore does not undo decisions. It takes over from the replaced workspace: consent, restrictions, tombstones,
certificates, the audit log, revoked keys and the spent budget.

A tar file. Encrypted it is two files of the age format (age-encryption.org), one after the other: a private key under
the passphrase, as text, and the tar file under this key. Without recllm:

    sed '/END AGE/q' FILE | age --decrypt > key
    sed '1,/END AGE/d' FILE | age --decrypt --identity key | tar --extract
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import secrets
import shutil
import tarfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import polars as pl
import tomli_w

from recllm.base.documents import plain
from recllm.base.errors import DataError, NothingToDo, StoreError, UsageError
from recllm.base.files import PRIVATE, lock_file, whole_file, write_whole
from recllm.base.schema import Table
from recllm.doors.privacy.certificate import read_certificate
from recllm.doors.privacy.erasure import erase_people
from recllm.doors.privacy.registry import REGISTRY
from recllm.doors.privacy.rotation import successor_of
from recllm.shop.store.database import Store
from recllm.shop.workspace.audit import AuditAction, anchor_audit, audit
from recllm.shop.workspace.privacy import find_keys
from recllm.shop.workspace.workspace import (
    CERTIFICATES,
    SETTINGS_FILE,
    SNAPSHOT,
    STORE_FILE,
    Workspace,
    fingerprint_of,
    folds_addresses,
    restore_drafts,
)

logger = logging.getLogger(__name__)

FORMAT = 2
READABLE_FORMATS = (1, 2)
MANIFEST = "backup.json"
SECRETS = ("key", "webhooks.json")

_KEY_BEGIN, _KEY_END = b"-----BEGIN AGE ENCRYPTED FILE-----\n", b"-----END AGE ENCRYPTED FILE-----\n"
_KEY_LINES = 32
MIN_WORK = 17
"""Of `work_of_guess`: 128 MiB and some tenths of a second for each guess."""
_WORK_TRIES = 10
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    file: str
    created_at: str
    """ISO 8601, UTC."""
    members: int
    bytes: int
    encrypted: bool
    has_key: bool
    people: int
    unknown_files: tuple[str, ...] = ()
    """Files in the workspace's folder that recllm did not write, and an erasure does not search: they stay out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    workspace: str
    created_at: str
    """Of the backup."""
    erased_again: int
    """People with a tombstone who were in the backup and were erased again."""
    tombstones: int
    taken_over: bool
    """Whether later decisions and the audit log of a replaced workspace went into this one."""
    before: str | None
    """Path of the replaced workspace, which holds people's data and is deleted by hand."""


def back_up(
    workspace: Workspace,
    file: Path,
    *,
    actor: str,
    passphrase: str | None = None,
    with_key: bool = False,
) -> Backup:
    """Writes a backup, complete or not at all, reads it back and checks every byte. The workspace may be in use.

    Raises `UsageError` for a file that exists, and for a key that is to go along unencrypted.
    """
    if file.exists():
        raise UsageError(f"{file} exists; give the backup a name of its own")
    if with_key and passphrase is None:
        raise UsageError("the key goes along only in an encrypted backup: give --passphrase-file too")
    created_at, root = datetime.now(UTC), workspace.root
    hashes: dict[str, str] = {}
    with _snapshot_folder(root) as scratch, whole_file(file, mode=PRIVATE) as target:
        snapshot = scratch / STORE_FILE
        people = workspace.store().snapshot(snapshot)
        with _sealed(target, passphrase, scratch) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            _add_file(tar, STORE_FILE, snapshot, hashes)
            for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
                name = path.relative_to(root)
                is_secret = with_key and name.as_posix() in SECRETS
                for record in REGISTRY.owners(name):
                    if is_secret or record.is_backed_up(name):
                        # a version may be removed meanwhile
                        with record.locked(path), suppress(FileNotFoundError):
                            _add_file(tar, name.as_posix(), path, hashes)
            manifest = {
                "format": FORMAT,
                "created_at": created_at.isoformat(),
                "key_fingerprint": workspace.store().key_fingerprint(),
                "tenant": workspace.settings.tenant,
                "people": people,
                "members": hashes,
            }
            content = json.dumps(manifest, indent=1).encode()
            member = tarfile.TarInfo(MANIFEST)
            member.size, member.mode = len(content), PRIVATE
            tar.addfile(member, io.BytesIO(content))
    try:
        read_backup(file, None, passphrase)
    except DataError:
        file.unlink()
        raise
    audit(
        workspace, actor, AuditAction.BACKED_UP, file=file.name, members=len(hashes), encrypted=passphrase is not None
    )
    return Backup(
        file=str(file),
        created_at=created_at.isoformat(),
        members=len(hashes),
        bytes=file.stat().st_size,
        encrypted=passphrase is not None,
        has_key="key" in hashes,
        people=people,
        unknown_files=REGISTRY.unknown_files(root),
    )


@contextmanager
def _snapshot_folder(root: Path) -> Iterator[Path]:
    """An empty folder for the copy of the store; one backup is written at a time."""
    with lock_file(root / f"{SNAPSHOT}.lock", wait_seconds=0.0):
        folder = root / SNAPSHOT
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def restore(
    file: Path,
    root: Path,
    *,
    actor: str,
    passphrase: str | None = None,
    replace: bool = False,
    certificates: Sequence[Path] = (),
    key_file: Path | None = None,
    store: str | None = None,
) -> Restored:
    """Makes a workspace of a backup, and erases again the people who were erased since.

    key_file: the keys, where neither the backup nor `root` has them; an older backup is brought to their newest.
    replace: put it in the place of the workspace in `root`, which is kept next to it. store: URL of an empty PostgreSQL
    schema for the rows. If it is stopped, repeat it: then the old workspace or the new one is there. Raises
    `DataError` for a damaged, changed or cut file, or a wrong passphrase, changing nothing.
    """
    draft, done = restore_drafts(root)
    if done.exists() and not root.exists():  # stopped between two names
        done.rename(root)
    shutil.rmtree(done, ignore_errors=True)
    is_there = (root / SETTINGS_FILE).exists()
    if is_there and not replace:
        raise UsageError(f"{root} is a workspace; say --replace to put the backup in its place, or give another folder")
    if root.exists() and not is_there and any(root.iterdir()):
        raise UsageError(f"{root} is not empty; give a new folder")
    tombstones: set[str] = set()
    keys: tuple[bytes, ...] | None = None
    if is_there:
        with Workspace.open(root) as replaced:
            keys = replaced.keys()
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    try:
        manifest = read_backup(file, draft, passphrase)
        if (draft / "key").exists():
            keys = keys or find_keys(draft / "key")
        if keys is None:
            if key_file is None:
                raise UsageError("the backup holds no key; give the workspace's own with --key-file")
            keys = find_keys(key_file)
        write_whole(draft / "key", b"\n".join(keys) + b"\n", mode=PRIVATE)
        _bring_to_newest_key(draft, keys, manifest)
        if store is not None:
            folding = folds_addresses(manifest["key_fingerprint"])
            fingerprint = fingerprint_of(keys, manifest["tenant"], folding=folding)
            with closing(Store.open(store, create=True, key_fingerprint=fingerprint)) as rows:
                rows.take_over(draft / STORE_FILE)
            (draft / STORE_FILE).unlink()
        _settle(draft, keys, store)
        with Workspace.open(draft) as restored:
            anchor_audit(restored)
            for certificate in certificates:
                tombstones |= set(read_certificate(restored, certificate).subjects)
            tombstones |= restored.store().tombstones().keys()
            is_taken_over = False
            if is_there:
                with suppress(StoreError), Workspace.open(root) as replaced:  # a lost store is why there is a restore
                    tombstones |= replaced.store().tombstones().keys()
                    _take_over(replaced, restored)
                    is_taken_over = True
            audit(restored, actor, AuditAction.RESTORED, made=manifest["created_at"], tombstones=len(tombstones))
            with restored.store().read() as reader:
                revived = reader.users(tombstones)["user_id"].to_list()
            if tombstones:
                people = [*revived, *sorted(tombstones - {*revived})]
                with suppress(NothingToDo):
                    erase_people(restored, people, actor=actor, by_pseudonym=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    before = None
    draft.rename(done)
    if root.exists():
        if is_there:
            before = root.with_name(f"{root.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
            root.rename(before)
        else:
            root.rmdir()
    done.rename(root)
    return Restored(
        workspace=str(root),
        created_at=manifest["created_at"],
        erased_again=len(revived),
        tombstones=len(tombstones),
        taken_over=is_taken_over,
        before=None if before is None else str(before),
    )


def read_backup(file: Path, target: Path | None, passphrase: str | None) -> dict[str, Any]:
    """Checks every member against the manifest, and with a `target` unpacks them there; returns the manifest.

    Raises `DataError` for a file that is damaged, cut, changed, or locked by another passphrase.
    """
    hashes: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    try:
        with (
            file.open("rb") as source,
            _opened(source, passphrase, target or file.parent) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                content, name = tar.extractfile(member), Path(member.name)
                if content is None or name.is_absolute() or "\\" in member.name or ".." in name.parts or not name.name:
                    raise DataError(f"{file}: holds {member.name[:80]!r}, which no backup has")
                if member.name == MANIFEST:
                    manifest = json.loads(content.read(64 << 20))
                    continue
                reader = _HashingReader(content)
                if target is None:
                    while reader.read(_BLOCK):
                        pass
                else:
                    (target / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    with (target / name).open("xb") as stream_of_member:
                        (target / name).chmod(PRIVATE)
                        shutil.copyfileobj(reader, stream_of_member, _BLOCK)
                hashes[member.name] = reader.digest.hexdigest()
    except (OSError, tarfile.TarError, ValueError, EOFError) as error:
        raise DataError(f"{file}: damaged, or no backup: {str(error).splitlines()[0]}") from error
    if manifest is None or manifest.get("format") not in READABLE_FORMATS:
        raise DataError(f"{file}: cut off, or of another version: it has no {MANIFEST} of format {FORMAT} or before")
    if hashes != manifest["members"]:
        odd = sorted({n for n in {*hashes, *manifest["members"]} if hashes.get(n) != manifest["members"].get(n)})
        raise DataError(f"{file}: {odd[0]} is missing or was changed")
    return manifest


def _add_file(tar: tarfile.TarFile, name: str, path: Path, hashes: dict[str, str]) -> None:
    with path.open("rb") as stream:
        member = tarfile.TarInfo(name)
        member.size, member.mode = path.stat().st_size, PRIVATE
        reader = _HashingReader(stream)
        tar.addfile(member, reader)
        hashes[name] = reader.digest.hexdigest()


class _HashingReader:
    """Reads a file once for both the archive and its hash."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.digest.update(block)
        return block


def _bring_to_newest_key(folder: Path, keys: tuple[bytes, ...], manifest: Mapping[str, Any]) -> None:
    """Renames the people of a backup that was made under an older key, key by key."""
    tenant, made_under = manifest["tenant"], manifest["key_fingerprint"]
    folding = folds_addresses(made_under)
    generations = [fingerprint_of(keys[: n + 1], tenant, folding=folding) for n in range(len(keys))]
    if made_under not in generations:
        raise UsageError("the backup was made under another key than the one given; give the right one with --key-file")
    with closing(Store.open(folder / STORE_FILE)) as store:
        for generation in range(generations.index(made_under) + 1, len(keys)):
            store.rename_users(successor_of(keys[: generation + 1], tenant), generations[generation])


def _settle(folder: Path, keys: tuple[bytes, ...], store: str | None) -> None:
    """The settings of a restored workspace: its own, with the key in force and where its rows lie now."""
    path = folder / SETTINGS_FILE
    table = tomllib.loads(path.read_text("utf-8"))
    folding = folds_addresses(table["key_fingerprint"])
    table["key_fingerprint"] = fingerprint_of(keys, table.get("tenant", "default"), folding=folding)
    table.pop("store", None)
    if store is not None:
        table["store"] = store
    write_whole(path, tomli_w.dumps(plain(table)))
    for name in ("quarantine", "models", "cache"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)


def _take_over(replaced: Workspace, restored: Workspace) -> None:
    """What people decided since the backup, and the proof of what was done."""
    old, new = replaced.store(), restored.store()
    with old.read() as reader:
        decisions, users = reader.consent(), reader.users()
    since = old.restricted_since()
    with new.read() as reader:
        strangers = sorted(since.keys() - set(reader.users(since)["user_id"]))
    with new.load(Table.USERS, load_id=secrets.token_hex(16), source="restore") as load:
        # who came after the backup and is restricted stays so, whenever their next event comes
        load.write(users.filter(pl.col("user_id").is_in(strangers)).select("user_id", "basics"))
    with new.load(Table.CONSENT, load_id=secrets.token_hex(16), source="restore") as load:
        load.write(decisions.with_columns(pl.col("at").dt.epoch("us")))
    in_backup, in_force = set(new.restricted_since()), set(since) - set(old.tombstones(since))
    for name in in_force - in_backup:
        new.restrict(name, since[name])
    for name in (in_backup & set(users["user_id"])) - set(since):
        new.restrict(name, None)
    for key in old.api_keys():
        if key["revoked_at"] is not None:
            new.revoke_api_key(key["key_id"], key["revoked_at"])
    entries, in_copy = old.audit_entries(), new.audit_entries()
    if entries[: len(in_copy)] == in_copy:
        new.copy_audit(entries[len(in_copy) :])
        anchor_audit(restored)
    for path in (replaced.root / CERTIFICATES).glob("*.json"):
        target = restored.root / CERTIFICATES / path.name
        if not target.exists():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            write_whole(target, path.read_bytes(), mode=PRIVATE)


@contextmanager
def _sealed(target: IO[bytes], passphrase: str | None, scratch: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes go to `target`, encrypted with a passphrase. scratch: a folder with room for all of them."""
    if passphrase is None:
        yield target
        return
    if len(passphrase) < 12:
        raise UsageError("the passphrase has fewer than 12 characters; take a longer one")
    import pyrage

    with TemporaryFile(dir=scratch) as plain_file:
        yield plain_file
        plain_file.seek(0)
        key = pyrage.x25519.Identity.generate()
        target.write(lock_key(str(key).encode(), passphrase))
        pyrage.encrypt_io(plain_file, target, [key.to_public()])


def lock_key(key: bytes, passphrase: str) -> bytes:
    """A file of the age format, as text. age measures how much work takes a second: too little on a busy machine.

    Raises `StoreError` where it stays too little.
    """
    import pyrage

    for _ in range(_WORK_TRIES):
        locked: bytes = pyrage.passphrase.encrypt(key, passphrase, armored=True)
        if work_of_guess(locked) >= MIN_WORK:
            return locked
    raise StoreError("the backup was not encrypted: the machine is too busy to make a safe key; try again later")


def work_of_guess(locked_key: bytes) -> int:
    """The binary logarithm of scrypt's N: "-> scrypt SALT WORK" in the second line of the file."""
    head = base64.b64decode(b"".join(locked_key.splitlines()[1:-1]))
    return int(head.splitlines()[1].rpartition(b" ")[2])


@contextmanager
def _opened(source: IO[bytes], passphrase: str | None, scratch: Path) -> Iterator[IO[bytes]]:
    """The bytes of a backup, decrypted. scratch: a folder with room for all of them."""
    head = source.readline(len(_KEY_BEGIN))
    if head == b"recllm encrypted backup 1\n":
        raise DataError("the backup was encrypted before the age format; restore it with the version that wrote it")
    if head != _KEY_BEGIN:
        source.seek(0)
        yield source
        return
    if passphrase is None:
        raise DataError("the backup is encrypted; give its passphrase with --passphrase-file")
    import pyrage

    lines = [head]
    while lines[-1] not in (_KEY_END, b"") and len(lines) < _KEY_LINES:
        lines.append(source.readline(_BLOCK))
    with TemporaryFile(dir=scratch) as plain_file:
        try:
            key = pyrage.x25519.Identity.from_str(pyrage.passphrase.decrypt(b"".join(lines), passphrase).decode())
            pyrage.decrypt_io(source, plain_file, [key])
        except (pyrage.DecryptError, pyrage.IdentityError, OSError) as error:
            problem = "wrong passphrase, or a changed or cut file"
            raise DataError(f"the backup cannot be decrypted: {problem} ({error})") from None
        plain_file.seek(0)
        yield plain_file
