"""A person who goes: in at every door, out of every byte; never back; and what is told of it."""

from __future__ import annotations

import ast
import base64
import csv
import gzip
import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import service_world
import tomli_w
from canaries import MARK, canary, forms, hits
from exports import first_export
from postgres_server import PostgresServer
from service_world import serving
from shop_world import add_settings, item_lines, load_lines, loaded, purchase_lines, train
from shop_world import shop as world
from store_view import add_feedback, view
from test_layers import PACKAGE, imported_rooms
from waiting import until

from recllm.base.documents import plain
from recllm.base.errors import DataError, ModelError, NothingToDo, StoreError, UsageError
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Purpose, SlateStatus
from recllm.base.settings import ServiceSettings
from recllm.doors.cli.rights import remedies
from recllm.doors.console.data import receive_upload
from recllm.doors.privacy.backup import back_up, read_backup, restore
from recllm.doors.privacy.certificate import read_certificate
from recllm.doors.privacy.erasure import apply_retention, erase_people, finish_erasures
from recllm.doors.privacy.registry import REGISTRY, export_person
from recllm.doors.privacy.rotation import rotate_key
from recllm.doors.start.files import Answers, read_files
from recllm.doors.start.shop import run_start, words_of
from recllm.market.campaigns.drafts import create_campaign
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.folder import read_log
from recllm.market.campaigns.plan import plan_campaign
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import open_version, taints
from recllm.recommend.recommender.registry import serving as serving_version
from recllm.recommend.recommender.shop_recommender import open_recommender, refresh, usable_version
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.workspace_load import add_events, load_file
from recllm.shop.workspace.audit import AuditAction, read_audit, verify_audit
from recllm.shop.workspace.personal_records import PersonalRecords
from recllm.shop.workspace.store_records import STORE
from recllm.shop.workspace.workspace import CERTIFICATES, Workspace
from recllm.text.encoder.cache import CachedEncoder
from recllm.text.encoder.toy import ToyEncoder

PEOPLE = 120
WHO = canary("person")
FAST = ServiceSettings(watch_seconds=0.05, marketing_seconds=0.0)
CAMPAIGN = service_world.CAMPAIGN | {
    "target": {"category": "food > tea", "most_items": 3},
    "offer": {"type": "free_shipping"},
    "limits": {"size": 55},
    "words": {"packs": ["us_ftc"]},
}


def make_shop(folder: Path, **settings: Any) -> Path:
    """A trained shop; the first of its people, who drinks tea, has a canary for an id."""
    data = world(people=PEOPLE)
    users = [WHO, *data.users["user_id"].to_list()[1:]]
    baskets = ["basket_id", *(canary("basket") if user == 0 else "" for user in data.events.user)]
    log = [f"{line},{basket}" for line, basket in zip(purchase_lines(data, users), baskets, strict=True)]
    (folder / "shop").mkdir(0o700)
    (folder / "shop" / "key").write_text("5e" * 32 + "\n")  # lots are drawn by pseudonym, and this one draws the person
    (folder / "shop" / "key").chmod(0o600)
    settings |= {"currency": "USD", "timezone": "UTC", "service": FAST}
    return train(loaded(folder, {"items": item_lines(data), "events": log}, **settings))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("erasure"))


