"""Sessions of the console: each is the server's to end, and a browser keeps nothing of them."""

from __future__ import annotations

import json
import logging
import os
import re
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from service_world import app_of, listening, make_key
from shop_world import add_settings
from test_console_browser import driver, errors, faults, find, resize, text_of  # noqa: F401
from test_oidc import another_browser, is_in, serving, session_files
from waiting import until

from recllm.base.errors import StoreError
from recllm.doors.console import sign_in as sign_in_module
from recllm.doors.console.app import WAITING_HEADER
from recllm.doors.console.memory import MAX_TYPED, TYPED_SECONDS, RecentEntries
from recllm.doors.console.pages import HISTORY_FILE
from recllm.doors.console.session import FRESH_SECONDS, session_cookie
from recllm.doors.privacy.backup import back_up
from recllm.doors.privacy.erasure import apply_retention
from recllm.shop.workspace.audit import AuditAction, read_audit
from recllm.shop.workspace.console_sessions import begin_session, end_session, list_sessions
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import Workspace

SESSIONS = "console-sessions"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shop without data."""
    Workspace.create(tmp_path / "shop", encoder="toy").close()
    return tmp_path / "shop"


def sign_in(client: TestClient, key: str, **fields: str) -> Any:
    """What the page of sign-in sends."""
    return client.post("/sign-in", data={"key": key, **fields})


@contextmanager
def browsers(folder: Path, *keys: str) -> Iterator[list[TestClient]]:
    """One browser for each key, signed in, all at one console."""
    with serving(folder) as first:
        clients = [first, *(another_browser(first) for _ in keys[1:])]
        for client, key in zip(clients, keys, strict=True):
            assert sign_in(client, key).status_code == 303
        yield clients


def change(path: Path, **values: object) -> None:
    """What a session's file says, after time has passed."""
    used_at = path.stat().st_mtime
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values), "utf-8")
    os.utime(path, (used_at, used_at))


