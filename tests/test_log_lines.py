"""Lines of the log: their time, their fields, and that nothing in them begins a line of its own."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import service_world
from service_world import make_key

from recllm.base.service_settings import ServiceSettings
from recllm.doors.cli import main as command_line
from recllm.doors.service import refusals
from recllm.doors.service.refusals import MAX_KINDS, SECONDS, RefusalLog
from recllm.shop.workspace.workspace import Workspace
from recllm.text.log_lines import TRACEBACK_MARK, LogFormatter, log_to_stderr

FORGED = "2026-03-01T09:00:00.000Z WARNING recllm.doors.service.app all is well"


def line_of(message: str, **fields: object) -> str:
    return LogFormatter().format(
        logging.makeLogRecord({"msg": message, "name": "recllm.x", "levelname": "INFO", **fields})
    )


def test_a_line_has_its_time_in_utc_whatever_the_machines_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        at = datetime(2026, 3, 1, 9, 0, 0, 123_000, tzinfo=UTC).timestamp()
        assert line_of("opened", created=at) == "2026-03-01T09:00:00.123Z INFO recllm.x opened"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "sign", ["\n", "\r", "\r\n", "\v", "\f", "\x00", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\ud800"]
)
def test_no_control_character_reaches_a_line(sign: str) -> None:
    line = line_of(f"refused{sign}{FORGED}", shop=f"a{sign}{FORGED}")
    assert len(line.splitlines()) == 1 and line.isprintable()
    assert line.encode() and "refused\\" in line


def test_what_an_exception_says_begins_no_entry() -> None:
    try:
        raise ValueError(f"bad\n{FORGED}\x1b[2J")
    except ValueError:
        text = line_of("a request failed", exc_info=sys.exc_info())
    entry, *traceback = text.splitlines()
    assert entry.endswith("a request failed") and len(traceback) >= 3
    assert all(line.startswith(TRACEBACK_MARK) and line.isprintable() for line in traceback)


def test_fields_are_told_apart() -> None:
    assert line_of("x", a="one two", b='say "no"', c="k=v", d="", e=3).endswith(
        'x a="one two" b="say \\"no\\"" c="k=v" d="" e=3'
    )


def test_warnings_of_any_command_have_this_form(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(logging, "lastResort", logging._StderrHandler(logging.WARNING))  # type: ignore[attr-defined]
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(command_line, "app", lambda: logging.getLogger("recllm.x").warning("bad\n%s", FORGED))
    command_line.main()
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(rf"\S+Z WARNING recllm\.x bad\\n{re.escape(FORGED)}", line)


def test_libraries_speak_in_the_same_form_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        log_to_stderr()
        log_to_stderr()
        logging.getLogger("a.library").warning("Invalid HTTP request received.")
        (line,) = stream.getvalue().splitlines()
        assert re.fullmatch(r"\S+Z WARNING a\.library Invalid HTTP request received\.", line)
    finally:
        root.handlers = before


PERSON = "person-0815"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Workspace.create(tmp_path / "shop", encoder="toy", consent_default=True).close()
    return tmp_path / "shop"


serving = partial(service_world.serving, console=True, waits=False, follow_redirects=False)


def refused(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines so far, as standard error has them, without their times and requests' ids; they are forgotten."""
    lines = [LogFormatter().format(record) for record in caplog.records if record.name == refusals.__name__]
    everything = "".join(LogFormatter().format(record) for record in caplog.records)
    assert not [secret for secret in ("rk_", PERSON, "root") if secret in everything]
    caplog.clear()
    assert all(re.search(r" request_id=[0-9a-f]{32}\b", line) for line in lines)
    return [re.sub(r" request_id=\w+", "", line.partition(" refused ")[2]) for line in lines]


def test_whose_key_lacked_what_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, other_key = make_key(folder, "recommend"), make_key(folder, "console")
    key_id, other_id = (text.split("_")[1] for text in (key, other_key))
    with serving(folder) as client:
        sent = {"X-API-Key": key}
        client.post("/v1/users/erase", json={"user_id": PERSON}, headers=sent)
        client.post("/v1/recommend", json={"user_id": PERSON, "record": True}, headers=sent)
        assert refused(caplog) == [
            f"actor=key:{key_id} operation=user_erase status=403 shop=shop",
            f"actor=key:{key_id} operation=recommend status=403 shop=shop",
        ]
        client.get("/v1/audit")
        assert refused(caplog) == ["actor=nobody operation=unknown status=401"]
    with serving(folder) as client:
        client.get("/v1/audit", headers={"X-API-Key": f"rk_{key_id}_{'x' * 43}"})
        assert refused(caplog) == [f"actor=nobody operation=unknown status=401 claimed_key={key_id}"]
        client.get("/v1/audit", headers={"X-API-Key": "x\tactor=root"})
        assert not refused(caplog)  # of the same kind, within the minute
        assert client.post("/sign-in", data={"key": other_key}).status_code == 303
        answer = client.post("/settings/keys", data={"name": "x"})
        assert answer.status_code == 403
        (line,) = refused(caplog)
        assert line.startswith(f"actor=key:{other_id} operation=") and line.endswith(" status=403")
        client.post("/settings/keys", data={"name": "x"}, headers={"Origin": "https://evil.example"})
        assert len(refused(caplog)) == 1


def test_limits_that_were_hit_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = make_key(folder, "recommend", "events")
    with serving(folder, settings=ServiceSettings(requests_per_minute=3, max_body_mib=0.001)) as client:
        sent = {"X-API-Key": key, "Content-Type": "application/json"}
        client.post("/v1/recommend", content=b'{"user_id": "' + b"x" * 2_000, headers=sent)
        client.post("/v1/recommend", json={"user_id": "null"}, headers=sent)
        client.post("/v1/recommend", content=b'{"user_id": "\xff"}', headers=sent)
        for _ in range(4):  # a minute may end before
            client.post("/v1/recommend", json={"user_id": PERSON}, headers=sent)
    key_id = key.split("_")[1]
    of_key = f"actor=key:{key_id} operation=recommend status="
    lines = refused(caplog)
    assert lines[:3] == [f"{of_key}{status} shop=shop" for status in (413, 422, 400)]
    assert {*lines[3:]} - {""} == {f"actor=nobody operation=unknown status=429 claimed_key={key_id}"}


def test_a_flood_is_a_line_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    log, now = RefusalLog(), 1_000.0
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now)
    for _ in range(500):
        log.add("key:a", "shop", "recommend", 403, "0" * 32, None)
    log.add("key:b", "shop", "recommend", 403, "0" * 32, None)
    assert len(refused(caplog)) == 2
    now += SECONDS
    log.add("key:a", "shop", "recommend", 403, "0" * 32, None)
    assert refused(caplog) == ["actor=key:a operation=recommend status=403 shop=shop"]
    for n in range(3 * MAX_KINDS):
        log.add(f"key:{n}", "shop", "recommend", 403, "0" * 32, None)
    assert len(refused(caplog)) == MAX_KINDS - 1, "what is remembered is bounded"
    now += SECONDS
    log.add("key:late", "shop", "recommend", 403, "0" * 32, None)
    assert len(refused(caplog)) == 1


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