def through_every_door(folder: Path, scratch: Path) -> None:
    """The person does, is told and is planned for whatever a shop has a door for, with a canary in each field."""
    refused = f"{WHO},tea1,purchase,not a time,{canary('refused')}"
    good = [f"u{n:02},tea1,view,2024-02-19T10:00:00Z," for n in range(2, 42, 2)]
    shop = Workspace.open(folder)
    report = load_lines(shop, "events", ["user_id,item_id,event,timestamp,basket_id", refused, *good])
    assert report.quarantined == 1
    basics = ["user_id,age,city,note", f"{WHO},{canary('age')},{canary('city')},{canary('note')}"]
    load_lines(shop, "users", basics)
    receive_upload(shop, io.BytesIO("\n".join(basics).encode()), "people.csv")
    vectors = CachedEncoder(ToyEncoder(), shop.cache_dir / "vectors")
    vectors.encode([f"Age: {canary('age')}"], kind="query")
    refresh(shop)
    shop.close()
    with serving(folder, settings=FAST, console=True) as client:

        def ask(path: str, body: dict[str, Any], status: int = 200) -> Any:
            answer = client.post(path, json=body)
            assert answer.status_code == status, answer.text
            return answer.json()

        ask("/v1/consent", {"consent": [{"user_id": WHO, "purpose": "email", "granted": True}]})
        event = {"item_id": "tea2", "event": "view", "basket_id": canary("cart")}
        ask("/v1/events", {"events": [event | {"session_id": canary("session"), "event_id": canary("event")}]})
        ask("/v1/events", {"events": [{"user_id": WHO, "item_id": canary("unknown_item"), "event": "purchase"}]})
        ask("/v1/sessions/join", {"session_id": canary("session"), "user_id": WHO})
        slate = ask("/v1/recommend", {"user_id": WHO, "k": 5, "explain": True, "record": True})
        click = {"user_id": WHO, "item_id": slate["items"][0]["item_id"], "event": "click"}
        ask("/v1/events", {"events": [click | {"request_id": slate["request_id"]}]})
        ask("/v1/explain", {"user_id": WHO, "item_id": "tea1"})
        ask("/v1/search", {"query": canary("query"), "user_id": WHO})
        ask("/v1/copy", {"user_id": WHO, "channel": "push"})
        ask("/v1/audience", {"category": "food > tea", "size": 55})
        draft = ask("/v1/campaigns", {"campaign": CAMPAIGN}, 201)
        job = client.post("/v1/campaigns/tea/plan", json={"revision": draft["revision"]}).json()
        until(lambda: client.get(f"/v1/jobs/{job['job_id']}").json()["state"] in ("done", "failed"))
        campaign = client.get("/v1/campaigns/tea").json()
        texts = [text["id"] for text in campaign["texts"]]
        decision = {"decision": "approve", "text_ids": texts, "revision": campaign["revision"]}
        campaign = ask("/v1/campaigns/tea/decisions", decision)
        order = {"revision": campaign["revision"], "ids": [WHO, *(f"u{n:02}" for n in range(1, PEOPLE))]}
        sent = ask("/v1/campaigns/tea/export", order)
        assert WHO in {row["user_id"] for row in csv.DictReader(io.StringIO(sent["files"]["tea-email.csv"]))}
        for view_of_person in ("export", "profile"):
            assert client.post(f"/v1/users/{view_of_person}", json={"user_id": WHO}).status_code == 200