def leave_unused(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_copied_cookie_is_of_no_use_after_signing_out(folder: Path) -> None:
    """Nor at another process of the service, which shares the workspace's folder and nothing else."""
    key = make_key(folder, Scope.CONSOLE)
    with serving(folder) as here, serving(folder) as there:
        sign_in(here, key)
        there.cookies.update(here.cookies)
        assert is_in(here) and is_in(there)
        answer = here.post("/sign-out")
        assert answer.status_code == 303 and session_files(folder) == []
        assert not is_in(here) and not is_in(there)


def test_signing_in_anew_ends_the_session_before(folder: Path) -> None:
    anna, bert = make_key(folder, Scope.CONSOLE), make_key(folder, Scope.CONSOLE, name="Bert")
    with browsers(folder, anna) as (client,):
        for key in (anna, bert):
            (before,), token = session_files(folder), client.cookies[session_cookie(folder.name)]
            sign_in(client, key)
            (after,) = session_files(folder)
            assert after != before and client.cookies[session_cookie(folder.name)] != token and is_in(client)
            other = another_browser(client)
            other.cookies.set(session_cookie(folder.name), token)
            assert not is_in(other)
            failed = sign_in(client, "rk_wrong")
            assert failed.status_code == 401 and is_in(client)  # a try that failed ends nothing


def test_a_session_ends_at_its_time_and_when_nothing_is_done(folder: Path) -> None:
    add_settings(folder, "[console]\nidle_minutes = 20")
    key = make_key(folder, Scope.CONSOLE)
    with browsers(folder, key) as (client,):
        (path,) = session_files(folder)
        content = json.loads(path.read_bytes())
        assert content["end"] - content["begun_at"] == 12 * 3_600
        assert is_in(client)
        change(path, end=time.time() - 1)
        assert not is_in(client) and not path.exists()
        sign_in(client, key)
        (path,) = session_files(folder)
        leave_unused(path, 19 * 60)
        assert is_in(client) and time.time() - path.stat().st_mtime < 60  # that was a use
        leave_unused(path, 15 * 60)
        for way, headers in (("/settings", {WAITING_HEADER: "1"}), ("/sign-in", {}), ("/static/console.css", {})):
            assert client.get(way, headers=headers).status_code == 200
            assert time.time() - path.stat().st_mtime > 14 * 60, way  # a page that waits by itself is none
        leave_unused(path, 21 * 60)
        assert not is_in(client) and not path.exists()


def ends_of(client: TestClient) -> list[str]:
    return re.findall(r'action="(/settings/sessions/[0-9a-f]{64}/end)"', client.get("/settings").text)


def end(client: TestClient, way: str) -> int:
    return int(client.post(way).status_code)


def test_people_see_their_sessions_and_end_them(folder: Path) -> None:
    anna, bert = make_key(folder, Scope.CONSOLE), make_key(folder, Scope.CONSOLE, name="Bert")
    chief = make_key(folder, Scope.CONSOLE, Scope.ADMIN, name="Chief")
    with browsers(folder, anna, anna, anna, bert, chief) as (first, second, third, of_bert, of_chief):
        rows = first.get("/settings", params={"csv": "sessions"}).text.splitlines()
        assert len(rows) == 1 + 3 and all(row.startswith("Anna,key,") for row in rows[1:])
        assert first.get("/settings").text.count(">this browser<") == 1 and len(ends_of(first)) == 2
        assert of_bert.get("/settings", params={"csv": "sessions"}).text.count("Bert") == 1 and not ends_of(of_bert)
        assert end(of_bert, ends_of(first)[0]) == 404 and end(of_bert, "/settings/sessions/end") == 404
        assert end(first, "/settings/sessions/../../key/end") == 404
        assert end(first, ends_of(first)[0]) == 303
        assert [is_in(client) for client in (first, second, third)].count(True) == 2 and is_in(first)
        assert end(first, "/settings/sessions/end") == 303
        assert is_in(first) and not is_in(second) and not is_in(third) and is_in(of_bert)
        assert len(ends_of(of_chief)) == 2  # whoever has the scope admin ends anybody's
        for way in ends_of(of_chief):
            assert end(of_chief, way) == 303
        assert not is_in(first) and not is_in(of_bert) and is_in(of_chief)
    acts = [json.loads(line) for line in (folder / HISTORY_FILE).read_text("utf-8").splitlines()]
    assert [(act["act"], act["by"], act["of"]) for act in acts][:2] == [("end_session", "Anna", "Anna")] * 2
    assert sorted(act["of"] for act in acts if act["by"] == "Chief") == ["Anna", "Bert"]
    with Workspace.open(folder) as shop:
        actions = [entry.action for entry in read_audit(shop)]
    assert actions.count(AuditAction.SIGNED_IN) == 5 and actions.count(AuditAction.SESSION_ENDED) == 4


def test_sessions_are_ended_by_who_has_just_signed_in(folder: Path) -> None:
    anna = make_key(folder, Scope.CONSOLE)
    with browsers(folder, anna, anna) as (first, second):
        (way,) = ends_of(first)
        for path in session_files(folder):
            change(path, begun_at=time.time() - FRESH_SECONDS - 1)
        page = first.get("/settings").text
        assert not ends_of(first) and '<a href="/sign-in?after=/settings">Sign in again</a>' in page
        for refused in (way, "/settings/sessions/end"):
            answer = first.post(refused)
            assert answer.status_code == 303 and answer.headers["location"] == "/sign-in?after=/settings"
        assert is_in(second)
        sign_in(first, anna, after="/settings")
        assert end(first, "/settings/sessions/end") == 303 and not is_in(second) and is_in(first)


def test_what_is_kept_of_a_session_opens_nothing(folder: Path) -> None:
    key = make_key(folder, Scope.CONSOLE)
    with browsers(folder, key) as (client,):
        token = client.cookies[session_cookie(folder.name)]
        (path,) = session_files(folder)
        assert path.parent.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o777 == 0o600
        secret = key[-32:]  # it may hold any sign of base64, an underline too
        for file in (file for file in folder.rglob("*") if file.is_file()):
            content = file.read_bytes()
            assert token.encode() not in content and secret.encode() not in content, file
        assert {c.name: len(c.value or "") for c in client.cookies.jar} == {
            session_cookie(folder.name): 43,
            "recllm-shop": len(folder.name),
        }
        client.cookies.clear()
        client.cookies.set(session_cookie(folder.name), path.name)  # the file's name is no token
        assert not is_in(client)


def test_a_folder_of_somebody_elses_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    with Workspace.open(folder) as shop:
        (tmp_path / "elsewhere").mkdir()
        (folder / SESSIONS).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="is a link; remove it"):
            begin_session(shop, key_id="k")
        with pytest.raises(StoreError, match="is a link"):
            list_sessions(shop)
        assert list((tmp_path / "elsewhere").iterdir()) == []


