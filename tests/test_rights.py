"""Restriction, retention, the audit log, another key, backups: what a privacy officer runs, and what can go wrong."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pyrage
import pytest
from canaries import hits
from conftest import Command
from postgres_server import PostgresServer
from shop_world import add_settings
from sqlalchemy import delete, insert, select, text
from store_view import add_feedback, view
from tables import table

from recllm.base.errors import DataError, PolicyError, StoreError, UsageError
from recllm.base.schema import Purpose
from recllm.doors.privacy.backup import back_up, read_backup, restore
from recllm.doors.privacy.certificate import read_certificate
from recllm.doors.privacy.erasure import apply_retention, erase_people
from recllm.doors.privacy.registry import REGISTRY, export_person
from recllm.doors.privacy.rotation import resume_rotation, rotate_key
from recllm.market.experiments.effect import Treatment
from recllm.market.experiments.slates import start_experiment
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.ingest.workspace_load import add_consent, add_events, add_users
from recllm.shop.store.connections import writing
from recllm.shop.store.database import Store
from recllm.shop.store.tables import audit as audit_table
from recllm.shop.workspace.audit import ANCHOR, AuditAction, audit, read_audit, verify_audit
from recllm.shop.workspace.keys import create_key, list_keys, revoke_key
from recllm.shop.workspace.personal_records import PersonalRecords
from recllm.shop.workspace.privacy import KEY_VARIABLE, Pseudonymiser
from recllm.shop.workspace.workspace import CERTIFICATES, NEXT_KEY, SNAPSHOT, Workspace, restore_drafts

SECRET = "correct horse battery"
PAST = datetime(2025, 3, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase that opened a key opens it again at once: the first time takes a second of work by design."""
    monkeypatch.setattr(pyrage.passphrase, "decrypt", cache(pyrage.passphrase.decrypt))


@pytest.fixture
def opened(shop: Path):
    with Workspace.open(shop) as workspace:
        yield workspace


@pytest.fixture
def empty(tmp_path: Path):
    with Workspace.create(tmp_path / "empty") as workspace:
        yield workspace


def test_who_is_restricted_is_kept_and_used_for_nothing(opened: Workspace) -> None:
    ann, store, gate = opened.pseudonymiser().one("ann"), opened.store(), opened.gate()
    before = export_person(opened, "ann")
    assert store.restrict(ann, datetime.now(UTC)) and not store.restrict(ann, datetime.now(UTC))
    assert not any(gate.permits(ann, purpose) for purpose in Purpose)
    for purpose in Purpose:
        assert ann not in gate.dataset(purpose).users["user_id"].to_list() + gate.permitted_users(purpose)
        assert not gate.stored_histories([ann], purpose)[0].events
    after = export_person(opened, "ann")
    assert after["events"] == before["events"] and after["restricted_since"]
    add_feedback(opened, "ann", "tea", "view", timestamp=PAST)
    assert len(export_person(opened, "ann")["events"]) == len(before["events"]) + 1, "it is kept all the same"
    assert store.restrict(ann, None) and not store.restrict(ann, None)
    assert gate.permits(ann, Purpose.PERSONALISATION)


def fill(workspace: Workspace, n: int = 12) -> None:
    for number in range(n):
        audit(workspace, "key:1", AuditAction.PERSON_SHOWN, subject=f"u1_{number}", number=number)


def change(workspace: Workspace, statement: str, **values: object) -> None:
    with writing(workspace.store()._engine) as connection:
        connection.execute(text(statement), values)


def test_the_log_tells_who_did_what_to_whom(empty: Workspace) -> None:
    fill(empty)
    entries = read_audit(empty)
    assert [entry.number for entry in entries] == list(range(1, 13)) and verify_audit(empty).problem is None
    (entry,) = read_audit(empty, subjects=frozenset({"u1_3"}))
    assert (entry.actor, entry.action, entry.details) == ("key:1", AuditAction.PERSON_SHOWN, {"number": 3})
    assert abs(entry.at - datetime.now(UTC)) < timedelta(minutes=5)


