"""The service under faults: too many requests, a dead child, broken models, a store that is locked, full or gone."""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from service_world import counts, serving
from waiting import until

from recllm.base.documents import plain
from recllm.base.errors import GenerationError
from recllm.base.files import write_whole
from recllm.base.service_settings import ServiceSettings
from recllm.doors.service import api
from recllm.doors.service.live import LiveShop
from recllm.market.adcopy import submissions
from recllm.market.adcopy.verify.guarantees import Review
from recllm.recommend.recommender import registry
from recllm.recommend.recommender.registry import POINTER, current, promote, versions
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.workspace.workspace import Workspace


def slate(client: TestClient, user: str = "u00", **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 100, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_texts_to_check_have_a_deadline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at between two texts: what one of them takes is bounded."""
    judged: list[str] = []

    def slowly(submission: submissions.Submission) -> Review:
        time.sleep(0.3)
        judged.append(submission.id)
        return Review(())

    monkeypatch.setattr(api, "judge", slowly)
    lines = [{"id": str(n), "text": "a", "channel": "push", "locale": "en", "item": {"title": "a"}} for n in range(9)]
    with serving(folder, settings=ServiceSettings(watch_seconds=0.1, deadline_seconds=0.5)) as client:
        answer = client.post("/v1/copy/check", json={"texts": lines})
        assert answer.status_code == 503 and "send fewer at once" in answer.json()["error"]["message"]
        assert answer.headers["Retry-After"] and len(judged) < len(lines)
        assert client.post("/v1/copy/check", json={"texts": lines[:1]}).status_code == 200


def view(event_id: str, user: str = "u00") -> dict[str, Any]:
    return {"events": [{"event_id": event_id, "user_id": user, "item_id": "tea-1", "event": "view"}]}


def of_shop(client: TestClient) -> dict[str, Any]:
    """What /readyz tells of the shop."""
    return dict(client.get("/readyz").json()["shops"]["shop"])


def test_four_times_of_what_fits_is_refused_or_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers are held by slow answers, four requests may wait, and 24 come."""
    release, slow, answers = threading.Event(), threading.Semaphore(0), []
    recommend = LiveShop.slate

    def held(shop: LiveShop, request: Any) -> Any:
        slow.release()
        assert release.wait(120)
        return recommend(shop, request)

    with serving(folder, settings=ServiceSettings(workers=2, waiting=4)) as client:

        def ask(number: int) -> None:
            if number < 2:
                answer = client.post("/v1/recommend", json={"user_id": "u00"})
            else:
                answer = client.post("/v1/events", json=view(f"load-{number}"))
            answers.append((number, answer))

        with monkeypatch.context() as patch:
            patch.setattr(LiveShop, "slate", held)
            asking = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
            for thread in asking[:2]:
                thread.start()
            for _ in range(2):
                assert slow.acquire(timeout=120)
            for thread in asking[2:]:
                thread.start()
            until(lambda: len(answers) == 18)  # all that find no place to wait are told so at once
            assert client.get("/livez").status_code == 200 and client.get("/readyz").status_code == 200
            release.set()
            for thread in asking:
                thread.join()
        assert Counter(answer.status_code for _, answer in answers) == {200: 6, 429: 18}
        refused = [(number, answer) for number, answer in answers if answer.status_code == 429]
        assert all(int(answer.headers["Retry-After"]) >= 1 for _, answer in refused)
        assert {answer.json()["error"]["type"] for _, answer in refused} == {"overload"}
        assert slate(client)["status"] == "personal"
        assert client.post("/v1/events", json=view("after")).json()["accepted"] == 1
        for number, answer in answers:  # what was acknowledged is there, and nothing else
            if number >= 2:
                account = client.post("/v1/events", json=view(f"load-{number}")).json()
                assert account["accepted"] == (answer.status_code == 429), number
                assert account["accepted"] + account["duplicates"] == 1
        assert "recllm_waiting_requests 0.0" in client.get("/metrics").text
    with serving(folder) as client:
        again = client.post("/v1/events", json={"events": [view(f"load-{n}")["events"][0] for n in range(2, 24)]})
        assert again.json()["duplicates"] == 22


def test_a_generator_that_is_gone_is_told_as_502(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail = Mock(side_effect=GenerationError("the generator in /some/folder failed"))
    with serving(folder) as client:
        with monkeypatch.context() as patch:
            patch.setattr(api, "write_ads", fail)
            answer = client.post("/v1/copy", json={"user_id": "u00", "channel": "push"})
        assert answer.status_code == 502 and answer.json()["error"]["type"] == "GenerationError"
        assert "/some/folder" not in answer.text
        assert client.post("/v1/copy", json={"user_id": "u00", "channel": "push"}).status_code == 200


Mend = Callable[[], Any]


def _replaced(file: Path, content: bytes) -> Mend:
    whole = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(content)
    return lambda: file.write_bytes(whole)


def truncate_weights(shop: Path, version: str) -> Mend:
    weights = shop / "models" / "versions" / version / "scorer.safetensors"
    return _replaced(weights, weights.read_bytes()[:-100])


def remove_the_folder(shop: Path, version: str) -> Mend:
    path = shop / "models" / "versions" / version
    aside = path.rename(path.with_name("aside"))
    return lambda: aside.rename(path)


def leave_it_half_written(shop: Path, version: str) -> Mend:
    """As a publication that was killed: everything is there under a draft's name, without a manifest."""
    folder = shop / "models" / "versions" / version
    whole = folder.with_name("aside")
    shutil.copytree(folder, whole)
    folder.rename(folder.with_name(f"{version}.tmp"))
    (folder.with_name(f"{version}.tmp") / "manifest.json").unlink()
    return lambda: whole.rename(folder)


def scribble_over_the_pointer(shop: Path, _: str) -> Mend:
    return _replaced(shop / "models" / POINTER, b"\xff\x00../../etc")


def damage_the_state(shop: Path, version: str) -> Mend:
    """A newer one of the people than that which serves."""
    state = shop / "serving" / f"{version}.{2**40}"
    state.mkdir(parents=True)
    (state / "people.safetensors").write_bytes(b"half")
    return lambda: shutil.rmtree(state, ignore_errors=True)  # an erasure removes it too


BREAKS = (truncate_weights, remove_the_folder, leave_it_half_written, scribble_over_the_pointer, damage_the_state)


def test_the_old_answers_go_on_while_a_newer_model_is_broken_and_a_repair_needs_no_restart(folder: Path) -> None:
    models = folder / "models"
    old, new = (manifest.version for manifest in versions(models))
    with serving(folder) as client:
        for number, break_it in enumerate(BREAKS):
            promote(models, old)
            until(lambda: (of_shop(client)["model_version"], of_shop(client)["problem"]) == (old, None))
            shown = [item["item_id"] for item in slate(client)["items"]]
            mend = break_it(folder, new)
            if (models / POINTER).is_file() and registry.serving(models) == old:
                write_whole(models / POINTER, f"{new}\n")
            until(lambda: of_shop(client)["problem"] is not None)
            assert client.get("/readyz").status_code == 200, break_it.__name__
            answer = slate(client)
            assert answer["model_version"] == old and [item["item_id"] for item in answer["items"]] == shown
            account = client.post("/v1/events", json=view(f"broken-{number}", f"guest-{number}"))
            assert account.json()["accepted"] == 1
            guest = {"user_id": f"guest-{number}"}
            assert client.post("/v1/users/erase", json=guest).status_code == 200, break_it.__name__
            assert client.post("/v1/users/export", json=guest).status_code == 404
            offer = {"item_id": shown[0], "title": f"Green tea of another year {number}", "category": "food > tea"}
            assert client.post("/v1/items", json={"items": [offer | {"available": False}]}).status_code == 200
            assert shown[0] not in [item["item_id"] for item in slate(client)["items"]], break_it.__name__
            assert client.post("/v1/items", json={"items": [offer]}).status_code == 200
            assert shown[0] in [item["item_id"] for item in slate(client)["items"]], break_it.__name__
            mend()
            write_whole(models / POINTER, f"{new}\n")
            until(lambda: (of_shop(client)["model_version"], of_shop(client)["problem"]) == (new, None))
            assert slate(client)["model_version"] == new, break_it.__name__


def test_a_service_that_starts_with_a_broken_model_says_so_and_heals(folder: Path) -> None:
    version = current(folder / "models")
    assert version is not None
    mend = truncate_weights(folder, version)
    with serving(folder, settings=ServiceSettings(), waits=False) as client:
        until(lambda: of_shop(client)["problem"] is not None)
        assert client.get("/readyz").status_code == 503 and client.get("/livez").status_code == 200
        answer = client.post("/v1/recommend", json={"user_id": "u00"})
        assert answer.status_code == 503 and answer.json()["error"]["type"] == "StoreError"
        assert str(folder) not in answer.text
        assert client.post("/v1/events", json=view("early")).json()["accepted"] == 1  # what people do is not lost
        assert client.post("/v1/users/export", json={"user_id": "u00"}).status_code == 200
        mend()
        until(lambda: client.get("/readyz").status_code == 200)
        assert slate(client)["model_version"] == version


def test_no_answer_mixes_two_versions(folder: Path) -> None:
    """While two models that score differently take turns, each answer is one of theirs from its first item to its
    last."""
    models = folder / "models"
    names = [manifest.version for manifest in versions(models)]
    with Workspace.open(folder) as shop:
        expected = {}
        for name in names:
            (own,) = open_recommender(shop, version=name).recommend("u00", k=100, explain=True)
            expected[name] = plain(own)["items"]
    assert expected[names[0]] != expected[names[1]]
    answers: list[dict[str, Any]] = []
    done = threading.Event()
    with serving(folder) as client:

        def ask() -> None:
            while not done.is_set():
                answers.append(slate(client, explain=True))

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        for turn in range(6):
            promote(models, names[turn % 2])
            until(lambda turn=turn: of_shop(client)["model_version"] == names[turn % 2])
        assert float(re.findall(r"^recllm_swaps (\S+)", client.get("/metrics").text, re.MULTILINE)[0]) >= 5
        done.set()
        for thread in asking:
            thread.join()
    assert {answer["model_version"] for answer in answers} == set(names)
    assert all(answer["items"] == expected[answer["model_version"]] for answer in answers)


HALF, PLAIN = {"weight": 0.5}, {"treatment": {"personal": False}}
WRITES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/v1/events", view("w-1")),
    ("POST", "/v1/items", {"items": [{"item_id": "w", "title": "Green tea w", "description": "tea " * 4_000}]}),
    ("POST", "/v1/users", {"users": [{"user_id": "w", "basics": {"age": "x" * 900}}]}),
    ("POST", "/v1/consent", {"consent": [{"user_id": "u02", "purpose": "email", "granted": False}]}),
    ("POST", "/v1/sessions/join", {"session_id": "w-1", "user_id": "u02"}),
    ("POST", "/v1/users/erase", {"user_id": "u03"}),
    ("DELETE", "/v1/items/tools-3", None),
    ("POST", "/v1/recommend", {"user_id": "u05", "record": True}),
    ("POST", "/v1/experiments", {"name": "w", "variants": [HALF | {"name": "a"}, HALF | {"name": "b"} | PLAIN]}),
)


def refused_alike(client: TestClient, folder: Path) -> None:
    """Every write is refused with 503 and a reason without a path."""
    for verb, path, body in WRITES:
        answer = client.request(verb, path, json=body)
        assert answer.status_code == 503, (path, answer.status_code, answer.text)
        assert answer.json()["error"]["type"] == "StoreError"
        assert str(folder) not in answer.text and "Traceback" not in answer.text


def written_alike(client: TestClient) -> None:
    for verb, path, body in WRITES:
        assert client.request(verb, path, json=body).status_code in (200, 204), path


def test_while_the_store_is_locked_writes_are_refused_and_readers_go_on(folder: Path) -> None:
    before = counts(folder)
    with serving(folder) as client:
        (shop,) = client.app.state.service.shops.values()
        engine = shop.workspace.store()._engine
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=20"))
        engine.dispose()  # new connections do not wait
        with closing(sqlite3.connect(folder / "store.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused_alike(client, folder)
            assert slate(client)["status"] == "personal"
            assert client.get("/readyz").status_code == 200
            other.execute("ROLLBACK")
        assert counts(folder) == before
        written_alike(client)


def test_nothing_is_acknowledged_while_the_store_is_gone(folder: Path) -> None:
    store = folder / "store.sqlite"
    with serving(folder) as client:
        assert client.post("/v1/events", json=view("before")).json()["accepted"] == 1
        before = counts(folder)
        aside = store.rename(folder / "aside.sqlite")
        refused_alike(client, folder)
        until(lambda: client.get("/readyz").status_code == 503)
        assert "is gone" in of_shop(client)["problem"]
        assert client.post("/v1/recommend", json={"user_id": "u00"}).status_code == 503
        assert client.get("/livez").status_code == 200 and not store.exists()
        aside.rename(store)
        until(lambda: client.get("/readyz").status_code == 200)
        assert counts(folder) == before
        written_alike(client)
        # a backup that is put in its place is another file
        with closing(sqlite3.connect(store)) as shop, closing(sqlite3.connect(folder / "backup.sqlite")) as backup:
            shop.backup(backup)
        before = counts(folder)
        for name in ("store.sqlite", "store.sqlite-wal", "store.sqlite-shm"):
            (folder / name).unlink(missing_ok=True)
        until(lambda: client.get("/readyz").status_code == 503)
        (folder / "backup.sqlite").rename(store)
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/events", json=view("after")).json()["accepted"] == 1
        assert counts(folder)["events"] == before["events"] + 1


def test_a_disk_that_refuses_is_503_and_a_bug_is_500(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [
        (OSError(errno.ENOSPC, "No space left on device", str(folder)), 503, "StoreError"),
        (PermissionError(errno.EACCES, "Permission denied", str(folder)), 503, "StoreError"),
        (FileNotFoundError(errno.ENOENT, "No such file", str(folder)), 500, "internal"),
        (ConnectionResetError("a bug"), 500, "internal"),
    ]

    with serving(folder, console=True) as client:
        for error, status, kind in errors:
            with monkeypatch.context() as patch:
                patch.setattr("recllm.doors.service.api.person_profile", Mock(side_effect=error))
                patch.setattr("recllm.doors.console.people.person_values", Mock(side_effect=error))
                answer = client.post("/v1/users/profile", json={"user_id": "u00"})
                page = client.get("/people/u1_AAAAAAAAAAAAAAAAAAAAAAAAAA")
            assert (answer.status_code, answer.json()["error"]["type"], page.status_code) == (status, kind, status)
            assert str(folder) not in answer.text + page.text
        assert client.post("/v1/users/profile", json={"user_id": "u00"}).status_code == 200