@pytest.fixture(scope="module")
def first_visited(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("visited")
    folder = Path(shutil.copytree(made, scratch / "shop"))
    through_every_door(folder, scratch)
    return folder


@pytest.fixture
def visited(first_visited: Path, tmp_path: Path) -> Path:
    """A shop of the test's own after the person went through every door."""
    return Path(shutil.copytree(first_visited, tmp_path / "shop"))


def test_a_person_is_in_every_byte_and_then_in_none(visited: Path) -> None:
    with Workspace.open(visited) as shop:
        name = shop.pseudonymiser().one(WHO)
        session = shop.session_pseudonymiser().one(canary("session"))
        fields = (canary("note"), canary("refused"), canary("cart"), canary("basket"), canary("unknown_item"))
        assert all(hits(visited, text) for text in (*fields, WHO, name)), "it came in at every door"
        certificate = erase_people(shop, [WHO], actor="test")
        assert hits(visited) == []
        assert set(certificate.subjects) == {name, session}
        assert {t for t, n in certificate.rows.items() if n} >= {"events", "consent", "users", "messages", "sessions"}
        files = {kind: n for kind, n in certificate.files.items() if n}
        assert files.keys() == {"campaign_people", "campaign_exports", "quarantined_rows", "uploads", "cached_vectors"}
        assert certificate.exported_in == ("tea",) and certificate.database == {"vacuum": True, "log_emptied": True}
        # the pseudonym itself stands in the tombstone and in the proof of the erasure, and nowhere else
        proof = {"store.sqlite", "store.sqlite-wal", f"{CERTIFICATES}/{certificate.certificate_id}.json"}
        assert {hit.split(":")[0] for hit in hits(visited, name, session)} == proof
        recommender = open_recommender(shop)
        assert recommender.recommend(RecommendRequest(users=(WHO,), k=3))[0].status is SlateStatus.UNKNOWN_USER


def test_every_door_writes_to_the_log_what_it_did_to_whom(visited: Path) -> None:
    with Workspace.open(visited) as shop:
        name, actions = shop.pseudonymiser().one(WHO), [entry.action for entry in read_audit(shop)]
        of_person = {entry.action for entry in read_audit(shop, subjects=frozenset({name}))}
        assert of_person == {AuditAction.CONSENT_CHANGED, AuditAction.PERSON_EXPORTED, AuditAction.PERSON_SHOWN}
        of_campaign = {AuditAction.CAMPAIGN_PLANNED, AuditAction.CAMPAIGN_DECIDED, AuditAction.CAMPAIGN_EXPORTED}
        assert set(actions) >= of_campaign | {AuditAction.PEOPLE_LISTED}
        erase_people(shop, [WHO, "u02"], actor="test")
        for person in (name, shop.pseudonymiser().one("u02")):
            *_, last = read_audit(shop, subjects=frozenset({person}))
            assert last.action is AuditAction.ERASED, "each of several has an entry of their own"


def test_canaries_are_seen_in_every_form(tmp_path: Path) -> None:
    text = canary("form")
    disguises = {
        "a": b"xx" + text.encode(),
        "b": b"x" + text.encode("utf-16-le"),
        "c": text.encode().hex().encode(),
        "d": base64.b64encode(b"1" + text.encode() + b"22"),
        "e": base64.b64encode(b"12" + text.encode()),
        "f": base64.b64encode(text.encode() + b"zz"),
        "g": b"\0\0" + gzip.compress(b"before " + text.encode()) + b"after",
        "h": "".join(f"%{ord(sign):02X}" for sign in text).encode(),
    }
    for name, content in disguises.items():
        (tmp_path / name).write_bytes(content)
    np.savez_compressed(tmp_path / "i.npz", people=np.array(["x", text]))
    pl.DataFrame({"person": [text] * 9}).write_parquet(tmp_path / "j.parquet")
    with closing(sqlite3.connect(tmp_path / "k")) as database:
        database.execute("CREATE TABLE t (person TEXT)")
        database.execute("INSERT INTO t VALUES (?)", ["x" * 9_000 + text])
        database.commit()
    (tmp_path / "l").write_bytes(b"nothing")
    assert {hit.split(":")[0] for hit in hits(tmp_path, text)} == {*disguises, "i.npz", "j.parquet", "k"}
    assert len(set(forms(text).values())) == len(forms(text))


AT_NOON = datetime(2024, 2, 1, 12, tzinfo=UTC)


def test_of_refused_rows_only_places_and_reasons_stay(folder: Path) -> None:
    """Any row may hold the id of any person: in a cell, a message, the name of the file or of a column."""
    rows = ["7,tea1,purchase,not a time,1", "u02,tea1,purchase,ask 7,x", "7,tea1,purchase,2024-02-01T10:00:00Z"]
    good = [f"u{n:02},tea1,view,2024-02-19T10:00:00Z,1" for n in range(2, 82)]
    with Workspace.open(folder) as shop:
        add_feedback(shop, "7", "tea1", "view", timestamp=AT_NOON)
        report = load_lines(shop, "events", ["user_id,item_id,event,timestamp,quantity", *rows, *good])
        assert report.quarantined == 3 and len(export_person(shop, "7")["refused_rows"]) == 1
        (path,) = (folder / "quarantine").glob("*.jsonl")
        before = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_bytes(path.read_bytes() + b"a damaged line of 7\n")
        assert erase_people(shop, ["7"], actor="test").files["quarantined_rows"] == 4
        *places, damaged = [json.loads(line) for line in path.read_text().splitlines()]
        assert "7" not in damaged.values() and damaged["raw"] == ""
        for row, place in zip(before, places, strict=True):
            assert {name: place[name] for name in ("line_no", "record_no", "code", "sha256")}.items() <= row.items()
            emptied = {place[name] for name in ("raw", "message", "fields", "user", "column") if name in place}
            assert emptied == {"", None} and place["file"] == "erased"
        assert export_person(shop, "u02")["refused_rows"] == []
        assert erase_people(shop, ["u02"], actor="test").files["quarantined_rows"] == 0


def test_late_events_do_not_bring_somebody_back(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        erase_people(shop, [WHO], actor="test")
        n_events = view(shop.store()).events().height
        late = {"user_id": WHO, "item_id": "tea1", "event": "purchase", "timestamp": AT_NOON}
        result = add_events(shop, [late, late | {"user_id": "u02", "event": "view"}], source="test")
        assert (result.accepted, result.erased) == (1, [0])
        rows = [f"{name},tea1,purchase,{AT}" for name in (WHO, "u04")]
        report = load_lines(shop, "events", ["user_id,item_id,event,timestamp", *rows])
        assert (report.read, report.accepted, report.quarantined) == (2, 1, 1)
        assert report.codes == {"E_ERASED_SUBJECT": 1}
        for table, head, row in (("users", "user_id,age", f"{WHO},40"), ("consent", CONSENT, f"{WHO},email,true,{AT}")):
            assert load_lines(shop, table, [head, row]).codes == {"E_ERASED_SUBJECT": 1}
        assert view(shop.store()).events().height == n_events + 2
        assert shop.pseudonymiser().one(WHO) not in view(shop.store()).users()["user_id"].to_list()
        assert hits(folder) == []


CONSENT, AT = "user_id,purpose,granted,timestamp", "2024-02-01T10:00:00Z"


def test_a_whole_log_is_loaded_again_without_them(folder: Path, made: Path) -> None:
    """However many rows were theirs: they do not count towards the limit of bad rows."""
    with Workspace.open(folder) as shop:
        erase_people(shop, [WHO, *(f"u{n:02}" for n in range(1, 21))], actor="test")
        report = load_file(shop, made.parent / "events.csv", "events")
        assert report.codes["E_ERASED_SUBJECT"] == 21 * 28 and report.accepted == 0
        assert report.read == report.duplicates + report.quarantined


def test_somebody_unknown_gets_a_tombstone_all_the_same(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        load_lines(shop, "users", ["user_id,age", "new,40"])
        assert erase_people(shop, ["new"], actor="test").models == (), "without events they taint nothing"
        with pytest.raises(NothingToDo, match="tombstones stand"):
            erase_people(shop, ["stranger"], actor="test")
        assert add_feedback(shop, "stranger", "tea1", "view", timestamp=AT_NOON).erased == [0]
        assert erase_people(shop, ["stranger", WHO], actor="test").unknown == 1
        with pytest.raises(NothingToDo):
            erase_people(shop, [WHO], actor="test")
        with pytest.raises(UsageError, match="no person to erase"):
            erase_people(shop, [], actor="test")
        assert taints(shop.models_dir), "the model that learned from one of them stays marked"


def test_what_learned_from_somebody_is_marked_replaced_and_not_opened_any_more(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        version = serving_version(shop.models_dir)
        assert version is not None and usable_version(shop) == version
        certificate = erase_people(shop, [WHO], actor="test")
        (model,) = certificate.models
        assert model.name == version
        days = datetime.fromisoformat(model.use_until) - datetime.fromisoformat(certificate.at)
        assert days == timedelta(days=30) and usable_version(shop) == version
        apply_retention(shop, actor="test")
        assert (shop.models_dir / "versions" / version).exists()
        marked = taints(shop.models_dir)
        assert refresh(shop) == version and taints(shop.models_dir) == marked, "its weights are as before"
        path = shop.models_dir / "tainted.json"
        ended = {n: t | {"use_until": "2024-01-01T00:00:00+00:00"} for n, t in json.loads(path.read_text()).items()}
        path.write_text(json.dumps(ended))
        with pytest.raises(ModelError, match="use ended on 2024-01-01"):
            open_version(shop.models_dir)
        assert usable_version(shop) is None
        slate = open_recommender(shop).recommend(RecommendRequest(users=("u02",), k=3))[0]
        assert slate.status is SlateStatus.TEXT_ONLY and slate.model_version is None
        trained = train_workspace(shop, n_windows=2, epochs=1, min_steps=20)
        assert usable_version(shop) == trained.model_version and trained.model_version not in taints(shop.models_dir)
        apply_retention(shop, actor="test")
        assert not (shop.models_dir / "versions" / version).exists(), "its time is over"
        path.write_text("{")
        with pytest.raises(ModelError, match="damaged"):
            open_version(shop.models_dir)


def test_a_model_is_marked_though_what_it_learned_from_is_gone_by_age(folder: Path) -> None:
    add_settings(folder, "[retention]\nevents = 1")
    with Workspace.open(folder) as shop:
        version, name = serving_version(shop.models_dir), shop.pseudonymiser().one(WHO)
        stored = view(shop.store())
        first = stored.first_loaded([name])
        assert apply_retention(shop, actor="test").rows["events"]
        assert not stored.events(user_ids=[name]).height and stored.first_loaded([name]) == first
        assert export_person(shop, WHO)["models"] == [version]
        assert [model.name for model in erase_people(shop, [WHO], actor="test").models] == [version]
        assert not stored.first_loaded([name])


def test_who_is_erased_while_a_model_is_trained_taints_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Recommender.fit

    def erase_then_fit(self: Recommender, *args: Any, **kwargs: Any) -> Recommender:
        with Workspace.open(folder) as other:
            erase_people(other, [WHO], actor="test")
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(Recommender, "fit", erase_then_fit)
    with Workspace.open(folder) as shop:
        version = train_workspace(shop, n_windows=2, epochs=1, min_steps=20).model_version
        assert version in taints(shop.models_dir) and hits(folder) == []


def stop(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


def test_an_erasure_that_was_stopped_goes_on(visited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each place of the registry, behind the last one, and before the certificate."""
    places, stopping = REGISTRY.records, PersonalRecords(name="stop", forget=stop)
    registries = [replace(REGISTRY, records=(*places[:n], stopping, *places[n:])) for n in range(len(places) + 1)]
    for n, registry in enumerate((*registries, REGISTRY)):
        with monkeypatch.context() as patch, Workspace.open(visited) as shop:
            patch.setattr("recllm.doors.privacy.erasure.REGISTRY", registry)
            if registry is REGISTRY:
                patch.setattr("recllm.doors.privacy.erasure.issue", stop)
            with pytest.raises(KeyboardInterrupt):
                erase_people(shop, [WHO], actor="test")
            name = shop.pseudonymiser().one(WHO)
            is_known = name in view(shop.store()).users()["user_id"].to_list()
            assert is_known is (n <= places.index(STORE))
            assert not is_known or not shop.gate().permits(name, Purpose.PERSONALISATION)
    with Workspace.open(visited) as shop:
        of_an_earlier_version = json.dumps([shop.pseudonymiser().one("u03")])
        (visited / CERTIFICATES / ".erasure-20240101T000000-0.note").write_text(of_an_earlier_version)
        assert apply_retention(shop, actor="test").finished_erasures == len(registries) + 2
        assert not shop.gate().knows_each([shop.pseudonymiser().one("u03")])[0]
        assert finish_erasures(shop, actor="test") == []
        assert hits(visited) == [] and serving_version(shop.models_dir) in taints(shop.models_dir)
        session = shop.session_pseudonymiser().one(canary("session"))
        certificates = [read_certificate(shop, file) for file in (visited / CERTIFICATES).glob("*.json")]
        of_session = [certificate for certificate in certificates if session in certificate.subjects]
        assert len(of_session) == places.index(STORE) + 2, "also where the rows that tell of it were gone"


def test_a_certificate_that_was_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    with Workspace.open(folder) as shop:
        certificate = erase_people(shop, [WHO], actor="test")
        path = folder / CERTIFICATES / f"{certificate.certificate_id}.json"
        assert read_certificate(shop, path) == certificate
        changes = ({"unknown": 5}, {"signature": "0" * 64}, {"extra": 1}, {"rows": {}})
        for changed in ([], *(plain(certificate) | change for change in changes)):
            (tmp_path / "changed.json").write_text(json.dumps(changed))
            with pytest.raises(DataError):
                read_certificate(shop, tmp_path / "changed.json")


def test_restoring_an_old_backup_does_not_bring_somebody_back(visited: Path, tmp_path: Path) -> None:
    old, elsewhere = tmp_path / "old.backup", tmp_path / "elsewhere"
    with Workspace.open(visited) as shop:
        back_up(shop, old, actor="test")
        certificate = erase_people(shop, [WHO], actor="test")
    proof = {"certificates": [visited / CERTIFICATES / f"{certificate.certificate_id}.json"]}
    for target, options in ((elsewhere, proof | {"key_file": visited / "key"}), (visited, {"replace": True})):
        assert restore(old, target, actor="test", **options).erased_again == 1 and hits(target) == []
    with Workspace.open(visited) as shop:
        assert verify_audit(shop).problem is None
        assert AuditAction.RESTORED in [entry.action for entry in read_audit(shop)]
        assert open_recommender(shop).recommend(RecommendRequest(users=("u02",), k=3))[0].status is SlateStatus.PERSONAL


def test_the_export_holds_nobody_else(visited: Path) -> None:
    with Workspace.open(visited) as shop:
        document = export_person(shop, WHO)
        text = json.dumps(plain(document), default=str)
        others = [f"u{n:02}" for n in range(1, PEOPLE)]
        strangers = [*others, *shop.pseudonymiser().many(others)]
        assert not [name for name in strangers if f'"{name}"' in text or (name.startswith("u1_") and name in text)]
        for part in ("basket", "cart", "city", "age", "refused", "unknown_item"):
            assert canary(part) in text
        assert len(document["sessions"]) == 1 and document["messages"][0]["campaign_id"] == "tea"
        assert document["campaigns"][0]["text"] and document["campaigns"][0]["exported_at"]
        inferred = document["inferred"]
        assert document["models"] and inferred["recommendations"]["mixed"]["items"][0]["reasons"]
        assert inferred["status"] == "inferred" and inferred["profile"] and inferred["recommendations"]["remind"]
        assert document["processing"]["purposes"]["personalisation"] is True
        assert document["processing"]["kept_days"]["campaigns"] == 730
        actions = {access["action"] for access in document["accesses"]}
        assert actions == {"consent_changed", "person_shown", "person_exported"}


DRAFT = f"{'a' * 32}.{2**22 + 1}.draft"
"""The end of the name of what a killed process was writing."""
LONG_IN_THE_MAKING = f"""
webhooks.json .webhooks.lock vocabulary.json .vocabulary.json.lock voice.toml console.jsonl privacy_budget.jsonl
.privacy_budget.lock domains/media.toml replenishment.safetensors effects/x/effects.json effects/.lock
cache/item-index/faiss/rows.npy cache/item-index/.faiss.7.new/rows cache/generators/x/weights cache/precision.json
cache/training-probe.json copies/x.json certificates/x.json cache/lora/run/examples/e.arrow
cache/lora/run/checkpoints/step-1.tmp/x console-sessions/0af3 models/versions/x.tmp/scorer.json effect/head.safetensors
.backup/store.sqlite .backup.lock .workspace.toml.{DRAFT} .report.html.{DRAFT} quarantine/.x.jsonl.{DRAFT}
serving/.parts.{DRAFT}/people campaigns/tea/.people.jsonl.{DRAFT} campaigns/.tea.lock uploads/x.tmp/people.csv
report.json
"""
"""Files of a workspace that take a training, a sign-in or a kill to come into being."""


def through_every_state(folder: Path) -> None:
    """A workspace in which there is a file of each kind: of campaigns of every id, of a measurement that was
    interrupted, of `recllm start`, of drafts."""
    for odd in (".spring", "tea.tmp", ".autumn.old", ".winter.part"):
        shutil.copytree(folder / "campaigns" / "tea", folder / "campaigns" / odd)
    shutil.copy(folder / "campaign-files" / "tea.toml", folder / "campaign-files" / ".spring.toml")

    (folder / "cache" / "unfinished").mkdir()  # of an evaluation of an older recllm
    (folder / "cache" / "unfinished" / "popular.npz").write_bytes(b"lists by row")
    for name in LONG_IN_THE_MAKING.split():
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
    with Workspace.open(folder) as shop:
        slates = [{"user_id": shop.pseudonymiser().one(WHO), "items": [canary("item")]}]
        (folder / "report.json").write_text(json.dumps({"slates": slates}))
        (folder / "report.html").write_text(canary("profile"))


def test_every_file_lies_in_one_place_that_forgets(
    visited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through_every_state(visited)
    (visited / "images").mkdir()
    (visited / "images" / "tea-1.png").write_bytes(b"")
    assert REGISTRY.unknown_files(visited) == ()
    files = [path.relative_to(visited) for path in sorted(visited.rglob("*")) if path.is_file()]
    owners = {path: [record.name for record in REGISTRY.owners(path)] for path in files}
    assert {str(path): names for path, names in owners.items() if len(names) != 1} == {}
    for record in REGISTRY.records:
        others = tuple(other for other in REGISTRY.records if other is not record)
        if record.files:
            assert replace(REGISTRY, records=others).unknown_files(visited), f"nothing lies in {record.name}"
    with Workspace.open(visited) as shop:
        names = (MARK, shop.pseudonymiser().one(WHO), shop.session_pseudonymiser().one(canary("session")))
        with_people = {Path(hit.split(":")[0]) for hit in hits(visited, *names)}
        personal = {record.name for record in REGISTRY.records}
        assert [str(path) for path in with_people if not personal & set(owners[path])] == []
        assert {*personal} - {name for path in with_people for name in owners[path]} <= {
            *("models", "fine_tuning", "unfinished", "vectors", "backup in progress", "released groups", "serving"),
            *("audit log", "certificates", "console sessions", "copies"),
        }, "where there is no id, but vectors, rows by number, digests, or what the test did not do"
        erase_people(shop, [WHO], actor="test")
        assert hits(visited) == [] and not list((visited / "cache" / "unfinished").iterdir())
        (stray := visited / "out" / "list.csv").parent.mkdir()
        stray.write_text(WHO)
        assert erase_people(shop, ["u02"], actor="test").unknown_files == ("out/list.csv",)
        assert back_up(shop, tmp_path / "b", actor="test").unknown_files == ("out/list.csv",)


def test_what_a_start_writes_belongs_to_a_place_too(tmp_path: Path) -> None:
    orders = first_export("shopify-orders")
    (tmp_path / orders.file_name).write_bytes(orders.content)
    answers = Answers(basis="interest", contact=("none",))
    run_start(tmp_path / "shop", read_files([tmp_path / orders.file_name], words_of("en")), answers, encoder="toy")
    page = json.loads((tmp_path / "shop" / "report.json").read_text())
    assert REGISTRY.unknown_files(tmp_path / "shop") == () and page["slates"]
    with Workspace.open(tmp_path / "shop") as shop:
        assert erase_people(shop, ["person2@example.com"], actor="test").files["pages"] == 2
    assert not list((tmp_path / "shop").glob("report.*"))


def test_a_campaign_of_any_id_is_renamed_backed_up_and_counted(visited: Path, tmp_path: Path) -> None:
    for odd in (".spring", "tea.tmp"):
        shutil.copytree(visited / "campaigns" / "tea", visited / "campaigns" / odd)
    with Workspace.open(visited) as shop:
        before = shop.pseudonymiser().one(WHO)
        rotate_key(shop, actor="test")
    campaigns = visited / "campaigns"
    assert hits(campaigns, before) == []
    with Workspace.open(visited) as shop:
        name = shop.pseudonymiser().one(WHO)
        for campaign in (".spring", "tea.tmp", "tea"):
            assert name in (campaigns / campaign / "people.jsonl").read_text()
            assert read_log(campaigns / campaign / "exports.jsonl")[0]["reached"]
        back_up(shop, tmp_path / "b", actor="test")
        members = read_backup(tmp_path / "b", None, None)["members"]
        assert {f"campaigns/{name}/people.jsonl" for name in (".spring", "tea.tmp", "tea")} <= members.keys()
        assert len(export_person(shop, WHO)["campaigns"]) == 3
        removed = erase_people(shop, [WHO], actor="test")
        assert removed.files["campaign_people"] == 3 and removed.exported_in == (".spring", "tea", "tea.tmp")
    assert hits(campaigns, name) == []


def test_an_id_that_would_hide_a_campaign_is_refused(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        for campaign_id in (".spring", "spring.tmp", "..tea.part"):
            with pytest.raises(UsageError, match="take another id"):
                create_campaign(shop, CAMPAIGN | {"id": campaign_id}, by="Ann")
            (folder.parent / "campaign.toml").write_text(tomli_w.dumps(CAMPAIGN | {"id": campaign_id}))
            with pytest.raises(UsageError, match="take another id"):
                plan_campaign(shop, read_campaign(folder.parent / "campaign.toml"))


def test_this_room_does_not_know_the_rooms_that_keep_things() -> None:
    """But for the registry: so the room can stand above them."""
    for path in (PACKAGE / "doors" / "privacy").glob("*.py"):
        imported = imported_rooms(ast.parse(path.read_text("utf-8"))) - {"privacy"}
        assert path.name == "registry.py" or not imported & {"campaigns", "jobs", "recommender", "training", "encoder"}


def test_the_guide_names_every_place() -> None:
    guide = (PACKAGE / "guide" / "customer-data.md").read_text("utf-8")
    for record in REGISTRY.records:
        for name in record.files:
            assert name.removesuffix("*") in guide, (record.name, name)


def another(shop: Workspace) -> tuple[str, str]:
    """Id and pseudonym of somebody else in the campaign."""
    plan = (shop.root / "campaigns" / "tea" / "people.jsonl").read_text()
    named = {f"u{n:02}": shop.pseudonymiser().one(f"u{n:02}") for n in range(1, PEOPLE)}
    return next((user, name) for user, name in named.items() if name in plan)


def test_a_damaged_campaign_stops_no_erasure(visited: Path) -> None:
    """What of it names the person goes; the file is named, and is tried again until it can be read."""
    campaigns = visited / "campaigns"
    damages: dict[str, Callable[[Path], object]] = {
        "people.jsonl": lambda file: file.write_bytes(b'{"user_id": \xff' + file.read_bytes()),
        "exports.jsonl": lambda file: file.write_bytes(file.read_bytes().replace(b'"texts"', b'"tex ts"')),
        "plan.json": lambda file: file.write_bytes(file.read_bytes()[:-20]),
        "decisions.jsonl": lambda file: (file.unlink(), file.mkdir()),
    }
    for name, damage in damages.items():
        shutil.copytree(campaigns / "tea", campaigns / f"bad-{name.split('.')[0]}")
        damage(campaigns / f"bad-{name.split('.')[0]}" / name)
    (campaigns / "bad-plan" / "exports.jsonl").unlink()
    (campaigns / "torn").mkdir()
    (visited / "campaign-files" / "torn.toml").write_text("id = [")
    unread = ["bad-decisions/decisions.jsonl", "bad-exports/exports.jsonl", "bad-people/people.jsonl"]
    with Workspace.open(visited) as shop:
        name, (_, other) = shop.pseudonymiser().one(WHO), another(shop)
        assert len(hits(campaigns, name)) >= 9
        certificate = erase_people(shop, [WHO], actor="test")
        assert certificate.unread == tuple(f"campaigns/{file}" for file in unread)
        assert name not in view(shop.store()).users()["user_id"].to_list() and certificate.rows["events"]
        assert hits(campaigns, name) == [] and len(hits(campaigns, other)) >= 4, "the others stay"
        assert {"bad-exports", "tea"} <= set(certificate.exported_in)
        assert "not read" in "\n".join(remedies(certificate))
        report = apply_retention(shop, actor="test")
        assert report.unread == certificate.unread and report.finished_erasures == 0
        assert read_certificate(shop, visited / CERTIFICATES / f"{certificate.certificate_id}.json") == certificate
        # one is put back as it was, with the person in it; the others are removed
        (campaigns / "bad-people" / "people.jsonl").write_text(json.dumps({"user_id": name}) + "\n")
        for campaign in ("bad-decisions", "bad-exports"):
            shutil.rmtree(campaigns / campaign)
        report = apply_retention(shop, actor="test")
        assert report.unread == () and report.finished_erasures == 1 and hits(campaigns, name) == []
        again = read_certificate(shop, visited / CERTIFICATES / f"{certificate.certificate_id}.json")
        files = {**certificate.files, "campaign_people": again.files["campaign_people"]}
        assert again == replace(certificate, unread=(), signature=again.signature, files=files)
        assert again.files["campaign_people"] == certificate.files["campaign_people"] + 1
        assert not list((visited / CERTIFICATES).glob(".erasure*"))


def test_who_came_back_is_not_taken_for_who_is_still_in_a_damaged_file(visited: Path) -> None:
    (planned := visited / "campaigns" / "tea" / "people.jsonl").write_text("{")
    with Workspace.open(visited) as shop:
        assert erase_people(shop, [WHO, "u03"], actor="test").unread
        name = shop.pseudonymiser().one(WHO)
        shop.store().lift_tombstone(name)
        add_feedback(shop, WHO, "tea1", "view", timestamp=AT_NOON)
        planned.write_text(json.dumps({"user_id": name}) + "\n")
        assert apply_retention(shop, actor="test").unread == ()
        assert export_person(shop, WHO)["events"] and name in planned.read_text()


def test_a_full_disk_says_what_was_erased_and_what_was_not(visited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device", "people.jsonl")

    names = [record.name for record in REGISTRY.records if record.forget is not None]
    for target, n_done in {
        "recllm.shop.store.database.Store.bury": 0,
        "recllm.market.campaigns.drafts.write_whole": 2,
        "recllm.shop.store.writers.Load.erase_users": 1 + names.index("store"),
        "recllm.doors.privacy.certificate.write_whole": len(names) + 2,
    }.items():
        steps = ["tombstones", *names, "freed bytes", "certificate"]
        done, left = ", ".join(steps[:n_done]) or "nothing", ", ".join(steps[n_done:])
        with monkeypatch.context() as patch, Workspace.open(visited) as shop:
            patch.setattr(target, full)
            with pytest.raises(StoreError, match=rf"No space left.* Done: {done}; not done: {left}. Free some space"):
                erase_people(shop, [WHO], actor="test")
    with Workspace.open(visited) as shop:
        assert apply_retention(shop, actor="test").finished_erasures == 4 and hits(visited) == []


def test_a_key_is_exchanged_in_spite_of_damage(visited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports = visited / "campaigns" / "tea" / "exports.jsonl"
    exports.write_bytes(exports.read_bytes()[5:])
    with Workspace.open(visited) as shop:
        other, before = another(shop)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("recllm.doors.privacy.erasure._forget", stop)
            erase_people(shop, [WHO], actor="test")
        rotate_key(shop, actor="test")
    with Workspace.open(visited) as shop:
        assert before not in exports.read_text() and hits(visited) == []
        assert shop.pseudonymiser().one(other) in exports.read_text()
        assert not shop.gate().knows_each([shop.pseudonymiser().one(WHO)])[0], "the stopped erasure came first"


def test_no_byte_stays_in_the_files_of_postgresql(postgres_server: PostgresServer, tmp_path: Path) -> None:
    folder = make_shop(tmp_path, store=postgres_server.url(user="admin", database="postgres"))
    through_every_door(folder, tmp_path)
    with Workspace.open(folder) as shop:
        assert hits(postgres_server._data, MARK)
        certificate = erase_people(shop, [WHO], actor="test")
        assert certificate.database == {"vacuum": True, "statistics": True, "log_emptied": True}
        assert hits(folder) == [] and hits(postgres_server._data, MARK) == []


def test_what_the_databases_user_may_not_do_is_told(postgres_server: PostgresServer, tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop", consent_default=True, store=postgres_server.url()) as shop:
        add_feedback(shop, WHO, "tea1", "view", timestamp=AT_NOON)
        certificate = erase_people(shop, [WHO], actor="test")
    assert certificate.database == {"vacuum": True, "statistics": False, "log_emptied": False}