def test_sessions_go_by_age_and_into_no_backup(folder: Path, tmp_path: Path) -> None:
    with Workspace.open(folder) as shop:
        (old, _), (new, _) = (begin_session(shop, key_id="k") for _ in range(2))
        change(folder / SESSIONS / old.session_id, end=time.time() - 1)
        (folder / SESSIONS / ".x.0123.999999999.draft").write_text("{")  # of a process that was killed
        apply_retention(shop, actor="test", dry_run=True)
        assert len(session_files(folder)) == 3
        apply_retention(shop, actor="test")
        assert [path.name for path in session_files(folder)] == [new.session_id]
        back_up(shop, tmp_path / "backup", actor="test")
        with tarfile.open(tmp_path / "backup") as archive:
            assert not [name for name in archive.getnames() if SESSIONS in name or new.session_id in name]
        assert end_session(shop, new.session_id) and not end_session(shop, new.session_id)
        assert not end_session(shop, "../workspace.toml") and (folder / "workspace.toml").exists()


def test_what_somebody_typed_is_in_memory_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("recllm.doors.console.memory.monotonic", lambda: clock)
    texts = RecentEntries[str](TYPED_SECONDS, MAX_TYPED)
    texts.put("4711", "browser", "u1_a")
    texts.put("4712", "browser", "u1_b")
    texts.put("Anna", "other", "u1_a")
    assert texts.get("browser", "u1_a") == "4711" and texts.get("other", "u1_b") is None
    texts.forget("u1_a")
    assert [texts.get(browser, "u1_a") for browser in ("browser", "other")] == [None, None]
    texts.forget("browser")
    assert texts.get("browser", "u1_b") is None
    texts.put("4711", "browser", "u1_a")
    clock = 3_601.0
    assert texts.get("browser", "u1_a") is None
    for n in range(MAX_TYPED + 1):
        texts.put("x", "browser", f"u1_{n}")
    assert texts.get("browser", "u1_0") is None and texts.get("browser", f"u1_{MAX_TYPED}") == "x"
    assert texts.take("browser", "u1_7") == "x" and texts.take("browser", "u1_7") is None  # once


def test_a_browser_is_told_to_forget(folder: Path) -> None:
    with browsers(folder, make_key(folder, Scope.CONSOLE)) as (client,):
        page = client.get("/settings")
        assert page.headers["cache-control"] == "no-store"
        assert '<noscript><meta http-equiv="refresh" content="3600; url=/sign-in"></noscript>' in page.text
        assert 'data-idle-seconds="3600.0"' in page.text and '<template id="session-over">' in page.text
        answer = client.post("/sign-out")
        assert answer.headers["clear-site-data"] == '"cache", "storage"'
        (cookie,) = [c for c in answer.headers.get_list("set-cookie") if c.startswith("recllm-session-")]
        assert "Max-Age=0" in cookie
        page = client.get("/sign-in").text
        assert "session.js" not in page and "session-over" not in page  # nobody is in: there is nothing to take away