def test_the_log_of_one_person_is_read_alone(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(empty)
    audit(empty, "key:1", AuditAction.LOADED, source='"subject":"u1_3"')
    entries_read: list[int] = []
    read_entries = Store.audit_entries

    def counted(store: Store, *arguments: Any) -> list[tuple[int, str, str]]:
        entries = read_entries(store, *arguments)
        entries_read.append(len(entries))
        return entries

    monkeypatch.setattr(Store, "audit_entries", counted)
    for subjects, numbers in ((["u1_3", "u1_11"], [4, 12]), (["u1_"], []), (["%"], []), ([], [])):
        assert [entry.number for entry in read_audit(empty, subjects=frozenset(subjects))] == numbers
    assert read_audit(empty, subjects=frozenset({"u1_3"}), after=4) == []
    assert max(entries_read) <= 2


@pytest.mark.parametrize(("statement", "problem"), table("rights", "changes of the log"))
def test_any_change_of_the_log_is_seen(empty: Workspace, statement: str, problem: str) -> None:
    fill(empty)
    change(empty, statement)
    assert problem in str(verify_audit(empty).problem)


def test_a_change_of_the_anchor_is_seen(empty: Workspace) -> None:
    fill(empty)
    anchor = empty.root / ANCHOR
    record = json.loads(anchor.read_text())
    change(empty, "DELETE FROM audit WHERE entry_no > 10")
    for forged in (record | {"entries": 10}, record | {"signature": "0" * 64}, {}, []):
        anchor.write_text(json.dumps(forged))
        assert verify_audit(empty).problem
    anchor.unlink()
    assert "is missing" in str(verify_audit(empty).problem)


def test_a_writer_stopped_before_the_anchor_did_no_harm(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(empty)
    with monkeypatch.context() as patch:
        patch.setattr("recllm.shop.workspace.audit._anchor", lambda *_: None)
        fill(empty, 1)
    assert verify_audit(empty).problem is None
    fill(empty, 1)
    assert verify_audit(empty).problem is None and len(read_audit(empty)) == 14


def test_what_is_over_its_time_goes_by_rule_and_clock(shop: Path) -> None:
    add_settings(shop, "[retention]\nevents = 5\nquarantine = 10\ncopies = 20")
    with Workspace.open(shop) as opened:
        (quarantined,) = opened.quarantine_dir.glob("*.jsonl")
        (shop / "copies").mkdir()
        (shop / "copies" / "a.json").write_text("{}")
        n_events = view(opened.store()).events().height
        now = datetime.now(UTC)
        dry = apply_retention(opened, actor="test", now=now + timedelta(days=9), dry_run=True)
        assert dry.rows["events"] == n_events == view(opened.store()).events().height
        report = apply_retention(opened, actor="test", now=now + timedelta(days=9))
        # the clock counts, and not the end of a log of the past
        assert report.rows["events"] == n_events and view(opened.store()).events().height == 0
        assert quarantined.exists() and report.files["quarantine"] == 0
        dry = apply_retention(opened, actor="test", now=now + timedelta(days=11), dry_run=True)
        assert dry.files["quarantine"] == 1 and not any(dry.rows.values()) and quarantined.exists()
        assert apply_retention(opened, actor="test", now=now + timedelta(days=11)).files["quarantine"] == 1
        assert not quarantined.exists() and (shop / "copies" / "a.json").exists()
        assert apply_retention(opened, actor="test", now=now + timedelta(days=21)).files["copies"] == 1
        assert [entry.action for entry in read_audit(opened)][-3:] == [AuditAction.RETENTION_APPLIED] * 3
        with pytest.raises(UsageError, match="--trust-clock"):
            apply_retention(opened, actor="test", now=now + timedelta(days=5_000))
        apply_retention(opened, actor="test", now=now + timedelta(days=5_000), trust_clock=True)


def test_of_somebody_restricted_nothing_goes_by_age(shop: Path) -> None:
    add_settings(shop, "[retention]\nevents = 5")
    with Workspace.open(shop) as opened:
        events = view(opened.store()).events()
        name = events["user_id"][0]
        n_theirs = events.filter(pl.col("user_id") == name).height
        opened.store().restrict(name, datetime.now(UTC))
        report = apply_retention(opened, actor="test", now=datetime.now(UTC) + timedelta(days=9))
        assert report.rows["events"] == events.height - n_theirs
        assert view(opened.store()).events()["user_id"].to_list() == [name] * n_theirs


def facts(workspace: Workspace, person: str) -> list[tuple[object, ...]]:
    name = workspace.pseudonymiser().one(person)
    return sorted(view(workspace.store()).events(user_ids=[name]).drop("user_id").iter_rows(), key=str)


def test_another_key_renames_everybody_one_to_one(shop: Path) -> None:
    with Workspace.open(shop) as old:
        erase_people(old, ["bob"], actor="test")
        before = {user: old.pseudonymiser().one(user) for user in ("ann", "bob")}
        ann, n_users = facts(old, "ann"), view(old.store()).users().height
        rotation = rotate_key(old, actor="test")
    assert rotation.generation == 2 and not (shop / NEXT_KEY).exists()
    with Workspace.open(shop) as new:
        after = {user: new.pseudonymiser().one(user) for user in ("ann", "bob")}
        assert set(after.values()).isdisjoint(before.values()) and facts(new, "ann") == ann
        assert new.pseudonymiser().successor(before["ann"]) == after["ann"]
        assert view(new.store()).users().height == n_users and verify_audit(new).problem is None
        late = add_feedback(new, "bob", "tea", "view", timestamp=PAST)
        assert late.erased == [0], "a tombstone is renamed as well"
        assert open_recommender(new).recommend("ann", k=2)[0].items
        rotate_key(new, actor="test")
    with Workspace.open(shop) as newest:
        assert len(newest.pseudonymiser().each("ann")) == 3 and facts(newest, "ann") == ann
    assert not [hit for hit in hits(shop, before["ann"]) if hit.startswith("store.sqlite")]


def test_a_process_that_holds_the_old_key_writes_nothing_any_more(shop: Path) -> None:
    with Workspace.open(shop) as service, Workspace.open(shop) as officer:
        add_feedback(service, "ann", "tea", "view", timestamp=PAST)
        event = {"user_id": service.pseudonymiser().one("ann"), "item_id": "tea", "event": "view", "timestamp": PAST}
        rotate_key(officer, actor="test")
        with pytest.raises(StoreError, match=r"start this again|not the one"):
            add_events(service, [event], source="test", by_pseudonym=True)


@pytest.mark.parametrize(
    "stage", ["recllm.shop.store.database.Store.rename_users", "a place", "recllm.doors.privacy.rotation.anchor_audit"]
)
def test_a_rotation_that_was_stopped_is_old_or_new(shop: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workspace.open(shop) as old:
        ann, before = facts(old, "ann"), old.pseudonymiser().one("ann")

        def stopped(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            if stage == "a place":
                records = (*REGISTRY.records, PersonalRecords(name="stop", rename=stopped))
                patch.setattr("recllm.doors.privacy.rotation.REGISTRY", replace(REGISTRY, records=records))
            else:
                patch.setattr(stage, stopped)
            with pytest.raises(KeyboardInterrupt):
                rotate_key(old, actor="test")
    if not (is_old := stage.endswith("rename_users")):
        with pytest.raises(StoreError, match="being exchanged"):
            Workspace.open(shop)
    with resume_rotation(shop) as resumed:
        assert (resumed.pseudonymiser().one("ann") == before) is is_old
        assert facts(resumed, "ann") == ann and verify_audit(resumed).problem is None
    assert not (shop / NEXT_KEY).exists()


def test_a_lost_key_is_told_and_there_is_a_way_on(shop: Path, run: Command) -> None:
    (shop / "key").unlink()
    for remedy in ("restore the file", "rotate-key --lost"):
        code, _, errors = run("privacy", "export", "-u", "ann", "-w", str(shop))
        assert code == 1 and remedy in errors
        (shop / "key").write_text("another key of enough length")
        (shop / "key").chmod(0o600)
    code, _, errors = run("privacy", "rotate-key", "--lost", "-w", str(shop))
    assert code == 2 and "tombstones do not keep out" in errors
    assert run("privacy", "rotate-key", "--lost", "--yes", "-w", str(shop))[0] == 0
    with Workspace.open(shop) as new:
        users = view(new.store()).users()["user_id"].to_list()
        assert new.pseudonymiser().one("ann") not in users and len(users) == 2
        assert export_person(new, users[0], by_pseudonym=True)["events"]
        erase_people(new, [users[0]], actor="test", by_pseudonym=True)
        check = verify_audit(new)
        assert check.problem is None and 0 < check.n_unsigned < check.entries
        for number in (1, check.n_unsigned, check.n_unsigned + 1, check.entries):
            this = audit_table.c.entry_no == number
            with writing(new.store()._engine) as connection:
                row = connection.execute(select(audit_table).where(this)).mappings().one()
                connection.execute(delete(audit_table).where(this))
            assert verify_audit(new).problem, number
            with writing(new.store()._engine) as connection:
                connection.execute(insert(audit_table), dict(row))
        assert verify_audit(new).problem is None


def test_a_key_in_the_environment_is_its_owners_to_change(opened: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, (opened.root / "key").read_text())
    with pytest.raises(UsageError, match="put it into a file"):
        rotate_key(opened, actor="test")


def test_pseudonyms_of_many_keys_stay_apart() -> None:
    keys = [bytes([n]) * 32 for n in range(3)]
    names = [f"person {n}" for n in range(2_000)]
    one, three = Pseudonymiser(keys[0]), Pseudonymiser(*keys)
    assert len(set(three.many(names))) == len(names)
    step = Pseudonymiser(keys[0], keys[1])
    assert [three.successor(step.successor(one.one(name))) for name in names[:50]] == three.many(names[:50])


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_backup_comes_back_as_it_was(opened: Workspace, tmp_path: Path, passphrase: str | None) -> None:
    done = back_up(opened, tmp_path / "b", actor="test", passphrase=passphrase, with_key=passphrase is not None)
    assert done.encrypted is (passphrase is not None) is done.has_key and done.people == 2
    key_file = None if done.has_key else opened.root / "key"
    restore(tmp_path / "b", tmp_path / "new", actor="test", passphrase=passphrase, key_file=key_file)
    with Workspace.open(tmp_path / "new") as new:
        assert facts(new, "ann") == facts(opened, "ann") and verify_audit(new).problem is None
        assert new.settings == opened.settings
        assert view(new.store()).items().equals(view(opened.store()).items())
        assert open_recommender(new).recommend("ann", k=2)[0].items
    if passphrase is not None:
        content = (tmp_path / "b").read_bytes()
        assert b"workspace.toml" not in content and b"Green tea" not in content
        # as other programs for the format open it
        begin = content.index(b"\n", content.index(b"END AGE")) + 1
        key = pyrage.passphrase.decrypt(content[:begin], passphrase).decode()
        plain = pyrage.decrypt(content[begin:], [pyrage.x25519.Identity.from_str(key)])
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            assert "backup.json" in tar.getnames()


def test_a_damaged_backup_changes_nothing(opened: Workspace, tmp_path: Path) -> None:
    plain_file, sealed = tmp_path / "plain", tmp_path / "sealed"
    back_up(opened, plain_file, actor="test")
    back_up(opened, sealed, actor="test", passphrase=SECRET)
    rng = random.Random(0)
    for file, passphrase in ((plain_file, None), (sealed, SECRET)):
        whole = file.read_bytes()
        damaged = [whole[: len(whole) // 2], whole[:-600], b"", b"not a backup" * 100]
        for _ in range(10 if passphrase is None else 4):  # each of them takes the time of a guess
            position = rng.randrange(40, whole.rindex(b"}") if passphrase is None else len(whole))
            damaged.append(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        for content in damaged:
            (tmp_path / "damaged").write_bytes(content)
            try:
                read_backup(tmp_path / "damaged", None, passphrase)
            except DataError:
                continue
            # in a tar file bytes between the members say nothing
            assert passphrase is None
        with pytest.raises(DataError):
            restore(tmp_path / "damaged", tmp_path / "new", actor="test", passphrase=passphrase)
        assert not (tmp_path / "new").exists()
    for wrong in (None, "another passphrase"):
        with pytest.raises(DataError, match=r"encrypted|decrypted"):
            restore(sealed, tmp_path / "new", actor="test", passphrase=wrong)
    for name in ("../outside", "/etc/passwd", "a/../../b"):
        with tarfile.open(tmp_path / "evil", "w") as tar:
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        with pytest.raises(DataError, match="which no backup has"):
            read_backup(tmp_path / "evil", tmp_path / "target", None)
        assert not (tmp_path / "outside").exists()


def test_wrong_wishes_of_backups_are_told(opened: Workspace, tmp_path: Path) -> None:
    back_up(opened, tmp_path / "b", actor="test")
    for wish, message in (
        (lambda: back_up(opened, tmp_path / "b", actor="test"), "exists"),
        (lambda: back_up(opened, tmp_path / "c", actor="test", with_key=True), "encrypted"),
        (lambda: back_up(opened, tmp_path / "c", actor="test", passphrase="short"), "12 characters"),
        (lambda: restore(tmp_path / "b", opened.root, actor="test"), "--replace"),
        (lambda: restore(tmp_path / "b", tmp_path, actor="test"), "not empty"),
        (lambda: restore(tmp_path / "b", tmp_path / "new", actor="test"), "--key-file"),
    ):
        with pytest.raises(UsageError, match=message):
            wish()
    assert not (tmp_path / "c").exists() and not (tmp_path / "new").exists()


def test_a_backup_of_an_older_key_is_brought_to_the_newest(shop: Path, tmp_path: Path) -> None:
    with Workspace.open(shop) as old:
        back_up(old, tmp_path / "b", actor="test")
        ann = facts(old, "ann")
        rotate_key(old, actor="test")
    with Workspace.open(shop) as rotated:
        erase_people(rotated, ["bob"], actor="test")
        name = rotated.pseudonymiser().one("ann")
    assert restore(tmp_path / "b", shop, actor="test", replace=True).erased_again == 1
    with Workspace.open(shop) as restored:
        assert restored.pseudonymiser().one("ann") == name and facts(restored, "ann") == ann


def test_a_backup_goes_to_another_database(opened: Workspace, tmp_path: Path, postgres_server: PostgresServer) -> None:
    back_up(opened, tmp_path / "b", actor="test")
    url = postgres_server.url()
    restore(tmp_path / "b", tmp_path / "pg", actor="test", key_file=opened.root / "key", store=url)
    with Workspace.open(tmp_path / "pg") as there:
        assert facts(there, "ann") == facts(opened, "ann") and not (tmp_path / "pg" / "store.sqlite").exists()
        new = add_feedback(there, "new", "tea", "view", timestamp=PAST)
        assert new.accepted == 1, "numbers go on behind the highest"
        back_up(there, tmp_path / "c", actor="test")
        with pytest.raises(StoreError, match="has rows"):
            restore(tmp_path / "b", tmp_path / "pg2", actor="test", key_file=opened.root / "key", store=url)
        restore(tmp_path / "c", tmp_path / "back", actor="test", key_file=opened.root / "key")
        with Workspace.open(tmp_path / "back") as back:
            assert facts(back, "ann") == facts(there, "ann") and facts(back, "new") == facts(there, "new")


def test_what_people_decided_since_a_backup_stays_in_force(shop: Path, tmp_path: Path) -> None:
    with Workspace.open(shop) as opened:
        add_users(opened, {"third": {"age": "30"}}, source="test")
        ann, second, third = map(opened.pseudonymiser().one, ("ann", "bob", "third"))
        opened.store().restrict(third, PAST)
        api_key, _ = create_key(opened, "shop", ["recommend"])
        audit(opened, "test", AuditAction.PERSON_SHOWN, subject=ann)
        assert opened.gate().permits(ann, Purpose.EMAIL)
        back_up(opened, tmp_path / "b", actor="test")
        add_consent(opened, [("ann", Purpose.EMAIL, False, datetime.now(UTC))], source="test")
        opened.store().restrict(second, PAST)
        opened.store().restrict(third, None)
        revoke_key(opened, api_key.key_id)
        add_users(opened, {"newcomer": {"age": "30"}}, source="test")
        newcomer = opened.pseudonymiser().one("newcomer")
        opened.store().restrict(newcomer, PAST)
        audit(opened, "test", AuditAction.PERSON_EXPORTED, subject=second)
        log = [(entry.number, entry.action) for entry in read_audit(opened)]
    assert restore(tmp_path / "b", shop, actor="test", replace=True).taken_over
    with Workspace.open(shop) as again:
        assert not again.gate().permits(ann, Purpose.EMAIL)
        assert again.store().restricted_since() == {second: PAST, newcomer: PAST}
        assert [key.revoked_at is not None for key in list_keys(again)] == [True]
        entries = [(entry.number, entry.action) for entry in read_audit(again)]
        assert entries[: len(log)] == log and entries[len(log)][1] is AuditAction.RESTORED
        assert verify_audit(again).problem is None
        (beside,) = shop.parent.glob("*.before-*")
        certificate = erase_people(again, ["ann"], actor="test")
        assert certificate.beside == (beside.name,)
        assert read_certificate(again, again.root / CERTIFICATES / f"{certificate.certificate_id}.json") == certificate


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_stopped_restore_is_completed(shop: Path, tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workspace.open(shop) as opened:
        back_up(opened, tmp_path / "b", actor="test")
        gone = opened.pseudonymiser().one("ann")
        erase_people(opened, ["ann"], actor="test")
    renames, rename = [0], Path.rename

    def stopping(path: Path, target: Path) -> Path:
        renames[0] += 1
        if renames[0] == nth:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", stopping)
        restore(tmp_path / "b", shop, actor="test", replace=True)
    if not shop.exists():
        with pytest.raises(StoreError, match=r"a restore of .* was stopped"):
            Workspace.open(shop)
    restore(tmp_path / "b", shop, actor="test", replace=True)
    with Workspace.open(shop) as again:
        assert gone in again.store().tombstones() and gone not in view(again.store()).users()["user_id"].to_list()
        assert verify_audit(again).problem is None
    assert not [path for path in shop.parent.iterdir() if path.name.startswith(f".{shop.name}.restor")]


def test_what_a_killed_backup_leaves_goes_with_the_next_erasure(opened: Workspace) -> None:
    (opened.root / SNAPSHOT).mkdir()
    (opened.root / SNAPSHOT / "store.sqlite").write_text("everybody")
    draft, _ = restore_drafts(opened.root)
    draft.mkdir()
    erase_people(opened, ["ann"], actor="test")
    assert not (opened.root / SNAPSHOT).exists() and not draft.exists()


def test_a_backup_is_of_one_moment_while_events_come(shop: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom datetime import UTC, datetime\nfrom recllm.shop.ingest.workspace_load import add_events\n"
        "from recllm.shop.workspace.workspace import Workspace\n"
        "shop = Workspace.open(sys.argv[1])\nn = 0\n"
        "while True:\n"
        "    rows = [{'user_id': 'w', 'item_id': 'tea', 'event': 'view', 'event_id': f'{n}-{k}',\n"
        "             'timestamp': datetime(2025, 3, 1, tzinfo=UTC)} for k in range(10)]\n"
        "    add_events(shop, rows, source='test')\n    n += 1\n    print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(shop)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        with Workspace.open(shop) as opened:
            for number in range(3):
                back_up(opened, tmp_path / f"b{number}", actor="test")
                time.sleep(0.05)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    for number in range(3):
        restore(tmp_path / f"b{number}", tmp_path / f"new{number}", actor="test", key_file=shop / "key")
        with Workspace.open(tmp_path / f"new{number}") as new:
            n_rows = len(facts(new, "w"))
            assert n_rows % 10 == 0 and n_rows >= 10 * acknowledged


def test_an_anonymous_visitor_has_the_same_rights(run: Command, shop: Path) -> None:
    visit = {"session_id": "cookie-7", "item_id": "tea", "event": "view", "timestamp": PAST}
    with Workspace.open(shop) as opened:
        assert add_events(opened, [visit], source="test").accepted == 1
    code, out, _ = run("privacy", "export", "-u", "cookie-7", "--sessions", "--no-predictions", "-w", "shop")
    assert code == 0 and [event["item_id"] for event in json.loads(out)["events"]] == ["tea"]
    assert run("privacy", "erase", "-u", "cookie-7", "--sessions", "--yes", "-w", "shop")[0] == 0
    assert run("privacy", "export", "-u", "cookie-7", "--sessions", "-w", "shop")[0] == 2
    with Workspace.open(shop) as opened:
        assert add_events(opened, [visit], source="test").erased == [0]


def test_rights_by_command(run: Command, shop: Path, tmp_path: Path) -> None:
    assert run("explain", "-u", "ann", "-w", "shop")[0] == 0
    assert "restricted since" in run("privacy", "restrict", "-u", "ann", "-w", "shop")[1]
    assert "not restricted" in run("privacy", "restrict", "-u", "ann", "--lift", "-w", "shop")[1]
    assert run("privacy", "erase", "-u", "ann", "-w", "shop")[0] == 2
    assert '"item_id": "mug"' in run("privacy", "export", "-u", "ann", "-w", "shop")[1]
    code, out, _ = run("privacy", "erase", "-u", "ann", "--yes", "-w", "shop", "--json")
    certificate = json.loads(out)["certificate_id"]
    file = f"shop/certificates/{certificate}.json"
    assert code == 0 and "signed by this workspace" in run("privacy", "audit", "--certificate", file, "-w", "shop")[2]
    assert json.loads(out)["rows"]["events"] == 3 and run("privacy", "export", "-u", "ann", "-w", "shop")[0] == 2
    assert run("privacy", "erase", "-u", "stranger", "--yes", "-w", "shop")[0] == 3
    assert run("privacy", "erase", "--lift", "-u", "ann", "-w", "shop")[0] == 2
    assert run("privacy", "erase", "--lift", "-u", "ann", "--yes", "-w", "shop")[0] == 0
    assert run("privacy", "erase", "--lift", "-u", "ann", "--yes", "-w", "shop")[0] == 2
    assert "finished erasures: 0" in run("privacy", "retention", "-w", "shop")[1]
    code, out, errors = run("privacy", "audit", "-w", "shop")
    for action in ("person_shown", "restricted", "restriction_lifted", "erasure_begun", "erased", "readmitted"):
        assert action in out
    assert "entries, each as it was written" in errors and "cli:" in out
    assert "2 keys" in run("privacy", "rotate-key", "-w", "shop")[2]
    (tmp_path / "phrase").write_text(SECRET)
    code, out, errors = run("backup", "b", "--passphrase-file", "phrase", "--with-key", "-w", "shop")
    assert code == 0 and "encrypted: True" in out
    code, out, errors = run("restore", "b", "--passphrase-file", "phrase", "-w", "shop2")
    assert code == 0, errors
    assert run("privacy", "export", "-u", "bob", "-w", "shop2")[0] == 0
    with Workspace.open(shop) as opened:
        change(opened, "DELETE FROM audit WHERE entry_no = 2")
    code, _, errors = run("privacy", "audit", "-w", "shop")
    assert code == 2 and "entry 2 is missing" in errors


def test_an_experiment_that_runs_keeps_its_lots(opened: Workspace) -> None:
    start_experiment(opened, "lots", {"as before": (0.5, Treatment()), "popular": (0.5, Treatment(personal=False))})
    with pytest.raises(PolicyError, match="experiment is running"):
        rotate_key(opened, actor="test")
    assert rotate_key(opened, actor="test", force=True).generation == 2
