"""Who was refused what, and which limits were hit, is in the log: without anybody's id or key, and not without end."""

from __future__ import annotations

import logging
import re
from functools import partial
from pathlib import Path

import pytest
import service_world
from service_world import make_key

from recllm.base.service_settings import ServiceSettings
from recllm.doors.service import refusals
from recllm.doors.service.refusals import MAX_KINDS, SECONDS, RefusalLog
from recllm.shop.workspace.workspace import Workspace
from recllm.text.log_lines import LogFormatter

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
        client.post("/v1/recommend", json={"user_id": PERSON}, headers=sent)
    key_id = key.split("_")[1]
    of_key = f"actor=key:{key_id} operation=recommend status="
    assert refused(caplog) == [
        f"{of_key}413 shop=shop",
        f"{of_key}422 shop=shop",
        f"{of_key}400 shop=shop",
        f"actor=nobody operation=unknown status=429 claimed_key={key_id}",
    ]


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