def test_an_open_page_is_taken_away(driver: Any, folder: Path) -> None:  # noqa: F811
    """Where somebody signs out in another tab, and where nothing is done, each without asking the server."""
    add_settings(folder, "[console]\nsign_ins_per_minute = 100\nidle_minutes = 10")
    key = make_key(folder, Scope.CONSOLE)
    stack = ExitStack()
    address = "http://{}:{}".format(*stack.enter_context(listening(app_of(folder, console=True))))

    def enter() -> None:
        driver.get(f"{address}/sign-in?after=/settings")
        find(driver, "#key").send_keys(key)
        find(driver, "main form button").click()
        until(lambda: driver.current_url == f"{address}/settings")

    first = driver.current_window_handle
    try:
        resize(driver, 1280)
        driver.get(f"{address}/language/en?after=/sign-in")
        enter()
        driver.switch_to.new_window("tab")
        second = driver.current_window_handle
        driver.get(f"{address}/settings")
        assert "Who is signed in" in text_of(driver, "main")
        driver.switch_to.window(first)
        find(driver, "form[action='/sign-out'] button").click()
        until(lambda: driver.current_url == f"{address}/sign-in")
        driver.switch_to.window(second)
        until(lambda: "This page was closed" in text_of(driver, "main"))
        assert "Who is signed in" not in text_of(driver, "body") and driver.current_url == f"{address}/settings"
        assert not faults(driver) and not errors(driver)
        find(driver, "main a").click()
        until(lambda: "/sign-in" in driver.current_url)
        # nothing is done: the browser's clock goes on by eleven minutes
        enter()
        driver.execute_script("const now = Date.now; Date.now = () => now() + 11 * 60000")
        driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
        until(lambda: "This page was closed" in text_of(driver, "main"))
        assert "Who is signed in" not in driver.page_source and not errors(driver)
    finally:
        for handle in driver.window_handles:
            if handle != first:
                driver.switch_to.window(handle)
                driver.close()
        driver.switch_to.window(first)
        stack.close()


def test_every_try_to_sign_in_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    add_settings(folder, "[console]\nsign_ins_per_minute = 3")
    good = make_key(folder, Scope.CONSOLE)
    lacking = make_key(folder, Scope.RECOMMEND, name="web")
    with serving(folder) as client:
        statuses = [sign_in(client, text).status_code for text in ("rk_wrong", lacking, good, good)]
    assert statuses == [401, 403, 303, 429]
    lines = [record for record in caplog.records if record.name == sign_in_module.__name__]
    assert [vars(line)["outcome"] for line in lines] == ["failed", "failed", "succeeded", "failed"]
    wrong, refused, done, too_many = (line.getMessage() for line in lines)
    assert "through a key: it is not the key of any shop here" in wrong and "lacks the scope console" in refused
    assert done == "sign-in through a key: succeeded" and "more tries than" in too_many
    assert vars(lines[1])["key"] == lacking.split("_")[1] and vars(lines[2])["shop"] == "shop"
    assert all(vars(line)["request_id"] for line in lines) and vars(lines[0])["address"] == "testclient"
    logged = "".join(f"{line.getMessage()}{vars(line)}" for line in caplog.records)
    for secret in (text[-32:] for text in (good, lacking)):
        assert secret not in logged
    assert "rk_wrong" not in logged and "Anna" not in logged
    with Workspace.open(folder) as shop:
        (entry,) = [entry for entry in read_audit(shop) if entry.action == AuditAction.SIGNED_IN]
    assert entry.details["way"] == "key" and entry.details["session"] == vars(lines[2])["session"]


def test_failures_fill_no_log(folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recllm.doors.console.app.FAILURES_A_MINUTE", 2)
    key = make_key(folder, Scope.CONSOLE)
    with serving(folder) as client:
        for _ in range(4):
            assert sign_in(client, "rk_wrong").status_code == 401
        assert sign_in(client, key).status_code == 303
    lines = [record.getMessage() for record in caplog.records if record.name == sign_in_module.__name__]
    assert len([line for line in lines if "not the key of any shop" in line]) == 2
